"""The guardian with a real controller, a real agent and podman's containers: from an execution to what is done about it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guarded import SECONDS, Guarded
from running import wait_for
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.system.workloads import service

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.timeout(300)]

POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: sleepers, type: container}}
spec:
  mode: {mode}
  containerSelector: {{matchFields: {{image: "{image}"}}}}
  processPolicy:
    - {{id: sleep, name: sleep, exe: ["*/busybox"], euser: [root]}}
  response:
    default: [{{agentKillProcess: {{}}}}, {{makeRedFlag: {{severity: high}}}}]
"""


def policy(mode: str) -> str:
    return POLICY.format(mode=mode, image=IMAGE)


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One test of this file at a time: each one's agent sees the containers of all, which have the same image."""
    with (tmp_path_factory.getbasetemp().parent / "guardian-containers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Podman]:
    place = tmp_path / "podman"
    place.mkdir()
    with podman(place) as made:
        yield made


@pytest.fixture
def quell(tmp_path: Path, containers: Podman) -> Iterator[Guarded]:
    places = {name: value for name, value in containers.environment.items() if name.startswith("CONTAINERS_")}
    running = Guarded(tmp_path, places)
    running.start_controller()
    try:
        running.enrol()
        yield running
    except BaseException:
        sys.stderr.write(running.log())
        raise
    finally:
        running.close()


def execute(containers: Podman, name: str, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["podman", "exec", name, *words],
        env=containers.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ended(process: subprocess.Popen[bytes], seconds: float = SECONDS) -> int:
    return process.wait(seconds)


def test_a_deviant_process_in_a_container_is_killed_and_the_expected_one_stays(
    quell: Guarded, containers: Podman
) -> None:
    quell.apply(policy("enforce"))
    containers.run("web")
    # It is not sleep by that name: a shell that only waits.
    assert ended(execute(containers, "web", "sh", "-c", "read x < /dev/zero; while :; do :; done")) == 137
    assert containers("inspect", "--format", "{{.State.Running}}", "web") == "true"
    [deviation] = quell.deviations()
    assert (deviation["policy"], deviation["what"], deviation["count"]) == ("sleepers", "process", 1)
    assert deviation["subject"]["image"] == IMAGE
    assert deviation["subject"]["process"]["name"] == "sh"
    assert deviation["addition"]["processPolicy"][0]["name"] == "sh"
    told = quell.ask("GET", f"/v1/events/{deviation['event_id']}")
    assert [each["status"] for each in told["decision"]["actions"]] == ["granted", "granted"]
    [outcome] = quell.outcomes(deviation["event_id"])
    assert outcome["status"] == "done"
    [flag] = [each for each in quell.ask("GET", "/v1/flags")["items"] if each["flag_class"] == "red"]
    assert flag["event_id"] == deviation["event_id"]


def test_audit_does_nothing_and_a_restart_of_the_controller_keeps_counts(quell: Guarded, containers: Podman) -> None:
    quell.apply(policy("audit"))
    containers.run("web")
    # One child each while nobody kills it: what is being made has its name for a moment, and may be seen then.
    running = [execute(containers, "web", "sh", "-c", "while :; do sleep 600; done") for _ in range(3)]
    try:
        wait_for(lambda: quell.count("sh") == 3, SECONDS, "three deviations")
        assert all(process.poll() is None for process in running)
        # Each sleep below a shell deviates too: it is expected as a root only.
        assert len([each for each in quell.found() if each["subject"]["process"]["name"] == "sh"]) == 1
        [record] = [each for each in quell.deviations() if each["subject"]["process"]["name"] == "sh"]
        actions = quell.ask("GET", f"/v1/events/{record['event_id']}")["decision"]["actions"]
        assert {(each["status"], each["reason"]) for each in actions} == {("refused", "audit")}
        assert quell.ask("GET", "/v1/flags")["items"] == []
        quell.kill(quell.controller, 15)
        quell.start_controller()
        wait_for(quell.linked, what="the agent's link")
        # What still runs is told of again, and counted once.
        more = execute(containers, "web", "sh", "-c", "while :; do sleep 600; done")
        running.append(more)
        wait_for(lambda: quell.count("sh") == 4, SECONDS, "the fourth")
        quell.apply(policy("enforce"))
        # What runs already is acted on as well.
        assert [ended(process) for process in running] == [137] * 4
        assert quell.count("sh") == 4
    finally:
        for process in running:
            process.kill()


def test_the_first_process_of_a_container_is_compared_though_its_image_is_known_later(
    quell: Guarded, containers: Podman
) -> None:
    quell.apply(policy("enforce"))
    started = containers(
        "run", "--detach", "--name", "shell", "--network=none", "--entrypoint", "sh", IMAGE, "-c", LOOP
    )
    wait_for(lambda: quell.count("sh") == 1, SECONDS, "the deviation")
    [deviation] = [each for each in quell.deviations() if each["subject"]["process"]["name"] == "sh"]
    assert (deviation["subject"]["container"]["id"], deviation["unproven"]) == (started, "")
    [outcome] = quell.outcomes(deviation["event_id"])
    assert (outcome["status"], outcome["facts"]["name"]) == ("done", "sh")


LOOP = "while :; do :; done"


def test_a_flood_of_deviant_processes_is_bounded(quell: Guarded, containers: Podman) -> None:
    quell.apply(policy("audit"))
    containers.run("web")
    flood = "i=0; while [ $i -lt 500 ]; do /bin/sh -c 'sleep 0.01'; i=$((i+1)); done"
    assert ended(execute(containers, "web", "sh", "-c", flood)) == 0
    wait_for(lambda: settled(quell), SECONDS, "the end of the flood")
    # Two shells and what they run, each one event, and what was found before the image was known to be the policy's.
    found, kept = quell.found(), quell.deviations()
    assert len(found) == len(kept) <= 6, [each["message"] for each in kept]
    assert sum(each["count"] for each in kept) >= 100


def settled(quell: Guarded) -> bool:
    before = [each["count"] for each in quell.deviations()]
    time.sleep(0.5)  # nothing tells when the last execution was told of
    return bool(before) and before == [each["count"] for each in quell.deviations()]


def test_a_service_of_the_machine_is_guarded_too(quell: Guarded) -> None:
    with service() as unit:
        quell.apply(f"""
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: unit, type: linux-service}}
spec:
  mode: enforce
  serviceSelector: {{matchFields: {{cgroup: "{unit.cgroup}"}}}}
  processPolicy:
    - {{id: sleep, name: sleep, exe: ["*"], euser: [root]}}
    # Each of them enters the group as a shell, and a busy agent may come to look just then.
    - {{id: shell, name: sh, exe: ["*"], euser: [root]}}
  response: {{default: [{{agentKillProcess: {{}}}}]}}
""")
        with unit.started("sleep", "600") as expected, unit.started(sys.executable, "-c", "input()") as deviant:
            wait_for(lambda: deviant.poll() is not None, SECONDS, "the end of the deviant process")
            assert deviant.returncode == -9
            assert expected.poll() is None
        found = quell.deviations()
        assert len(found) == 1, found
        [deviation] = found
        assert deviation["name"] == "Host.Process.Violation"
        assert deviation["subject"]["process"]["pid"] == deviant.pid
