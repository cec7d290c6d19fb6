"""Webhooks against real receivers on loopback: HTTP and HTTPS servers that fail, delay, redirect and ask to wait."""

from __future__ import annotations

import asyncio
import email.utils
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog
from webhook_parts import (
    QUICK,
    SECRET,
    Receiver,
    authority,
    commit,
    endpoint,
    items,
    letters,
    running,
    settled,
    until,
    verify,
)

from quell.controller.delivery import State
from quell.controller.webhooks import Webhooks
from quell.errors import SettingError
from quell.model.audit import QUELL
from quell.model.decision import OutcomeStatus, Reason
from quell.settings import WebhookSettings
from quell.storage import deliveries
from quell.storage.store import Store


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db") as opened:
        yield opened


def test_deliveries_are_signed_in_order_over_one_connection_and_recorded(receiver: Receiver, store: Store) -> None:
    async def scenario() -> None:
        async with running(store, endpoint(receiver, headers={"X-Team": "blue", "Host": "forged"})) as webhooks:
            webhooks.offer(commit(store, items(20)))
            await until(lambda: settled(store) and webhooks.status()[0].state is not State.DELIVERING)
            (status,) = webhooks.status()
            assert (status.state, status.waiting, status.failures) == (State.IDLE, 0, 0)

    asyncio.run(scenario())
    assert receiver.bodies == list(range(20))
    assert len({request.port for request in receiver.requests}) == 1
    for n, request in enumerate(receiver.requests):
        verify(request)
        assert request.headers["webhook-id"] == f"event{n:03}/webhook/ops"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["x-team"] == "blue"
        assert request.headers["host"] == f"localhost:{receiver.port}"
    (outcome,) = store.outcomes("event007")
    assert outcome.status is OutcomeStatus.DONE
    assert outcome.facts == {"endpoint": "ops", "attempts": 1, "status": 204}
    (attempt,) = store.read(lambda c: deliveries.of(c, "event007/webhook/ops"))
    assert attempt.delivered


def test_a_failing_receiver_is_tried_again_with_the_same_id_and_nothing_overtakes(
    receiver: Receiver, store: Store
) -> None:
    receiver.script.extend([(503, {}, 0.0), (500, {}, 0.0), (408, {}, 0.0), (204, {}, 0.0)])

    async def scenario() -> None:
        async with running(store, endpoint(receiver)) as webhooks:
            webhooks.offer(commit(store, items(3)))
            await until(lambda: webhooks.status()[0].state is State.FAILING)
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert receiver.bodies == [0, 0, 0, 0, 1, 2]
    assert len({request.headers["webhook-id"] for request in receiver.requests[:4]}) == 1
    attempts = store.read(lambda c: deliveries.of(c, "event000/webhook/ops"))
    assert [(one.attempt, one.status, one.delivered) for one in attempts] == [
        (1, 503, False),
        (2, 500, False),
        (3, 408, False),
        (4, 204, True),
    ]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_receiver_that_asks_to_wait_is_left_alone_that_long(receiver: Receiver, store: Store, form: str) -> None:
    later = email.utils.formatdate(time.time() + 2.0, usegmt=True)
    receiver.script.append((429, {"retry-after": "1" if form == "seconds" else later}, 0.0))

    async def scenario() -> None:
        async with running(store, endpoint(receiver)) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: len(receiver.requests) == 1)
            await until(lambda: webhooks.status()[0].next_attempt is not None)
            await until(lambda: settled(store))

    asyncio.run(scenario())
    first, second = receiver.requests
    assert second.time - first.time >= (0.99 if form == "seconds" else 0.9)  # an HTTP date has whole seconds


@pytest.mark.parametrize("status", [400, 401, 404, 410, 302])
def test_a_refusal_is_a_dead_letter_at_once_and_can_be_replayed_under_its_id(
    receiver: Receiver, store: Store, status: int
) -> None:
    receiver.script.append((status, {"location": receiver.url}, 0.0))

    async def scenario() -> None:
        async with running(store, endpoint(receiver)) as webhooks:
            webhooks.offer(commit(store, items(2)))
            await until(lambda: settled(store))
            assert receiver.bodies == [0, 1]
            assert list(letters(store)) == ["event000/webhook/ops"]
            assert str(status) in letters(store)["event000/webhook/ops"]
            assert not await webhooks.replay("event001/webhook/ops", QUELL)
            assert await webhooks.replay("event000/webhook/ops", QUELL)
            await until(lambda: len(receiver.requests) == 3 and settled(store))

    asyncio.run(scenario())
    assert receiver.requests[0].headers["webhook-id"] == receiver.requests[2].headers["webhook-id"]
    assert letters(store) == {}
    assert [outcome.status for outcome in store.outcomes("event000")] == [OutcomeStatus.FAILED, OutcomeStatus.DONE]


