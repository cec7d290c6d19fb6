"""Process trees of real processes: every descendant ends, whoever its parent is by now, and nobody else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from tests.system.forking import AGENT, Forking, order

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux import cgroups
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, read_placement, read_process, read_stat
from quell.agent.protected import Protected
from quell.agent.tree import cgroup_name
from quell.model.action import KillProcessTree
from quell.model.decision import OutcomeStatus, Reason

DONE, REFUSED = OutcomeStatus.DONE, OutcomeStatus.REFUSED
CGROUPS = pytest.mark.skipif(not cgroups.may_make(), reason="no control groups (version 2) can be made here")


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
    """A sibling of every target, in this test's own group and session."""
    with subprocess.Popen(["/bin/sleep", "300"]) as process:
        before = read_placement(process.pid)
        yield process
        assert process.poll() is None, "a process of another tree was killed"
        assert read_placement(process.pid) == before
        process.kill()


class WithoutCgroups(LinuxKernel):
    """As on a machine that has version 1 alone, or where the agent may not write."""

    cgroups = None  # type: ignore[assignment]


@CGROUPS
@pytest.mark.parametrize("kind", ["still", "short", "growing", "leaving"])
def test_a_tree_of_fifty_that_fork_leaves_no_survivor(executor: Executor, kind: str) -> None:
    with Forking(kind) as forking:
        command = order(KillProcessTree(), forking.facts())
        outcome = executor.execute(command)
        assert forking.left() == []
        assert (outcome.status, outcome.reason) == (DONE, None), outcome
        assert int(str(outcome.facts["processes"])) >= 51
        assert forking.process.wait(5) == -signal.SIGKILL
        assert cgroups.find(cgroup_name(command)) == []


@CGROUPS
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["short", "growing", "leaving"])
def test_many_times_without_a_survivor(executor: Executor, kind: str) -> None:
    for _ in range(10):
        with Forking(kind) as forking:
            outcome = executor.execute(order(KillProcessTree(), forking.facts()))
            assert forking.left() == []
            assert outcome.status is DONE, outcome


@CGROUPS
@pytest.mark.slow
def test_parents_that_end_at_once_do_not_outrun_it(executor: Executor) -> None:
    """Each lives for some milliseconds and is pid 1's child; the session that the target leads is what tells of them."""
    for _ in range(5):
        with Forking("orphans", workers=5, process_group=None, start_new_session=True) as forking:
            outcome = executor.execute(order(KillProcessTree(), forking.facts()))
            assert forking.left() == []
            assert outcome.status is DONE, outcome


@pytest.mark.parametrize("kind", ["still", "growing"])
def test_without_control_groups_it_goes_in_rounds_and_says_so(ledger: Ledger, kind: str) -> None:
    executor = Executor(WithoutCgroups(), ledger, Protected.load())
    with Forking(kind, process_group=None, start_new_session=True) as forking:
        outcome = executor.execute(order(KillProcessTree(), forking.facts()))
        assert forking.left() == []
        assert outcome.status is DONE, outcome
        assert "may be left" in str(outcome.facts["limits"])


