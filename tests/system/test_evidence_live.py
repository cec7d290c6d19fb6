"""Evidence from a real agent to a real controller: kept with the decision, whole after crashes, for operators alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Quell, Victim, wait_for
from typer.testing import CliRunner

from quell.agent.proc import HZ
from quell.cli.main import app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: answer}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions: [agentKillProcess]
  evidence: true
"""


@pytest.fixture
def quell(tmp_path: Path) -> Iterator[Quell]:
    quell = Quell(tmp_path)
    try:
        # A busy machine takes longer than a kill would wait by default.
        quell.start_controller(settings={"QUELL_SAFETY_EVIDENCE_WAIT": "10s"})
        quell.ask("POST", "/v1/documents", content=RULE)
        yield quell
    finally:
        quell.close()


class Implant(Victim):
    """A program of the test's own, some pieces long."""

    def __init__(self, identifier: str, folder: Path, *, more: int = 0) -> None:
        """more: bytes that its file is longer."""
        super().__init__(identifier)
        self.close()
        program = folder / f"im-{identifier}"
        shutil.copy("/bin/sleep", program)
        with program.open("ab") as file:
            file.write(identifier.encode() * 100_000 + bytes(more))
        self.content = program.read_bytes()
        self.process = subprocess.Popen([str(program), "600"], env={"API_TOKEN": "abc-secret-1", "SHOP": "cart"})
        cmdline = Path(f"/proc/{self.process.pid}/cmdline")
        wait_for(lambda: b"600" in cmdline.read_bytes(), what="its program")
        ticks = int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        self._facts |= {"pid": self.process.pid, "start_ticks": ticks, "name": program.name}
        time.sleep(2.5 / HZ)  # its start must lie more than a tick before the event

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def evidence(quell: Quell, event: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = quell.ask("GET", f"/v1/evidence/{event}")["items"]
    return found


def post(quell: Quell, victim: Victim) -> None:
    quell.ask("POST", "/v1/events", content=victim.event())


def test_it_is_with_the_decision_and_the_copy_comes_whole(quell: Quell, tmp_path: Path) -> None:
    quell.enrol()
    victim = Implant("seen-1", tmp_path)
    try:
        post(quell, victim)
        wait_for(lambda: victim.gone, what="the kill")
        wait_for(lambda: bool(evidence(quell, victim.id)) and bool(evidence(quell, victim.id)[0]["copies"]), what="it")
    finally:
        victim.close()
    (told,) = evidence(quell, victim.id)
    (process,) = told["gathered"]["processes"]
    assert told["copies"] == [victim.sha256]
    assert process["pid"] == victim.process.pid
    assert process["environment"] == {"API_TOKEN": "(secret)", "SHOP": "cart"}
    outcome = quell.ask("GET", f"/v1/events/{victim.id}")["outcomes"][0]
    assert "environment" in outcome["facts"]["evidence"]
    assert "abc-secret-1" not in json.dumps([told, outcome])
    assert [each["id"] for each in quell.ask("GET", "/v1/evidence")["items"]] == [f"{victim.id}/0"]

    # Nothing waits on the agent's disk any more.
    spool = tmp_path / "agent" / "evidence"
    wait_for(lambda: not list(spool.iterdir()), what="the agent's spool")

    # The command line has it, and writes it to files that cannot be executed.
    given = ["--url", quell.url, "--state", str(tmp_path / "controller")]
    shown = CliRunner().invoke(app, [*given, "evidence", "show", victim.id])
    assert shown.exit_code == 0, shown.output
    assert f"SHA-256 {victim.sha256}, a copy is kept" in shown.output
    assert "SHOP=cart" in shown.output
    assert "abc-secret-1" not in shown.output
    listed = CliRunner().invoke(app, [*given, "evidence", "list"])
    assert victim.id in listed.output
    folder = tmp_path / "exported"
    exported = CliRunner().invoke(app, [*given, "evidence", "export", victim.id, str(folder)])
    assert exported.exit_code == 0, exported.output
    assert (folder / victim.sha256).read_bytes() == victim.content
    assert (folder / victim.sha256).stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "evidence.json").read_text())[0]["event"] == victim.id
    missing = CliRunner().invoke(app, [*given, "evidence", "show", "no-such-event"])
    assert missing.exit_code == 1


