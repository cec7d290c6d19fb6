"""Webhooks through a live controller: who is told of what, how it goes with endpoints, tests, dead letters, flags."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Ran, quell
from live import Live, live
from webhook_parts import SECRET, Receiver, verify

from quell.configuration import Configuration
from quell.settings import Settings

#: Loopback is where these receivers are.
OPEN = {"webhooks.allow_networks": ("127.0.0.0/8", "::1/128"), "webhooks.timeout": "1s", "webhooks.longest_wait": "1s"}
NAME = "Host.Suspicious.Process"


def configured(**settings: object) -> Configuration:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return Configuration(settings=Settings().with_values({**OPEN, **named}))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "s", configuration=configured()) as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture
def receivers() -> Iterator[Callable[[], Receiver]]:
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver())
        return made[-1]

    yield make
    for one in made:
        one.close()


def hook(name: str, receiver: Receiver | None = None, **spec: Any) -> dict[str, Any]:
    url = receiver.url if receiver is not None else "http://127.0.0.1:9/"
    return {
        "apiVersion": "quell.dev/v1",
        "kind": "Webhook",
        "metadata": {"name": name},
        "spec": {"url": url, "allow_http": True, "secret": SECRET, **spec},
    }


def rule(name: str, *actions: Any, event: str = "security-event", **spec: Any) -> dict[str, Any]:
    criteria = spec.pop("criteria", [f"name:{NAME}"])
    return {
        "apiVersion": "quell.dev/v1",
        "kind": "ResponseRule",
        "metadata": {"name": name},
        "spec": {"event": event, "criteria": criteria, "actions": list(actions) or ["webhook"], **spec},
    }


def apply(admin: httpx.Client, *documents: dict[str, Any]) -> dict[str, list[str]]:
    """The warnings, by document."""
    text = "\n---\n".join(json.dumps(one) for one in documents)
    answer = admin.post("/v1/documents", content=text)
    assert answer.is_success, answer.text
    told = answer.json()
    changes = told["documents"] if isinstance(told, dict) else told
    return {change["name"]: change.get("warnings", []) for change in changes if change.get("warnings")}


def send(admin: httpx.Client, identifier: str, **fields: Any) -> dict[str, Any]:
    """The event's record."""
    event = {"id": identifier, "time": time.time(), "name": NAME, "level": "Critical", "subject": {"node": "n"}}
    admin.post("/v1/events", json={**event, **fields}).raise_for_status()
    told: dict[str, Any] = admin.get(f"/v1/events/{identifier}").raise_for_status().json()
    return told


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def quiet(admin: httpx.Client) -> bool:
    return all(one["waiting"] == 0 for one in admin.get("/v1/webhooks").json()["items"])


def ids(receiver: Receiver) -> list[str]:
    return [request.headers["webhook-id"] for request in receiver.requests]


def webhooks_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in record["decision"]["actions"] if one["action"]["type"] == "webhook"]


def cli(server: Live, *words: str) -> Ran:
    return quell(*words, url=server.url, state=server.folder)


# --- who is told (SEMANTICS section 3, union and suppress-log) -------------------------------------------------------------


def test_one_post_an_endpoint_and_event_names_every_rule(
    admin: httpx.Client, receivers: Callable[[], Receiver]
) -> None:
    a, b, c = receivers(), receivers(), receivers()
    apply(
        admin,
        hook("a", a),
        hook("b", b),
        hook("c", c, default=True),
        rule("first", webhooks=["a"], comment="the first"),
        rule("second", {"webhook": {"endpoints": ["a", "b"]}}),
        rule("third", webhooks=["b"], actions=["webhook", {"makeRedFlag": {"severity": "high"}}]),
    )
    record = send(admin, "union-1")
    until(lambda: quiet(admin))
    assert ids(a) == ["union-1/webhook/a"]
    assert ids(b) == ["union-1/webhook/b"]
    assert c.requests == [], "rules that name endpoints do not reach the default ones"
    for request in (*a.requests, *b.requests):
        verify(request)
        assert {one["name"] for one in json.loads(request.body)["rules"]} == {"first", "second", "third"}
    (told,) = webhooks_of(record)
    assert (told["endpoints"], len(told["asked_by"])) == (["a", "b"], 3)


