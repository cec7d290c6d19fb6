"""Accounts over HTTP: logins, sessions, what tokens may and what they are bound to, and what is told of all that."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live

GOOD = "a slow green tin roof"
BETTER = "eleven quiet wooden boats"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("accounts") / "s") as running:
        with running.client("admin") as client:
            # So that no other is the last one.
            client.post("/v1/users", json={"name": "root", "role": "admin", "password": GOOD}).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture
def user(admin: httpx.Client) -> Callable[..., str]:
    """Makes a user of a name not used before; the name."""

    def make(role: str = "operator", password: str = GOOD) -> str:
        name = f"user-{time.monotonic_ns()}"
        admin.post("/v1/users", json={"name": name, "role": role, "password": password}).raise_for_status()
        return name

    return make


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    return body


def bearing(server: Live, token: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, timeout=20, verify=NO_TLS)


def log_in(server: Live, name: str, password: str = GOOD) -> httpx.Client:
    """As the command line does."""
    answer = httpx.post(f"{server.url}/v1/sessions", json={"name": name, "password": password}, timeout=20)
    return bearing(server, answer.raise_for_status().json()["token"])


def own_events(admin: httpx.Client, name: str) -> list[dict[str, Any]]:
    """Events of that name, oldest first."""
    # What is told of a request is queued before its answer, or right behind what was told before it and is being written:
    # of two events that are acknowledged one after the other, the second was queued later.
    for _ in range(2):
        admin.post("/v1/events", json={"name": "Container.Start"}).raise_for_status()
    rows = admin.get("/v1/events", params={"limit": 1000}).raise_for_status().json()["items"]
    return [row for row in reversed(rows) if row["name"] == name and row["source"] == "quell"]


# ---- users


def test_users_are_made_listed_changed_and_deleted(admin: httpx.Client) -> None:
    made = admin.post("/v1/users", json={"name": "bob", "role": "author", "password": GOOD})
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    assert (made.json()["role"], made.json()["disabled"], made.json()["locked"]) == ("author", False, False)
    assert "password" not in {key for key in made.json() if key != "password_changed"}
    problem(admin.post("/v1/users", json={"name": "bob", "role": "viewer", "password": GOOD}), 409)
    assert "bob" in [one["name"] for one in admin.get("/v1/users").json()["items"]]
    stale = {"If-Match": '"7"'}
    problem(admin.patch("/v1/users/bob", json={"role": "viewer"}, headers=stale), 412)
    problem(admin.delete("/v1/users/bob", headers=stale), 412)
    changed = admin.patch("/v1/users/BOB", json={"role": "viewer"}, headers={"If-Match": '"1"'})
    assert (changed.json()["role"], changed.headers["etag"]) == ("viewer", '"2"')
    assert admin.delete("/v1/users/bob").json() == {"remaining_tokens": []}
    for answer in (admin.get("/v1/users/bob"), admin.delete("/v1/users/bob"), admin.post("/v1/users/bob/unlock")):
        problem(answer, 404)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x", "role": "viewer", "password": "password1234"}, 422),
        ({"name": "x", "role": "viewer", "password": "short"}, 422),
        ({"name": "x", "role": "viewer", "password": "x" * 1025}, 400),
        ({"name": "x", "role": "ingest", "password": GOOD}, 400),
        ({"name": "a/b", "role": "viewer", "password": GOOD}, 400),
        ({"name": "", "role": "viewer", "password": GOOD}, 400),
        ({"name": "x", "role": "viewer"}, 400),
    ],
)
def test_what_is_no_user_is_refused(admin: httpx.Client, body: dict[str, str], status: int) -> None:
    told = problem(admin.post("/v1/users", json=body), status)
    if status == 422:
        assert [one["pointer"] for one in told["problems"]] == ["/password"]
    assert GOOD not in json.dumps(told)


# ---- sessions


def test_a_session_of_the_command_line(server: Live, admin: httpx.Client, user: Callable[..., str]) -> None:
    name = user("operator")
    for wrong in ({"name": name, "password": BETTER}, {"name": "nobody", "password": GOOD}):
        answer = httpx.post(f"{server.url}/v1/sessions", json=wrong)
        assert problem(answer, 401)["detail"].startswith("the name or the password is wrong")
        assert "set-cookie" not in answer.headers
    with log_in(server, name) as client, log_in(server, name) as other:
        myself = client.get("/v1/sessions/current").json()
        assert (myself["name"], myself["kind"], myself["role"]) == (name, "user", "operator")
        assert myself["permissions"] == ["operate", "read", "rules"]
        assert myself["csrf"] is None
        assert len(client.get("/v1/sessions").json()["items"]) == 2
        problem(client.get("/v1/sessions", params={"user": "bob"}), 403)
        assert len(admin.get("/v1/sessions", params={"user": name}).json()["items"]) == 2
        assert client.delete("/v1/sessions/current").status_code == 204
        problem(client.get("/v1/version"), 401)
        assert other.get("/v1/version").status_code == 200
        remaining = other.get("/v1/sessions").json()["items"][0]["id"]
        admin.delete(f"/v1/sessions/{remaining}").raise_for_status()
        problem(other.get("/v1/version"), 401)
    problem(admin.delete("/v1/sessions/current"), 404)
    told = [row for row in own_events(admin, "User.Logout") if row["subject"]["user"] == name]
    assert len(told) == 2
    assert len([row for row in own_events(admin, "User.Login") if row["subject"]["user"] == name]) == 2


def test_nobody_ends_the_session_of_another(server: Live, user: Callable[..., str]) -> None:
    with log_in(server, user()) as one, log_in(server, user()) as other:
        theirs = one.get("/v1/sessions").json()["items"][0]["id"]
        problem(other.delete(f"/v1/sessions/{theirs}"), 404)
        assert one.get("/v1/version").status_code == 200


def test_a_session_in_a_cookie_changes_only_with_its_token(server: Live, user: Callable[..., str]) -> None:
    name = user("admin")
    with httpx.Client(base_url=server.url, timeout=20, verify=NO_TLS) as browser:
        foreign = {"Sec-Fetch-Site": "cross-site"}
        login = {"name": name, "password": GOOD, "cookie": True}
        problem(browser.post("/v1/sessions", json=login, headers=foreign), 403)
        opened = browser.post("/v1/sessions", json=login, headers={"Sec-Fetch-Site": "same-origin"}).raise_for_status()
        assert opened.json()["token"] is None
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(opened.headers["set-cookie"].split("; "))
        csrf = browser.get("/v1/sessions/current").json()["csrf"]
        assert csrf == opened.json()["csrf"]
        links = "/v1/login-links"
        problem(browser.post(links), 401)
        problem(browser.post(links, headers={"X-Quell-CSRF": "guess"}), 403)
        problem(browser.post(links, headers={"X-Quell-CSRF": csrf, **foreign}), 403)
        problem(browser.post(links, headers={"X-Quell-CSRF": csrf, "Origin": "https://evil.example"}), 403)
        # A link that a user asks for opens a session of that user.
        path = browser.post(links, headers={"X-Quell-CSRF": csrf}).raise_for_status().json()["path"]
        with httpx.Client(base_url=server.url, verify=NO_TLS) as second:
            assert second.get(path).status_code == 303
            assert second.get("/v1/sessions/current").json()["role"] == "admin"
        ended = browser.delete("/v1/sessions/current", headers={"X-Quell-CSRF": csrf})
        assert "Max-Age=0" in ended.headers["set-cookie"]
        assert browser.get("/v1/version").status_code == 401


def test_sessions_and_tokens_survive_a_restart(tmp_path: Path) -> None:
    with live(tmp_path / "s") as first, first.client("admin") as admin:
        admin.post("/v1/users", json={"name": "alice", "role": "viewer", "password": GOOD}).raise_for_status()
        with log_in(first, "alice") as client:
            token = client.headers["authorization"]
    with live(tmp_path / "s") as second:
        answer = httpx.get(f"{second.url}/v1/sessions/current", headers={"Authorization": token})
        assert answer.json()["name"] == "alice"


def test_a_role_taken_away_acts_at_once_on_sessions_and_tokens(
    server: Live, admin: httpx.Client, user: Callable[..., str]
) -> None:
    name = user("admin")

    def made(role: str, called: str) -> httpx.Client:
        answer = session.post("/v1/tokens", json={"role": role, "name": called})
        return bearing(server, answer.raise_for_status().json()["token"])

    with (
        log_in(server, name) as session,
        made("operator", f"of {name}") as token,
        made("ingest", f"sends for {name}") as ingest,
    ):
        # Both are known by now and would be trusted for seconds.
        assert token.delete("/v1/quarantines/netns:1").status_code == 404
        admin.patch(f"/v1/users/{name}", json={"role": "viewer"}).raise_for_status()
        problem(session.get("/v1/version"), 401)
        assert token.get("/v1/version").status_code == 200
        problem(token.delete("/v1/quarantines/netns:1"), 403)
        assert ingest.post("/v1/events", json={"name": "Container.Start"}).status_code == 202
        admin.patch(f"/v1/users/{name}", json={"disabled": True}).raise_for_status()
        problem(token.get("/v1/version"), 401)
        assert admin.delete(f"/v1/users/{name}").json() == {"remaining_tokens": [f"sends for {name}"]}
        assert ingest.post("/v1/events", json={"name": "Container.Start"}).status_code == 202
        assert f"of {name}" not in [one["name"] for one in admin.get("/v1/tokens").json()["items"]]


def test_ones_own_password(server: Live, user: Callable[..., str]) -> None:
    name = user("viewer")
    with log_in(server, name) as client:
        path = f"/v1/users/{name}/password"
        problem(client.put(path, json={"password": BETTER}), 403)
        problem(client.put(path, json={"password": BETTER, "old_password": BETTER}), 403)
        problem(client.put(f"/v1/users/{user()}/password", json={"password": BETTER, "old_password": GOOD}), 403)
        assert client.put(path, json={"password": BETTER, "old_password": GOOD}).status_code == 204
        problem(client.get("/v1/version"), 401)
    assert httpx.post(f"{server.url}/v1/sessions", json={"name": name, "password": GOOD}).status_code == 401
    with log_in(server, name, BETTER) as client:
        assert client.get("/v1/version").status_code == 200


# ---- tokens


def test_nobody_makes_what_may_do_more(server: Live, admin: httpx.Client) -> None:
    narrow = {"role": "admin", "name": "narrow", "permissions": ["read", "admin"], "ttl": 600}
    made = admin.post("/v1/tokens", json=narrow).raise_for_status().json()
    with bearing(server, made["token"]) as client:
        for request in (
            client.post("/v1/tokens", json={"role": "admin", "name": "more", "ttl": 60}),
            client.post("/v1/tokens", json={"role": "operator", "name": "more", "ttl": 60}),
            client.post("/v1/tokens", json={"role": "ingest", "name": "more", "ttl": 60}),
            client.post("/v1/tokens", json={"role": "viewer", "name": "longer", "ttl": 6000}),
            client.post("/v1/tokens", json={"role": "viewer", "name": "for ever"}),
            client.post("/v1/tokens/first-admin/rotate", json={}),
            client.post("/v1/users", json={"name": "more", "role": "admin", "password": GOOD}),
            client.delete("/v1/quarantines/netns:1"),
        ):
            problem(request, 403)
        assert client.post("/v1/tokens", json={"role": "viewer", "name": "less", "ttl": 60}).status_code == 201
    [told] = [one for one in admin.get("/v1/tokens").json()["items"] if one["name"] == "less"]
    # It belongs to whom the token that made it belongs to.
    assert told["owner"] == "token/first-admin"


@pytest.mark.parametrize(
    "body",
    [
        {"role": "viewer", "permissions": ["operate"]},
        {"role": "operator", "permissions": ["operate"]},
        {"role": "ingest", "permissions": []},
        {"role": "viewer", "nodes": ["n1"]},
        {"role": "ingest", "detectors": ["sensor"]},
        {"role": "ingest", "detectors": ["falcon"]},
        {"role": "ingest", "nodes": [""]},
        {"role": "viewer", "name": "a/b"},
    ],
)
def test_a_token_that_contradicts_itself_is_refused(admin: httpx.Client, body: dict[str, Any]) -> None:
    problem(admin.post("/v1/tokens", json={"name": "contradiction", **body}), 400)


def test_a_rotated_token_has_a_new_secret_and_a_grace(server: Live, admin: httpx.Client) -> None:
    def works(secret: str) -> bool:
        with bearing(server, secret) as client:
            return client.get("/v1/version").status_code == 200

    first = admin.post("/v1/tokens", json={"role": "viewer", "name": "turning"}).json()["token"]
    assert works(first)
    answer = admin.post("/v1/tokens/turning/rotate", json={"grace": 60}).json()
    second = answer["token"]
    assert answer["old_until"] > time.time()
    assert (works(first), works(second)) == (True, True)
    third = admin.post("/v1/tokens/turning/rotate", json={}).json()["token"]
    assert (works(first), works(second), works(third)) == (False, False, True)
    problem(admin.post("/v1/tokens/nobody/rotate", json={}), 404)


# ---- bindings


def bound(server: Live, admin: httpx.Client, **binding: list[str]) -> httpx.Client:
    body = {"role": "ingest", "name": "bound", "replace": True, **binding}
    return bearing(server, admin.post("/v1/tokens", json=body).raise_for_status().json()["token"])


def alert(node: str | None, rule: str = "Terminal shell in container") -> bytes:
    """As Falco sends it."""
    told = {"rule": rule, "priority": "Notice", "source": "syscall", "time": "2026-11-22T15:40:11Z", "output": "a test"}
    told |= {"output_fields": {"container.id": "4f0c1e5b2a77", "proc.name": "bash"}}
    return json.dumps(told | ({} if node is None else {"hostname": node})).encode()


def test_a_token_bound_to_a_detector(server: Live, admin: httpx.Client) -> None:
    with bound(server, admin, detectors=["falco"]) as sender:
        assert sender.post("/v1/events/falco", content=alert("n1")).status_code == 202
        told = problem(sender.post("/v1/events", json={"name": "Container.Start"}), 403)
        assert "may send as falco, this was sent as native" in told["detail"]


def test_a_token_bound_to_nodes(server: Live, admin: httpx.Client) -> None:
    with bound(server, admin, nodes=["node-1", "edge-*"]) as sender:
        lines = [alert("node-1"), alert("node-2"), alert(None), b"{", alert("edge-7"), alert("EDGE-7")]
        answer = sender.post("/v1/events/falco", content=b"\n".join(lines), headers=NDJSON)
        assert answer.status_code == 202
        assert len(answer.json()["ids"]) == 2
        assert [refused["line"] for refused in answer.json()["rejected"]] == [2, 3, 4, 6]
        reasons = [refused["reason"] for refused in answer.json()["rejected"]]
        assert reasons[0] == "token bound may send about nodes node-1, edge-*, the event is about node-2"
        assert reasons[1] == "token bound may send about nodes node-1, edge-*, the event names none"
        kept = admin.get("/v1/rejects", params={"limit": 4}).json()["items"]
        assert {reject["reason"] for reject in kept} == set(reasons)
        told = problem(sender.post("/v1/events/falco", content=alert("node-2")), 403)
        assert (told["ids"], len(told["rejected"])) == ([], 1)
        problem(sender.post("/v1/events/falco", content=b"\n".join([alert("a"), alert("b")]), headers=NDJSON), 403)
        problem(sender.post("/v1/events/falco", content=b"\n".join([alert("a"), b"{"]), headers=NDJSON), 400)


def test_a_machines_id_is_bound_like_its_name(server: Live, admin: httpx.Client) -> None:
    """An agent is found by either, so the one left free would be a way to another machine."""
    with bound(server, admin, nodes=["node-1", "4c4c4544"]) as sender:

        def status(**subject: str) -> int:
            return sender.post("/v1/events", json={"name": "Container.Start", "subject": subject}).status_code

        assert status(node="node-1") == 202
        assert status(node="node-1", machine_id="4c4c4544") == 202
        assert status(machine_id="4c4c4544") == 202
        assert status(node="node-1", machine_id="another") == 403
        assert status(machine_id="another") == 403


def test_a_token_bound_to_a_cluster(server: Live, admin: httpx.Client) -> None:
    with bound(server, admin, clusters=["prod-*"]) as sender:

        def status(**subject: str) -> int:
            return sender.post("/v1/events", json={"name": "Container.Start", "subject": subject}).status_code

        assert status(cluster="prod-eu") == 202
        assert status(cluster="test") == 403
        assert status(cluster="prod-eu", cluster_uid="of-another") == 403
        # Most detectors do not know the name of their cluster.
        assert status(node="n1") == 202


# ---- what is told


def test_what_the_api_tells_of_itself(server: Live, admin: httpx.Client, user: Callable[..., str]) -> None:
    name = user("viewer")
    with log_in(server, name) as client:
        for _ in range(5):
            problem(client.post("/v1/tokens", json={"role": "viewer", "name": "x"}), 403)
        client.get("/v1/version").raise_for_status()
    denied = [row for row in own_events(admin, "User.Resource.Access.Denied") if row["subject"]["user"] == name]
    assert len(denied) == 1
    assert (denied[0]["level"], denied[0]["catalogue_name"]) == ("Warning", "User.Resource.Access.Denied")
    whole = admin.get(f"/v1/events/{denied[0]['id']}").json()["event"]
    assert "POST /v1/tokens" in json.dumps(whole)
    writes = json.dumps(own_events(admin, "RESTful.Write"))
    assert "token/first-admin" in writes
    before = len(own_events(admin, "RESTful.Write"))
    with server.client("ingest") as sender:
        sender.post("/v1/events", json={"name": "Container.Start"}).raise_for_status()
    join = {"token": "x", "name": "a", "public_key": "ed25519:" + "A" * 43 + "=", "node": "n", "machine_id": "m"}
    httpx.post(f"{server.url}/v1/agents/join", json=join)
    assert len(own_events(admin, "RESTful.Write")) == before
    admin.post("/v1/login-links").raise_for_status()
    assert len(own_events(admin, "RESTful.Write")) == before + 1


def test_rules_see_what_is_told(server: Live, admin: httpx.Client) -> None:
    rule = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: failed-logins}
spec: {event: event, criteria: ["name:User.Login.Failed"], actions: [{makeRedFlag: {severity: low}}]}
"""
    admin.post("/v1/documents", content=rule).raise_for_status()
    name = f"typed-into-the-wrong-field-{time.monotonic_ns()}"
    with live_address(server) as stranger:
        problem(stranger.post("/v1/sessions", json={"name": name, "password": "x"}), 401)
    told = own_events(admin, "User.Login.Failed")
    assert name not in json.dumps(told)
    deadline = time.monotonic() + 10
    while not [flag for flag in admin.get("/v1/flags").json()["items"] if flag["name"]]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def live_address(server: Live) -> httpx.Client:
    """From an address that nothing else of these tests comes from, so that it is no repetition."""
    transport = httpx.HTTPTransport(local_address="127.0.0.77")
    return httpx.Client(base_url=server.url, transport=transport, timeout=20)


