"""How long it takes until all of a process group, a process tree and a pod is gone, whatever they fork meanwhile.

From the command to its outcome: every process opened and looked at, the ledger, the signals, the wait for the last. Groups
and trees are fifty processes that all fork. The pod is podman's, with a fork bomb of 255 shells in a container; after each
it is looked whether anybody is left. Needs root, podman and busybox for the pod. Bounds: nobody survives, and the bomb is gone
within a second.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.system.forking import Forking, order
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.system.test_kill_pods import BOMB, MANY

from bench.figures import row
from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.protected import Protected
from quell.model.action import AgentAction, KillPod, KillProcessGroup, KillProcessTree
from quell.model.decision import OutcomeStatus
from quell.model.subject import PodTarget

ROUNDS, BOMBS = 20, 5
BOUND_BOMB = 1.0
WAIT = 30.0


def main() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger")
        executor = Executor(LinuxKernel(), ledger, Protected.load())
        met = all(
            [
                _forking(executor, "group of 50 that fork", KillProcessGroup()),
                _forking(executor, "tree of 50 that fork", KillProcessTree()),
                _bombs(executor, Path(folder)),
            ]
        )
        ledger.close()
    return met


def _forking(executor: Executor, name: str, action: AgentAction) -> bool:
    seconds, survivors = [], 0
    for _ in range(ROUNDS):
        with Forking("growing") as forking:
            command = order(action, forking.facts())
            started = time.perf_counter()
            outcome = executor.execute(command)
            seconds.append(time.perf_counter() - started)
            survivors += len(forking.left()) + (outcome.status is not OutcomeStatus.DONE)
    print(row(name, seconds) + f"  {survivors} survivors (bound 0)")
    return survivors == 0


def _bombs(executor: Executor, folder: Path) -> bool:
    if why := missing():
        print(f"a fork bomb in a pod: not measured: {why}")
        return False
    place = folder / "podman"
    place.mkdir()
    seconds, processes, survivors = [], [], 0
    with podman(place) as containers:
        for n in range(BOMBS):
            pod, inside = _bomb(containers, n)
            command = order(KillPod(), PodTarget(uid=pod, container_id=inside))
            started = time.perf_counter()
            outcome = executor.execute(command)
            seconds.append(time.perf_counter() - started)
            processes.append(int(str(outcome.facts.get("processes", 0))))
            survivors += len(LinuxKernel().members(container_id=inside)) + (outcome.status is not OutcomeStatus.DONE)
            containers("pod", "rm", "--force", "--time", "0", pod)
    print(row(f"a fork bomb of {min(processes)} to {max(processes)} in a pod", seconds) + f"  {survivors} survivors")
    print(f"{'':<44} bound: each within {BOUND_BOMB:g} s, 0 survivors")
    return survivors == 0 and max(seconds) <= BOUND_BOMB


def _bomb(containers: Podman, n: int) -> tuple[str, str]:
    """The ids of a pod and of the container in it, once the bomb is on its way."""
    pod = containers("pod", "create", "--name", f"pod-{n}", "--infra-image", IMAGE, "--network", "none")
    inside = containers.run(f"bomb-{n}", "--pod", pod, "--init", "--pids-limit", "2000")
    containers("exec", "--detach", inside, "sh", "-c", BOMB)
    _until(lambda: len(LinuxKernel().members(container_id=inside)) > MANY)
    return pod, inside


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the bomb did not come")
        time.sleep(0.01)
