"""From a container or pod to its processes, control group and network namespace and back, by the kernel alone.

Real processes in real control groups, named as each runtime names them. SEMANTICS sections 4 and 8.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import wait_for
from tests.system.podman import IMAGE, missing, podman
from tests.unit.test_cgroup_forms import FLAT, FORMS, ID, OUTER, PODMAN_POD, STATIC, UID, Form

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ
from quell.agent.protected import Protected
from quell.model.action import AgentAction, KillPod, KillProcess, Quarantine
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make control groups")]

#: Of the second version, and of a controller of the first, as far as this machine has them.
ROOTS = [
    root
    for root in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids"))
    if (root / "cgroup.procs").exists()
]
_count = iter(range(1, 1000))


def test_this_machine_has_control_groups() -> None:
    """Without any, the tests of them would be left out."""
    assert ROOTS


@pytest.fixture(params=ROOTS, ids=lambda root: root.name)
def group(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    """Makes a control group at a path, each level that is not there."""
    made: list[Path] = []

    def make(path: str) -> Path:
        at: Path = request.param
        for name in (f"quell-test-{os.getpid()}", *path.strip("/").split("/")):
            at /= name
            if not at.exists():
                at.mkdir()
                made.append(at)
        return at

    yield make
    for path in reversed(made):
        wait_for(lambda path=path: not (path / "cgroup.procs").read_text(), what="the end of its processes")
        path.rmdir()


@pytest.fixture
def run() -> Iterator[Callable[[Path], int]]:
    """Starts a process with a network namespace of its own in a control group."""
    started: list[subprocess.Popen[bytes]] = []
    kernel = LinuxKernel()

    def start(group: Path) -> int:
        process = subprocess.Popen(["unshare", "--net", "sleep", "300"])
        started.append(process)
        (group / "cgroup.procs").write_text(str(process.pid))
        own = kernel.netns(os.getpid())
        wait_for(lambda: kernel.netns(process.pid) not in (None, own), what="its network namespace")
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    ledger = Ledger(tmp_path / "ledger")
    yield Executor(LinuxKernel(), ledger, Protected.load())
    ledger.close()


def order(executor: Executor, action: AgentAction, target: Target) -> Outcome:
    now = time.time()
    return executor.execute(
        Command(
            id=f"t/{next(_count)}", agent="a", action=action, target=target, issued=now, expires=now + 30, nonce="n"
        )
    )


def renamed(form: Form) -> Form:
    """With ids of its own: other tests look at the same machine at the same time."""
    new = {}
    for old in (ID, OUTER, PODMAN_POD, STATIC):
        new[old] = os.urandom(len(old) // 2).hex()
    new[UID] = str(uuid.uuid4())
    new[FLAT] = new[UID].replace("-", "_")

    def one(text: str | None) -> str | None:
        for old, other in new.items():
            text = None if text is None else text.replace(old, other)
        return text

    return Form(one(form.path) or "", *map(one, form[1:]))


@pytest.mark.parametrize("form", [name for name, each in FORMS.items() if each.container])
def test_a_container_is_found_by_its_id_and_back(
    form: str, group: Callable[[str], Path], run: Callable[[Path], int]
) -> None:
    expected = renamed(FORMS[form])
    assert expected.container is not None
    pid = run(group(expected.path))
    kernel = LinuxKernel()
    assert kernel.members(container_id=expected.container) == [pid]
    assert kernel.members(container_id=expected.container[:12]) == [pid]
    if (pod := expected.pod or expected.podman_pod) is not None:
        assert kernel.members(pod_uid=pod) == [pid]
    facts = kernel.facts(pid)
    assert facts is not None
    assert (facts.container_id, facts.pod_uid) == (expected.container, expected.pod)
    assert any(path.endswith(expected.path) for path in facts.placement.paths)
    netns = facts.process.netns
    assert netns is not None
    assert kernel.residents(netns) == [pid]
    handle = kernel.find_namespace(netns)
    assert handle is not None
    assert kernel.inode(handle) == netns
    kernel.close(handle)


def test_a_pod_is_all_its_containers_and_no_other(group: Callable[[str], Path], run: Callable[[Path], int]) -> None:
    uid, other = str(uuid.uuid4()), str(uuid.uuid4())
    one, two, three = (os.urandom(32).hex() for _ in range(3))

    def of(pod: str, container: str) -> str:
        flat = pod.replace("-", "_")
        return f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{flat}.slice/{container}.scope"

    first = run(group(of(uid, f"cri-containerd-{one}")))
    time.sleep(2 / HZ)  # the oldest stands first
    second = run(group(of(uid, f"cri-containerd-{two}")))
    monitor = run(group(of(uid, f"crio-conmon-{one}")))
    elsewhere = run(group(of(other, f"cri-containerd-{three}")))
    kernel = LinuxKernel()
    assert kernel.members(pod_uid=uid) == [first, second]
    assert kernel.members(pod_uid=other) == [elsewhere]
    assert kernel.members(pod_uid=uid, container_id=two[:12]) == [second]
    assert kernel.members(pod_uid=str(uuid.uuid4())) == []
    facts = kernel.facts(monitor)
    assert facts is not None
    assert (facts.pod_uid, facts.container_id) == (uid, None)


@pytest.mark.parametrize(
    ("action", "target", "known"),
    [
        (
            Quarantine(),
            NetworkTarget(node="n", key=ID, container_id=ID, pod_uid=UID, netns=4711, seen=1.0),
            {"container": ID, "pod": UID, "netns": 4711, "seen": 1.0},
        ),
        (
            KillProcess(),
            ProcessTarget(
                node="n",
                process=Process(pid=2**22 - 1, start_ticks=5, name="nc", exe="/usr/bin/nc"),
                container_id=ID,
                seen=1.0,
            ),
            {"pid": 2**22 - 1, "start_ticks": 5, "name": "nc", "exe": "/usr/bin/nc", "container": ID, "seen": 1.0},
        ),
        (
            KillPod(),
            PodTarget(node="n", namespace="shop", name="web-1", uid=UID, container_id=ID),
            {"pod": UID, "pod_name": "web-1", "namespace": "shop", "container": ID},
        ),
    ],
    ids=["container", "process", "pod"],
)
def test_what_is_gone_is_told_with_what_was_known(
    executor: Executor, action: AgentAction, target: Target, known: dict[str, object]
) -> None:
    outcome = order(executor, action, target)
    assert (outcome.status, outcome.reason, outcome.facts) == (OutcomeStatus.GONE, Reason.GONE, known)
    assert executor.ledger.find(outcome.id) == outcome


def test_a_container_that_ends_before_its_command_is_gone(
    executor: Executor, group: Callable[[str], Path], run: Callable[[Path], int]
) -> None:
    form = renamed(FORMS["docker systemd"])
    pid = run(group(form.path))
    kernel = LinuxKernel()
    netns = kernel.netns(pid)
    assert kernel.members(container_id=form.container) == [pid]
    os.kill(pid, 9)
    wait_for(lambda: kernel.netns(pid) is None, what="its end")
    target = NetworkTarget(node="n", key="k", container_id=form.container, netns=netns, seen=time.time())
    outcome = order(executor, Quarantine(), target)
    assert outcome.status is OutcomeStatus.GONE
    assert (outcome.facts["container"], outcome.facts["netns"]) == (form.container, netns)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_containers_of_podman_itself_and_of_a_pod_of_it(executor: Executor, tmp_path: Path) -> None:
    kernel = LinuxKernel()
    with podman(tmp_path) as running:
        alone = running.run("alone")
        pod = running("pod", "create", "--name", "pair", "--infra-image", IMAGE, "--network", "none")
        inside = running.run("inside", "--pod", "pair")
        for container in (alone, inside):
            pid = int(running("inspect", "--format", "{{.State.Pid}}", container))
            assert kernel.members(container_id=container) == [pid]
            facts = kernel.facts(pid)
            assert facts is not None
            assert (facts.container_id, facts.placement.is_in_pod(pod)) == (container, container == inside)
            assert facts.process.netns is not None
            assert pid in kernel.residents(facts.process.netns)
        members = [facts for pid in kernel.members(pod_uid=pod) if (facts := kernel.facts(pid))]
        assert inside in {facts.container_id for facts in members}
        assert len({facts.process.netns for facts in members}) == 1, "its containers share one"
        target = NetworkTarget(node="n", key=alone, container_id=alone, seen=time.time())
        assert order(executor, Quarantine(), target).status is OutcomeStatus.DONE
        running("rm", "--force", "--time", "0", alone)
        gone = NetworkTarget(node="n", key="again", container_id=alone, seen=target.seen)
        outcome = order(executor, Quarantine(), gone)
        assert (outcome.status, outcome.facts) == (OutcomeStatus.GONE, {"container": alone, "seen": target.seen})
        assert executor.look(released=False).ended == {alone: "gone"}
