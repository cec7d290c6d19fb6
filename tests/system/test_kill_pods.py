"""Pods and containers of podman: all of a pod ends, however it forks, and nothing beside it. SEMANTICS sections 5 and 8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.forking import order
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.system.running import wait_for

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux import cgroups
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.pod import NotYet
from quell.agent.proc import HZ, read_placement, read_process, read_stat
from quell.agent.protected import Protected
from quell.model.action import KillPod, KillProcessGroup, KillProcessTree
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import PodTarget, Process, ProcessTarget

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

DONE, REFUSED, GONE = OutcomeStatus.DONE, OutcomeStatus.REFUSED, OutcomeStatus.GONE

#: Shell words for a loop that ends by itself after so many seconds, without a process for each look at the time.
_UNTIL = "read up rest < /proc/uptime; end=$((${{up%.*}} + {seconds})); now() {{ read up rest < /proc/uptime; }}; now;"
_GOES_ON = '[ "${up%.*}" -lt $end ]'
#: Fifty shells that start processes all the time, every second one an orphan.
FIFTY = (
    _UNTIL.format(seconds=20)
    + " n=0; while [ $n -lt 50 ]; do n=$((n+1));"
    + f" ( while {_GOES_ON}; do (sleep 0.2 &); sleep 0.1; now; done ) & done; wait"
)
#: A shell that starts two copies of itself, which do the same, for seven generations; all of them fork all the time.
BOMB = (
    _UNTIL.format(seconds=20)
    + " f() { if [ $1 -gt 0 ]; then f $(($1-1)) & f $(($1-1)) & fi;"
    + f" while {_GOES_ON}; do (sleep 0.3 &); sleep 0.2; now; done; }}; f 7"
)
#: Of 255 shells: it is on its way.
MANY = 200
CGROUPS = pytest.mark.skipif(not cgroups.may_make(), reason="no control groups (version 2) can be made here")


class Pods:
    def __init__(self, containers: Podman) -> None:
        self.podman = containers
        self._count = 0

    def pod(self, *options: str) -> str:
        self._count += 1
        made = ("pod", "create", "--name", f"pod-{self._count}", "--infra-image", IMAGE, "--network", "none")
        return self.podman(*made, *options)

    def run(self, *options: str) -> str:
        self._count += 1
        return self.podman.run(f"c-{self._count}", *options)

    def script(self, container: str, script: str) -> None:
        """A shell in the container, in a session of its own."""
        self.podman("exec", "--detach", container, "sh", "-c", script)

    def shell(self, container: str, part: str) -> Process:
        """The oldest process of a container whose command line has this part."""
        found: list[Process] = []

        def is_there() -> bool:
            for pid in LinuxKernel().members(container_id=container):
                facts = read_process(pid)
                if facts is not None and part in (facts.process.cmdline or ""):
                    found.append(facts.process)
                    return True
            return False

        wait_for(is_there, what=f"{part!r} in the container")
        time.sleep(2.5 / HZ)  # the start must lie more than a tick before the event
        return found[0]

    def running(self, container: str) -> list[int]:
        return [pid for pid in LinuxKernel().members(container_id=container) if not _has_ended(pid)]

    def pid(self, container: str) -> int:
        return int(self.podman("inspect", "--format", "{{.State.Pid}}", container))


def _has_ended(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.state in "ZX"


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


@pytest.fixture
def pods(containers: Podman) -> Iterator[Pods]:
    yield Pods(containers)
    containers("pod", "rm", "--all", "--force", "--time", "0")
    containers("rm", "--all", "--force", "--time", "0")


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    ledger = Ledger(tmp_path / "ledger")
    yield Executor(LinuxKernel(), ledger, Protected.load())
    ledger.close()


def test_a_pod_ends_with_all_its_containers_and_nothing_beside_it(pods: Pods, executor: Executor) -> None:
    pod, other = pods.pod(), pods.pod()
    first, second = pods.run("--pod", pod), pods.run("--pod", pod)
    beside, lone = pods.run("--pod", other), pods.run()
    guest = pods.run("--network", f"container:{lone}")
    pods.script(first, "sleep 300 & sleep 301; :")
    pods.shell(first, "sleep 301")
    conmon = int(pods.podman("inspect", "--format", "{{.State.ConmonPid}}", first))
    assert (placed := read_placement(conmon)) is not None
    assert placed.container_id is None

    outcome = executor.execute(order(KillPod(), PodTarget(uid=pod, container_id=first[:12])))
    assert (outcome.status, outcome.reason) == (DONE, None), outcome
    assert [each for each in (first, second) if pods.running(each)] == []
    infra = pods.podman("pod", "inspect", "--format", "{{.InfraContainerID}}", pod)
    assert str(outcome.facts["containers"]).split() == sorted([first, second, infra])
    assert outcome.facts["processes"] == 6
    assert [len(pods.running(each)) for each in (beside, lone, guest)] == [1, 1, 1]
    pods.podman("rm", "--force", "--time", "0", guest)  # podman does not remove what another depends on
    again = executor.execute(order(KillPod(), PodTarget(uid=pod)))
    assert (again.status, again.reason) == (GONE, Reason.GONE)


def test_a_container_that_is_in_no_pod_is_not_hit(pods: Pods, executor: Executor) -> None:
    pod = pods.pod()
    inner, lone = pods.run("--pod", pod), pods.run()
    for target in (
        PodTarget(uid=pod, container_id=lone),
        PodTarget(uid=lone),
        PodTarget(uid=inner),
        PodTarget(namespace="default", name="pod-1"),
    ):
        assert executor.execute(order(KillPod(), target)).status in (REFUSED, GONE)
    assert [len(pods.running(each)) for each in (inner, lone)] == [1, 1]


def test_asked_first_it_may_end_by_itself(pods: Pods, executor: Executor, tmp_path: Path) -> None:
    pod = pods.pod()
    script = "trap 'echo bye > /out/said; exit 0' TERM; echo > /out/ready; while :; do sleep 0.05; done"
    polite = pods.run("--pod", pod, "--volume", f"{tmp_path}:/out", "--entrypoint", json.dumps(["sh", "-c", script]))
    stubborn = pods.run("--pod", pod)  # as the first process of its namespace it has no handler and ignores it
    wait_for((tmp_path / "ready").exists, what="the handler")
    outcome = _carried_out(executor, order(KillPod(grace_period=1), PodTarget(uid=pod)))
    assert outcome.status is DONE
    assert (tmp_path / "said").read_text() == "bye\n"
    assert pods.running(polite) + pods.running(stubborn) == []
    assert outcome.time - float(str(outcome.facts["asked_at"])) >= 1


def _carried_out(executor: Executor, command: Command) -> Outcome:
    while True:
        try:
            return executor.execute(command)
        except NotYet as waiting:
            time.sleep(waiting.seconds)


@pytest.mark.parametrize("whole", [True, False])
def test_a_fork_bomb_ends_with_its_pod(pods: Pods, tmp_path: Path, whole: bool) -> None:
    """whole: by the containers' control groups; else in rounds, as without version 2."""
    kernel = LinuxKernel()
    if not whole:
        kernel.cgroups = None  # type: ignore[assignment]
    pod = pods.pod()
    inside = pods.run("--pod", pod, "--init", "--pids-limit", "2000")
    pods.script(inside, BOMB)
    wait_for(lambda: len(pods.running(inside)) > MANY, what="the bomb")
    ledger = Ledger(tmp_path / "ledger")
    started = time.monotonic()
    outcome = Executor(kernel, ledger, Protected.load()).execute(order(KillPod(), PodTarget(uid=pod)))
    _tell(outcome, time.monotonic() - started)
    ledger.close()
    assert outcome.status is DONE, outcome
    assert pods.running(inside) == []


