"""Process groups of real processes: every member ends however they fork, and nobody else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.system.forking import AGENT, Forking, order

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, read_process, read_stat
from quell.agent.protected import Protected
from quell.model.action import KillProcessGroup
from quell.model.decision import OutcomeStatus, Reason

DONE, REFUSED = OutcomeStatus.DONE, OutcomeStatus.REFUSED


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger")
    yield ledger
    ledger.close()


@pytest.fixture
def executor(ledger: Ledger) -> Executor:
    return Executor(LinuxKernel(), ledger, Protected.load())


@pytest.fixture(autouse=True)
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Of this test's own group, session and parent."""
    with subprocess.Popen(["/bin/sleep", "300"]) as process:
        yield process
        assert process.poll() is None, "a process of another group was killed"
        process.kill()


@pytest.mark.parametrize("kind", ["still", "short", "growing", "orphans"])
def test_a_group_ends_however_it_forks(executor: Executor, kind: str) -> None:
    with Forking(kind, workers=5 if kind == "orphans" else 50) as forking:
        outcome = executor.execute(order(KillProcessGroup(), forking.facts()))
        assert forking.left() == []
        assert (outcome.status, outcome.reason) == (DONE, None), outcome
        assert outcome.facts["pgid"] == forking.process.pid
        assert float(str(outcome.facts["seconds_to_gone"])) > 0
        if kind == "still":
            assert (outcome.facts["processes"], outcome.facts["rounds"]) == (51, 1)
            assert len(outcome.facts["pids"]) == 51  # type: ignore[arg-type]
        assert forking.process.wait(5) == -signal.SIGKILL


class WithoutGroups(LinuxKernel):
    """As before Linux 6.9, which had no signal to a group through a handle."""

    def kill_group(self, leader: int) -> bool:
        return False


@pytest.mark.parametrize("kind", ["still", "short", "growing"])
def test_an_older_kernel_needs_rounds(ledger: Ledger, kind: str) -> None:
    executor = Executor(WithoutGroups(), ledger, Protected.load())
    with Forking(kind) as forking:
        outcome = executor.execute(order(KillProcessGroup(), forking.facts()))
        assert forking.left() == []
        assert outcome.status is DONE, outcome


@pytest.mark.slow
def test_many_times_without_a_survivor(executor: Executor) -> None:
    for _ in range(15):
        for kind in ("short", "growing"):
            with Forking(kind, workers=20) as forking:
                outcome = executor.execute(order(KillProcessGroup(), forking.facts()))
                assert forking.left() == []
                assert outcome.status is DONE, outcome


def test_what_left_the_group_lives(executor: Executor) -> None:
    with Forking("leaving", workers=3) as forking:
        deadline = time.monotonic() + 10
        while len(forking.left()) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert executor.execute(order(KillProcessGroup(), forking.facts())).status is DONE
        left = forking.left()
        assert left
        assert all((stat := read_stat(pid)) is None or stat.pgid != forking.process.pid for pid in left)


def test_a_group_without_its_leader(executor: Executor) -> None:
    code = "import os, time\nfor _ in range(3):\n    os.fork()\nos.write(1, b'x')\ntime.sleep(60)"
    leader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0)
    assert leader.stdout is not None
    for _ in range(8):
        leader.stdout.read(1)
    members = [pid for pid, stat in LinuxKernel().table().items() if stat.pgid == leader.pid]
    try:
        assert len(members) == 8
        leader.kill()
        leader.wait()
        time.sleep(2.5 / HZ)
        one = read_process(next(pid for pid in members if pid != leader.pid))
        assert one is not None
        outcome = executor.execute(order(KillProcessGroup(), one.process))
        assert (outcome.status, outcome.facts["processes"]) == (DONE, 7)
        table = LinuxKernel().table()
        assert [pid for pid, stat in table.items() if stat.pgid == leader.pid and stat.state != "Z"] == []
    finally:
        leader.stdout.close()


def test_a_protected_member_saves_all_of_them(ledger: Ledger) -> None:
    with Forking("still", workers=3) as forking:
        members = forking.left()
        other = next(pid for pid in members if pid != forking.process.pid)
        executor = Executor(LinuxKernel(), ledger, Protected.load(own=[other]))
        outcome = executor.execute(order(KillProcessGroup(), forking.facts()))
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.PROTECTED)
        assert str(other) in outcome.explanation
        assert forking.left() == members


def test_a_member_whose_first_thread_has_ended_is_one(executor: Executor) -> None:
    """/proc shows it as a zombie."""
    code = (
        "import ctypes, threading, time, os\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), os.write(1, b'x'), time.sleep(60))).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)"  # exit of this thread alone
    )
    leader = subprocess.Popen(["/bin/sleep", "300"], process_group=0)
    hidden = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=leader.pid)
    try:
        assert hidden.stdout is not None
        hidden.stdout.read(1)
        stat = read_stat(hidden.pid)
        assert stat is not None
        if stat.state != "Z":
            pytest.skip("this is another processor's number for exit")
        facts = read_process(leader.pid)
        assert facts is not None
        outcome = executor.execute(order(KillProcessGroup(), facts.process))
        assert (outcome.status, outcome.facts["processes"]) == (DONE, 2)
        assert hidden.wait(5) == -signal.SIGKILL
    finally:
        for process in (leader, hidden):
            process.kill()
            process.wait()
        if hidden.stdout is not None:
            hidden.stdout.close()


@pytest.mark.parametrize(
    ("fault", "lives"),
    [
        ("agent.ledger-after-write", True),
        ("agent.before-action", True),
        ("agent.after-action", False),
        ("agent.ledger-before-write:2", False),
    ],
)
def test_an_agent_killed_at_any_step_is_finished_by_the_next(tmp_path: Path, fault: str, lives: bool) -> None:
    environment = {**os.environ, "QUELL_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Forking("still", workers=5) as forking:
        command = order(KillProcessGroup(), forking.facts())
        crashed = subprocess.run(
            [sys.executable, "-c", AGENT, str(tmp_path / "ledger")],
            input=msgspec.json.encode(command),
            env=environment,
            capture_output=True,
            check=False,
        )
        assert crashed.returncode == -signal.SIGKILL, crashed.stderr
        assert len(forking.left()) == (6 if lives else 0)
        ledger = Ledger(tmp_path / "ledger")
        executor = Executor(LinuxKernel(), ledger, Protected.load())
        executor.resume()
        outcome = executor.execute(command)
        assert outcome.status is DONE
        assert forking.left() == []
        assert ledger.pending() == (outcome,)
        ledger.close()
