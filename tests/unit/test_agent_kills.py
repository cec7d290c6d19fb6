"""Process groups, trees and pods on the recording kernel: who belongs, who must not be touched, and what comes again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quell.agent.cgroup import placement
from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.pod import NotYet
from quell.agent.proc import Facts, boot_id
from quell.agent.protected import Protected, ProtectedList
from quell.agent.recording import RecordingKernel
from quell.model.action import AgentAction, KillPod, KillProcessGroup, KillProcessTree
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import PodTarget, Process, ProcessTarget, Target

NOW = 1_000_000.0
POD, OTHER_POD = "8d6f7e6a-1b2c-4d3e-9f00-aabbccddeeff", "8d6f7e6a-1b2c-4d3e-9f00-000000000000"
WEB, SIDE, LONE, PODMAN = "01" * 32, "02" * 32, "03" * 32, "04" * 32
IN_NO_POD, IN_OTHER_POD = "05" * 32, "06" * 32
IN_WEB, IN_SIDE = f"/kubepods/pod{POD}/{WEB}", f"/kubepods/pod{POD}/{SIDE}"

REFUSED, GONE, DONE = OutcomeStatus.REFUSED, OutcomeStatus.GONE, OutcomeStatus.DONE


def process(pid: int, cgroup: str, *, ppid: int = 1, pgid: int = 0, sid: int = 0, **more: Any) -> Facts:
    """Its start in ticks is its pid."""
    return Facts(
        process=Process(
            pid=pid,
            start_ticks=pid,
            start_time=NOW - 500 + pid / 100,
            boot_id=boot_id(),
            name=f"p{pid}",
            uid=0,
            ppid=ppid,
            pgid=pgid or pid,
            netns=9,
        ),
        placement=placement(f"0::{cgroup}\n".encode()),
        sid=sid or 600,
        **({"exe_id": None, "kernel_thread": False, "ended": False} | more),
    )


MACHINE = (
    process(600, IN_WEB),
    process(700, IN_WEB, ppid=600),
    process(701, IN_WEB, ppid=600, pgid=700),
    process(702, IN_SIDE, ppid=600, pgid=700),
    process(703, IN_WEB, ppid=700, pgid=703),
    process(704, IN_WEB, ppid=703, sid=704),
    process(705, IN_WEB, ppid=600, sid=704),
    process(706, IN_WEB, ppid=700, pgid=700, ended=True),
    process(650, IN_SIDE),
    process(660, f"/kubepods/pod{OTHER_POD}/{IN_OTHER_POD}"),
    process(670, f"/kubepods/pod{POD}/crio-conmon-{WEB}.scope"),
    process(800, "/", sid=800),
    process(801, "/", ppid=800, pgid=800, sid=800),
    process(900, "/vault", ppid=801, pgid=800, sid=800),
    process(810, IN_WEB, pgid=810),
    process(920, "/vault", pgid=810),
    process(820, "/", sid=820),
    process(821, "/", ppid=820, pgid=821, sid=820),
    process(910, "/vault", ppid=821, pgid=910, sid=820),
    process(680, f"/libpod_parent/{PODMAN}/libpod-{LONE}"),
    process(681, f"/libpod_parent/{PODMAN}/libpod-{SIDE}"),
    process(690, f"/libpod_parent/libpod-{IN_NO_POD}"),
)


class Rig:
    def __init__(self, path: Path) -> None:
        self.kernel = RecordingKernel(processes=MACHINE)
        self.path = path
        self.now = NOW
        self.paused = False
        self.count = 0
        self.start()

    def start(self) -> None:
        self.ledger = Ledger(self.path)
        self.executor = Executor(
            self.kernel,
            self.ledger,
            Protected(ProtectedList(cgroups=("/vault",))),
            lambda: self.now,
            paused=lambda: self.paused,
        )

    def restart(self) -> None:
        self.ledger.close()
        self.start()

    def command(self, action: AgentAction, target: Target) -> Command:
        self.count += 1
        return Command(
            id=f"e/{self.count}",
            agent="a",
            action=action,
            target=target,
            nonce=str(self.count),
            issued=self.now,
            expires=self.now + 30,
        )

    def do(self, action: AgentAction, target: Target) -> Outcome:
        return self.executor.execute(self.command(action, target))

    def killed(self) -> list[int]:
        return [deed.pid or 0 for deed in self.kernel.deeds if not deed.polite]

    def asked(self) -> list[int]:
        return [deed.pid or 0 for deed in self.kernel.deeds if deed.polite]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "ledger")
    yield rig
    rig.ledger.close()


def meant(pid: int, **more: Any) -> ProcessTarget:
    return ProcessTarget(**{"node": "n", "process": Process(pid=pid, start_ticks=pid), "seen": NOW} | more)


def said(outcome: Outcome) -> tuple[OutcomeStatus, Reason | None]:
    return outcome.status, outcome.reason


# Process groups


def test_a_group_ends_within_the_targets_container_the_target_last(rig: Rig) -> None:
    outcome = rig.do(KillProcessGroup(), meant(701))
    assert said(outcome) == (DONE, None)
    assert rig.killed() == [700, 701]
    assert outcome.facts["pids"] == [701, 700]
    assert (outcome.facts["pid"], outcome.facts["pgid"], outcome.facts["processes"]) == (701, 700, 2)
    assert outcome.facts["rounds"] == 1
    assert float(str(outcome.facts["seconds_to_gone"])) < 1


def test_the_group_is_the_one_it_is_in_now_and_not_the_events(rig: Rig) -> None:
    target = meant(703, process=Process(pid=703, start_ticks=703, pgid=700))
    assert said(rig.do(KillProcessGroup(), target)) == (DONE, None)
    assert rig.killed() == [703]


@pytest.mark.parametrize(
    ("action", "pid"), [(KillProcessGroup(), 800), (KillProcessGroup(), 810), (KillProcessTree(), 820)]
)
def test_a_protected_member_refuses_all_of_it(rig: Rig, action: AgentAction, pid: int) -> None:
    outcome = rig.do(action, meant(pid))
    assert said(outcome) == (REFUSED, Reason.PROTECTED)
    assert "/vault" in outcome.explanation
    assert rig.kernel.deeds == []
    assert rig.ledger.unfinished() == ()


@pytest.mark.parametrize("action", [KillProcessGroup(), KillProcessTree()])
def test_doubt_about_the_target_spares_all(rig: Rig, action: AgentAction) -> None:
    for target, reason in (
        (meant(700, process=Process(pid=700, start_ticks=699)), Reason.IDENTITY),
        (meant(700, container_id=SIDE), Reason.IDENTITY),
        (meant(700, seen=None), Reason.IDENTITY),
        (meant(700, process=Process(name="p700")), Reason.NO_TARGET),
        (meant(12), Reason.GONE),
    ):
        assert rig.do(action, target).reason is reason
    assert rig.kernel.deeds == []


@pytest.mark.parametrize("action", [KillProcessGroup(), KillProcessTree()])
def test_what_comes_again_after_its_target_is_gone_reaches_nobody(rig: Rig, action: AgentAction) -> None:
    """The members that a crash spared are known by nothing any more but a number."""
    command = rig.command(action, meant(700))
    rig.ledger.begin(command)
    handle = rig.kernel.open_process(700)
    assert handle is not None
    rig.kernel.kill(handle)  # and then the crash
    rig.restart()
    (outcome,) = rig.executor.resume()
    assert said(outcome) == (DONE, None)
    assert rig.killed() == [700]


@pytest.mark.parametrize("action", [KillProcessGroup(), KillProcessTree()])
def test_what_a_crash_interrupted_before_its_target_is_done(rig: Rig, action: AgentAction) -> None:
    command = rig.command(action, meant(700))
    rig.ledger.begin(command)
    rig.restart()
    (outcome,) = rig.executor.resume()
    assert (said(outcome), outcome.facts["repeated"]) == ((DONE, None), 1)
    assert rig.killed()[-1] == 700


# Process trees


def test_a_tree_ends_with_what_left_its_parents_the_target_last(rig: Rig) -> None:
    outcome = rig.do(KillProcessTree(), meant(700))
    assert said(outcome) == (DONE, None)
    # The container's first process has taken over 705, whose session a descendant leads; 701 is in the target's group, and
    # no child of it.
    assert sorted(rig.killed()) == [700, 703, 704, 705]
    assert rig.killed()[-1] == 700
    assert outcome.facts["processes"] == 4
    assert "control group" in str(outcome.facts["limits"])


# Pods


def test_all_containers_of_a_pod_end_and_nothing_else(rig: Rig) -> None:
    outcome = rig.do(KillPod(), PodTarget(uid=POD))
    assert said(outcome) == (DONE, None)
    assert sorted(rig.killed()) == [600, 650, 700, 701, 702, 703, 704, 705, 810]
    assert outcome.facts["pod"] == POD
    assert outcome.facts["containers"] == f"{WEB} {SIDE}"


def test_a_pod_of_podmans_own_is_named_by_its_id(rig: Rig) -> None:
    outcome = rig.do(KillPod(), PodTarget(uid=PODMAN, container_id=LONE[:12]))
    assert said(outcome) == (DONE, None)
    assert rig.killed() == [680, 681]


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        (PodTarget(namespace="shop", name="web-1"), REFUSED, Reason.NO_TARGET),
        (PodTarget(uid="8d6f7e6a-0000-4d3e-9f00-000000000000"), GONE, Reason.GONE),
        (PodTarget(uid=POD, container_id=IN_NO_POD), REFUSED, Reason.IDENTITY),
        (PodTarget(uid=POD, container_id=IN_OTHER_POD), REFUSED, Reason.IDENTITY),
        (PodTarget(uid=POD, container_id=WEB[:11]), REFUSED, Reason.IDENTITY),
        # The id of a container is none of a pod.
        (PodTarget(uid=IN_NO_POD), GONE, Reason.GONE),
        (PodTarget(uid=WEB), GONE, Reason.GONE),
    ],
)
def test_a_pod_that_is_not_proved_lives(rig: Rig, target: PodTarget, status: OutcomeStatus, reason: Reason) -> None:
    outcome = rig.do(KillPod(), target)
    assert said(outcome) == (status, reason)
    assert rig.kernel.deeds == []


def test_a_container_that_is_gone_does_not_save_its_pod(rig: Rig) -> None:
    assert said(rig.do(KillPod(), PodTarget(uid=POD, container_id="09" * 32))) == (DONE, None)


def test_a_protected_process_saves_its_pod(tmp_path: Path, rig: Rig) -> None:
    ledger = Ledger(tmp_path / "other")
    executor = Executor(rig.kernel, ledger, Protected(ProtectedList(cgroups=(IN_SIDE,))), lambda: NOW)
    outcome = executor.execute(rig.command(KillPod(), PodTarget(uid=POD)))
    assert said(outcome) == (REFUSED, Reason.PROTECTED)
    assert rig.kernel.deeds == []
    ledger.close()


def test_a_pod_is_asked_first_and_made_to_end_after_its_grace_period(rig: Rig) -> None:
    command = rig.command(KillPod(grace_period=40), PodTarget(uid=POD))
    with pytest.raises(NotYet) as waiting:
        rig.executor.execute(command)
    assert 0 < waiting.value.seconds < 1
    # Only what the runtime started, not what that started.
    assert sorted(rig.asked()) == [600, 650, 810]
    rig.now += 39
    with pytest.raises(NotYet) as waiting:
        rig.executor.execute(command)  # longer than a command may take to come: it came in time
    assert waiting.value.seconds <= 1
    assert (len(rig.asked()), rig.killed()) == (3, [])
    assert rig.ledger.find(command.id) is None
    rig.now += 1
    outcome = rig.executor.execute(command)
    assert said(outcome) == (DONE, None)
    assert len(rig.killed()) == 9
    assert outcome.facts["asked_at"] == NOW


def test_a_pod_that_ends_when_asked_is_done(rig: Rig) -> None:
    command = rig.command(KillPod(grace_period=40), PodTarget(uid=POD))
    with pytest.raises(NotYet):
        rig.executor.execute(command)
    for pid in (600, 650, 700, 701, 702, 703, 704, 705, 810):
        handle = rig.kernel.open_process(pid)
        assert handle is not None
        rig.kernel.kill(handle)
    rig.kernel.deeds.clear()
    rig.now += 5
    outcome = rig.executor.execute(command)
    assert said(outcome) == (DONE, None)
    assert rig.kernel.deeds == []
    assert outcome.facts["containers"] == f"{WEB} {SIDE}"


def test_the_grace_period_outlives_the_agent(rig: Rig) -> None:
    command = rig.command(KillPod(grace_period=4000), PodTarget(uid=POD))
    with pytest.raises(NotYet):
        rig.executor.execute(command)
    rig.restart()
    assert rig.executor.resume() == ()
    assert len(rig.asked()) == 6, "after a restart it is not known whether it was asked"
    rig.now += 3999
    rig.ledger._size = 1 << 30  # half of a large file says nothing any more
    assert rig.ledger.compact(rig.now + 4000)
    rig.restart()
    assert rig.executor.resume() == ()
    rig.now += 1
    (outcome,) = rig.executor.resume()
    assert said(outcome) == (DONE, None)
    assert len(rig.killed()) == 9


def test_a_container_that_was_started_again_in_the_pod_is_another(rig: Rig) -> None:
    command = rig.command(KillPod(), PodTarget(uid=POD))
    rig.ledger.begin(command, noted={"containers": WEB, "pids": [600]})
    rig.restart()
    (outcome,) = rig.executor.resume()
    assert said(outcome) == (DONE, None)
    assert sorted(rig.killed()) == [600, 700, 701, 703, 704, 705, 810]


def test_a_pause_in_the_grace_period_saves_the_pod(rig: Rig) -> None:
    command = rig.command(KillPod(grace_period=10), PodTarget(uid=POD))
    with pytest.raises(NotYet):
        rig.executor.execute(command)
    rig.paused = True
    rig.now += 10
    assert said(rig.executor.execute(command)) == (REFUSED, Reason.PAUSED)
    assert rig.killed() == []