@CGROUPS
def test_a_fork_bomb_ends_as_a_tree_and_its_container_lives(pods: Pods, executor: Executor) -> None:
    inside = pods.run("--init", "--pids-limit", "2000")
    pods.script(inside, "sleep 300; : bystander")
    bystander = pods.shell(inside, "bystander")
    pods.script(inside, BOMB)
    wait_for(lambda: len(pods.running(inside)) > MANY, what="the bomb")
    root = pods.shell(inside, "f 7")
    started = time.monotonic()
    outcome = executor.execute(order(KillProcessTree(), ProcessTarget(node="n", process=root, seen=time.time())))
    _tell(outcome, time.monotonic() - started)
    assert outcome.status is DONE, outcome
    assert len(pods.running(inside)) == 4, "the first processes, the bystander and its sleep"
    assert not _has_ended(bystander.pid or 0)


def _tell(outcome: Outcome, seconds: float) -> None:
    """Shown by pytest -s. The bound is no measure: other tests run on this machine."""
    ended = outcome.facts.get("seconds_to_gone", 0.0)
    sys.stdout.write(f"a bomb of {outcome.facts.get('processes')}: {seconds:.3f} s, of it {ended:.3f} s to their end\n")
    assert seconds < 20


@CGROUPS
def test_a_tree_of_fifty_in_a_container_leaves_no_survivor_and_the_rest_of_it(pods: Pods, executor: Executor) -> None:
    inside = pods.run("--init", "--pids-limit", "2000")
    pods.script(inside, "sleep 300; : bystander")
    pods.shell(inside, "bystander")
    before = pods.running(inside)
    for _ in range(3):
        pods.script(inside, FIFTY)
        wait_for(lambda: len(pods.running(inside)) > 100, what="the tree")
        root = pods.shell(inside, "n=0")
        target = ProcessTarget(node="n", process=root, container_id=inside, seen=time.time())
        outcome = executor.execute(order(KillProcessTree(), target))
        assert pods.running(inside) == before
        assert outcome.status is DONE, outcome
        assert int(str(outcome.facts["processes"])) > 50