def test_what_pid_1_has_taken_over_is_known_by_its_session(executor: Executor) -> None:
    """The target's child made a session, forked in it and ended; what it forked is left."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0:\n"
        "            os.write(1, b'%d\\n' % os.getpid())\n"
        "            time.sleep(60)\n"
        "        os._exit(0)\n"
        "    time.sleep(60)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as root:
        assert root.stdout is not None
        orphan = int(root.stdout.readline())
        handle = os.pidfd_open(orphan)
        deadline = time.monotonic() + 10
        while (
            (stat := read_stat(orphan)) is None or (parent := read_stat(stat.ppid)) is None or parent.name == "python"
        ):
            assert time.monotonic() < deadline
        time.sleep(2.5 / HZ)
        facts = read_process(root.pid)
        assert facts is not None
        outcome = executor.execute(order(KillProcessTree(), facts.process))
        assert outcome.status is DONE
        assert LinuxKernel().wait_ended(handle, 0)
        os.close(handle)


@CGROUPS
def test_a_protected_descendant_saves_the_tree_and_nothing_is_moved(ledger: Ledger) -> None:
    with Forking("still", workers=3) as forking:
        members = forking.left()
        other = next(pid for pid in members if pid != forking.process.pid)
        before = [read_placement(pid) for pid in members]
        executor = Executor(LinuxKernel(), ledger, Protected.load(own=[other]))
        command = order(KillProcessTree(), forking.facts())
        outcome = executor.execute(command)
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.PROTECTED)
        assert forking.left() == members
        assert [read_placement(pid) for pid in members] == before
        assert cgroups.find(cgroup_name(command)) == []


def test_a_tree_that_this_agent_itself_is_in_is_no_target(executor: Executor) -> None:
    parent = read_process(os.getppid())
    assert parent is not None
    outcome = executor.execute(order(KillProcessTree(), parent.process))
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.PROTECTED)


@CGROUPS
@pytest.mark.parametrize(
    ("fault", "left"),
    [("agent.ledger-after-write", 6), ("agent.before-action", 6), ("agent.after-action", 0)],
)
def test_an_agent_killed_at_any_step_is_finished_by_the_next(tmp_path: Path, fault: str, left: int) -> None:
    environment = {**os.environ, "QUELL_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Forking("still", workers=5) as forking:
        command = order(KillProcessTree(), forking.facts())
        crashed = subprocess.run(
            [sys.executable, "-c", AGENT, str(tmp_path / "ledger")],
            input=msgspec.json.encode(command),
            env=environment,
            capture_output=True,
            check=False,
        )
        assert crashed.returncode == -signal.SIGKILL, crashed.stderr
        assert len(forking.left()) == left
        ledger = Ledger(tmp_path / "ledger")
        executor = Executor(LinuxKernel(), ledger, Protected.load())
        executor.resume()
        assert executor.execute(command).status is DONE
        assert forking.left() == []
        assert cgroups.find(cgroup_name(command)) == []
        ledger.close()


@CGROUPS
@pytest.mark.slow
def test_an_agent_killed_at_any_moment_is_finished_by_the_next(tmp_path: Path) -> None:
    random = Random(20261128)  # noqa: S311 - a moment, no secret
    arguments = [sys.executable, "-c", AGENT]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for n in range(12):
        with Forking("growing") as forking:
            command = order(KillProcessTree(), forking.facts())
            path = tmp_path / f"ledger-{n}"
            with subprocess.Popen([*arguments, str(path)], stdin=subprocess.PIPE, env=environment) as agent:
                assert agent.stdin is not None
                agent.stdin.write(msgspec.json.encode(command))
                agent.stdin.close()
                while not path.exists() or not path.stat().st_size:
                    assert agent.poll() is None
                    time.sleep(0.001)
                time.sleep(random.uniform(0, 0.3))  # the whole of it takes about so long
                agent.kill()
            ledger = Ledger(path)
            executor = Executor(LinuxKernel(), ledger, Protected.load())
            executor.resume()
            outcome = executor.execute(command)
            assert outcome.status is DONE, outcome
            assert forking.left() == [], outcome
            assert cgroups.find(cgroup_name(command)) == []
            ledger.close()


@CGROUPS
def test_what_a_crash_left_together_without_the_target_is_ended(ledger: Ledger) -> None:
    """The agent died after the target and before the others: it is known who these are, because it had moved them."""
    with Forking("short", workers=5) as forking:
        command = order(KillProcessTree(), forking.facts())
        ledger.begin(command)
        name = cgroup_name(command)
        group = cgroups.make(forking.process.pid, name)
        assert group is not None
        for pid in forking.left():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue  # one of those that end at once
            cgroups.move(handle, pid, group)
            os.close(handle)
        os.close(group)
        forking.process.kill()
        forking.process.wait()
        assert forking.left()
        executor = Executor(LinuxKernel(), ledger, Protected.load())
        (outcome,) = executor.resume()
        assert outcome.status is DONE
        assert forking.left() == []
        assert cgroups.find(name) == []


@CGROUPS
@pytest.mark.root
def test_a_tree_in_a_pid_namespace_of_its_own(executor: Executor) -> None:
    nested = ["unshare", "--pid", "--fork", "/bin/sh", "-c", "sleep 300 & (sleep 301 &) ; echo; wait"]
    with subprocess.Popen(nested, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(2.5 / HZ)
        facts = read_process(process.pid)
        assert facts is not None
        outcome = executor.execute(order(KillProcessTree(), facts.process))
        assert (outcome.status, outcome.facts["processes"]) == (DONE, 4)
        assert process.wait(5) == -signal.SIGKILL
