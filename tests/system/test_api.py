"""The REST API and the page of a running controller, over HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live

RULE = b"""\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: %s}
spec:
  event: security-event
  criteria: ["name:%s"]
  actions: [{makeRedFlag: {severity: high}}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("state") / "s") as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["status"], bool(body["title"]), bool(body["detail"])) == (status, True, True)
    return body


def post(admin: httpx.Client, **fields: Any) -> str:
    answer = admin.post("/v1/events", json={"name": "Host.Suspicious.Process", **fields})
    return str(answer.raise_for_status().json()["ids"][0])


def names(admin: httpx.Client) -> set[str]:
    return {document["metadata"]["name"] for document in admin.get("/v1/documents").raise_for_status().json()["items"]}


def test_documents_are_applied_listed_and_deleted(admin: httpx.Client) -> None:
    text = RULE % (b"shells", b"Container.Suspicious.Process")
    dry = admin.post("/v1/documents", params={"dry_run": "true"}, content=text).json()
    assert [(change["name"], change["verb"]) for change in dry] == [("shells", "created")]
    assert "shells" not in names(admin)
    assert admin.post("/v1/documents", content=text).json()[0]["verb"] == "created"
    assert admin.post("/v1/documents", content=text).json()[0]["verb"] == "unchanged"
    [document] = admin.get("/v1/documents", params={"kind": "rules", "name": "shells"}).json()["items"]
    assert (document["kind"], document["metadata"]["name"]) == ("ResponseRule", "shells")
    assert admin.delete("/v1/documents/rule/shells").json()[0]["verb"] == "deleted"
    problem(admin.delete("/v1/documents/rule/shells"), 404)
    problem(admin.get("/v1/documents", params={"kind": "rules", "name": "shells"}), 404)
    problem(admin.get("/v1/documents", params={"kind": "colours"}), 404)


def test_all_problems_of_documents_come_at_once_and_nothing_is_applied(admin: httpx.Client) -> None:
    text = (
        RULE % (b"good", b"Container.Suspicious.Process")
        + b"---\n"
        + RULE.replace(b"severity", b"sevrity") % (b"bad", b"x")
    )
    told = problem(admin.post("/v1/documents", content=text + b"---\nkind: Rule\n"), 422)
    assert len(told["problems"]) >= 2
    assert all(entry["message"] and entry["line"] for entry in told["problems"])
    assert any(entry.get("nearest") == "severity" for entry in told["problems"])
    assert not names(admin) & {"good", "bad"}


def test_what_is_referred_to_is_not_deleted(admin: httpx.Client) -> None:
    text = b"""\
apiVersion: quell.dev/v1
kind: Group
metadata: {name: shop}
spec: {criteria: [{key: namespace, op: "=", value: shop}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shop-rule}
spec: {event: security-event, group: shop, criteria: ["level:Critical"], actions: [suppress-log]}
"""
    admin.post("/v1/documents", content=text).raise_for_status()
    told = problem(admin.delete("/v1/documents/group/shop"), 409)
    assert "shop-rule" in told["detail"]
    deleted = admin.delete("/v1/documents/group/shop", params={"force": "true"}).json()
    assert {change["name"] for change in deleted} == {"shop", "shop-rule"}


def test_an_event_can_be_explained(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULE % (b"flag-it", b"Host.Suspicious.Process")).raise_for_status()
    event_id = post(admin, subject={"node": "n1", "process": {"pid": 5, "name": "nc"}})
    told = admin.get(f"/v1/events/{event_id}").json()
    assert told["event"]["subject"]["process"]["name"] == "nc"
    [match] = [match for match in told["decision"]["matches"] if match["name"] == "flag-it"]
    assert match["evidence"][0]["criterion"].startswith("name:")
    assert told["flags"][0]["severity"] == "high"
    assert admin.get("/v1/flags", params={"limit": 1}).json()["items"][0]["event_id"] == event_id
    other = admin.post("/v1/events", json={"name": "Container.Suspicious.Process"}).json()["ids"][0]
    assert "near_misses" not in admin.get(f"/v1/events/{other}").json()["decision"]
    near = admin.get(f"/v1/events/{other}", params={"near_misses": "true"}).json()["decision"]["near_misses"]
    assert "flag-it" in [miss["name"] for miss in near]
    problem(admin.get("/v1/events/never"), 404)