def test_without_a_name_the_default_endpoints_are_told_and_without_one_nobody(
    admin: httpx.Client, receivers: Callable[[], Receiver]
) -> None:
    a, b, off = receivers(), receivers(), receivers()
    warned = apply(admin, rule("anybody"))
    assert "no enabled one is marked default" in warned["anybody"][0]
    (told,) = webhooks_of(send(admin, "default-0"))
    assert (told["status"], told["reason"]) == ("refused", "no-endpoint")
    documents = (hook("a", a, default=True), hook("b", b), hook("off", off, default=True, enable=False))
    assert apply(admin, *documents) == {}
    record = send(admin, "default-1")
    until(lambda: quiet(admin))
    assert (ids(a), b.requests, off.requests) == (["default-1/webhook/a"], [], [])
    (told,) = webhooks_of(record)
    assert (told["endpoints"], told["explanation"]) == (["a"], "endpoint off is disabled")


def test_a_rule_that_names_only_a_disabled_endpoint_says_so_everywhere(
    admin: httpx.Client, server: Live, receivers: Callable[[], Receiver]
) -> None:
    off = receivers()
    warned = apply(admin, hook("off", off, enable=False), rule("deaf", webhooks=["off"]))
    assert "off is disabled" in warned["deaf"][0]
    (told,) = webhooks_of(send(admin, "deaf-1"))
    assert (told["status"], told["reason"], told["explanation"]) == (
        "refused",
        "no-endpoint",
        "endpoint off is disabled",
    )
    assert "no-endpoint" in cli(server, "explain", "deaf-1").stdout
    shown = admin.get("/v1/documents/ResponseRule/deaf").json()
    assert "off is disabled" in shown["status"]["no-endpoint"]
    assert off.requests == []
    assert apply(admin, hook("off", off)) == {}
    assert "rule" in apply(admin, hook("off", off, enable=False))["off"][0].lower()


def test_a_suppressed_event_reaches_no_webhook_nor_do_its_flags(
    admin: httpx.Client, receivers: Callable[[], Receiver]
) -> None:
    named, subscribed = receivers(), receivers()
    flag = {"makeRedFlag": {"severity": "high", "webhooks": ["named"]}}
    apply(
        admin,
        hook("named", named),
        hook("subscribed", subscribed, filter={"flags": True}),
        rule("tells", flag, "webhook", webhooks=["named"]),
        rule("hushes", "suppress-log", criteria=[f"name:{NAME}", "level:Info"]),
    )
    record = send(admin, "hushed-1", level="Info")
    send(admin, "heard-1")
    until(lambda: len(named.requests) == 2 and len(subscribed.requests) == 1 and quiet(admin))
    assert record["decision"]["suppressed"] is True
    assert all(
        request.headers["webhook-id"].startswith("heard-1") for request in (*named.requests, *subscribed.requests)
    )
    (told,) = webhooks_of(record)
    assert (told["status"], told["reason"]) == ("refused", "not-applicable")


def test_filters_of_categories_levels_and_flags(admin: httpx.Client, receivers: Callable[[], Receiver]) -> None:
    scans, loud, flags = receivers(), receivers(), receivers()
    severe = {"makeRedFlag": {"severity": "critical"}}
    mild = {"makeOpsFlag": {"severity": "low", "webhooks": ["loud", "off"]}}
    apply(
        admin,
        hook("scans", scans, filter={"categories": ["cve-report"]}),
        hook("loud", loud, filter={"level": "Error"}),
        hook("flags", flags, filter={"flags": True, "level": "Warning"}),
        hook("off", enable=False),
        rule("tell", severe, mild, "webhook", webhooks=["scans", "loud"]),
    )
    record = send(admin, "low-1", level="Warning")
    send(admin, "high-1", level="Alert")
    until(lambda: len(flags.requests) == 3 and len(loud.requests) == 1 and quiet(admin))
    assert scans.requests == []
    assert ids(loud) == ["high-1/webhook/loud"]
    # The mild flag is below what either endpoint takes, though the action names one of them; the record says so. The flag
    # of medium severity is about nobody being told of the first event.
    severities = [json.loads(request.body)["flag"]["severity"] for request in flags.requests]
    assert sorted(severities) == ["critical", "critical", "medium"]
    (told,) = webhooks_of(record)
    assert told["reason"] == "no-endpoint"
    assert "does not take events of category security-event" in told["explanation"]
    (flagged,) = [one for one in record["decision"]["actions"] if one["action"]["type"] == "makeOpsFlag"]
    assert flagged["explanation"] == "endpoint loud takes flags from level Error on; endpoint off is disabled"


# --- how it goes with endpoints, and tests ---------------------------------------------------------------------------------


