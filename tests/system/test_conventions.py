"""What every route of the API keeps to: one shape of errors, pages, versions, repetition, and bounds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live

from quell.api.limits import RateLimit
from quell.api.problem import Refusal, pointer

RULE = """\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells}
spec:
  event: security-event
  criteria: [{"name:Host.Suspicious.Process": 1}, "lvel:Critical"]
  actions: [{makeRedFlag: {severity: tremendous}}]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("conventions") / "s") as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def make(admin: httpx.Client, name: str, key: str | None, **more: Any) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return admin.post("/v1/tokens", json={"role": "viewer", "name": name, **more}, headers=headers)


def test_a_problem_has_its_place_as_a_pointer(admin: httpx.Client) -> None:
    told = admin.post("/v1/documents", content=RULE).json()
    assert told["status"] == 422
    places = {problem["pointer"]: problem for problem in told["problems"]}
    assert "/spec/actions/0/makeRedFlag/severity" in places
    assert all(problem["line"] for problem in told["problems"])
    body = admin.post("/v1/tokens", json={"role": "emperor", "name": "x"}).json()
    assert [problem["pointer"] for problem in body["problems"]] == ["/role"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("spec.criteria[0]", "/spec/criteria/0"),
        ("$.ttl", "/ttl"),
        ("spec.labels[app/name]", "/spec/labels/app~1name"),
        ("/already/one", "/already/one"),
        ("", ""),
    ],
)
def test_pointers(path: str, expected: str) -> None:
    assert pointer(path) == expected


def test_an_unknown_parameter_is_refused_with_the_nearest(admin: httpx.Client) -> None:
    answer = admin.get("/v1/events", params={"limt": 5})
    assert answer.status_code == 400
    assert answer.json()["problems"][0]["nearest"] == "limit"
    twice = admin.get("/v1/events?limit=5&limit=6")
    assert twice.status_code == 400
    assert twice.json()["problems"][0]["pointer"] == "/query/limit"
    assert admin.get("/v1/workloads?label=a=1&label=b").status_code == 200


def test_pages_give_each_item_once(admin: httpx.Client) -> None:
    ids = [admin.post("/v1/events", json={"name": "Container.Start"}).json()["ids"][0] for _ in range(7)]
    found, cursor, pages = [], None, 0
    while True:
        page = admin.get("/v1/events", params={"limit": 3, **({} if cursor is None else {"cursor": cursor})}).json()
        found += [item["id"] for item in page["items"]]
        pages += 1
        cursor = page["next"]
        if cursor is None:
            break
    assert [identifier for identifier in found if identifier in ids] == ids[::-1]
    assert len(found) == len(set(found))
    assert pages >= 3
    assert admin.get("/v1/webhooks/deliveries", params={"cursor": "first"}).status_code == 400


def test_filters_leave_out_and_pages_go_on(admin: httpx.Client) -> None:
    rule = RULE.replace('[{"name:Host.Suspicious.Process": 1}, "lvel:Critical"]', '["name:Host.Suspicious.Process"]')
    admin.post("/v1/documents", content=rule.replace("tremendous", "high")).raise_for_status()
    matched = [
        admin.post("/v1/events", json={"name": name}).json()["ids"][0]
        for name in ("Host.Suspicious.Process", "Container.Start") * 3
    ][::2]
    first = admin.get("/v1/events", params={"decided": "true", "limit": 2}).json()
    second = admin.get("/v1/events", params={"decided": "true", "limit": 2, "cursor": first["next"]}).json()
    assert [event["id"] for event in first["items"] + second["items"]] == matched[::-1]
    assert second["next"] is None
    assert admin.get("/v1/agents", params={"connected": "true"}).json()["items"] == []


def test_a_creation_that_is_sent_again_is_answered_as_before(admin: httpx.Client) -> None:
    first = make(admin, "once", "key-1")
    assert first.status_code == 201
    again = make(admin, "once", "key-1")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = make(admin, "another", "key-1")
    assert other.status_code == 422
    assert "another" not in [token["name"] for token in admin.get("/v1/tokens").json()["items"]]
    assert make(admin, "third", "").status_code == 400
    assert make(admin, "fourth", "k" * 256).status_code == 400


def test_a_key_is_its_callers(admin: httpx.Client, server: Live) -> None:
    second = make(admin, "second-admin", None, role="admin").json()["token"]
    mine = make(admin, "of-the-first", "shared-key")
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {second}"}, verify=NO_TLS) as other:
        theirs = make(other, "of-the-second", "shared-key")
    assert (mine.status_code, theirs.status_code) == (201, 201)


def test_the_secret_of_an_answer_is_not_on_disk(admin: httpx.Client, server: Live) -> None:
    secret = make(admin, "quiet", "key-quiet").json()["token"]
    admin.post("/v1/documents", content="", headers={"Idempotency-Key": "flush"})
    on_disk = b"".join(path.read_bytes() for path in server.folder.glob("quell.db*"))
    assert secret.encode() not in on_disk
    assert b"key-quiet" not in on_disk


def test_at_once_only_one_is_done(admin: httpx.Client, server: Live) -> None:
    statuses: list[int] = []

    def go() -> None:
        with server.client("admin") as client:
            statuses.append(make(client, "raced", "key-race").status_code)

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(statuses) <= {201, 409}
    assert 201 in statuses


def test_a_change_of_what_was_changed_meanwhile_is_refused(admin: httpx.Client) -> None:
    make(admin, "versioned", None)
    shown = admin.get("/v1/tokens/versioned")
    seen = {"If-Match": shown.headers["etag"]}
    admin.post("/v1/tokens/versioned/rotate", json={"grace": 60}).raise_for_status()
    for stale in (
        admin.delete("/v1/tokens/versioned", headers=seen),
        admin.post("/v1/tokens/versioned/rotate", json={}, headers=seen),
    ):
        assert stale.status_code == 412
        assert stale.headers["etag"] != shown.headers["etag"]
    fresh = {"If-Match": admin.get("/v1/tokens/versioned").headers["etag"]}
    assert admin.delete("/v1/tokens/versioned", headers={"If-Match": "7"}).status_code == 400
    assert admin.delete("/v1/tokens/versioned", headers=fresh).status_code == 204
    assert admin.get("/v1/tokens/versioned").status_code == 404
    assert admin.delete("/v1/sessions/x", headers={"If-Match": '"7"'}).status_code == 400


def test_a_bucket_of_requests() -> None:
    now = [0.0]
    limit = RateLimit(rate=2, burst=3, clock=lambda: now[0])

    def taken(caller: str) -> bool:
        try:
            limit.take(caller)
        except Refusal:
            return False
        return True

    assert [taken("a") for _ in range(3)] == [True, True, True]
    with pytest.raises(Refusal) as refused:
        limit.take("a")
    assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "1")
    assert taken("b")
    now[0] = 0.5
    assert [taken("a") for _ in range(2)] == [True, False]
    now[0] = 100
    assert [taken("a") for _ in range(4)] == [True, True, True, False]


def test_ingest_does_not_count(server: Live) -> None:
    with server.client("ingest") as sender:
        statuses = {sender.post("/v1/events", json=[]).status_code for _ in range(300)}
    assert statuses == {202}
