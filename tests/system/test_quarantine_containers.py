"""Quarantine of real containers by a real controller and agent, through restarts of each. SEMANTICS section 4.

The containers have no network but a cable that the test lays from each into a namespace of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from running import NODE, Quell, wait_for
from tests.system.command import Ran, quell
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.system.test_isolation import Channel, Datagrams, Frames, all_pass, ip, none_passes

from quell.agent.ledger import RELEASED
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.linux.namespace import within

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells}
spec: {event: security-event, criteria: ["name:Container.Suspicious.Process"], actions: [quarantine]}
"""
_count = iter(range(1, 1_000_000))


class Cable:
    """From a container's network namespace to one of the test's; the same addresses as quell's tests of namespaces."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.name = f"quell-{os.getpid()}-c{next(_count)}"
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            ip("netns", "add", self.name)
            self._cleanup.callback(subprocess.run, ["ip", "netns", "del", self.name], check=False, capture_output=True)
            far = ["ip", "-n", self.name]
            near = ["nsenter", f"--net=/proc/{self._pid}/ns/net", "ip"]
            self._run(*far, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(self._pid))
            for command, host in ((near, "1"), (far, "2")):
                self._run(*command, "address", "add", f"10.77.0.{host}/24", "dev", "eth0")
                self._run(*command, "address", "add", f"fd77::{host}/64", "dev", "eth0", "nodad")
                self._run(*command, "link", "set", "eth0", "up")
                self._run(*command, "link", "set", "lo", "up")
            self.files = []
            for path in (f"/proc/{self._pid}/ns/net", f"/run/netns/{self.name}"):
                self.files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            self.inode = os.fstat(self.files[0]).st_ino
            self.channels: list[Channel] = [
                Datagrams(self, socket.AF_INET),  # type: ignore[arg-type]
                Datagrams(self, socket.AF_INET6),  # type: ignore[arg-type]
                Frames(self),  # type: ignore[arg-type]
            ]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._cleanup.close()

    def let_go(self) -> None:
        """Nothing of the test keeps the container's namespace alive any more."""
        for channel in getattr(self, "channels", ()):
            for each in channel.sockets:
                each.close()
        for file in getattr(self, "files", ()):
            with contextlib.suppress(OSError):
                os.close(file)
        self.files = []

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def socket(self, side: int, *arguments: int) -> socket.socket:
        made = within(self.files[side], lambda: socket.socket(*arguments))
        made.settimeout(2.0)
        return made

    @property
    def is_open(self) -> bool:
        return all_pass(self.channels)

    @property
    def is_closed(self) -> bool:
        return none_passes(self.channels)


