"""Actions that wait for a person, over HTTP and on the command line, across a restart. SEMANTICS section 8."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live
from scripted_agent import NODE, ScriptedAgent
from tests.system.command import quell

from quell.configuration import Configuration
from quell.model.action import KillProcess, Quarantine
from quell.model.decision import Outcome, OutcomeStatus
from quell.settings import SafetySettings, Settings

DOCUMENTS = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-netcat}
spec: {id: 8, event: incident, criteria: ["process:nc"], actions: [agentKillProcess], approval: true}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: isolate-shells}
spec: {id: 9, event: incident, criteria: ["process:sh"], actions: [{quarantine: {ttl: 1h}}], approval: true}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-miners}
spec: {id: 10, event: incident, criteria: ["process:xmrig"], actions: [agentKillProcess]}
"""
BREAKER = Configuration(settings=Settings(safety=SafetySettings(breaker="2/1h", approval_ttl="1h")))


class Place:
    def __init__(self, server: Live, admin: httpx.Client, agent: ScriptedAgent) -> None:
        self.server = server
        self.admin = admin
        self.agent = agent

    def event(self, identifier: str, process: str, container: str = "c" * 64) -> dict[str, Any]:
        """What is decided about it."""
        subject = {
            "node": NODE,
            "namespace": "shop",
            "image": "web:1",
            "service": "web",
            "container": {"id": container},
            "process": {"pid": 4711, "start_ticks": 1, "name": process},
        }
        event = {"id": identifier, "time": time.time(), "name": "Container.Suspicious.Process", "subject": subject}
        self.admin.post("/v1/events", json=event).raise_for_status()
        decided: dict[str, Any] = self.explained(identifier)["decision"]["actions"][0]
        return decided

    def explained(self, identifier: str) -> dict[str, Any]:
        told: dict[str, Any] = self.admin.get(f"/v1/events/{identifier}").raise_for_status().json()
        return told

    def waiting(self) -> list[str]:
        return [each["id"] for each in self.admin.get("/v1/approvals").raise_for_status().json()["items"]]

    def judge(self, identifier: str, verdict: str, status: int = 200, role: str = "admin") -> Any:
        with self.server.client(role) as client:
            asked = {"id": identifier, "verdict": verdict, "note": "looked at"}
            answer = client.post("/v1/approvals", json=asked)
        assert answer.status_code == status, answer.text
        return answer.json()

    def cli(self, *words: str, code: int = 0) -> str:
        done = quell(*words, url=self.server.url, token=self.server.token("admin"))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def outcome(self, identifier: str) -> dict[str, Any]:
        """Of the event's action, once it is recorded."""
        end = time.monotonic() + 20
        while not (found := self.explained(identifier).get("outcomes")):
            assert time.monotonic() < end, "no outcome"
            time.sleep(0.02)
        (one,) = found
        told: dict[str, Any] = one
        return told


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with started(tmp_path_factory.mktemp("approvals") / "s") as running:
        yield running


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Place]:
    """A controller in this folder, with an agent that is linked."""
    with live(folder, configuration=BREAKER) as server, server.client("admin") as admin:
        agent = ScriptedAgent(admin)
        with agent.linked():
            admin.post("/v1/documents", content=DOCUMENTS).raise_for_status()
            yield Place(server, admin, agent)


def test_an_approved_action_is_carried_out_and_its_outcome_stands_with_its_event(place: Place) -> None:
    assert place.event("e1", "nc")["reason"] == "approval"
    assert place.waiting() == ["e1/0"]
    judged = place.judge("e1/0", "approve")
    (record,) = judged["record"]["decision"]["actions"]
    assert (record["id"], record["status"]) == ("e1/0", "granted")
    assert record["asked_by"][0] == "rule/8"
    command = place.agent.ordered()
    assert (command.id, type(command.action)) == ("e1/0", KillProcess)
    assert command.target.process.pid == 4711  # type: ignore[union-attr]
    place.agent.report(Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time()))
    assert place.outcome("e1")["status"] == "done"
    assert place.waiting() == []
    place.judge("e1/0", "approve", 404)
    entries = place.admin.get("/v1/audit", params={"kind": "approval"}).raise_for_status().json()["items"]
    assert [(each["entry"]["verb"], each["entry"]["note"]) for each in entries] == [("approve", "looked at")]


