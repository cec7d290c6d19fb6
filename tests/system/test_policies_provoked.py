"""The examples of policies: each file of examples/policies applied, provoked with real processes, and seen to act.

A controller and an agent as processes, and podman's containers of an image in which `web` is expected and nothing else: its
shell is a real bash, its netcat busybox's. What deviates is found by the agent's sensor and the guardian.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from tests.system.podman import Podman, missing, podman
from tests.system.running import NODE, Quell, wait_for

from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import read_process, read_stat

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
IMAGE = "localhost/shop-web:1"
#: A program that no other test's containers have: a flag is made once an hour for all that deviates alike, and an agent
#: sees the containers of other tests too.
ODD = f"odd-{os.getpid()}"
SECONDS = 60.0


def _lacking() -> str:
    lacking = [program for program in ("bash", "catatonit") if which(program) is None]
    return missing() or (f"not installed: {' '.join(lacking)}" if lacking else "")


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(_lacking()), reason=_lacking()),
    pytest.mark.timeout(300),
]


class Shop(Quell):
    """With the sensor, podman's containers, and a pod or container for each example."""

    def __init__(self, folder: Path, containers: Podman) -> None:
        super().__init__(folder)
        self.podman = containers
        self._count = 0

    def start_agent(self, fault: str = "", token: str = "") -> None:
        words = ["-m", "quell.agent", "--url", self.url, "--state", str(self.folder / "agent"), "--node", NODE]
        more = {"QUELL_JOIN_TOKEN": token} if token else {}
        places = {name: value for name, value in self.podman.environment.items() if name.startswith("CONTAINERS_")}
        self.agent = self._start(words, "agent.log", fault, {**places, **more})

    def apply(self, name: str) -> None:
        """The example; those before it are gone."""
        self.ask("POST", "/v1/documents?source=examples&prune=true", content=(EXAMPLES / name).read_text())

    def pod(self) -> str:
        self._count += 1
        return self.podman("pod", "create", "--name", f"pod-{self._count}", "--infra-image", IMAGE, "--network", "none")

    def web(self, *options: str) -> str:
        """The id of a container that runs web, and that the inventory knows with its image."""
        self._count += 1
        network = () if options else ("--network", "none")
        identity = self.podman("run", "--detach", "--name", f"web-{self._count}", *network, *options, IMAGE)
        wait_for(lambda: self._knows(identity), SECONDS, "the container in the inventory")
        return identity

    def execute(self, container: str, *words: str) -> None:
        self.podman("exec", "--detach", container, *words)

    def record(self, container: str, name: str) -> dict[str, Any]:
        """What was made of the deviation of the process with this name, once its commands have their outcomes."""
        found: list[dict[str, Any]] = []

        def is_settled() -> bool:
            for event in self.ask("GET", "/v1/events", params={"source": "guardian", "limit": 1000})["items"]:
                subject = event["subject"]
                if (subject["container"]["id"], subject["process"]["name"]) == (container, name):
                    record = self.ask("GET", f"/v1/events/{event['id']}")
                    told = {outcome["id"] for outcome in record.get("outcomes", ())}
                    sent = [each for each in record["decision"].get("actions", ()) if each.get("agent")]
                    if told >= {each["id"] for each in sent if each["status"] == "granted"}:
                        found[:] = [record]
            return bool(found)

        wait_for(is_settled, SECONDS, f"the record of {name}")
        return found[0]

    def running(self, container: str, part: str = "") -> list[int]:
        """Processes of a container whose command line has this part; those that have ended left out."""
        found = []
        for pid in LinuxKernel().members(container_id=container):
            stat, facts = read_stat(pid), read_process(pid)
            if (
                stat is not None
                and facts is not None
                and stat.state not in "ZX"
                and part in (facts.process.cmdline or "")
            ):
                found.append(pid)
        return found

    def gone(self, container: str, part: str = "") -> None:
        wait_for(lambda: not self.running(container, part), SECONDS, f"the end of {part or 'the container'}")

    def there(self, container: str, part: str) -> int:
        wait_for(lambda: bool(self.running(container, part)), SECONDS, part)
        return self.running(container, part)[0]

    def _knows(self, identity: str) -> bool:
        found = [each for each in self.ask("GET", "/v1/workloads")["items"] if each["id"] == identity]
        # With its labels the pod is known that it is in: podman has been asked.
        return any(each.get("image") == IMAGE and each["running"] and each.get("labels") is not None for each in found)


