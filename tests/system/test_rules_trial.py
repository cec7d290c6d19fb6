"""A rule tried on the last events: what it would match, what is doubtful about it, and that nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.system.live import NO_TLS, Live, live

from quell.client import Client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("trial") / "s") as running, running.client() as admin:
        for number in range(12):
            process = {"name": "nc" if number % 2 else "bash"}
            event = {
                "id": f"tried-{number}",
                "category": "incident",
                "name": "Host.Suspicious.Process",
                "subject": {"node": "edge-1", "process": process},
            }
            admin.post("/v1/events", json=event).raise_for_status()
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


RULE: dict[str, Any] = {"event": "incident", "criteria": ["process:nc"], "actions": ["agentKillProcess"]}


def try_it(client: httpx.Client, rule: dict[str, Any], **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = client.post("/v1/rules/trial", json={"rule": rule, **more}).raise_for_status().json()
    return told


def as_role(server: Live, admin: httpx.Client, role: str) -> httpx.Client:
    made = admin.post("/v1/tokens", json={"role": role, "name": f"trial-{role}"}).raise_for_status().json()
    return httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {made['token']}"}, timeout=20, verify=NO_TLS
    )


def test_what_it_would_match_is_counted_and_the_newest_are_named(admin: httpx.Client) -> None:
    before = admin.get("/v1/rules").headers["etag"]
    told = try_it(admin, RULE)
    # Quell's own events are among those that are looked at.
    assert told["looked_at"] >= 12
    assert told["matched"] == 6
    assert [met["id"] for met in told["latest"]] == [f"tried-{number}" for number in (11, 9, 7, 5, 3, 1)]
    assert told["latest"][0]["subject"]["process"]["name"] == "nc"
    assert told["warnings"] == []
    assert admin.get("/v1/rules").headers["etag"] == before


def test_only_so_many_events_are_looked_at(admin: httpx.Client) -> None:
    told = try_it(admin, RULE, events=3)
    assert told["looked_at"] == 3
    assert told["matched"] < 3


def test_a_disabled_rule_is_tried_as_if_it_were_enabled(admin: httpx.Client) -> None:
    assert try_it(admin, {**RULE, "disable": True})["matched"] == 6


def test_a_rule_that_is_there_is_tried_with_its_changes(admin: httpx.Client) -> None:
    [made] = (
        admin.post("/v1/rules", json={"rule": {**RULE, "name": "tried", "disable": True}}).raise_for_status().json()
    )
    assert try_it(admin, {}, of="tried")["matched"] == 6
    assert try_it(admin, {"criteria": None}, of=str(made["id"]))["matched"] == 12
    assert admin.get("/v1/rules/tried").json()["rule"]["criteria"] == ["process:nc"]
    assert admin.post("/v1/rules/trial", json={"rule": {}, "of": "unheard"}).status_code == 404


def test_what_is_doubtful_is_said_as_when_it_is_inserted(server: Live, admin: httpx.Client) -> None:
    broad = try_it(admin, {"event": "incident", "actions": ["quarantine"]})
    assert "runs in audit until it says allow_broad" in broad["warnings"][0]
    with as_role(server, admin, "author") as author:
        assert try_it(author, RULE)["warnings"] == ["saved disabled, as agentKillProcess takes an operator to enable"]


def test_what_cannot_be_written_is_refused(admin: httpx.Client) -> None:
    answer = admin.post("/v1/rules/trial", json={"rule": {**RULE, "criteria": ["level:Sever"], "group": "nobody"}})
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["path"] == "criteria[0]"


def test_whoever_reads_may_try(server: Live, admin: httpx.Client) -> None:
    with as_role(server, admin, "viewer") as viewer:
        assert try_it(viewer, RULE)["matched"] == 6
    with server.client("ingest") as ingest:
        assert ingest.post("/v1/rules/trial", json={"rule": RULE}).status_code == 403


def test_the_list_says_what_each_rule_matched(server: Live, admin: httpx.Client) -> None:
    with Client(server.url, server.token("admin")) as client:
        told = client.rules.trial({**RULE, "criteria": ["process:bash"]}, events=1000)
        assert told.matched == 6
        assert client.rules.all(text="default-event")[0].matched == 0
