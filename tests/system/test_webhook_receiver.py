"""Webhooks against real receivers on loopback: HTTP and HTTPS servers that fail, delay, redirect and ask to wait."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import email.utils
import hashlib
import hmac
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quell.controller.delivery import Pace, State
from quell.controller.webhooks import Webhooks
from quell.errors import SettingError
from quell.model.audit import QUELL
from quell.model.decision import OutcomeStatus, Reason
from quell.model.rule import Webhook
from quell.settings import WebhookSettings
from quell.storage import dead_letters, deliveries, outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store

SECRET = "whsec_" + base64.b64encode(b"a key of this test, 32 bytes long").decode()
LOOPBACK = WebhookSettings(allow_networks=("127.0.0.1/32", "::1/128"))
QUICK = Pace(timeout=2.0, first_wait=0.02, longest_wait=0.1, attempts=50)


class Request(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: bytes
    time: float
    #: The other end's port: the same for one connection.
    port: int


class Receiver:
    """An HTTP server that records what it gets and answers from a script, 204 when that has run out."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[Request] = []
        #: (status, headers, seconds to wait first)
        self.script: deque[tuple[int, dict[str, str], float]] = deque()
        self._connections: list[socket.socket] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append(Request(self.path, headers, body, time.time(), self.client_address[1]))
                status, answer, delay = receiver.script.popleft() if receiver.script else (204, {}, 0.0)
                time.sleep(delay)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in answer.items():
                        self.send_header(name, value)
                    if status != 204:
                        self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = False
            block_on_close = False

            def process_request(self, request: Any, client_address: Any) -> None:
                receiver._connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, *_: object) -> None:
                """A client that goes away is part of the tests."""

        self._server = Server(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if context else 'http'}://localhost:{self.port}/hook/very-secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def bodies(self) -> list[str]:
        return [json.loads(request.body)["n"] for request in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db") as opened:
        yield opened


def endpoint(server: Receiver, **fields: Any) -> Webhook:
    return Webhook(**({"name": "ops", "url": server.url, "allow_http": True, "secret": SECRET} | fields))


def items(count: int, name: str = "ops", start: int = 0) -> list[OutboxItem]:
    return [
        OutboxItem(
            id=f"event{n:03}/webhook/{name}",
            channel=f"webhook:{name}",
            body=json.dumps({"n": n}).encode(),
            created=time.time(),
            event_id=f"event{n:03}",
        )
        for n in range(start, start + count)
    ]


def commit(store: Store, some: Sequence[OutboxItem]) -> Sequence[OutboxItem]:
    store.submit(lambda connection: outbox.insert(connection, some)).result()
    return some


@contextlib.asynccontextmanager
async def running(
    store: Store, *endpoints: Webhook, settings: WebhookSettings = LOOPBACK, pace: Pace = QUICK
) -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(store, {one.name: one for one in endpoints}, settings, time.time, pace=pace)
    webhooks.start()
    try:
        yield webhooks
    finally:
        await webhooks.stop()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def settled(store: Store) -> bool:
    return not store.outbox()


def letters(store: Store) -> dict[str, str]:
    return {letter.item.id: letter.explanation for letter in store.read(lambda c: dead_letters.recent(c, 100))}


def verify(request: Request, secret: str = SECRET) -> None:
    """By the convention's own words, sharing no code with what signed."""
    key = base64.b64decode(secret.split("_", 1)[1])
    signed = request.headers["webhook-id"] + "." + request.headers["webhook-timestamp"] + "." + request.body.decode()
    expected = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    versions = dict(part.split(",", 1) for part in request.headers["webhook-signature"].split(" "))
    assert hmac.compare_digest(versions["v1"], expected)
    assert abs(int(request.headers["webhook-timestamp"]) - request.time) < 5


def test_deliveries_are_signed_in_order_over_one_connection_and_recorded(receiver: Receiver, store: Store) -> None:
    async def scenario() -> None:
        async with running(store, endpoint(receiver, headers={"X-Team": "blue", "Host": "forged"})) as webhooks:
            webhooks.offer(commit(store, items(20)))
            await until(lambda: settled(store))
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
            assert webhooks.status()[0].state is State.DISABLED
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
    assert "authorization" not in there.headers
    verify(there)
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


def authority(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A CA of this test, and a server's context with a certificate of it for a name."""
    now = dt.datetime.now(dt.UTC)

    def certificate(
        subject: str, public: ec.EllipticCurvePublicKey, issuer: str, key: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.Certificate:
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        return builder.sign(key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_file = folder / f"ca-{name}.pem"
    ca = certificate("test authority", ca_key.public_key(), "test authority", ca_key, ca=True)
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    own = certificate(name, key.public_key(), "test authority", ca_key, ca=False)
    chain = folder / f"server-{name}.pem"
    chain.write_bytes(
        own.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return ca_file, context


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