def test_the_state_of_each_endpoint_shows_and_no_secret_does(
    admin: httpx.Client, server: Live, receivers: Callable[[], Receiver]
) -> None:
    good, bad = receivers(), receivers()
    bad.script.extend([(503, {}, 0.0)] * 1000)
    apply(
        admin,
        hook("good", good, default=True, headers={"Authorization": "Bearer top-secret"}),
        hook("bad", bad, type="Slack"),
        hook("off", enable=False),
        rule("tell", webhooks=["good", "bad"]),
    )
    send(admin, "state-1")
    send(admin, "state-2")
    until(lambda: admin.get("/v1/webhooks/bad").json()["failures"] >= 2 and len(good.requests) == 2)
    answer = admin.get("/v1/webhooks")
    for secret in (SECRET, "top-secret", "very-secret-path"):
        assert secret not in answer.text
    told = {one["name"]: one for one in answer.json()["items"]}
    assert {name: one["state"] for name, one in told.items()} == {"bad": "failing", "good": "idle", "off": "disabled"}
    assert (told["bad"]["type"], told["bad"]["waiting"], told["bad"]["last_error"]) == ("Slack", 2, "HTTP 503")
    assert told["bad"]["address"] == f"http://localhost:{bad.port}"
    assert told["bad"]["failing_since"] is not None
    assert told["good"]["last_delivered"] is not None
    assert (told["good"]["default"], told["good"]["last_error"]) == (True, "")
    assert admin.get("/v1/webhooks/nobody").status_code == 404
    table = cli(server, "webhook", "status")
    assert "failing" in table.stdout
    assert "HTTP 503" in table.stdout
    assert json.loads(cli(server, "webhooks", "status", "good", "-o", "json").stdout)[0]["state"] == "idle"
    page = admin.get("/metrics").text
    assert 'quell_webhook_failing_seconds{endpoint="good"} 0.0' in page
    seconds = next(
        line for line in page.splitlines() if line.startswith('quell_webhook_failing_seconds{endpoint="bad"}')
    )
    assert float(seconds.split()[-1]) > 0
    doctor = cli(server, "doctor", "--role", "controller", "-o", "json")
    (found,) = [one for one in json.loads(doctor.stdout) if one["check"] == "webhooks"]
    assert found["verdict"] == "warning"
    assert "bad" in found["what"]
    assert "HTTP 503" in found["what"]


@pytest.mark.parametrize("kind", ["JSON", "Slack", "Teams", "text", "CloudEvents"])
def test_a_test_is_a_signed_body_of_the_endpoints_type(
    admin: httpx.Client, receivers: Callable[[], Receiver], kind: str
) -> None:
    receiver = receivers()
    apply(admin, hook("try", receiver, type=kind, enable=False, filter={"categories": ["cve-report"]}))
    answer = admin.post("/v1/webhooks/try/test").json()
    (request,) = receiver.requests
    verify(request)
    assert (answer["delivered"], answer["status"], answer["explanation"]) == (True, 204, "")
    assert answer["id"] == request.headers["webhook-id"]
    assert answer["duration"] > 0
    assert b"Webhook.Test" in request.body
    assert b"a test of endpoint try, by token/first-admin" in request.body
    if kind != "text":
        json.loads(request.body)


def test_a_test_says_in_words_what_went_wrong_and_is_noted(
    admin: httpx.Client, server: Live, receivers: Callable[[], Receiver]
) -> None:
    receiver = receivers()
    receiver.script.extend([(410, {}, 0.0), (204, {}, 0.0)])
    apply(
        admin,
        hook("try", receiver),
        hook("nowhere"),
        hook("lost", url="http://nowhere.invalid/"),
        hook("forbidden", url="http://169.254.169.254/"),
    )
    assert admin.post("/v1/webhooks/try/test").json()["explanation"] == "HTTP 410"
    assert "refused" in admin.post("/v1/webhooks/nowhere/test").json()["explanation"]
    assert "does not resolve" in admin.post("/v1/webhooks/lost/test").json()["explanation"]
    assert "link-local" in admin.post("/v1/webhooks/forbidden/test").json()["explanation"]
    good, bad = cli(server, "webhook", "test", "try"), cli(server, "webhook", "test", "nowhere")
    assert (good.returncode, bad.returncode) == (0, 1)
    assert good.stdout.startswith("delivered (HTTP 204, ")
    assert bad.stdout.startswith("not delivered (no answer, ")
    assert cli(server, "webhook", "test", "nobody").returncode == 1
    noted = [one["entry"] for one in admin.get("/v1/audit").json()["items"] if one["entry"]["verb"] == "test"]
    assert [(one["name"], one["after"]["delivered"]) for one in noted][:2] == [("nowhere", False), ("try", True)]
    assert admin.get("/v1/webhooks/deliveries").json()["items"] == [], "a test is no delivery"