def test_events_come_newest_first_and_page_by_page(admin: httpx.Client) -> None:
    ids = [post(admin, id=f"page:{number}") for number in range(5)]
    first = [row["id"] for row in admin.get("/v1/events", params={"limit": 3}).json()["items"]]
    assert first == ids[:1:-1]
    second = admin.get("/v1/events", params={"limit": 2, "before": first[-1]}).json()["items"]
    assert [row["id"] for row in second] == [ids[1], ids[0]]
    assert second[0]["decision"]["event_id"] == ids[1]


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/v1/nothing", b"", 404),
        ("GET", "/v1/schema/swagger", b"", 404),
        ("PATCH", "/v1/events", b"", 405),
        ("GET", "/v1/events?limit=0", b"", 400),
        ("GET", "/v1/events?limit=many", b"", 400),
        ("POST", "/v1/tokens", b'{"role": "king", "name": "x"}', 400),
        ("POST", "/v1/tokens", b'{"role": "viewer", "name": "x", "colour": 1}', 400),
        ("POST", "/v1/tokens", b'{"role"', 400),
        ("POST", "/v1/agents/join", b'{"token": "x"}', 400),
        ("DELETE", "/v1/quarantines/netns:1", b"", 404),
        ("POST", "/v1/webhooks/dead-letters/e%2Fwebhook%2Fw/replay", b"", 404),
        ("POST", "/v1/webhooks/dead-letters/e%2Fwebhook%2Fw/again", b"", 404),
    ],
)
def test_every_error_has_the_one_shape(
    admin: httpx.Client, method: str, path: str, content: bytes, status: int
) -> None:
    problem(admin.request(method, path, content=content), status)


def test_a_token_works_until_it_is_withdrawn_replaced_or_expires(server: Live, admin: httpx.Client) -> None:
    def status(secret: str) -> int:
        return httpx.get(f"{server.url}/v1/events", headers={"Authorization": f"Bearer {secret}"}).status_code

    def issue(**fields: Any) -> str:
        return str(admin.post("/v1/tokens", json={"role": "viewer", "name": "reader", **fields}).json()["token"])

    first = issue()
    assert status(first) == 200
    problem(admin.post("/v1/tokens", json={"role": "viewer", "name": "reader"}), 409)
    assert status(first) == 200
    second = issue(replace=True)
    assert (status(first), status(second)) == (401, 200)
    assert "reader" in [token["name"] for token in admin.get("/v1/tokens").json()["items"]]
    assert second not in admin.get("/v1/tokens").text
    admin.delete("/v1/tokens/reader").raise_for_status()
    assert status(second) == 401
    problem(admin.delete("/v1/tokens/reader"), 404)
    short = issue(ttl=3)
    assert status(short) == 200
    deadline = time.monotonic() + 20
    while status(short) == 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_viewer_reads_and_changes_nothing(server: Live, admin: httpx.Client) -> None:
    secret = admin.post("/v1/tokens", json={"role": "viewer", "name": "eyes"}).json()["token"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, verify=NO_TLS) as viewer:
        calls = [
            (method.upper(), path, operation["x-permission"])
            for path, methods in admin.get("/v1/openapi.json").json()["paths"].items()
            for method, operation in methods.items()
            if operation["x-permission"] != "open"
        ]
        assert len(calls) > 15
        for method, path, permission in calls:
            answer = viewer.request(method, path.replace("{", "").replace("}", ""))
            deadline = time.monotonic() + 20
            while answer.status_code == 429:  # there are more routes than one may ask for at once
                assert time.monotonic() < deadline, (method, path)
                time.sleep(0.1)
                answer = viewer.request(method, path.replace("{", "").replace("}", ""))
            assert (answer.status_code == 403) == (permission != "read"), (method, path, answer.text)
            # What is everybody's own they may change; tests/system/test_accounts.py has whose it is.
            is_own = path.startswith("/v1/sessions/") or path == "/v1/users/{name}/password"
            asks_only = path == "/v1/rules/trial"
            assert method == "GET" or permission != "read" or is_own or asks_only, (method, path)


def test_an_agent_joins_with_its_token_only(server: Live, admin: httpx.Client) -> None:
    request = {"token": "wrong", "name": "a", "public_key": "ed25519:" + "A" * 43 + "=", "node": "n", "machine_id": "m"}
    problem(httpx.post(f"{server.url}/v1/agents/join", json=request), 403)
    joined = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).json()
    assert joined["expires"] > time.time()
    assert admin.get("/v1/agents").json() == {"items": [], "next": None}


