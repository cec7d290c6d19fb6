"""Evidence and dry runs of real containers and pods of podman: each container's first process in full, the others by name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.system.forking import order
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.system.running import wait_for

from quell.agent.executor import Executor
from quell.agent.gathering import FACTS, Gatherer, spool_name
from quell.agent.ledger import Ledger
from quell.agent.linux import namespace
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.pod import NotYet
from quell.agent.protected import Protected
from quell.agent.rehearsing import rehearse
from quell.model.action import KillPod, Quarantine
from quell.model.decision import OutcomeStatus, Reason
from quell.model.evidence import EvidenceBounds, Gathered
from quell.model.subject import NetworkTarget, PodTarget

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

#: A kill may wait for so long on a machine that is busy: what is gathered must not depend on its speed.
BOUNDS = EvidenceBounds(wait=30.0, executable=8 << 20)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger")
    yield ledger
    ledger.close()


def pod_of(containers: Podman, name: str) -> tuple[str, str]:
    """A pod with one container that runs a second process; their ids."""
    pod = containers("pod", "create", "--name", name, "--infra-image", IMAGE, "--network", "none")
    inner = containers.run(f"{name}-inner", "--pod", pod, "--env", "API_TOKEN=of-the-shop", "--env", "SHOP=cart")
    containers("exec", "--detach", inner, "sleep", "601")
    wait_for(lambda: len(LinuxKernel().members(container_id=inner)) == 2, what="the second process")
    return pod, inner


@pytest.mark.parametrize("grace", [0, 1])
def test_of_a_pod_each_first_process_is_told_in_full(
    containers: Podman, ledger: Ledger, tmp_path: Path, grace: int
) -> None:
    pod, inner = pod_of(containers, f"evidence-{grace}")
    ready: list[str] = []
    gatherer = Gatherer(tmp_path / "evidence", on_ready=ready.append)
    executor = Executor(LinuxKernel(), ledger, Protected.load(), gatherer=gatherer)
    command = msgspec.structs.replace(order(KillPod(grace_period=grace), PodTarget(uid=pod)), evidence=BOUNDS)
    while True:
        try:
            outcome = executor.execute(command)
            break
        except NotYet as waiting:
            time.sleep(waiting.seconds)
    assert outcome.status is OutcomeStatus.DONE, outcome
    assert "environment" in str(outcome.facts["evidence"])
    wait_for(lambda: bool(ready), what="the evidence")
    gathered = msgspec.json.decode((gatherer.folder / spool_name(command.id) / FACTS).read_bytes(), type=Gathered)
    told = [process for process in gathered.processes if process.container_id == inner]
    assert any(process.arguments == ("sleep", "600") for process in told)
    first = next(process for process in told if process.arguments == ("sleep", "600"))
    assert (first.environment["API_TOKEN"], first.environment["SHOP"]) == ("(secret)", "cart")
    assert first.executable is not None
    assert first.executable.copied
    assert first.executable.sha256 in {path.name for path in (gatherer.folder / spool_name(command.id)).iterdir()}
    others = {each.pid for each in gathered.relatives} | {process.pid for process in gathered.processes}
    assert others >= set(outcome.facts["pids"])  # type: ignore[arg-type] # pids are a list


def test_a_dry_run_tells_whom_a_pods_end_would_reach_and_all_live(containers: Podman, ledger: Ledger) -> None:
    pod, inner = pod_of(containers, "rehearsed")
    there = LinuxKernel().members(pod_uid=pod)
    command = order(KillPod(grace_period=30), PodTarget(uid=pod, container_id=inner))
    found = rehearse(command, LinuxKernel(), ledger, Protected.load())
    assert found.outcome.status is OutcomeStatus.DONE, found
    assert {deed.pid for deed in found.deeds if not deed.polite} == set(there)
    assert {deed.pid for deed in found.deeds if deed.polite} <= set(there)
    assert LinuxKernel().members(pod_uid=pod) == there


def test_a_dry_run_of_a_quarantine_leaves_the_container_open(containers: Podman, ledger: Ledger) -> None:
    container = containers.run("open")
    netns = LinuxKernel().netns(LinuxKernel().members(container_id=container)[0])
    command = order(Quarantine(), NetworkTarget(node="n", key=container, container_id=container))
    found = rehearse(command, LinuxKernel(), ledger, Protected.load())
    assert found.outcome.status is OutcomeStatus.DONE, found
    assert [deed.netns for deed in found.deeds] == [netns]
    assert netns is not None
    handle = namespace.find(netns)
    assert handle is not None
    assert not namespace.look(handle).closed
    LinuxKernel().close(handle)
    containers("rm", "--force", "--time", "0", container)
    gone = rehearse(command, LinuxKernel(), ledger, Protected.load())
    assert (gone.outcome.status, gone.outcome.reason) == (OutcomeStatus.GONE, Reason.GONE)