class Place:
    """Quell and podman, with the words that the tests need."""

    def __init__(self, quell: Quell, containers: Podman) -> None:
        self.quell = quell
        self.podman = containers
        self._events = iter(range(1, 1000))

    def run(self, *options: str) -> str:
        """The id of a new container that the inventory knows."""
        identity = self.podman.run(f"web-{next(_count)}", *options)
        self.known(identity)
        return identity

    def known(self, identity: str) -> None:
        def is_there() -> bool:
            found = [each for each in self.quell.ask("GET", "/v1/workloads")["items"] if each["id"] == identity]
            return bool(found) and found[0]["node"] == NODE and found[0]["running"] and found[0]["name"] is not None

        wait_for(is_there, what="the container in the inventory")

    def shares(self, identity: str, sandbox: str) -> None:
        """Until the inventory knows whose network namespace it is in."""

        def does() -> bool:
            found = self.quell.ask("GET", "/v1/workloads")["items"]
            return [each.get("sandbox") for each in found if each["id"] == identity] == [sandbox]

        wait_for(does, what="the namespace that the container shares")

    def pid(self, identity: str) -> int:
        return int(self.podman("inspect", "--format", "{{.State.Pid}}", identity))

    def cable(self, identity: str) -> Cable:
        return Cable(self.pid(identity))

    def rule(self) -> None:
        self.quell.ask("POST", "/v1/documents", content=RULE)

    def event(self, identity: str) -> str:
        """A detector's event with the container's short id."""
        event = {
            "id": f"e{next(self._events)}",
            "time": time.time(),
            "name": "Container.Suspicious.Process",
            "subject": {"node": NODE, "container": {"id": identity[:12]}},
        }
        self.quell.ask("POST", "/v1/events", json=event)
        return str(event["id"])

    def held(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.quell.ask("GET", "/v1/quarantines")["items"]
        return found

    def isolated(self, identity: str) -> dict[str, Any]:
        """By an event and the rule, until the agent has done it."""
        self.event(identity)
        wait_for(lambda: [each["phase"] for each in self.held()] == ["isolated"], what="the isolation")
        return self.held()[0]

    def released(self) -> None:
        wait_for(lambda: not self.held(), what="the end of the quarantine")

    def told(self, name: str) -> list[dict[str, Any]]:
        events = self.quell.ask("GET", "/v1/events", params={"limit": 1000})["items"]
        return [event for event in events if event["name"] == name]

    def told_soon(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        wait_for(lambda: len(self.told(name)) >= count, what=name)
        found = self.told(name)
        assert len(found) == count
        return found

    def restart_agent(self) -> None:
        self.quell.kill(self.quell.agent)
        wait_for(lambda: not self.quell.linked(), what="the end of the link")
        self.quell.start_agent()
        wait_for(self.quell.linked, what="the agent's link")

    def restart_controller(self) -> None:
        self.quell.kill(self.quell.controller)
        self.quell.start_controller()
        wait_for(self.quell.linked, what="the agent's link")

    def cli(self, *words: str) -> Ran:
        return quell(*words, url=self.quell.url, state=self.quell.folder / "controller")


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


@pytest.fixture
def place(containers: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"):
        monkeypatch.setenv(name, containers.environment[name])
    quell = Quell(tmp_path)
    try:
        quell.start_controller()
        quell.enrol()
        yield Place(quell, containers)
    except BaseException:
        sys.stderr.write(quell.log())
        raise
    finally:
        quell.close()
        containers("pod", "rm", "--all", "--force", "--time", "0")
        containers("rm", "--all", "--force", "--time", "0")


def test_a_rule_isolates_a_container_and_its_deletion_releases_it(place: Place) -> None:
    place.rule()
    web = place.run()
    with place.cable(web) as cable:
        assert cable.is_open
        held = place.isolated(web)
        assert cable.is_closed
        assert (held["key"], held["holders"], held["until"]) == (web, {"rule/8": None}, None)
        assert [member["id"] for member in held["workloads"]] == [web]
        assert held["name"] == held["workloads"][0]["name"]
        place.podman("exec", web, "sleep", "0")

        record = place.cli("explain", held["cause"])
        assert record.returncode == 0
        assert "asked by rule/8 → granted → done" in record.stdout
        assert "held by rule/8" in record.stdout
        [told] = place.told_soon("Container.Quarantined")
        assert told["details"]["message"] == f"Container {held['name']} ({web[:12]}) quarantined by (rule 8)"
        assert (told["details"]["rules"], told["details"]["holders"]) == ([8], ["rule/8"])
        assert told["details"]["quarantine"] == web

        answer = place.quell.ask("DELETE", "/v1/documents/rule/shells", params={"unquarantine": "true"})
        assert answer[0]["warnings"] == [f"{web} is released from quarantine"]
        place.released()
        assert cable.is_open
        [ended] = place.told_soon("Container.Unquarantined")
        assert ended["details"]["rules"] == [8]


def test_a_rule_that_is_disabled_leaves_it_to_a_person(place: Place) -> None:
    place.rule()
    web = place.run()
    with place.cable(web) as cable:
        held = place.isolated(web)
        [change] = place.quell.ask("POST", "/v1/documents", content=RULE.replace("spec: {", "spec: {disable: true, "))
        assert change["warnings"] == [f"{web} stays in quarantine, held by rule/8"]
        assert cable.is_closed
        again = place.cli("quarantines", "add", held["name"], "--comment", "it goes on")
        assert again.returncode == 0, again.stderr
        assert "it is isolated already, held by rule/8" in again.stdout

        one = place.cli("quarantines", "release", web[:12], "--rule", "8")
        assert one.stdout == (f"kept {web[:12]} ({held['name']}) on {NODE}: rule/8 let go, held by token/first-admin\n")
        assert cable.is_closed
        rest = place.cli("quarantines", "release", web[:12])
        assert rest.stdout == f"released {web[:12]} ({held['name']}) on {NODE}\n"
        place.released()
        assert cable.is_open
        assert len(place.told("Container.Quarantined")) == 1


def test_it_outlives_agent_and_controller(place: Place) -> None:
    place.rule()
    web = place.run()
    with place.cable(web) as cable:
        place.isolated(web)
        place.quell.kill(place.quell.agent)
        assert cable.is_closed
        place.restart_agent()
        assert cable.is_closed
        place.restart_controller()
        assert cable.is_closed
        assert [each["phase"] for each in place.held()] == ["isolated"]
        place.quell.kill(place.quell.agent)
        place.quell.kill(place.quell.controller)
        assert cable.is_closed
        place.quell.start_controller()
        place.quell.start_agent()
        wait_for(place.quell.linked, what="the agent's link")
        [held] = place.held()
        assert (held["phase"], held["holders"]) == ("isolated", {"rule/8": None})

        # Released while the agent is away: it is told when it comes back.
        place.quell.kill(place.quell.agent)
        place.quell.ask("DELETE", f"/v1/quarantines/{web}")
        assert [each["phase"] for each in place.held()] == ["releasing"]
        assert cable.is_closed
        place.quell.start_agent()
        place.released()
        assert cable.is_open
        place.told_soon("Container.Unquarantined")
        assert len(place.told("Container.Quarantined")) == 1


def test_a_container_that_stops_ends_it_and_starts_clean(place: Place) -> None:
    place.rule()
    web = place.run()
    with place.cable(web) as cable:
        place.isolated(web)
        assert cable.is_closed
        cable.let_go()
        place.podman("stop", "--time", "0", web)
        place.released()
    [ended] = place.told_soon("Quarantine.Ended")
    assert ended["details"]["message"].endswith("its network namespace is gone")
    assert place.told("Container.Unquarantined") == []

    place.podman("start", web)
    place.known(web)
    with place.cable(web) as cable:
        assert cable.is_open
        place.isolated(web)
        assert cable.is_closed
        cable.let_go()
        place.podman("restart", "--time", "0", web)
        place.released()
    with place.cable(web) as cable:
        assert cable.is_open


def test_a_container_restarted_in_its_pod_stays_isolated_with_the_others(place: Place) -> None:
    place.rule()
    pod = f"pod-{next(_count)}"
    place.podman("pod", "create", "--name", pod, "--infra-image", IMAGE, "--network", "none")
    first, second = place.run("--pod", pod), place.run("--pod", pod)
    infra = json.loads(place.podman("pod", "inspect", pod))["InfraContainerID"]
    place.known(infra)
    for container in (first, second):
        place.shares(container, infra)
    with place.cable(first) as cable:
        held = place.isolated(first)
        assert held["key"] == infra
        assert sorted(member["id"] for member in held["workloads"]) == sorted([first, second, infra])
        assert cable.is_closed
        before = place.pid(first)
        place.podman("restart", "--time", "0", first)
        assert place.pid(first) != before
        assert Path(f"/proc/{place.pid(first)}/ns/net").stat().st_ino == cable.inode
        time.sleep(2.5)  # the agent looks every second whether anything has ended
        assert [each["phase"] for each in place.held()] == ["isolated"]
        assert cable.is_closed
        place.known(first)
        joined = place.quell.ask("GET", f"/v1/events/{place.event(second)}")["decision"]["actions"]
        assert [record["explanation"] for record in joined] == ["it is isolated already, held by rule/8"]
        place.quell.ask("POST", "/v1/quarantines/release", json={"all": True})
        place.released()
        assert cable.is_open


def test_a_lease_ends_alone_and_a_person_on_the_machine_ends_it(place: Place) -> None:
    web = place.run()
    with place.cable(web) as cable:
        asked = place.quell.ask("POST", "/v1/quarantines", json={"workload": web[:12], "ttl": 2})
        assert asked["decision"]["actions"][0]["status"] == "granted"
        wait_for(lambda: [each["phase"] for each in place.held()] == ["isolated"], what="the isolation")
        assert cable.is_closed
        place.quell.kill(place.quell.controller)
        wait_for(lambda: cable.is_open, what="the end of the lease, without a controller")
        place.quell.start_controller()
        place.released()
        place.told_soon("Container.Unquarantined")

        wait_for(place.quell.linked, what="the agent's link")
        place.quell.ask("POST", "/v1/quarantines", json={"workload": web})
        wait_for(lambda: [each["phase"] for each in place.held()] == ["isolated"], what="the isolation")
        kernel = LinuxKernel()
        # What `quell agent release --all` does, to this one namespace: other tests isolate on this machine too.
        assert kernel.release(cable.files[0])
        wait_for(lambda: cable.is_closed, what="the end of what nobody was to open")
        (place.quell.folder / "agent" / RELEASED).touch()
        assert kernel.release(cable.files[0])
        place.released()
        assert cable.is_open
        assert not (place.quell.folder / "agent" / RELEASED).exists()
        place.told_soon("Container.Unquarantined", 2)


def test_a_container_that_flushes_its_tables_is_isolated_again_within_a_second(place: Place) -> None:
    place.rule()
    web = place.run("--cap-add", "NET_ADMIN")
    with place.cable(web) as cable:
        place.isolated(web)
        assert cable.is_closed
        if shutil.which("nft") is None:
            pytest.skip("needs nft to tamper")
        flushed = time.monotonic()
        subprocess.run(["nsenter", f"--net=/proc/{place.pid(web)}/ns/net", "nft", "flush", "ruleset"], check=True)
        kernel = LinuxKernel()
        wait_for(lambda: kernel.look(cable.files[0]).closed, what="the isolation anew")
        assert time.monotonic() - flushed < 1.5, "a second, and what this test itself takes"
        assert cable.is_closed
        [told] = place.told_soon("Quarantine.Tampered")
        assert told["details"]["quarantine"] == web
        assert [each["phase"] for each in place.held()] == ["isolated"]


def test_an_investigator_reaches_a_container_that_nobody_else_does(place: Place) -> None:
    place.rule()
    web = place.run()
    place.podman("exec", "--detach", web, "sh", "-c", "exec busybox nc -ll -p 8080 -e /bin/busybox cat")
    with place.cable(web) as cable:

        def echoes(source: str) -> bool:
            """A line to the container and back."""
            with cable.socket(1, socket.AF_INET, socket.SOCK_STREAM) as client:
                try:
                    client.settimeout(1.0)
                    client.bind((source, 0))
                    client.connect(("10.77.0.1", 8080))
                    client.sendall(b"who is there\n")
                    return client.recv(100) == b"who is there\n"
                except OSError:
                    return False

        ip("-n", cable.name, "address", "add", "10.77.0.3/24", "dev", "eth0")
        wait_for(lambda: echoes("10.77.0.3"), what="the server in the container")
        place.isolated(web)
        assert not echoes("10.77.0.2")
        let_in = place.cli("quarantines", "add", web[:12], "--investigator", "10.77.0.2")
        assert let_in.returncode == 0, let_in.stdout
        assert "10.77.0.2" in let_in.stdout
        wait_for(lambda: echoes("10.77.0.2"), what="the investigator's connection")
        assert not echoes("10.77.0.3")
        assert cable.is_closed, "datagrams and frames, that address's too"
        out = ["exec", web, "busybox", "nc", "-w", "1", "10.77.0.2", "22"]
        with cable.socket(1, socket.AF_INET, socket.SOCK_STREAM) as server:
            server.bind(("10.77.0.2", 22))
            server.listen()
            server.settimeout(0.3)
            with contextlib.suppress(AssertionError):
                place.podman(*out)
            with pytest.raises(TimeoutError):
                server.accept()
        # The person lets go, the rule does not.
        place.quell.ask("DELETE", f"/v1/quarantines/{web}", params={"holder": "token/first-admin"})
        wait_for(lambda: not echoes("10.77.0.2"), what="the end of the investigator's way in")
        assert cable.is_closed
        place.quell.ask("POST", "/v1/quarantines/release", json={"all": True})
        place.released()
        assert cable.is_open
        wait_for(lambda: echoes("10.77.0.3"), what="the server for everybody")


def test_what_a_person_may_not_isolate(place: Place) -> None:
    host = place.run("--network", "host")
    done = place.cli("quarantines", "add", host, "-o", "json")
    assert done.returncode == 1
    (record,) = json.loads(done.stdout)["decision"]["actions"]
    assert (record["status"], record["reason"]) == ("refused", "host-network")
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            time.sleep(0.05)
            ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
            words = ("--node", NODE, "--pid", str(process.pid), "--start-ticks", ticks)
            done = place.cli("quarantines", "add", *words, "-o", "json")
        finally:
            process.kill()
    assert done.returncode == 1
    explained = json.loads(done.stdout)
    assert explained["decision"]["actions"][0]["status"] == "granted", "only the agent knows which namespace it is in"
    assert [(each["status"], each["reason"]) for each in explained["outcomes"]] == [("refused", "host-network")]
    assert place.held() == []