def test_silence_and_a_receiver_that_is_down_are_waited_out(store: Store) -> None:
    first = Receiver()
    port = first.port
    first.script.append((204, {}, 0.6))

    async def scenario() -> None:
        async with running(store, endpoint(first), pace=msgspec.structs.replace(QUICK, timeout=0.3)) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: "no answer" in webhooks.status()[0].last_error)
            await until(lambda: settled(store))
            first.close()
            webhooks.offer(commit(store, items(1, start=1)))
            await until(lambda: webhooks.status()[0].failures >= 2)
            second = Receiver(port=port)
            try:
                await until(lambda: settled(store))
            finally:
                second.close()
            assert second.bodies == [1]

    asyncio.run(scenario())
    assert first.bodies == [0, 0]


def test_it_is_given_up_after_so_many_attempts_and_the_next_one_has_its_turn(receiver: Receiver, store: Store) -> None:
    receiver.script.extend([(500, {}, 0.0)] * 3)

    async def scenario() -> None:
        async with running(store, endpoint(receiver), pace=msgspec.structs.replace(QUICK, attempts=3)) as webhooks:
            webhooks.offer(commit(store, items(2)))
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert receiver.bodies == [0, 0, 0, 1]
    assert "3 attempts" in letters(store)["event000/webhook/ops"]
    assert store.outcomes("event000")[0].reason is Reason.FAILED


def test_an_old_delivery_gets_one_attempt_and_is_then_given_up(receiver: Receiver, store: Store) -> None:
    receiver.script.append((500, {}, 0.0))
    old = [msgspec.structs.replace(items(1)[0], created=time.time() - 90_000.0)]

    async def scenario() -> None:
        async with running(store, endpoint(receiver)) as webhooks:
            webhooks.offer(commit(store, old))
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert receiver.bodies == [0]
    assert letters(store)


def test_a_restart_loses_nothing_and_keeps_the_order(receiver: Receiver, store: Store) -> None:
    receiver.script.extend([(204, {}, 0.0)] * 5 + [(503, {"retry-after": "30"}, 0.0)])

    async def first() -> None:
        async with running(store, endpoint(receiver)) as webhooks:
            webhooks.offer(commit(store, items(20)))
            await until(lambda: store.outbox()[0].attempts == 1)
            assert len(receiver.requests) == 6

    async def second() -> None:
        # The wait it was asked for is kept over the restart; a changed endpoint is tried at once.
        async with running(store, endpoint(receiver)) as webhooks:
            await until(lambda: webhooks.status()[0].next_attempt is not None)
            webhooks.set_endpoints({"ops": endpoint(receiver, headers={"x-run": "2"})})
            await until(lambda: settled(store))

    asyncio.run(first())
    assert len(store.outbox()) == 15
    asyncio.run(second())
    assert receiver.bodies == [*range(6), *range(5, 20)]
    assert all(request.headers["x-run"] == "2" for request in receiver.requests[6:])


def test_what_does_not_fit_into_memory_waits_on_disk_in_order(receiver: Receiver, store: Store) -> None:
    async def scenario() -> None:
        pace = msgspec.structs.replace(QUICK, in_memory=3)
        async with running(store, endpoint(receiver), pace=pace) as webhooks:
            for start in range(0, 40, 10):
                webhooks.offer(commit(store, items(10, start=start)))
                await asyncio.sleep(0.003)
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert receiver.bodies == list(range(40))


