"""From a deviation that a detector posts to real processes that are gone: every action of policies that ends something."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.system.forking import Forking
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.system.running import NODE, Quell, wait_for

from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, read_process
from quell.model.subject import Process

POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: {name}, type: linux-service}}
spec:
  mode: {mode}
  serviceSelector: {{matchFields: {{name: shop}}}}
  response:
    default: [{action}]
"""
POD_POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: pods, type: container}
spec:
  mode: enforce
  containerSelector: {matchFields: {containerName: "web-*"}}
  response:
    default: [{agentKillPod: {grace_period: 1}}]
"""


class Stage:
    def __init__(self, quell: Quell) -> None:
        self.quell = quell
        self._count = 0

    def policy(self, action: str, mode: str = "enforce") -> str:
        self._count += 1
        name = f"policy-{self._count}"
        text = POLICY.format(name=name, mode=mode, action=action)
        self.quell.ask("POST", "/v1/documents?source=test&prune=true", content=text)
        return name

    def deviates(self, policy: str, subject: dict[str, Any]) -> dict[str, Any]:
        """The record of a deviation of this policy, once its command has an outcome."""
        return self.settled(self.posted(policy, subject))

    def posted(self, policy: str, subject: dict[str, Any]) -> str:
        """The id of a deviation of this policy."""
        self._count += 1
        event = {
            "id": f"deviation-{self._count}",
            "category": "deviation",
            "name": "Host.Process.Violation",
            "time": time.time(),
            "subject": {"node": NODE, **subject},
            "details": {"policy": policy, "what": "process", "checksum": f"c{self._count}"},
        }
        self.quell.ask("POST", "/v1/events", json=event)
        return str(event["id"])

    def settled(self, event_id: str) -> dict[str, Any]:
        """Its record, once its command has an outcome."""
        found: list[dict[str, Any]] = []

        def is_settled() -> bool:
            found[:] = [self.quell.ask("GET", f"/v1/events/{event_id}")]
            actions = found[0]["decision"].get("actions", ())
            granted = [action for action in actions if action["status"] == "granted"]
            return len(found[0].get("outcomes", ())) >= len(granted)

        wait_for(is_settled, what=f"the outcome of {event_id}")
        return found[0]

    def of(self, process: Process) -> dict[str, Any]:
        told = {name: getattr(process, name) for name in ("pid", "start_ticks", "boot_id", "name", "exe", "uid")}
        return {"service": "shop", "process": told}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    quell = Quell(tmp_path)
    try:
        quell.start_controller()
        quell.enrol()
        yield Stage(quell)
    except BaseException:
        sys.stderr.write(quell.log())
        raise
    finally:
        quell.close()


def outcome(record: dict[str, Any]) -> dict[str, Any]:
    (found,) = record["outcomes"]
    return dict(found)


@pytest.mark.parametrize(
    ("action", "kind"),
    [("agentKillProcessGroup", "growing"), ("agentKillProcessTree", "growing"), ("agentKillProcessTree", "leaving")],
)
def test_a_deviant_process_that_forks_leaves_no_survivor(stage: Stage, action: str, kind: str) -> None:
    policy = stage.policy(action)
    with Forking(kind) as forking, subprocess.Popen(["/bin/sleep", "300"]) as bystander:
        try:
            record = stage.deviates(policy, stage.of(forking.facts()))
            assert outcome(record)["status"] == "done", record
            assert forking.left() == []
            assert int(outcome(record)["facts"]["processes"]) >= 51
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_audit_spares_all_of_it_and_says_what_would_have_been_done(stage: Stage) -> None:
    policy = stage.policy("agentKillProcessTree", mode="audit")
    with Forking("still", workers=3) as forking:
        record = stage.deviates(policy, stage.of(forking.facts()))
        (action,) = record["decision"]["actions"]
        assert (action["status"], action["reason"]) == ("refused", "audit")
        assert "would have been done" in action["explanation"]
        assert len(forking.left()) == 4


def test_a_deviant_process_is_reniced_with_all_its_threads(stage: Stage) -> None:
    policy = stage.policy("{agentReniceProcess: {priority: 12}}")
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nprint(flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(2.5 / HZ)
            facts = read_process(process.pid)
            assert facts is not None
            record = stage.deviates(policy, stage.of(facts.process))
            told = outcome(record)
            before = os.getpriority(os.PRIO_PROCESS, 0)
            assert (told["status"], told["facts"]["previous_priority"], told["facts"]["priority"]) == (
                "done",
                before,
                12,
            )
            threads = [int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()]
            assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {12}
        finally:
            process.kill()


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


@pytest.fixture
def pods(containers: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    for name in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"):
        monkeypatch.setenv(name, containers.environment[name])
    quell = Quell(tmp_path)
    try:
        quell.start_controller()
        quell.enrol()
        yield Stage(quell)
    except BaseException:
        sys.stderr.write(quell.log())
        raise
    finally:
        quell.close()
        containers("pod", "rm", "--all", "--force", "--time", "0")
        containers("rm", "--all", "--force", "--time", "0")


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_pod_of_a_deviant_container_ends_and_a_container_without_a_pod_does_not(
    containers: Podman, pods: Stage
) -> None:
    pod = containers("pod", "create", "--name", "shop", "--infra-image", IMAGE, "--network", "none")
    deviant, other = containers.run("web-1", "--pod", pod), containers.run("side", "--pod", pod)
    lone = containers.run("web-2")
    kernel = LinuxKernel()
    pods.quell.ask("POST", "/v1/documents", content=POD_POLICY)
    for identity, inside in ((deviant, pod), (lone, None)):
        wait_for(lambda: _pod_of(pods.quell, identity) == inside, what="the container in the inventory")  # noqa: B023
    record = pods.deviates("pods", {"container": {"id": lone[:12]}})
    (action,) = record["decision"]["actions"]
    assert (action["status"], action["reason"]) == ("refused", "not-applicable")

    record = pods.deviates("pods", {"container": {"id": deviant[:12]}})
    assert outcome(record)["status"] == "done", record
    (action,) = record["decision"]["actions"]
    assert action["target"]["uid"] == pod
    assert [kernel.members(container_id=each) for each in (deviant, other)] == [[], []]
    assert len(kernel.members(container_id=lone)) == 1
    facts = outcome(record)["facts"]
    assert outcome(record)["time"] - facts["asked_at"] >= 1, "its first processes have no handler"
    assert set(facts["containers"].split()) > {deviant, other}


@pytest.mark.root
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_an_agent_that_dies_in_the_grace_period_goes_on_with_it(containers: Podman, pods: Stage) -> None:
    pod = containers("pod", "create", "--name", "patient", "--infra-image", IMAGE, "--network", "none")
    deviant = containers.run("web-3", "--pod", pod)
    quell = pods.quell
    quell.ask("POST", "/v1/documents", content=POD_POLICY.replace("grace_period: 1", "grace_period: 3"))
    wait_for(lambda: _pod_of(quell, deviant) == pod, what="the container in the inventory")
    event = pods.posted("pods", {"container": {"id": deviant[:12]}})
    ledger = quell.folder / "agent" / "ledger"
    wait_for(lambda: b"asked_at" in ledger.read_bytes(), what="the beginning of the grace period")
    quell.kill(quell.agent)
    assert len(LinuxKernel().members(container_id=deviant)) == 1
    quell.start_agent()
    told = outcome(pods.settled(event))
    assert (told["status"], told["facts"]["repeated"]) == ("done", 1)
    assert told["time"] - told["facts"]["asked_at"] >= 3
    assert LinuxKernel().members(container_id=deviant) == []


def _pod_of(quell: Quell, identity: str) -> str | None:
    found = [each for each in quell.ask("GET", "/v1/workloads")["items"] if each["id"] == identity]
    return found[0].get("podman_pod") if found and found[0].get("name") else msgspec.UNSET  # type: ignore[return-value]