def test_who_may_only_read_sees_that_it_is_there_and_not_what(quell: Quell, tmp_path: Path) -> None:
    token = quell.ask("POST", "/v1/tokens", json={"role": "viewer", "name": "eyes"})["token"]
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/v1/evidence", "/v1/evidence/seen-1", f"/v1/executables/{'0' * 64}"):
        assert httpx.get(quell.url + path, headers=headers).status_code == 403
    for path in (f"/v1/executables/{'0' * 64}", "/v1/executables/..%2f..%2fetc%2fpasswd", "/v1/evidence/unknown"):
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            quell.ask("GET", path)


@pytest.mark.parametrize("fault", ["agent.before-action", "agent.after-action"])
def test_it_survives_an_agent_that_dies_at_the_kill_and_the_controllers_end(
    quell: Quell, tmp_path: Path, fault: str
) -> None:
    quell.enrol()
    quell.kill(quell.agent)
    quell.start_agent(fault=fault)
    wait_for(quell.linked, what="the agent's link")
    victim = Implant("seen-2", tmp_path)
    try:
        post(quell, victim)
        wait_for(quell.agent_ended, what="the agent's end")
        quell.kill(quell.controller)
        quell.start_controller()
        quell.start_agent()
        wait_for(lambda: victim.gone, what="the kill")
        wait_for(lambda: bool(evidence(quell, victim.id)), what="the evidence")
    finally:
        victim.close()
    (told,) = evidence(quell, victim.id)
    assert told["gathered"]["processes"][0]["pid"] == victim.process.pid
    assert told["gathered"]["processes"][0]["environment"]["SHOP"] == "cart"


def test_a_tree_and_an_approved_kill_have_it_too(quell: Quell, tmp_path: Path) -> None:
    rule = RULE.replace("[agentKillProcess]", "[agentKillProcessTree]").replace(
        "evidence:", "approval: true\n  evidence:"
    )
    quell.ask("POST", "/v1/documents", content=rule)
    quell.enrol()
    victim = Implant("seen-3", tmp_path)
    try:
        post(quell, victim)
        (held,) = quell.ask("GET", "/v1/approvals")["items"]
        assert not victim.gone
        quell.ask("POST", "/v1/approvals", json={"id": held["id"], "verdict": "approve"})
        wait_for(lambda: victim.gone, what="the kill")
        wait_for(lambda: bool(evidence(quell, victim.id)), what="the evidence")
    finally:
        victim.close()
    (told,) = evidence(quell, victim.id)
    assert told["gathered"]["id"] == held["id"]
    assert any(each["relation"] == "ancestor" for each in told["gathered"]["relatives"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_copy_of_many_pieces_survives_an_end_of_the_controller_in_between(
    quell: Quell, tmp_path: Path, number: int
) -> None:
    quell.enrol()
    victim = Implant(f"seen-{int(number)}", tmp_path, more=20_000_000)
    try:
        post(quell, victim)
        wait_for(lambda: bool(evidence(quell, victim.id)), what="the facts")
        quell.kill(quell.controller, number)
        quell.start_controller()
        wait_for(lambda: evidence(quell, victim.id)[0]["copies"] == [victim.sha256], 60, what="the copy")
        answer = httpx.get(
            f"{quell.url}/v1/executables/{victim.sha256}",
            headers={"Authorization": f"Bearer {(tmp_path / 'controller' / 'admin.token').read_text().strip()}"},
        )
        assert answer.content == victim.content
        assert answer.headers["content-type"] == "application/octet-stream"
    finally:
        victim.close()
