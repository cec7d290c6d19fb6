"""Dry runs of a controller with an agent: the decision and the machine's word, and nothing done, kept or counted."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import NODE, Quell, Victim, wait_for
from typer.testing import CliRunner

from quell.agent.proc import HZ
from quell.cli.main import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RULES = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: answer}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions: [agentKillProcess, {makeRedFlag: {severity: high}}]
"""


@pytest.fixture
def quell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quell]:
    monkeypatch.setenv("QUELL_SAFETY_BUDGET_RULE", "1/1h")
    quell = Quell(tmp_path)
    try:
        quell.start_controller()
        quell.ask("POST", "/v1/documents", content=RULES)
        quell.enrol()
        yield quell
    finally:
        quell.close()


@pytest.fixture
def victim() -> Iterator[Victim]:
    victim = Victim("seen-1")
    time.sleep(2.5 / HZ)
    yield victim
    victim.close()


def dry_run(quell: Quell, **body: Any) -> Any:
    return quell.ask("POST", "/v1/dry-runs", json=body)


def events(quell: Quell) -> list[str]:
    """Ids of those that are not Quell's own."""
    found = quell.ask("GET", "/v1/events?limit=1000")["items"]
    return [each["id"] for each in found if each["source"] != "quell"]


def test_what_would_be_done_is_told_as_often_as_one_likes_and_then_done(quell: Quell, victim: Victim) -> None:
    for _ in range(3):
        told = dry_run(quell, event=json.loads(victim.event()))
        (kill, flag) = told["decision"]["actions"]
        assert (kill["status"], flag["status"]) == ("granted", "granted")
        (rehearsal,) = told["rehearsals"]
        assert (rehearsal["id"], rehearsal["would"]) == (kill["id"], "done")
        assert [deed["pid"] for deed in rehearsal["deeds"]] == [victim.process.pid]
        assert not victim.gone
    assert events(quell) == []
    assert quell.ask("GET", "/v1/flags")["items"] == []
    # The rule's budget of one is still whole.
    quell.ask("POST", "/v1/events", content=victim.event())
    wait_for(lambda: victim.gone, what="the kill")
    told = dry_run(quell, event_id=victim.id, now=True)
    assert told["decision"]["actions"][0]["reason"] == "budget"
    assert told["rehearsals"][0]["would"] == "gone"


def test_each_refusal_of_the_machine_is_told(quell: Quell, victim: Victim) -> None:
    event = json.loads(victim.event())
    event["subject"]["process"]["start_ticks"] = 1
    (rehearsal,) = dry_run(quell, event=event)["rehearsals"]
    assert (rehearsal["would"], rehearsal["reason"]) == ("refused", "identity")
    assert quell.agent is not None
    stat = Path(f"/proc/{quell.agent.pid}/stat").read_text().rpartition(")")[2].split()
    event["subject"]["process"] = {"pid": quell.agent.pid, "start_ticks": int(stat[19])}
    (rehearsal,) = dry_run(quell, event=event)["rehearsals"]
    assert (rehearsal["would"], rehearsal["reason"]) == ("refused", "protected")
    told = dry_run(quell, event={**event, "subject": {**event["subject"], "node": "nowhere"}})
    assert told["decision"]["actions"][0]["reason"] == "no-agent"
    assert "rehearsals" not in told
    gone = {"node": NODE, "container": {"id": "ab" * 32}}
    told = dry_run(quell, event={**event, "subject": gone}, actions=["quarantine"])
    if told["decision"]["actions"][0].get("reason") != "unsupported":  # without root
        assert (told["rehearsals"][0]["would"], told["rehearsals"][0]["reason"]) == ("gone", "gone")


def test_an_audit_rule_and_a_pause_say_what_would_be(quell: Quell, victim: Victim) -> None:
    quell.ask("POST", "/v1/documents", content=RULES.replace("spec:", "spec:\n  mode: audit"))
    told = dry_run(quell, event=json.loads(victim.event()))
    assert told["decision"]["actions"][0]["reason"] == "audit"
    assert told["rehearsals"][0]["would"] == "done"
    quell.ask("PUT", "/v1/pause", json={"paused": True, "reason": "test"})
    told = dry_run(quell, event=json.loads(victim.event()), actions=["agentKillProcessTree"])
    assert told["decision"]["actions"][0]["reason"] == "paused"
    wait_for(
        lambda: dry_run(quell, event=json.loads(victim.event()))["rehearsals"][0].get("reason") == "paused",
        what="the agent's pause",
    )
    assert not victim.gone


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="an agent isolates only as root")
def test_a_quarantine_that_is_asked_for_is_looked_at_on_the_machine(quell: Quell) -> None:
    wanted = {"workload": "ab" * 32, "node": NODE}
    told = quell.ask("POST", "/v1/quarantines?dry_run=true", json=wanted)
    assert told["rehearsals"][0]["would"] == "gone"
    assert quell.ask("GET", "/v1/quarantines")["items"] == []


def test_without_its_agent_nobody_looked(quell: Quell, victim: Victim) -> None:
    quell.kill(quell.agent)
    wait_for(lambda: not quell.linked(), what="the end of the link")
    (rehearsal,) = dry_run(quell, event=json.loads(victim.event()))["rehearsals"]
    assert (rehearsal["would"], rehearsal["reason"]) == ("expired", "expired")
    assert "is not connected" in rehearsal["explanation"]


def test_on_the_command_line(quell: Quell, victim: Victim, tmp_path: Path) -> None:
    given = ["--url", quell.url, "--state", str(tmp_path / "controller")]
    ticks = Path(f"/proc/{victim.process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    aim = ["--node", NODE, "--pid", str(victim.process.pid), "--start-ticks", ticks]
    shown = CliRunner().invoke(app, [*given, "dry-run", *aim, "-a", "agentKillProcess"])
    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    assert f"would be done [pids {victim.process.pid}]" in words
    assert "nothing was done" in words
    (tmp_path / "event.json").write_bytes(victim.event())
    shown = CliRunner().invoke(app, [*given, "dry-run", "--event", str(tmp_path / "event.json"), "-o", "json"])
    assert json.loads(shown.output)["rehearsals"][0]["would"] == "done"
    for wrong in ([], ["--pid", "5"], ["e1", "--event", "x"], ["--start-ticks", "5", "-a", "agentKillProcess"]):
        assert CliRunner().invoke(app, [*given, "dry-run", *wrong]).exit_code == 2
    assert not victim.gone


def test_what_is_asked_wrongly_is_refused(quell: Quell) -> None:
    token = quell.ask("POST", "/v1/tokens", json={"role": "viewer", "name": "eyes"})["token"]
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{quell.url}/v1/dry-runs", json={"event_id": "x"}, headers=headers)
    assert answer.status_code == 403
    event = {"name": "Host.Suspicious.Process", "subject": {"node": NODE}}
    for status, body in (
        (404, {"event_id": "unknown"}),
        (422, {}),
        (422, {"event_id": "x", "event": event}),
        (422, {"event": event, "actions": ["agentKilProcess"]}),
        (422, {"event": {"name": 5}}),
    ):
        with pytest.raises(httpx.HTTPStatusError) as caught:
            dry_run(quell, **body)
        assert caught.value.response.status_code in (status, 400), caught.value.response.text