def test_a_test_that_succeeds_brings_what_waits(admin: httpx.Client, receivers: Callable[[], Receiver]) -> None:
    receiver = receivers()
    receiver.script.append((503, {"retry-after": "600"}, 0.0))
    apply(admin, hook("slow", receiver), rule("tell", webhooks=["slow"]))
    send(admin, "waits-1")
    until(lambda: admin.get("/v1/webhooks/slow").json()["next_attempt"])
    admin.post("/v1/webhooks/slow/test").raise_for_status()
    until(lambda: quiet(admin))
    assert ids(receiver)[::2] == ["waits-1/webhook/slow"] * 2


# --- history and dead letters ---------------------------------------------------------------------------------------------


def test_deliveries_by_endpoint_event_and_outcome(
    admin: httpx.Client, server: Live, receivers: Callable[[], Receiver]
) -> None:
    a, b = receivers(), receivers()
    b.script.extend([(500, {}, 0.0)])
    apply(admin, hook("a", a), hook("b", b), rule("tell", webhooks=["a", "b"]))
    send(admin, "history-1")
    send(admin, "history-2")
    until(lambda: len(a.requests) == 2 and len(b.requests) == 3 and quiet(admin))

    def found(**wanted: str) -> list[tuple[str, str, bool]]:
        items = admin.get("/v1/webhooks/deliveries", params=wanted).raise_for_status().json()["items"]
        return sorted((one["endpoint"], one["event_id"], one.get("delivered", False)) for one in items)

    one, two = "history-1", "history-2"
    assert found() == [("a", one, True), ("a", two, True), ("b", one, False), ("b", one, True), ("b", two, True)]
    assert found(endpoint="b", event=one) == [("b", one, False), ("b", one, True)]
    assert found(outcome="failed") == [("b", one, False)]
    assert found(outcome="delivered", event=two) == [("a", two, True), ("b", two, True)]
    assert admin.get("/v1/webhooks/deliveries", params={"outcome": "perhaps"}).status_code == 400
    told = cli(server, "webhook", "deliveries", "--endpoint", "b", "--event", one, "--outcome", "failed", "-o", "json")
    assert [one["status"] for one in json.loads(told.stdout)] == [500]


def test_dead_letters_are_shown_replayed_and_discarded(
    admin: httpx.Client, server: Live, receivers: Callable[[], Receiver]
) -> None:
    a, b = receivers(), receivers()
    a.script.extend([(400, {}, 0.0)] * 4)
    b.script.extend([(400, {}, 0.0)] * 2)
    apply(admin, hook("a", a), hook("b", b), rule("tell", webhooks=["a", "b"]))
    for n in range(4):
        send(admin, f"dead-{n}")
    until(lambda: quiet(admin) and len(b.requests) == 4)
    assert len(admin.get("/v1/webhooks/dead-letters").json()["items"]) == 6
    of_b = admin.get("/v1/webhooks/dead-letters", params={"endpoint": "b"}).json()["items"]
    assert [one["id"] for one in of_b] == ["dead-1/webhook/b", "dead-0/webhook/b"]
    shown = admin.get("/v1/webhooks/dead-letters/dead-0/webhook/b")
    assert json.loads(shown.json()["body"])["event_id"] == "dead-0"
    assert shown.json()["explanation"] == "HTTP 400"
    assert [one["dead_letters"] for one in admin.get("/v1/webhooks").json()["items"]] == [4, 2]

    # One again, one forgotten, and then all of an endpoint in their order.
    assert cli(server, "webhook", "replay", "dead-1/webhook/b").stdout == "queued dead-1/webhook/b\n"
    stale = admin.delete("/v1/webhooks/dead-letters/dead-0/webhook/b", headers={"If-Match": '"x"'})
    assert stale.status_code == 412
    assert cli(server, "webhook", "discard", "dead-0/webhook/b").returncode == 0
    assert admin.get("/v1/webhooks/dead-letters/dead-0/webhook/b").status_code == 404
    assert cli(server, "webhook", "discard", "dead-0/webhook/b").returncode == 1
    assert cli(server, "webhook", "replay", "--endpoint", "a").stdout == "queued 4 dead letters of a\n"
    until(lambda: quiet(admin) and len(a.requests) == 8 and len(b.requests) == 5)
    assert ids(a)[4:] == [f"dead-{n}/webhook/a" for n in range(4)]
    assert ids(b)[4:] == ["dead-1/webhook/b"]
    assert admin.get("/v1/webhooks/dead-letters").json()["items"] == []

    # All of one that was deleted can be forgotten, and not sent.
    a.script.extend([(400, {}, 0.0)] * 2)
    for n in range(4, 6):
        send(admin, f"dead-{n}")
    until(lambda: len(admin.get("/v1/webhooks/dead-letters").json()["items"]) == 2)
    admin.delete("/v1/documents/ResponseRule/tell").raise_for_status()
    admin.delete("/v1/documents/Webhook/a").raise_for_status()
    assert admin.get("/v1/webhooks/a").json()["state"] == "deleted"
    assert "there is no endpoint a" in cli(server, "webhook", "replay", "--endpoint", "a").stderr
    assert admin.post("/v1/webhooks/dead-letters/dead-4/webhook/a/replay").status_code == 409
    assert cli(server, "webhook", "discard", "--endpoint", "a").stdout == "discarded 2 dead letters of a\n"
    assert admin.get("/v1/webhooks/a").status_code == 404
    assert cli(server, "webhook", "discard").returncode == 2
    audited = [one["entry"] for one in admin.get("/v1/audit").json()["items"]]
    verbs = [
        (one["verb"], one["name"], one.get("note", "")) for one in audited if one["kind"].startswith("dead-letter")
    ]
    assert verbs == [
        ("discard", "a", "2 of them"),
        ("replay", "a", "4 of them"),
        ("discard", "dead-0/webhook/b", ""),
        ("replay", "dead-1/webhook/b", ""),
    ]