# ---- the console


def test_the_login_form(server: Live, user: Callable[..., str]) -> None:
    name = user("viewer")
    with httpx.Client(base_url=server.url, timeout=20, verify=NO_TLS) as browser:
        form = browser.get("/login")
        assert 'name="password" type="password"' in form.text
        assert "form-action 'self'" in form.headers["content-security-policy"]
        assert "unsafe" not in form.headers["content-security-policy"]
        wrong = browser.post("/login", data={"name": f"{name}<b>", "password": "wrong"})
        assert wrong.status_code == 401
        assert "the name or the password is wrong" in wrong.text
        assert f"{name}&lt;b&gt;" in wrong.text
        right = {"name": name, "password": GOOD}
        assert browser.post("/login", data=right, headers={"Origin": "https://evil.example"}).status_code == 403
        landed = browser.post("/login", data=right, headers={"Origin": server.url})
        assert (landed.status_code, landed.headers["location"]) == (303, "/console")
        page = browser.get("/console/overview").text
        assert name in page
        csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
        assert csrf is not None
        assert browser.post("/logout", data={"csrf": "guess"}).status_code == 403
        assert browser.get("/console/overview").status_code == 200
        assert browser.post("/logout", data={"csrf": csrf[1]}).status_code == 303
        assert browser.get("/").headers["location"] == "/login"
        assert browser.get("/logout").status_code == 405
        assert browser.post("/", data={}).status_code == 405
        assert browser.post("/login", content=b"\xff=\xff").status_code == 400
        assert browser.post("/login", content=b"x" * 100_000).status_code == 413