def test_a_denied_action_is_never_sent(place: Place) -> None:
    place.event("e1", "sh")
    judged = place.judge("e1/0", "deny")
    assert (judged["outcome"]["status"], judged["outcome"]["reason"]) == ("refused", "approval-denied")
    assert place.outcome("e1")["explanation"].endswith("looked at")
    assert place.waiting() == []
    place.event("e2", "sh")
    place.judge("e2/0", "approve")
    command = place.agent.ordered()
    assert (command.id, type(command.action)) == ("e2/0", Quarantine)
    held = place.admin.get("/v1/quarantines").json()["items"]
    assert [list(each["holders"]) for each in held] == [["rule/9"]]


def test_what_stands_against_it_is_said_and_it_goes_on_waiting(place: Place) -> None:
    place.event("e1", "nc")
    place.cli("pause")
    assert "paused" in place.judge("e1/0", "approve", 409)["detail"]
    assert place.waiting() == ["e1/0"]
    place.cli("resume")
    place.judge("e1/0", "approve")
    assert place.agent.ordered().id == "e1/0"


def test_nobody_need_decide_for_ever(place: Place) -> None:
    place.admin.patch("/v1/settings", json={"set": {"safety.approval_ttl": "1s"}}).raise_for_status()
    place.event("e1", "nc")
    outcome = place.outcome("e1")
    assert (outcome["status"], outcome["reason"]) == ("expired", "expired")
    assert place.waiting() == []


def test_who_may_not_operate_may_look_only(place: Place) -> None:
    place.event("e1", "nc")
    for role in ("viewer", "author"):
        token = place.admin.post("/v1/tokens", json={"name": role, "role": role}).raise_for_status().json()["token"]
        with httpx.Client(
            base_url=place.server.url, headers={"Authorization": f"Bearer {token}"}, verify=NO_TLS
        ) as client:
            assert client.get("/v1/approvals").status_code == 200
            asked = {"id": "e1/0", "verdict": "approve"}
            assert client.post("/v1/approvals", json=asked).status_code == 403
            assert client.post("/v1/breakers/reset", json={"key": "x"}).status_code == 403


def test_a_breaker_is_shown_and_reset(place: Place) -> None:
    for n in range(2):
        assert place.event(f"e{n}", "xmrig")["status"] == "granted"
        place.agent.ordered()
    stopped = place.event("e2", "xmrig")
    assert (stopped["status"], stopped["reason"]) == ("refused", "breaker")
    (breaker,) = json.loads(place.cli("breakers", "list", "-o", "json"))
    assert (breaker["by"], breaker["action"], breaker["owner"]) == ("rule/10", "agentKillProcess", "shop/web")
    assert "kill" in place.cli("breakers", "reset", breaker["key"], "--note", "new image").lower()
    assert "no breaker stands open" in place.cli("breakers", "list")
    assert place.event("e3", "xmrig")["status"] == "granted"
    metrics = place.admin.get("/metrics").text
    assert "quell_breakers_open 0.0" in metrics or "quell_breakers_open 0" in metrics


def test_on_the_command_line(place: Place) -> None:
    assert "nothing waits" in place.cli("approvals", "list")
    place.event("e1", "nc")
    assert "e1/0" in place.cli("approvals", "list")
    shown = place.cli("approvals", "show", "e1/0")
    assert "nc (pid 4711)" in shown
    assert "rule/8" in shown
    assert "approved e1/0" in place.cli("approvals", "approve", "e1/0", "--note", "x")
    assert "nothing waits" in place.cli("approvals", "deny", "e1/0", code=1)


def test_what_waits_and_what_stopped_is_known_after_a_restart(tmp_path: Path) -> None:
    with started(tmp_path / "s") as place:
        place.event("e1", "nc")
        place.event("e2", "sh")
        place.judge("e2/0", "deny")
        for n in range(3):
            place.event(f"m{n}", "xmrig")
    with live(tmp_path / "s", configuration=BREAKER) as server, server.client("admin") as admin:
        waiting = admin.get("/v1/approvals").json()["items"]
        assert [(each["id"], each["asked_by"]) for each in waiting] == [("e1/0", ["rule/8"])]
        (breaker,) = admin.get("/v1/breakers").json()["items"]
        assert breaker["event"] == "m2"
