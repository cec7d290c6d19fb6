"""The executor on the recording kernel: which targets it takes, which it refuses and why, and what it answers again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell.agent.cgroup import placement
from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.proc import HZ, Facts, boot_id
from quell.agent.protected import Protected, ProtectedList
from quell.agent.recording import RecordingKernel
from quell.model.action import (
    AgentAction,
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
)
from quell.model.decision import Command, OutcomeStatus, Reason
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target

NOW = 1_000_000.0
ID = "0123456789abcdef" * 4
POD = "8d6f7e6a-1b2c-4d3e-9f00-aabbccddeeff"
HOST, POD_NET, PRIVATE_NET, LONE_NET = 1, 50, 51, 60

MINER = Process(
    pid=700,
    start_ticks=5000,
    start_time=NOW - 100,
    boot_id=boot_id(),
    name="miner",
    exe="/tmp/miner",
    uid=1000,
    user="app",
    netns=POD_NET,
)


def facts(process: Process, cgroup: str = f"/kubepods/pod{POD}/{ID}", **more: Any) -> Facts:
    values: dict[str, Any] = {"exe_id": None, "kernel_thread": False, "ended": False} | more
    return Facts(process=process, placement=placement(f"0::{cgroup}\n".encode()), **values)


MACHINE = (
    facts(MINER),
    facts(
        Process(pid=600, start_ticks=10, start_time=NOW - 900, boot_id=boot_id(), name="pause", uid=0, netns=POD_NET)
    ),
    facts(
        Process(
            pid=701, start_ticks=5001, start_time=NOW - 90, boot_id=boot_id(), name="hidden", uid=0, netns=PRIVATE_NET
        )
    ),
    facts(Process(pid=702, start_ticks=5002, start_time=NOW - 90, boot_id=boot_id(), name="out", uid=0, netns=HOST)),
    facts(
        Process(pid=800, start_ticks=20, start_time=NOW - 800, boot_id=boot_id(), name="lone", uid=0, netns=LONE_NET),
        "/",
    ),
    facts(
        Process(pid=801, start_ticks=21, start_time=NOW - 800, boot_id=boot_id(), name="host", uid=0, netns=HOST), "/"
    ),
    facts(Process(pid=1, start_ticks=1, start_time=NOW - 999, boot_id=boot_id(), name="init", uid=0, netns=HOST), "/"),
    facts(
        Process(pid=900, start_ticks=30, start_time=NOW - 700, boot_id=boot_id(), name="guard", uid=0, netns=70),
        "/vault",
    ),
    facts(
        Process(pid=901, start_ticks=31, start_time=NOW - 700, boot_id=boot_id(), name="beside", uid=0, netns=70), "/"
    ),
    facts(
        Process(pid=950, start_ticks=40, start_time=NOW - 700, boot_id=boot_id(), name="hostnet", uid=0, netns=HOST),
        f"/docker/{'ab' * 32}",
    ),
)


class Rig:
    def __init__(self, path: Path) -> None:
        self.kernel = RecordingKernel(processes=MACHINE, host_namespaces=[HOST])
        self.path = path
        self.now = NOW
        self.count = 0
        self.start()

    def start(self, **options: Any) -> None:
        self.ledger = Ledger(self.path)
        protected = Protected(ProtectedList(cgroups=("/vault",)))
        self.executor = Executor(self.kernel, self.ledger, protected, lambda: self.now, **options)

    def restart(self, **options: Any) -> None:
        self.ledger.close()
        self.start(**options)

    def command(self, action: AgentAction, target: Target, **more: Any) -> Command:
        self.count += 1
        values: dict[str, Any] = {"issued": self.now, "expires": self.now + 30} | more
        return Command(id=f"e/{self.count}", agent="a", action=action, target=target, nonce=str(self.count), **values)

    def kill(self, process: Process, **more: Any) -> tuple[OutcomeStatus, Reason | None]:
        target = ProcessTarget(**{"node": "n", "process": process, "seen": NOW} | more)
        outcome = self.executor.execute(self.command(KillProcess(), target))
        return outcome.status, outcome.reason


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "ledger")
    yield rig
    rig.ledger.close()


REFUSED, GONE, DONE = OutcomeStatus.REFUSED, OutcomeStatus.GONE, OutcomeStatus.DONE


def but(**changes: Any) -> Process:
    return msgspec.structs.replace(MINER, **changes)


@pytest.mark.parametrize(
    ("process", "more"),
    [
        (MINER, {}),
        (MINER, {"container_id": ID}),
        (MINER, {"container_id": ID[:12]}),
        (Process(pid=700, start_ticks=5000), {}),
        (Process(pid=700, start_time=NOW - 100.049), {}),
        (but(start_ticks=None, start_time=NOW - 99.951), {}),
        (but(exe="/tmp/miner (deleted)"), {}),
        (but(exe=None, name="miner"), {}),
        (but(name="another name", exe="/tmp/miner"), {}),
        (but(user="1000"), {}),
        (but(cmdline="whatever it was then", cwd="/", ppid=3, pgid=4, ancestors=("x",)), {}),
        (MINER, {"seen": NOW - 100 + 1.01 / HZ}),
    ],
)
def test_a_process_on_which_every_given_fact_agrees_is_killed(rig: Rig, process: Process, more: dict[str, Any]) -> None:
    assert rig.kill(process, **more) == (DONE, None)
    assert [(deed.action, deed.pid, deed.start_ticks) for deed in rig.kernel.deeds] == [("agentKillProcess", 700, 5000)]


@pytest.mark.parametrize(
    ("process", "more"),
    [
        (but(start_ticks=5001), {}),
        (but(start_ticks=5000, start_time=NOW - 99.9), {}),
        (but(start_ticks=None, start_time=NOW - 100.051), {}),
        (but(start_ticks=None, start_time=None), {}),
        (but(boot_id="5b0a0b0e-0000-4000-8000-000000000000"), {}),
        (but(exe="/tmp/miner2"), {}),
        (but(exe=None, name="mine"), {}),
        (but(uid=0), {}),
        (but(user="root"), {}),
        (but(uid=None, user="root"), {}),
        (MINER, {"container_id": "ab" * 32}),
        (MINER, {"container_id": ID[:11]}),
        (but(pid=800, start_ticks=20, start_time=None, exe=None, name="lone", uid=0, user=None), {"container_id": ID}),
        (MINER, {"seen": None}),
        (MINER, {"seen": NOW - 100}),
        (MINER, {"seen": NOW - 100 + 0.99 / HZ}),
        (MINER, {"seen": NOW - 200}),
    ],
)
def test_one_fact_that_does_not_agree_and_nothing_dies(rig: Rig, process: Process, more: dict[str, Any]) -> None:
    assert rig.kill(process, **more) == (REFUSED, Reason.IDENTITY)
    assert rig.kernel.deeds == []


def test_no_pid_is_no_target_and_a_name_is_never_searched_for(rig: Rig) -> None:
    assert rig.kill(but(pid=None)) == (REFUSED, Reason.NO_TARGET)
    assert rig.kernel.deeds == []


def test_a_process_that_is_gone_is_gone(rig: Rig) -> None:
    assert rig.kill(but(pid=12)) == (GONE, Reason.GONE)


def test_protected_processes_are_refused(rig: Rig) -> None:
    assert rig.kill(Process(pid=1, start_ticks=1)) == (REFUSED, Reason.PROTECTED)
    assert rig.kill(Process(pid=900, start_ticks=30)) == (REFUSED, Reason.PROTECTED)
    assert rig.kill(Process(pid=900, start_ticks=29)) == (REFUSED, Reason.IDENTITY)
    assert rig.kernel.deeds == []


def test_the_same_command_again_is_answered_and_not_done_again(rig: Rig) -> None:
    command = rig.command(ReniceProcess(priority=5), ProcessTarget(node="n", process=MINER, seen=NOW))
    first = rig.executor.execute(command)
    assert (first.status, first.facts["previous_priority"], first.facts["priority"]) == (DONE, 0, 5)
    rig.now += 1000
    assert rig.executor.execute(command) == first
    rig.restart()
    assert rig.executor.execute(command) == first
    assert len(rig.kernel.deeds) == 1
    assert rig.ledger.pending() == (first,)


def test_the_same_command_from_two_threads_is_done_once(rig: Rig) -> None:
    command = rig.command(ReniceProcess(priority=5), ProcessTarget(node="n", process=MINER, seen=NOW))
    threads = [threading.Thread(target=rig.executor.execute, args=(command,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rig.kernel.deeds) == 1


def test_a_late_command_is_expired(rig: Rig) -> None:
    command = rig.command(KillProcess(), ProcessTarget(node="n", process=MINER, seen=NOW), expires=NOW)
    outcome = rig.executor.execute(command)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.EXPIRED, Reason.EXPIRED)
    assert rig.kernel.deeds == []


def test_a_command_that_a_crash_interrupted_is_done_once(rig: Rig) -> None:
    command = rig.command(KillProcess(), ProcessTarget(node="n", process=MINER, seen=NOW))
    rig.ledger.begin(command)  # and then the crash, before the signal
    rig.restart()
    (outcome,) = rig.executor.resume()
    assert (outcome.status, outcome.facts["repeated"]) == (DONE, 1)
    assert len(rig.kernel.deeds) == 1
    assert rig.executor.resume() == ()
    assert rig.executor.execute(command) == outcome


def test_a_kill_that_a_crash_cut_off_from_its_outcome_is_still_done(rig: Rig) -> None:
    command = rig.command(KillProcess(), ProcessTarget(node="n", process=MINER, seen=NOW))
    handle = rig.kernel.open_process(700)
    assert handle is not None
    rig.ledger.begin(command)
    rig.kernel.kill(handle)  # and then the crash, before the outcome
    rig.restart()
    rig.now += 1000  # it comes again when it has expired: it was done all the same
    assert rig.executor.execute(command).status is DONE
    assert len(rig.kernel.deeds) == 1


def test_an_interrupted_command_that_has_expired_is_not_done(rig: Rig) -> None:
    command = rig.command(KillProcess(), ProcessTarget(node="n", process=MINER, seen=NOW))
    rig.ledger.begin(command)
    rig.now += 1000
    assert rig.executor.execute(command).status is OutcomeStatus.EXPIRED
    assert rig.kernel.deeds == []


def test_nothing_is_done_that_cannot_be_written_down(rig: Rig) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        good, rig.ledger._file = rig.ledger._file, full.fileno()
        assert rig.kill(MINER) == (OutcomeStatus.FAILED, Reason.FAILED)
        assert quarantine(rig, container_id=ID) == (OutcomeStatus.FAILED, Reason.FAILED)
        rig.ledger._file = good
    assert rig.kernel.deeds == []
    assert rig.kill(MINER) == (DONE, None)


def test_while_paused_only_releases_are_done(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    rig.restart(paused=lambda: True)
    assert rig.kill(MINER) == (REFUSED, Reason.PAUSED)
    assert quarantine(rig, container_id=ID) == (REFUSED, Reason.PAUSED)
    assert release(rig) == (DONE, None)


def test_the_priority_before_is_told_though_a_crash_came_between(rig: Rig) -> None:
    command = rig.command(ReniceProcess(priority=5), ProcessTarget(node="n", process=MINER, seen=NOW))
    rig.ledger.begin(command, noted={"previous_priority": 3})
    rig.kernel.renice(700, 5)  # and then the crash, before the outcome
    rig.restart()
    (outcome,) = rig.executor.resume()
    assert (outcome.status, outcome.facts["previous_priority"], outcome.facts["priority"]) == (DONE, 3, 5)


def test_an_action_on_the_wrong_kind_of_target_is_refused(rig: Rig) -> None:
    for action, target in (
        (KillProcess(), PodTarget(uid=POD)),
        (KillProcessGroup(), PodTarget(uid=POD)),
        (KillProcessTree(), PodTarget(uid=POD)),
        (KillPod(), ProcessTarget(node="n", process=MINER, seen=NOW)),
        (Quarantine(), ProcessTarget(node="n", process=MINER)),
        (ReleaseQuarantine(), PodTarget(uid=POD)),
    ):
        outcome = rig.executor.execute(rig.command(action, target))
        assert (outcome.status, outcome.reason) == (REFUSED, Reason.NO_TARGET)


# Quarantine


def quarantine(
    rig: Rig, *, action: Quarantine | None = None, key: str = POD, **more: Any
) -> tuple[OutcomeStatus, Reason | None]:
    target = NetworkTarget(**{"node": "n", "key": key, "seen": NOW} | more)
    outcome = rig.executor.execute(rig.command(action or Quarantine(), target))
    return outcome.status, outcome.reason


def release(rig: Rig, key: str = POD, **more: Any) -> tuple[OutcomeStatus, Reason | None]:
    outcome = rig.executor.execute(rig.command(ReleaseQuarantine(), NetworkTarget(node="n", key=key, **more)))
    return outcome.status, outcome.reason


def done(rig: Rig) -> list[tuple[str, int | None]]:
    return [(deed.action, deed.netns) for deed in rig.kernel.deeds]


@pytest.mark.parametrize(
    "more",
    [{"container_id": ID}, {"container_id": ID[:12]}, {"pod_uid": POD}, {"pod_uid": POD, "container_id": "cd" * 32}],
)
def test_all_namespaces_of_a_container_but_the_hosts_are_closed_and_opened(rig: Rig, more: dict[str, Any]) -> None:
    assert quarantine(rig, **more) == (DONE, None)
    assert done(rig) == [("quarantine", POD_NET), ("quarantine", PRIVATE_NET)]
    assert release(rig) == (DONE, None)
    assert done(rig)[2:] == [("release", POD_NET), ("release", PRIVATE_NET)]
    assert release(rig) == (DONE, None)
    assert len(done(rig)) == 4


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"container_id": "cd" * 32}, (GONE, Reason.GONE)),
        ({"container_id": ""}, (REFUSED, Reason.IDENTITY)),
        ({"container_id": ID[:11]}, (REFUSED, Reason.IDENTITY)),
        ({"container_id": "ab" * 32}, (REFUSED, Reason.HOST_NETWORK)),
        ({"container_id": ID, "pod_uid": "00000000-0000-4000-8000-000000000000"}, (REFUSED, Reason.IDENTITY)),
        ({"container_id": ID, "netns": LONE_NET}, (REFUSED, Reason.IDENTITY)),
        ({"process": Process(pid=801, start_ticks=21)}, (REFUSED, Reason.HOST_NETWORK)),
        ({"process": Process(pid=800, start_ticks=99)}, (REFUSED, Reason.IDENTITY)),
        ({"process": Process(pid=900, start_ticks=30)}, (REFUSED, Reason.PROTECTED)),
        ({"process": Process(pid=901, start_ticks=31)}, (REFUSED, Reason.PROTECTED)),
        ({"process": Process(pid=12, start_ticks=31)}, (GONE, Reason.GONE)),
        ({"netns": LONE_NET}, (REFUSED, Reason.IDENTITY)),
    ],
)
def test_namespaces_that_are_not_closed(rig: Rig, more: dict[str, Any], expected: tuple[OutcomeStatus, Reason]) -> None:
    assert quarantine(rig, **more) == expected
    assert rig.kernel.deeds == []
    assert rig.ledger.closed() == ()


def test_the_namespace_of_a_process_outside_of_any_container(rig: Rig) -> None:
    assert quarantine(rig, key="lone", process=Process(pid=800, start_ticks=20), netns=LONE_NET) == (DONE, None)
    assert done(rig) == [("quarantine", LONE_NET)]


def test_a_restart_of_the_agent_forgets_no_quarantine(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    rig.restart()
    assert release(rig) == (DONE, None)
    assert [action for action, _ in done(rig)] == ["quarantine", "quarantine", "release", "release"]


def test_a_restart_of_the_machine_forgets_them_all(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    (closed,) = rig.ledger.closed()
    rig.ledger.note(msgspec.structs.replace(closed, boot_id="another"))
    rig.restart()
    assert rig.ledger.closed() == ()


def test_a_namespace_stays_closed_while_another_quarantine_holds_it(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    process = Process(pid=700, start_ticks=5000)
    assert quarantine(rig, key="other", process=process, action=Quarantine(strict=True)) == (DONE, None)
    assert rig.kernel._closed[POD_NET] is True
    assert release(rig, "other") == (DONE, None)
    assert rig.kernel._closed[POD_NET] is False, "no longer strict, still closed"
    assert release(rig) == (DONE, None)
    assert POD_NET not in rig.kernel._closed


def test_a_lease_ends_by_itself_and_new_evidence_makes_it_longer(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID, action=Quarantine(ttl=10)) == (DONE, None)
    rig.now += 5
    assert quarantine(rig, container_id=ID, action=Quarantine(ttl=10)) == (DONE, None)
    assert rig.executor.expired(NOW + 14.9) == ()
    assert rig.executor.expired(NOW + 15) == (POD,)
    rig.restart()
    assert rig.executor.expired(NOW + 15) == (POD,)
    assert rig.executor.release(POD) is True
    assert rig.executor.release(POD) is False
    assert rig.executor.expired(NOW + 15) == ()
    assert rig.kernel._closed == {}


@pytest.mark.parametrize(("first", "second"), [(None, 10), (10, None)])
def test_a_quarantine_without_an_end_outlasts_a_lease(rig: Rig, first: float | None, second: float | None) -> None:
    for ttl in (first, second):
        assert quarantine(rig, container_id=ID, action=Quarantine(ttl=ttl)) == (DONE, None)
    assert rig.executor.expired(NOW + 1e9) == ()


def test_release_of_what_no_record_knows_looks_at_the_target(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    rig.ledger.note(POD)
    assert release(rig, container_id=ID) == (DONE, None)
    assert rig.kernel._closed == {}


def test_release_all_opens_everything_recorded_or_not(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    assert quarantine(rig, key="lone", process=Process(pid=800, start_ticks=20)) == (DONE, None)
    rig.ledger.note("lone")
    assert rig.executor.release_all() == (POD_NET, PRIVATE_NET, LONE_NET)
    assert rig.ledger.closed() == ()
    assert rig.executor.release_all() == ()


def test_outcomes_of_a_crash_between_closing_and_its_outcome(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    command = rig.command(Quarantine(), NetworkTarget(node="n", key=POD, container_id=ID, seen=NOW))
    end: Callable[..., None] = rig.ledger.end
    monkeypatch.setattr(rig.ledger, "end", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        rig.executor.execute(command)
    monkeypatch.setattr(rig.ledger, "end", end)
    rig.restart()
    assert len(rig.ledger.closed()) == 1
    assert rig.executor.execute(command).status is DONE
    assert release(rig) == (DONE, None)
    assert rig.kernel._closed == {}


def test_two_commands_do_not_wait_for_each_others_process(rig: Rig) -> None:
    started = time.monotonic()
    threads = [threading.Thread(target=rig.kill, args=(facts.process,)) for facts in MACHINE]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 5
    assert {deed.pid for deed in rig.kernel.deeds} == {600, 700, 701, 702, 800, 801, 901, 950}
