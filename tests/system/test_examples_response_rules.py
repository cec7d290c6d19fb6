"""The mission's worked examples: each file of examples/response-rules applied, provoked, and seen to act.

A controller and an agent as processes, a real container that a cable joins to another network namespace, and a webhook
receiver of our own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.system.podman import Podman, missing, podman
from tests.system.running import NODE, Quell, wait_for

from quell.cli.demo.listener import Listener

EXAMPLES = Path(__file__).parents[2] / "examples" / "response-rules"

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]


class Container(Struct, frozen=True):
    """One that runs as service alpinepython, and a namespace on the other end of its cable."""

    id: str
    peer: str

    def reaches(self) -> bool:
        """Whether the peer gets an answer from it."""
        ping = ["ip", "netns", "exec", self.peer, "ping", "-c1", "-W1", "-n", "10.79.0.1"]
        return subprocess.run(ping, check=False, capture_output=True).returncode == 0


class Stage:
    """What every example plays on."""

    def __init__(self, quell: Quell, listener: Listener, container: Container) -> None:
        self.quell = quell
        self.listener = listener
        self.container = container

    def apply(self, name: str) -> list[dict[str, Any]]:
        """The example, with the endpoint `soc` at this test's receiver; those before it are gone."""
        endpoint = f"""
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: soc}}
spec: {{url: "{self.listener.url}", secret: "{self.listener.secret}", allow_http: true, allow_private: true}}
---
"""
        changes: list[dict[str, Any]] = self.quell.ask(
            "POST",
            "/v1/documents?source=examples&prune=true&unquarantine=true",
            content=endpoint + (EXAMPLES / name).read_text(),
        )
        return changes

    def send(self, event: dict[str, Any], detector: str = "") -> dict[str, Any]:
        """Its record once no action of it waits for an outcome any more."""
        (identifier,) = self.quell.ask("POST", f"/v1/events{detector and '/' + detector}", json=event)["ids"]
        told: list[dict[str, Any]] = []

        def settled() -> bool:
            told[:] = [self.quell.ask("GET", f"/v1/events/{identifier}")]
            granted = [
                action["id"]
                for action in told[0]["decision"].get("actions", ())
                if action["status"] == "granted" and action["action"]["type"] == "quarantine"
            ]
            return {outcome["id"] for outcome in told[0].get("outcomes", ())} >= set(granted)

        wait_for(settled, what=f"the outcome of {identifier}")
        return told[0]

    def told(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the webhook's receiver was told about this event."""
        received = self.listener.wait_for(record["event"]["id"], 20)
        assert received is not None
        assert received.verified
        return received.body

    def quarantined(self) -> list[dict[str, Any]]:
        held: list[dict[str, Any]] = self.quell.ask("GET", "/v1/quarantines")["items"]
        return held


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        containers = stack.enter_context(podman(tmp_path_factory.mktemp("podman")))
        container = stack.enter_context(_cabled(containers))
        before = dict(os.environ)
        os.environ.update(containers.environment)
        stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        listener = stack.enter_context(Listener())
        quell = Quell(tmp_path_factory.mktemp("quell"))
        stack.callback(quell.close)
        quell.start_controller()
        quell.enrol()
        workload = f"/v1/workloads/{container.id}"
        wait_for(lambda: _is_known(quell, workload), what="the container in the inventory")
        yield Stage(quell, listener, container)


@contextlib.contextmanager
def _cabled(containers: Podman) -> Iterator[Container]:
    identity = containers.run("alpinepython")
    pid = containers("container", "inspect", "--format", "{{.State.Pid}}", identity)
    peer = f"quell-examples-{os.getpid()}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", peer)
    try:
        ip("-n", peer, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("-n", peer, "address", "add", "10.79.0.2/24", "dev", "eth0")
        ip("-n", peer, "link", "set", "eth0", "up")
        inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
        subprocess.run([*inside, "address", "add", "10.79.0.1/24", "dev", "eth0"], check=True)
        subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
        yield Container(id=identity, peer=peer)
    finally:
        ip("netns", "del", peer)


def _is_known(quell: Quell, path: str) -> bool:
    with contextlib.suppress(Exception):
        return bool(quell.ask("GET", path))
    return False


def the_container(stage: Stage, **more: Any) -> dict[str, Any]:
    return {"node": NODE, "namespace": "default", "container": {"id": stage.container.id}, **more}


def statuses(record: dict[str, Any]) -> dict[str, str]:
    return {action["action"]["type"]: action["status"] for action in record["decision"].get("actions", ())}


def package_updated(stage: Stage) -> dict[str, Any]:
    """As Falco's http_output posts it."""
    return {
        "time": datetime.now(UTC).isoformat(),
        "rule": "Launch Package Management Process in Container",
        "priority": "Error",
        "source": "syscall",
        "hostname": NODE,
        "output": "Package management process launched in container (apk add curl)",
        "output_fields": {
            "container.id": stage.container.id[:12],
            "container.name": "alpinepython",
            "k8s.ns.name": "default",
            "proc.name": "apk",
            "proc.cmdline": "apk add curl",
        },
    }


def scan(stage: Stage, vulnerabilities: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "Container.Scan.Report",
        "time": time.time(),
        "subject": the_container(stage),
        "details": {"report": "container", "vulnerabilities": vulnerabilities},
    }


def highs(count: int) -> list[dict[str, Any]]:
    return [{"name": f"CVE-2021-{4000 + number}", "severity": "High"} for number in range(count)]


def test_a_package_updated_in_one_group_cuts_its_container_off(stage: Stage) -> None:
    stage.apply("package-updated.yaml")
    assert stage.container.reaches()
    elsewhere = package_updated(stage)
    elsewhere["output_fields"]["k8s.ns.name"] = "test"
    assert statuses(stage.send(elsewhere, "falco")) == {}

    record = stage.send(package_updated(stage), "falco")
    assert statuses(record) == {"quarantine": "granted", "webhook": "granted"}
    assert not stage.container.reaches()
    (match,) = record["decision"]["matches"]
    assert match["name"] == "package-updated-in-alpinepython"
    body = stage.told(record)
    assert (body["name"], body["workload_id"], body["comment"]) == (
        "Container.Package.Updated",
        stage.container.id,
        "A package was updated in a running container",
    )
    assert [rule["name"] for rule in body["rules"]] == ["package-updated-in-alpinepython"]
    stage.apply("admission-denied.yaml")
    wait_for(stage.container.reaches, what="the network, once the rule is gone")


def test_more_than_five_high_vulnerabilities(stage: Stage) -> None:
    stage.apply("many-high-cves.yaml")
    assert statuses(stage.send(scan(stage, highs(5)))) == {}
    assert stage.container.reaches()

    critical = {"name": "CVE-2021-44228", "severity": "Critical"}
    record = stage.send(scan(stage, [*highs(5), critical]))
    assert statuses(record) == {"quarantine": "granted", "webhook": "granted"}
    assert not stage.container.reaches()
    body = stage.told(record)
    assert (body["high_vul_cnt"], body["critical_vul_cnt"]) == (5, 1)
    stage.apply("admission-denied.yaml")
    wait_for(stage.container.reaches, what="the network, once the rule is gone")


@pytest.mark.parametrize("name", ["CVE-2018-12", "CVE-2018-1200", "cve-2018-12020"])
def test_a_vulnerability_by_the_beginning_of_its_name(stage: Stage, name: str) -> None:
    stage.apply("cve-by-name.yaml")
    assert statuses(stage.send(scan(stage, [{"name": "CVE-2018-2112", "severity": "High"}]))) == {}
    record = stage.send(scan(stage, [*highs(1), {"name": name, "severity": "Low"}]))
    assert statuses(record) == {"webhook": "granted"}
    assert stage.told(record)["name"] == "Container.Scan.Report"


def benchmark(name: str, subject: dict[str, Any], number: str, failed: bool) -> dict[str, Any]:
    item = {"number": number, "failed": failed, "result": "WARN" if failed else "PASS", "text": "read only root"}
    return {"name": name, "time": time.time(), "subject": subject, "details": {"items": [item]}}


def test_benchmark_5_12(stage: Stage) -> None:
    stage.apply("benchmark-5.12.yaml")
    of_container = the_container(stage)
    for number, failed in (("D.5.12", False), ("D.5.1", True), ("D.15.12", True)):
        passed = benchmark("Compliance.Container.Violation", of_container, number, failed)
        assert statuses(stage.send(passed)) == {}
    assert stage.container.reaches()

    of_host = stage.send(benchmark("Compliance.Host.Violation", {"node": NODE}, "K.5.12", failed=True))
    assert statuses(of_host) == {"quarantine": "refused", "webhook": "granted"}
    (refused,) = [one for one in of_host["decision"]["actions"] if one["status"] == "refused"]
    assert refused["reason"] == "not-applicable"

    record = stage.send(benchmark("Compliance.Container.Violation", of_container, "D.5.12", failed=True))
    assert statuses(record) == {"quarantine": "granted", "webhook": "granted"}
    assert not stage.container.reaches()
    assert stage.told(record)["items"] == ["D.5.12 read only root"]
    stage.apply("admission-denied.yaml")
    wait_for(stage.container.reaches, what="the network, once the rule is gone")


def test_admission_denied(stage: Stage) -> None:
    stage.apply("admission-denied.yaml")
    review: Callable[[str], dict[str, Any]] = lambda name: {  # noqa: E731 - the same event under two names
        "name": name,
        "time": time.time(),
        "subject": {"namespace": "default"},
        "details": {"user": "dev", "operation": "CREATE", "object": "Pod default/miner", "images": ["miner:1"]},
    }
    assert statuses(stage.send(review("Admission.Control.Allowed"))) == {}
    record = stage.send(review("Admission.Control.Denied"))
    assert statuses(record) == {"webhook": "granted"}
    body = stage.told(record)
    assert (body["name"], body["user"], body["image"]) == ("Admission.Control.Denied", "dev", "miner:1")


def test_an_event_by_its_name_and_level(stage: Stage) -> None:
    stage.apply("event-by-name-and-level.yaml")
    login: Callable[[str], dict[str, Any]] = lambda level: {  # noqa: E731 - the same event at two levels
        "name": "User.Login.Failed",
        "level": level,
        "time": time.time(),
        "details": {"message": "login of eve failed", "user": "eve"},
    }
    assert statuses(stage.send(login("Info"))) == {}
    record = stage.send(login("Warning"))
    assert statuses(record) == {"webhook": "granted"}
    body = stage.told(record)
    assert (body["name"], body["level"], body["user"]) == ("User.Login.Failed", "Warning", "eve")

    job = {"name": "Container.Start", "level": "Info", "time": time.time(), "subject": {"namespace": "jobs"}}
    quiet = stage.send(job)
    assert quiet["decision"]["suppressed"]


def test_unquarantine_by_deleting_the_rule(stage: Stage) -> None:
    stage.apply("unquarantine-by-deleting.yaml")
    tunnel = {"name": "Container.Tunnel.Detected", "time": time.time(), "subject": the_container(stage)}
    record = stage.send(tunnel)
    assert statuses(record) == {"quarantine": "granted"}
    assert not stage.container.reaches()
    (held,) = stage.quarantined()
    (match,) = record["decision"]["matches"]
    assert list(held["holders"]) == [match["ref"]]

    path = "/v1/documents/ResponseRule/tunnel-in-container"
    (kept,) = stage.quell.ask("DELETE", path, params={"dry_run": "true"})
    assert "stays in quarantine" in " ".join(kept["warnings"])
    (deleted,) = stage.quell.ask("DELETE", path, params={"unquarantine": "true"})
    assert "is released" in " ".join(deleted["warnings"])
    wait_for(stage.container.reaches, what="the network, once the rule is deleted")
    wait_for(lambda: not stage.quarantined(), what="the end of the quarantine")


def test_no_example_is_left_out() -> None:
    text = Path(__file__).read_text()
    assert [
        path.name for path in EXAMPLES.glob("*.yaml") if path.name != "endpoint.yaml" and path.name not in text
    ] == []