def test_health_needs_no_token_and_metrics_do(server: Live, admin: httpx.Client) -> None:
    with server.client("") as nobody:
        assert nobody.get("/healthz").status_code == 200
        assert nobody.get("/readyz").status_code == 200
        problem(nobody.get("/metrics"), 401)
    before = _taken(admin)
    post(admin)
    assert _taken(admin) == before + 1


def _taken(admin: httpx.Client) -> float:
    found = re.search(r'quell_events_taken_total\{detector="native"\} (\S+)', admin.get("/metrics").text)
    return float(found[1]) if found else 0.0


@pytest.fixture
def browser(server: Live, admin: httpx.Client) -> Iterator[httpx.Client]:
    path = admin.post("/v1/login-links").json()["path"]
    with server.client("") as client:
        landed = client.get(path)
        assert (landed.status_code, landed.headers["location"]) == (303, "/console")
        yield client


def test_a_login_link_works_once_and_gives_a_session_that_reads(server: Live, admin: httpx.Client) -> None:
    path = admin.post("/v1/login-links").json()["path"]
    with server.client("") as client:
        assert client.get("/").headers["location"] == "/login"
        cookie = client.get(path).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert client.get("/console/overview").status_code == 200
        problem(client.post("/v1/login-links"), 401)
    with server.client("") as other:
        assert other.get(path).status_code == 401
        assert other.get("/console/overview").headers["location"] == "/login?next=%2Fconsole%2Foverview"


def test_the_console_shows_events_with_what_was_decided(browser: httpx.Client, admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULE % (b"page-rule", b"Host.Suspicious.Process")).raise_for_status()
    event_id = post(admin, id="shown", subject={"node": "n1", "process": {"pid": 5, "name": "nc"}})
    for path in ("/console/overview", "/console/notifications/security-events"):
        listed = browser.get(path).text
        assert 'href="/console/notifications/event/shown"' in listed
        assert "nc (pid 5), on n1" in listed
        assert "makeRedFlag" in listed
    whole = browser.get(f"/console/notifications/event/{event_id}").text
    assert "page-rule" in whole
    assert "&#34;name&#34;: &#34;Host.Suspicious.Process&#34;" in whole
    assert browser.get("/console/notifications/event/never").status_code == 404


def test_nothing_an_event_says_becomes_markup(browser: httpx.Client, admin: httpx.Client) -> None:
    evil = "\"><script>alert(1)</script><a href='javascript:x'>"
    post(
        admin,
        id="evil:1",
        category="incident",
        name=evil,
        subject={"node": evil, "namespace": evil, "container": {"id": evil, "image": evil}, "process": {"name": evil}},
        details={"message": evil},
    )
    query = httpx.QueryParams({"text": evil, "level": evil, "cursor": evil, "since": evil})
    for path in (
        "/console/overview",
        "/console/notifications/security-events",
        "/console/notifications/event/evil:1?near=1",
        f"/console/notifications/events?{query}",
        f"/console/notifications/event/{evil}",
        f"/console/agents?{query}",
        f"/console/{evil}",
        f"/login?next={query}",
    ):
        answer = browser.get(path)
        assert answer.status_code in (200, 400, 404), path
        assert not re.search(r"<script(?! src=)", answer.text)
        assert "<a href='javascript" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_pages_need_nothing_from_elsewhere(browser: httpx.Client) -> None:
    text = browser.get("/console/overview").text
    assert not re.findall(r"<(?:img|iframe|style)\b|<script(?! src=)", text)
    assert not re.findall(r"(?:src|href)=.?(?:https?:)?//", text)


def test_what_was_guessed_too_often_is_429_and_what_is_right_still_works(tmp_path: Path) -> None:
    with live(tmp_path / "s") as running, running.client("") as guesser, running.client("admin") as admin:
        statuses = [
            guesser.get("/v1/events", headers={"Authorization": f"Bearer guess{number}"}).status_code
            for number in range(25)
        ]
        assert statuses[:20] == [401] * 20
        assert statuses[20:] == [429] * 5
        assert guesser.get("/login", params={"code": "guess"}).status_code == 429
        assert admin.get("/v1/events").status_code == 200