def _build(containers: Podman) -> None:
    """What waits is catatonit, under two names; bash comes with the libraries that it is linked to."""
    archive = containers.folder / "shop-web.tar"
    linked = subprocess.run(["ldd", which("bash") or ""], check=True, capture_output=True, text=True).stdout
    with tarfile.open(archive, "w", dereference=True) as image:
        image.add(which("busybox") or "", "bin/busybox")
        image.add(which("bash") or "", "bin/bash")
        for name in ("usr/local/bin/web", f"bin/{ODD}"):
            image.add(which("catatonit") or "", name)
        for library in re.findall(r"(/\S+)", linked):
            image.add(library, library.lstrip("/"))
        for applet in ("sleep", "nc", "setsid"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            image.addfile(link)
    containers("import", "--change", 'ENTRYPOINT ["/usr/local/bin/web", "-P"]', str(archive), IMAGE)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with podman(tmp_path_factory.mktemp("podman")) as containers:
        _build(containers)
        running = Shop(tmp_path_factory.mktemp("quell"), containers)
        running.start_controller()
        try:
            running.enrol()
            yield running
        except BaseException:
            sys.stderr.write(running.log())
            raise
        finally:
            running.close()


@pytest.fixture(autouse=True)
def empty(shop: Shop) -> Iterator[None]:
    yield
    shop.podman("pod", "rm", "--all", "--force", "--time", "0")
    shop.podman("rm", "--all", "--force", "--time", "0")


def asked(record: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Action -> its status, and its outcome's if it has one."""
    told = {outcome["id"]: outcome["status"] for outcome in record.get("outcomes", ())}
    actions = record["decision"].get("actions", ())
    return {each["action"]["type"]: (each["status"], told.get(each["id"], "")) for each in actions}


def facts(record: dict[str, Any]) -> dict[str, Any]:
    (outcome,) = record["outcomes"]
    return dict(outcome["facts"])


def test_pods_in_which_netcat_deviates_end(shop: Shop) -> None:
    shop.apply("kill-pods-running-netcat.yaml")
    attacked, other = shop.pod(), shop.pod()
    first, second = shop.web("--pod", attacked), shop.web("--pod", attacked)
    beside = shop.web("--pod", other)
    shop.execute(beside, "bash", "-c", "sleep 300; :")
    assert asked(shop.record(beside, "bash")) == {}
    shop.execute(first, "nc", "-l", "-p", "4444")
    assert asked(shop.record(first, "nc")) == {"agentKillPod": ("granted", "done")}
    shop.gone(first)
    shop.gone(second)
    assert shop.running(beside, "web")


def test_every_pod_with_a_deviation_ends_and_a_container_without_a_pod_does_not(shop: Shop) -> None:
    shop.apply("kill-every-deviating-pod.yaml")
    inside, lone = shop.web("--pod", shop.pod()), shop.web()
    shop.execute(lone, "sleep", "300")
    assert asked(shop.record(lone, "sleep")) == {"agentKillPod": ("refused", "")}
    shop.execute(inside, "sleep", "300")
    assert asked(shop.record(inside, "sleep")) == {"agentKillPod": ("granted", "done")}
    shop.gone(inside)
    assert len(shop.running(lone)) == 2


def test_deviant_bash_ends_alone(shop: Shop) -> None:
    shop.apply("kill-deviant-bash.yaml")
    web = shop.web()
    shop.execute(web, "bash", "-c", "sleep 300; :")
    shop.execute(web, "sleep", "301")
    assert asked(shop.record(web, "bash")) == {"agentKillProcess": ("granted", "done")}
    shop.gone(web, "bash")
    assert asked(shop.record(web, "sleep")) == {}
    assert shop.running(web, "sleep 301")
    assert shop.running(web, "/usr/local/bin/web")


def test_every_deviant_process_ends(shop: Shop) -> None:
    shop.apply("kill-every-deviant-process.yaml")
    web = shop.web()
    # Its child has another name: of two that sleep the one of bash may end with it, before its own kill.
    shop.execute(web, "bash", "-c", "nc -l -p 4445; :")
    shop.execute(web, "sleep", "301")
    for name in ("bash", "sleep"):
        record = shop.record(web, name)
        assert asked(record) == {"agentKillProcess": ("granted", "done")}, record["outcomes"]
        shop.gone(web, name)
    shop.gone(web, "nc -l")
    assert len(shop.running(web)) == 1


def test_the_group_of_deviant_bash_ends_with_it(shop: Shop) -> None:
    shop.apply("kill-the-group-of-deviant-bash.yaml")
    web = shop.web()
    shop.execute(web, "sleep", "302")  # in a group of its own
    shop.there(web, "sleep 302")
    shop.execute(web, "bash", "-c", "sleep 300 & sleep 301 & wait")
    record = shop.record(web, "bash")
    assert asked(record) == {"agentKillProcessGroup": ("granted", "done")}
    for part in ("bash", "sleep 300", "sleep 301"):
        shop.gone(web, part)
    assert shop.running(web, "sleep 302")


def test_the_group_of_every_deviant_process_ends(shop: Shop) -> None:
    shop.apply("kill-the-group-of-every-deviant-process.yaml")
    web = shop.web()
    shop.execute(web, "bash", "-c", "sleep 300 & sleep 301 & wait")
    assert asked(shop.record(web, "bash"))["agentKillProcessGroup"][0] == "granted"
    wait_for(lambda: len(shop.running(web)) == 1, SECONDS, "the end of the group")
    assert shop.running(web, "/usr/local/bin/web")


def test_the_tree_of_every_deviant_process_ends_with_what_left_its_group(shop: Shop) -> None:
    shop.apply("kill-the-tree-of-every-deviant-process.yaml")
    web = shop.web()
    shop.execute(web, "bash", "-c", "setsid sleep 300 & (sleep 301 &); wait")
    assert asked(shop.record(web, "bash"))["agentKillProcessTree"][0] == "granted"
    wait_for(lambda: len(shop.running(web)) == 1, SECONDS, "the end of the tree")
    assert shop.running(web, "/usr/local/bin/web")


def test_every_deviant_process_gets_another_priority(shop: Shop) -> None:
    shop.apply("renice-every-deviant-process.yaml")
    web = shop.web()
    shop.execute(web, "bash", "-c", "sleep 300; :")
    pid = shop.there(web, "bash")
    record = shop.record(web, "bash")
    assert asked(record) == {"agentReniceProcess": ("granted", "done")}
    assert (facts(record)["pid"], facts(record)["priority"]) == (pid, 19)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert asked(shop.record(web, "sleep")) == {"agentReniceProcess": ("granted", "done")}
    assert len(shop.running(web)) == 3


@pytest.mark.parametrize(
    ("name", "action", "flag_class", "severity", "content"),
    [
        ("red-flag.yaml", "makeRedFlag", "red", "high", "process tree"),
        ("ops-flag.yaml", "makeOpsFlag", "ops", "medium", "learn its policy"),
    ],
)
def test_a_flag_is_made_and_nothing_ends(
    shop: Shop, name: str, action: str, flag_class: str, severity: str, content: str
) -> None:
    shop.apply(name)
    web = shop.web()
    shop.execute(web, ODD, "-P")
    record = shop.record(web, ODD)
    assert asked(record) == {action: ("granted", "")}
    flags = shop.ask("GET", "/v1/flags", params={"limit": 1000})["items"]
    (flag,) = [each for each in flags if each["event_id"] == record["event"]["id"]]
    assert (flag["flag_class"], flag["severity"]) == (flag_class, severity)
    assert content in flag["content"]
    assert len(shop.running(web)) == 2


def test_no_example_is_left_out() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.yaml") if path.name not in text] == []