@pytest.mark.parametrize("change", ["removed", "disabled", "never there"])
def test_what_waits_for_an_endpoint_that_is_no_more_becomes_dead_letters(
    receiver: Receiver, store: Store, change: str
) -> None:
    known = [] if change == "never there" else [endpoint(receiver)]
    receiver.script.extend([(503, {"retry-after": "60"}, 0.0) for _ in known])

    async def scenario() -> None:
        async with running(store, *known) as webhooks:
            webhooks.offer(commit(store, items(3)))
            if known:
                await until(lambda: webhooks.status()[0].failures == 1)
                webhooks.set_endpoints({"ops": endpoint(receiver, enable=False)} if change == "disabled" else {})
            await until(lambda: settled(store))
            assert webhooks.status()[0].state is (State.DISABLED if change == "disabled" else State.DELETED)
            assert webhooks.status()[0].dead_letters == 3
            assert len(letters(store)) == 3
            webhooks.set_endpoints({"ops": endpoint(receiver)})
            for identifier in sorted(letters(store)):
                assert await webhooks.replay(identifier, QUELL)
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert receiver.bodies[-3:] == [0, 1, 2]
    assert {outcome.reason for outcome in store.outcomes("event001")} == {Reason.NO_ENDPOINT, None}


def test_endpoints_do_not_wait_for_each_other(receiver: Receiver, store: Store) -> None:
    slow = Receiver()
    slow.script.append((503, {"retry-after": "60"}, 0.0))

    async def scenario() -> None:
        async with running(store, endpoint(receiver), endpoint(slow, name="slow")) as webhooks:
            webhooks.offer(commit(store, [*items(2, "slow"), *items(5)]))
            await until(lambda: len(receiver.requests) == 5)
            await until(lambda: [status.waiting for status in webhooks.status()] == [0, 2])

    try:
        asyncio.run(scenario())
    finally:
        slow.close()


# --- where it may lead -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])  # noqa: S104
def test_this_host_is_not_reached_through_a_webhook(receiver: Receiver, store: Store, host: str) -> None:
    url = f"http://{host}:{receiver.port}/latest/meta-data"

    async def scenario() -> None:
        async with running(store, endpoint(receiver, url=url), settings=WebhookSettings()) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert receiver.requests == []
    (reason,) = letters(store).values()
    assert "loopback" in reason or "unspecified" in reason


def test_a_redirect_is_judged_like_any_other_address_and_takes_no_credentials_along(
    receiver: Receiver, store: Store
) -> None:
    other = Receiver()
    forbidden = f"http://127.0.0.2:{other.port}/"
    receiver.script.extend(
        [
            (307, {"location": "/moved"}, 0.0),
            (204, {}, 0.0),
            (308, {"location": other.url}, 0.0),
            (307, {"location": forbidden}, 0.0),
        ]
    )
    bearer = {"Authorization": "Bearer top-secret"}

    async def scenario() -> None:
        async with running(store, endpoint(receiver, headers=bearer)) as webhooks:
            webhooks.offer(commit(store, items(3)))
            await until(lambda: settled(store))

    try:
        asyncio.run(scenario())
    finally:
        other.close()
    assert [request.path for request in receiver.requests[:2]] == ["/hook/very-secret-path", "/moved"]
    assert receiver.requests[1].headers["authorization"] == bearer["Authorization"]
    (there,) = other.requests
    assert not {"authorization", "webhook-signature"} & set(there.headers)
    assert there.headers["webhook-id"] == "event001/webhook/ops"
    verify(receiver.requests[1])
    assert list(letters(store)) == ["event002/webhook/ops"]
    assert "127.0.0.2 is loopback" in letters(store)["event002/webhook/ops"]


def test_endless_redirects_and_plain_http_end_as_dead_letters(receiver: Receiver, store: Store) -> None:
    receiver.script.extend([(307, {"location": "/again"}, 0.0)] * 10)

    async def scenario() -> None:
        async with running(store, endpoint(receiver)) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: settled(store))
            webhooks.set_endpoints({"ops": endpoint(receiver, allow_http=False)})
            webhooks.offer(commit(store, items(1, start=1)))
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert len(receiver.requests) == 4
    assert "redirected more than" in letters(store)["event000/webhook/ops"]
    assert "not encrypted" in letters(store)["event001/webhook/ops"]