def test_a_group_in_a_container_ends_and_the_rest_of_it_lives(pods: Pods, executor: Executor) -> None:
    inside = pods.run()
    pods.script(inside, "sleep 300 & sleep 300 & sleep 300; : deviant")
    pods.script(inside, "sleep 300; : bystander")
    pods.shell(inside, "bystander")
    deviant = pods.shell(inside, "deviant")
    wait_for(lambda: len(pods.running(inside)) == 7, what="the processes in the container")
    target = ProcessTarget(node="n", process=deviant, container_id=inside[:12], seen=time.time())
    outcome = executor.execute(order(KillProcessGroup(), target))
    assert (outcome.status, outcome.facts["processes"]) == (DONE, 4)
    assert len(pods.running(inside)) == 3


def test_a_member_of_the_group_that_is_in_no_container_is_left_alone(pods: Pods, executor: Executor) -> None:
    """nsenter forks into the container, and waits outside of it in the same group."""
    inside = pods.run()
    enter = ["nsenter", f"--target={pods.pid(inside)}", "--pid", "--mount", "sh", "-c", "sleep 300; : entered"]
    with subprocess.Popen(enter, process_group=0) as outside:
        entered = _child(outside.pid)
        handle = os.pidfd_open(entered)
        try:
            _place(entered, like=pods.pid(inside))
            time.sleep(2.5 / HZ)
            facts = read_process(entered)
            assert facts is not None
            assert facts.container_id == inside
            outcome = executor.execute(order(KillProcessGroup(), facts.process))
            assert outcome.status is DONE, outcome
            assert LinuxKernel().wait_ended(handle, 0)
            assert outside.pid not in outcome.facts["pids"]  # type: ignore[operator]
        finally:
            os.close(handle)
            outside.kill()


def _child(pid: int) -> int:
    deadline = time.monotonic() + 10
    while True:
        for child, stat in LinuxKernel().table().items():
            if stat.ppid == pid:
                return child
        assert time.monotonic() < deadline


def _place(pid: int, *, like: int) -> None:
    """Into the control groups of another process, as a runtime does it."""
    for line in Path(f"/proc/{like}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        folder = "unified" if number == "0" else controllers.removeprefix("name=")
        for root in (Path("/sys/fs/cgroup") / folder, Path("/sys/fs/cgroup")):
            group = root / path.lstrip("/") / "cgroup.procs"
            if group.exists():
                group.write_text(str(pid))
                break