# --- failing is told ------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_fails_is_flagged_once_an_hour_and_not_to_itself(
    tmp_path: Path, receivers: Callable[[], Receiver]
) -> None:
    bad, watcher = receivers(), receivers()
    bad.script.extend([(503, {}, 0.0)] * 1000)
    configuration = configured(webhooks__flag_after="1s")
    with live(tmp_path / "s", configuration=configuration) as server, server.client("admin") as admin:
        apply(
            admin,
            hook("bad", bad, filter={"flags": True}),
            hook("watcher", watcher, filter={"flags": True}),
            rule("tell", webhooks=["bad"]),
        )
        send(admin, "failing-1")
        until(lambda: watcher.requests)
        attempts = len(bad.requests)
        until(lambda: len(bad.requests) > attempts + 2)
        (flag,) = admin.get("/v1/flags").json()["items"]
        assert (flag["flag_class"], flag["name"]) == ("ops", "Webhook endpoint fails: bad")
        assert "HTTP 503" in flag["description"]
        (request,) = watcher.requests
        verify(request)
        assert json.loads(request.body)["flag"]["class"] == "ops"
        assert 'quell_flags_total{class="ops",severity="high"}' in admin.get("/metrics").text
    # The hour goes on over a restart, and so does what was known of the endpoint.
    with live(tmp_path / "s", configuration=configuration) as server, server.client("admin") as admin:
        told = admin.get("/v1/webhooks/bad").json()
        assert (told["state"], told["last_error"]) == ("failing", "HTTP 503")
        attempts = len(bad.requests)
        until(lambda: len(bad.requests) > attempts + 2)
        assert len(admin.get("/v1/flags").json()["items"]) == 1
        assert len(watcher.requests) == 1


def test_a_delivery_that_is_given_up_is_flagged_at_once(admin: httpx.Client, receivers: Callable[[], Receiver]) -> None:
    bad = receivers()
    bad.script.extend([(401, {}, 0.0)] * 3)
    apply(admin, hook("bad", bad), rule("tell", webhooks=["bad"]))
    for n in range(3):
        send(admin, f"lost-{n}")
    until(lambda: len(bad.requests) == 3 and quiet(admin))
    until(lambda: admin.get("/v1/flags").json()["items"])
    (flag,) = admin.get("/v1/flags").json()["items"]
    assert "dead letters" in flag["impact"]
    assert "HTTP 401" in flag["description"]


@pytest.mark.parametrize("name", ["deliveries", "dead-letters", "a/b"])
def test_a_name_that_the_api_cannot_tell_apart_is_refused(admin: httpx.Client, name: str) -> None:
    answer = admin.post("/v1/documents", content=json.dumps(hook(name)))
    assert answer.status_code == 422
    (problem,) = answer.json()["problems"]
    assert (problem["pointer"], problem["got"]) == ("/metadata/name", name)
