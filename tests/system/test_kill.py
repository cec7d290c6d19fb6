"""Kills of real processes: the right one dies, any doubt and it lives."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, Facts, read_process
from quell.agent.protected import Protected, ProtectedList
from quell.model.action import KillProcess, ReniceProcess
from quell.model.decision import Command, OutcomeStatus, Reason
from quell.model.evidence import EvidenceBounds
from quell.model.subject import Process, ProcessTarget

DONE, GONE, REFUSED = OutcomeStatus.DONE, OutcomeStatus.GONE, OutcomeStatus.REFUSED

_count = iter(range(1, 1_000_000))


def command(process: Process, *, seen: float | None = None, action: Any = None, **target: Any) -> Command:
    now = time.time()
    return Command(
        id=f"test/{next(_count)}",
        agent="a",
        action=action or KillProcess(),
        target=ProcessTarget(node="n", process=process, seen=now if seen is None else seen, **target),
        issued=now,
        expires=now + 30,
        nonce="n",
    )


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    ledger = Ledger(tmp_path / "ledger")
    yield Executor(LinuxKernel(), ledger, Protected.load())
    ledger.close()


class Victim:
    """A process of our own, old enough for its start to lie more than a tick back."""

    def __init__(self, *command: str, **options: Any) -> None:
        """options: of subprocess.Popen."""
        self.process = subprocess.Popen(command or ("/bin/sleep", "300"), stdin=subprocess.DEVNULL, **options)
        self.pid = self.process.pid
        time.sleep(2.5 / HZ)

    def facts(self) -> Process:
        facts = read_process(self.pid)
        assert facts is not None
        return facts.process

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None


@pytest.fixture
def victim() -> Iterator[Victim]:
    victim = Victim()
    try:
        yield victim
    finally:
        victim.process.kill()
        victim.process.wait()


def test_the_process_meant_dies_at_once(executor: Executor, victim: Victim) -> None:
    outcome = executor.execute(command(victim.facts()))
    assert (outcome.status, outcome.reason) == (DONE, None)
    assert victim.process.wait(0) == -signal.SIGKILL
    assert outcome.facts["pid"] == victim.pid
    assert outcome.facts["exe"] == str(Path("/bin/sleep").resolve())
    assert outcome.duration is not None
    assert 0 < float(str(outcome.facts["seconds_to_gone"])) < outcome.duration < 2


def test_looking_ahead_does_nothing_and_the_order_finds_it_done(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.prepare(order)
    assert victim.is_alive
    assert executor.execute(order).status is DONE
    assert victim.process.wait(5) == -signal.SIGKILL


def test_what_ended_after_the_look_ahead_is_gone(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.prepare(order)
    victim.process.kill()
    victim.process.wait()
    assert executor.execute(order).status is GONE


def test_an_old_look_ahead_does_not_count(executor: Executor, tmp_path: Path) -> None:
    """The process executes another program after it was looked at: it is proved again, and lives."""
    ready = tmp_path / "ready"
    victim = Victim(
        *("/bin/sh", "-c", f"while [ ! -e {ready} ]; do sleep 0.01; done; exec sleep 300"), executable="/bin/sh"
    )
    try:
        order = command(victim.facts())
        executor.prepare(order)
        ready.touch()
        deadline = time.monotonic() + 10
        while victim.facts().name != "sleep":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        outcome = executor.execute(order)
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
        assert victim.is_alive
    finally:
        victim.process.kill()
        victim.process.wait()


def test_looks_ahead_that_nothing_follows_leave_no_handle(executor: Executor, victim: Victim) -> None:
    facts = victim.facts()
    executor.prepare(command(facts))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        executor.prepare(command(facts))
    assert len(list(Path("/proc/self/fd").iterdir())) < opened + 40
    assert victim.is_alive


# ---- the signal itself, given before the rest is seen to


def test_what_is_proved_ahead_has_its_signal_at_once(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.prepare(order)
    executor.strike(order)
    assert victim.process.wait(5) == -signal.SIGKILL
    assert executor.ledger.find(order.id) is None
    assert executor.ledger.begun(order.id)
    outcome = executor.execute(order)
    assert (outcome.status, outcome.reason, outcome.explanation) == (DONE, None, "")
    assert outcome.facts["pid"] == victim.pid
    assert float(str(outcome.facts["seconds_to_gone"])) > 0
    assert "repeated" not in outcome.facts
    assert executor.ledger.find(order.id) == outcome


def test_nothing_is_struck_that_is_not_proved_ahead(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.strike(order)
    assert not executor.ledger.begun(order.id)
    assert victim.is_alive
    assert executor.execute(order).status is DONE


@pytest.mark.parametrize("against", ["expired", "paused", "evidence"])
def test_what_has_to_wait_or_may_not_be_is_not_struck(
    tmp_path: Path, executor: Executor, victim: Victim, against: str
) -> None:
    paused = tmp_path / "paused"
    executor = Executor(LinuxKernel(), executor.ledger, Protected.load(), paused=paused.exists)
    order = command(victim.facts())
    if against == "evidence":
        order = msgspec.structs.replace(order, evidence=EvidenceBounds(wait=1.0, executable=0))
    executor.prepare(order)
    if against == "expired":
        order = msgspec.structs.replace(order, expires=time.time() - 1)
    elif against == "paused":
        paused.touch()
    executor.strike(order)
    assert victim.is_alive
    assert not executor.ledger.begun(order.id)
    if against != "evidence":
        outcome = executor.execute(order)
        assert (outcome.status, outcome.reason) == {
            "expired": (OutcomeStatus.EXPIRED, Reason.EXPIRED),
            "paused": (REFUSED, Reason.PAUSED),
        }[against]
        assert victim.is_alive


def test_what_ended_before_its_signal_is_gone(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.prepare(order)
    victim.process.kill()
    victim.process.wait()
    executor.strike(order)
    outcome = executor.execute(order)
    assert (outcome.status, outcome.reason) == (GONE, Reason.GONE)


def test_while_another_outcome_is_written_nothing_is_struck(executor: Executor, victim: Victim) -> None:
    """Whoever strikes waits for no disk; the order finds what was proved all the same."""
    order = command(victim.facts())
    executor.prepare(order)
    with executor.ledger._lock:
        executor.strike(order)
        assert victim.is_alive
    assert not executor.ledger.begun(order.id)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    assert executor.execute(order).status is DONE
    # The handle of the look ahead was used, and is closed.
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 1


def test_a_ledger_that_cannot_be_written_strikes_nothing(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.prepare(order)
    os.close(executor.ledger._file)
    executor.ledger._file = os.open(executor.ledger.path, os.O_RDONLY)
    executor.strike(order)
    assert victim.is_alive
    outcome = executor.execute(order)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.FAILED, Reason.FAILED)
    assert "ledger" in outcome.explanation
    assert victim.is_alive


def test_a_target_is_proved_at_once_where_nobody_has_to_be_waited_for(
    executor: Executor, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = victim.facts()
    order = command(facts)
    assert not executor.prepare(order, wait=False), "which files are protected is not looked up yet"
    assert executor.strike(order) is None
    executor.prepare(command(facts))
    named = msgspec.structs.replace(facts, user="root")
    assert not executor.prepare(command(named), wait=False), "a container's file system may have to tell who that is"
    with monkeypatch.context() as patch:
        patch.setattr(LinuxKernel, "facts_at_once", False)
        assert not executor.prepare(order, wait=False)
    assert executor.strike(order) is None
    assert victim.is_alive
    assert executor.prepare(order, wait=False)
    handle = executor.strike(order)
    assert handle is not None
    assert executor.kernel.wait_ended(handle, 5)
    assert executor.execute(order).status is DONE
    assert executor.prepare(order, wait=False), "there is nothing to do"


def test_a_repeated_order_strikes_once(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    executor.prepare(order)
    for _ in range(3):
        executor.strike(order)
    outcome = executor.execute(order)
    executor.prepare(order)
    executor.strike(order)
    assert executor.execute(order) == outcome
    assert executor.ledger.path.read_bytes().count(b'"type":"begun"') == 1


def test_an_order_that_came_before_waits_for_the_signal(executor: Executor, victim: Victim) -> None:
    """Another thread takes up the same order while the signal is given: it is done once, and told as that."""
    giving, go = threading.Event(), threading.Event()

    class Slow(LinuxKernel):
        def kill(self, process: int) -> None:
            giving.set()
            assert go.wait(20)
            super().kill(process)

    executor = Executor(Slow(), executor.ledger, Protected.load())
    order, outcomes = command(victim.facts()), []
    opened = len(list(Path("/proc/self/fd").iterdir()))
    executor.prepare(order)
    striking = threading.Thread(target=executor.strike, args=(order,))
    executing = threading.Thread(target=lambda: outcomes.append(executor.execute(order)))
    striking.start()
    assert giving.wait(20)
    executing.start()
    executing.join(0.2)
    assert executing.is_alive()
    go.set()
    striking.join(20)
    executing.join(20)
    (outcome,) = outcomes
    assert (outcome.status, outcome.explanation) == (DONE, "")
    assert "repeated" not in outcome.facts
    assert executor.ledger.path.read_bytes().count(b'"type":"begun"') == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


class Proving:
    """A target that is being proved, by another thread, until `end` is called."""

    def __init__(self, ledger: Ledger, order: Command, protected: Protected | None = None, **options: Any) -> None:
        looking, self._go = threading.Event(), threading.Event()
        go = self._go

        class Slow(LinuxKernel):
            def facts(self, pid: int) -> Facts | None:
                looking.set()
                assert go.wait(20)
                return super().facts(pid)

        self.executor = Executor(Slow(), ledger, protected or Protected.load(), **options)
        self._thread = threading.Thread(target=self.executor.prepare, args=(order,))
        self._thread.start()
        assert looking.wait(20)

    def end(self) -> None:
        self._go.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_what_is_ordered_while_its_target_is_being_proved_dies_as_soon_as_it_is(
    executor: Executor, victim: Victim
) -> None:
    order, outcomes = command(victim.facts()), []
    opened = len(list(Path("/proc/self/fd").iterdir()))
    proving = Proving(executor.ledger, order)
    proving.executor.strike(order)
    proving.executor.strike(order)
    assert victim.is_alive
    executing = threading.Thread(target=lambda: outcomes.append(proving.executor.execute(order)))
    executing.start()
    executing.join(0.1)
    assert executing.is_alive()
    proving.end()
    executing.join(20)
    assert victim.process.wait(5) == -signal.SIGKILL
    assert [(one.status, one.facts["pid"], "repeated" in one.facts) for one in outcomes] == [(DONE, victim.pid, False)]
    assert executor.ledger.path.read_bytes().count(b'"type":"begun"') == 1
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_what_is_not_ordered_while_its_target_is_being_proved_lives(executor: Executor, victim: Victim) -> None:
    order = command(victim.facts())
    proving = Proving(executor.ledger, order)
    proving.end()
    assert victim.is_alive
    proving.executor.strike(order)
    assert victim.process.wait(5) == -signal.SIGKILL
    assert proving.executor.execute(order).status is DONE


def test_what_proving_finds_against_it_counts_though_it_was_ordered(executor: Executor, victim: Victim) -> None:
    """Protected, another start, and an order that expired or was paused meanwhile."""
    facts = victim.facts()
    paused = threading.Event()
    shielded = Protected(ProtectedList(executables={"root": ("/bin/sleep",)}))
    other = command(msgspec.structs.replace(facts, start_ticks=(facts.start_ticks or 0) - 1000))
    for order, protected, reason in (
        (command(facts), shielded, Reason.PROTECTED),
        (other, None, Reason.IDENTITY),
        (msgspec.structs.replace(command(facts), expires=time.time() + 0.2), None, Reason.EXPIRED),
        (command(facts), None, Reason.PAUSED),
    ):
        proving = Proving(executor.ledger, order, protected, paused=paused.is_set)
        proving.executor.strike(order)
        if reason is Reason.EXPIRED:
            time.sleep(0.3)
        if reason is Reason.PAUSED:
            paused.set()
        proving.end()
        assert proving.executor.execute(order).reason is reason
        assert victim.is_alive


def test_a_crash_after_the_signal_is_known_as_one(tmp_path: Path, victim: Victim) -> None:
    """Its line was written before: the repeated command finds the process gone, and says that it did it."""
    ledger = Ledger(tmp_path / "ledger")
    executor = Executor(LinuxKernel(), ledger, Protected.load())
    order = command(victim.facts())
    executor.prepare(order)
    executor.strike(order)
    victim.process.wait(5)
    ledger.close()
    again = Ledger(tmp_path / "ledger")
    (outcome,) = Executor(LinuxKernel(), again, Protected.load()).resume()
    assert (outcome.id, outcome.status, outcome.facts["repeated"]) == (order.id, DONE, 1)
    again.close()


def test_what_a_detector_knows_is_enough(executor: Executor, victim: Victim) -> None:
    # Falco gives the start in epoch seconds, the path and the user.
    full = victim.facts()
    assert (
        executor.execute(
            command(Process(pid=full.pid, start_time=full.start_time, exe=full.exe, uid=full.uid, user=full.user))
        ).status
        is DONE
    )
    assert victim.process.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_ticks": 1},
        {"start_time": 1.0},
        {"start_ticks": None, "start_time": None},
        {"boot_id": "another"},
        {"exe": "/bin/true"},
        {"uid": 4321},
        {"user": "nobody-of-that-name"},
    ],
)
def test_one_wrong_fact_and_it_lives(executor: Executor, victim: Victim, wrong: dict[str, Any]) -> None:
    outcome = executor.execute(command(msgspec.structs.replace(victim.facts(), **wrong)))
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
    assert str(victim.pid) in outcome.explanation
    outcome = executor.execute(command(victim.facts(), container_id="ab" * 32))
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
    assert victim.is_alive


def test_a_reused_pid_is_another_process(executor: Executor, victim: Victim) -> None:
    """A process of the same pid that started a tick later than the one meant, such as the kernel makes by wrapping pids."""
    facts = victim.facts()
    assert facts.start_ticks is not None
    earlier = msgspec.structs.replace(facts, start_ticks=facts.start_ticks - 1, start_time=None)
    outcome = executor.execute(command(earlier))
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
    assert "given to another process" in outcome.explanation
    assert victim.is_alive


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to choose a pid")
def test_a_pid_really_given_again_is_refused(executor: Executor) -> None:
    first = Victim()
    meant = first.facts()
    first.process.kill()
    first.process.wait()
    assert meant.pid is not None
    # The machine's next pid is set just below the one meant, and taken at once.
    second = None
    last = Path("/proc/sys/kernel/ns_last_pid")
    try:
        for _ in range(50):
            last.write_text(str(meant.pid - 1))
            second = Victim()
            if second.pid == meant.pid:
                break
            second.process.kill()
            second.process.wait()
            second = None
        if second is None:
            pytest.skip("other processes of this machine took the pid each time")
        outcome = executor.execute(command(meant))
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
        assert second.is_alive
    finally:
        if second:
            second.process.kill()
            second.process.wait()


def test_an_execution_changes_the_executable_and_not_the_start(executor: Executor) -> None:
    with subprocess.Popen(["/bin/sh", "-c", "read line; exec sleep 300"], stdin=subprocess.PIPE) as process:
        try:
            time.sleep(2.5 / HZ)
            before = read_process(process.pid)
            assert before is not None
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            deadline = time.monotonic() + 5
            while (
                (after := read_process(process.pid)) and after.process.name != "sleep" and time.monotonic() < deadline
            ):
                time.sleep(0.001)
            assert after is not None
            assert after.process.start_ticks == before.process.start_ticks
            outcome = executor.execute(command(before.process))
            assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
            assert process.poll() is None
            assert executor.execute(command(after.process)).status is DONE
        finally:
            process.kill()


def test_a_process_as_young_as_the_event_needs_a_kept_handle(tmp_path: Path, victim: Victim) -> None:
    facts = victim.facts()
    assert facts.start_time is not None
    ledger = Ledger(tmp_path / "ledger")
    kept = os.pidfd_open(victim.pid)
    try:
        strict = Executor(LinuxKernel(), ledger, Protected.load())
        outcome = strict.execute(command(facts, seen=facts.start_time + 0.5 / HZ))
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
        assert "clock tick" in outcome.explanation
        sensing = Executor(LinuxKernel(), ledger, Protected.load(), kept=lambda _pid: os.dup(kept))
        opened = len(list(Path("/proc/self/fd").iterdir()))
        assert sensing.execute(command(facts, seen=facts.start_time + 0.5 / HZ)).status is DONE
        os.fstat(kept)  # it stays the sensor's
        assert len(list(Path("/proc/self/fd").iterdir())) == opened
    finally:
        os.close(kept)
        ledger.close()


def test_a_process_that_ended_is_gone(executor: Executor) -> None:
    victim = Victim()
    facts = victim.facts()
    victim.process.kill()
    deadline = time.monotonic() + 5
    while (zombie := read_process(victim.pid)) and not zombie.ended and time.monotonic() < deadline:
        time.sleep(0.001)
    assert executor.execute(command(facts)).status is GONE, "it has ended and is not reaped yet"
    victim.process.wait()
    assert executor.execute(command(facts)).status is GONE


def test_a_deleted_program_is_found_by_its_path(executor: Executor, tmp_path: Path) -> None:
    program = tmp_path / "payload"
    shutil.copy("/bin/sleep", program)
    victim = Victim("payload", "300", executable=str(program))
    try:
        facts = victim.facts()
        program.unlink()
        assert victim.facts().content == "deleted"
        assert executor.execute(command(facts)).status is DONE
    finally:
        victim.process.kill()
        victim.process.wait()


def test_protected_processes_live(tmp_path: Path, executor: Executor) -> None:
    program = tmp_path / "daemon"
    shutil.copy("/bin/sleep", program)
    ledger = Ledger(tmp_path / "other")
    guarded = Executor(LinuxKernel(), ledger, Protected(ProtectedList(executables={"*": (str(program),)})))
    victim = Victim("anything", "300", executable=str(program))
    try:
        outcome = guarded.execute(command(victim.facts()))
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.PROTECTED)
        assert victim.is_alive
    finally:
        victim.process.kill()
        victim.process.wait()
        ledger.close()
    for pid in (1, os.getpid()):
        facts = read_process(pid)
        assert facts is not None
        outcome = executor.execute(command(facts.process))
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.PROTECTED)


def test_renice_reaches_every_thread_and_records_the_inverse(executor: Executor) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=True).start()\nprint(flush=True)\ntime.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(2.5 / HZ)
            facts = read_process(process.pid)
            assert facts is not None
            outcome = executor.execute(command(facts.process, action=ReniceProcess(priority=11)))
            assert outcome.status is DONE
            assert outcome.facts["previous_priority"] == os.getpriority(os.PRIO_PROCESS, 0)
            threads = [int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()]
            assert len(threads) == 2
            assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {11}
        finally:
            process.kill()


_AGENT = """
import sys
import msgspec
from pathlib import Path
from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.protected import Protected
from quell.model.decision import Command
executor = Executor(LinuxKernel(), Ledger(Path(sys.argv[1])), Protected.load())
print(executor.execute(msgspec.json.decode(sys.stdin.buffer.read(), type=Command)).status)
"""


@pytest.mark.parametrize(
    ("fault", "lives"),
    [
        ("agent.ledger-before-write", True),
        ("agent.ledger-after-write", True),
        ("agent.before-action", True),
        ("agent.after-action", False),
        ("agent.ledger-before-write:2", False),
        ("agent.ledger-after-write:2", False),
    ],
)
def test_an_agent_killed_at_any_step_leaves_the_outcome_that_no_crash_would(
    tmp_path: Path, victim: Victim, fault: str, lives: bool
) -> None:
    order = command(victim.facts())
    environment = {**os.environ, "QUELL_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", _AGENT, str(tmp_path / "ledger")]
    crashed = subprocess.run(
        arguments, input=msgspec.json.encode(order), env=environment, capture_output=True, check=False
    )
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    assert victim.is_alive is lives
    ledger = Ledger(tmp_path / "ledger")
    executor = Executor(LinuxKernel(), ledger, Protected.load())
    executor.resume()
    outcome = executor.execute(order)
    assert outcome.status is DONE
    assert ledger.pending() == (outcome,)
    assert victim.process.wait(5) == -signal.SIGKILL
    ledger.close()