def test_an_endpoint_that_asks_for_it_goes_through_the_operators_proxy(receiver: Receiver, store: Store) -> None:
    settings = WebhookSettings(proxy=f"http://127.0.0.1:{receiver.port}")
    known = endpoint(receiver, url="http://receiver.invalid/hook", use_proxy=True)
    literal = endpoint(receiver, name="meta", url="http://169.254.169.254/", use_proxy=True)

    async def scenario() -> None:
        async with running(store, known, literal, settings=settings) as webhooks:
            webhooks.offer(commit(store, [*items(1), *items(1, "meta")]))
            await until(lambda: settled(store))

    asyncio.run(scenario())
    assert [request.path for request in receiver.requests] == ["http://receiver.invalid/hook"]
    assert "link-local" in letters(store)["event000/webhook/meta"]


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_tls_trusts_the_given_authority_and_the_urls_name_only(tmp_path: Path, store: Store) -> None:
    ca_file, context = authority(tmp_path, "localhost")
    other_ca, _ = authority(tmp_path, "elsewhere.test")
    names: list[str] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = Receiver(context)
    good = endpoint(server, ca_file=str(ca_file), allow_http=False)

    async def scenario() -> None:
        async with running(store, good) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: settled(store))
            for bad in (
                msgspec.structs.replace(good, ca_file=None),
                msgspec.structs.replace(good, ca_file=str(other_ca)),
                msgspec.structs.replace(good, url=good.url.replace("localhost", "127.0.0.1")),
            ):
                webhooks.set_endpoints({"ops": bad})
                if not store.outbox():
                    webhooks.offer(commit(store, items(1, start=1)))
                await until(lambda: webhooks.status()[0].failures)
                assert "certificate" in webhooks.status()[0].last_error.lower()
            assert len(server.requests) == 1
            webhooks.set_endpoints({"ops": msgspec.structs.replace(good, ca_file=None, verify_tls=False)})
            await until(lambda: settled(store))
            webhooks.set_endpoints({"ops": msgspec.structs.replace(good, ca_file=str(tmp_path / "none.pem"))})
            webhooks.offer(commit(store, items(1, start=2)))
            await until(lambda: settled(store))

    try:
        asyncio.run(scenario())
    finally:
        server.close()
    assert server.bodies == [0, 1]
    assert names[0] == "localhost"
    verify(server.requests[0])
    assert "CA file" in letters(store)["event002/webhook/ops"]


# --- what must not happen --------------------------------------------------------------------------------------------


def test_no_secret_is_logged_or_kept_in_the_history(receiver: Receiver, store: Store) -> None:
    receiver.script.extend([(500, {}, 0.0), (401, {}, 0.0)])
    known = endpoint(receiver, headers={"Authorization": "Bearer top-secret"})

    async def scenario() -> str:
        async with running(store, known) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: settled(store))
            return repr(webhooks.status())

    with structlog.testing.capture_logs() as logs:
        status = asyncio.run(scenario())
    assert logs
    history = (
        repr(store.read(lambda c: deliveries.recent(c, 10))) + repr(letters(store)) + repr(store.outcomes("event000"))
    )
    for told in (repr(logs), status, history):
        for secret in (SECRET, SECRET.removeprefix("whsec_"), "top-secret", "very-secret-path"):
            assert secret not in told


SENDER = """
import asyncio, sys, time
from pathlib import Path
from quell.controller.delivery import Pace
from quell.controller.webhooks import Webhooks
from quell.model.rule import Webhook
from quell.settings import WebhookSettings
from quell.storage.store import Store

async def main():
    endpoint = Webhook(name="ops", url=sys.argv[2], allow_http=True, allow_private=True)
    with Store.open(Path(sys.argv[1])) as store:
        webhooks = Webhooks(store, {"ops": endpoint}, WebhookSettings(), time.time)
        webhooks.start()
        while store.outbox():
            await asyncio.sleep(0.01)
        await webhooks.stop()

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["webhook.before-send", "webhook.after-send"])
def test_a_crash_at_a_send_loses_nothing_and_repeats_only_what_was_not_on_disk(
    receiver: Receiver, tmp_path: Path, point: str
) -> None:
    path = tmp_path / "crash.db"
    with Store.open(path) as store:
        commit(store, items(5))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    command = [sys.executable, "-c", SENDER, str(path), receiver.url]
    crashed = subprocess.run(
        command, env={**environment, "QUELL_FAULT": f"{point}:3"}, capture_output=True, timeout=60, check=False
    )
    assert crashed.returncode == -signal.SIGKILL
    sent_before = 2 if point == "webhook.before-send" else 3
    assert receiver.bodies == list(range(sent_before))
    with Store.open(path) as store:
        waiting = [int(item.id[5:8]) for item in store.outbox()]
    assert waiting == list(range(waiting[0], 5))
    subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    assert receiver.bodies == [*range(sent_before), *waiting]


def test_the_network_setting_is_checked_when_it_is_read(store: Store) -> None:
    with pytest.raises(SettingError, match="allow_networks"):
        Webhooks(store, {}, WebhookSettings(allow_networks=("nonsense",)), time.time)
