"""A crash at any step and a restart lose nothing acknowledged and leave what no crash would have left. SEMANTICS section 9."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.running import Quell, Receiver, Victim, rules, wait_for

from quell import faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: kill -9 at random moments; each kills the controller, the agent or both. With those of test_kubernetes_crash.py: 100.
ROUNDS = 85
#: In so many tests, which may run beside each other.
PARTS = 5


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Of all tests: it tells their deliveries apart by their events."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Path:
    """The folder of a Quell that has its rules and its agent, and is stopped: each test begins with a copy."""
    running = Quell(tmp_path_factory.mktemp("enrolled"))
    try:
        running.start_controller()
        running.ask("POST", "/v1/documents", content=rules(receiver.url))
        running.enrol()
        running.stop()
    except BaseException:
        sys.stdout.write(running.log())
        raise
    finally:
        running.close()
    return running.folder


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Like every victim in all but its pid and start."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    assert process.poll() is None, "a process that no event named was killed"
    process.kill()
    process.wait()


@pytest.fixture
def quell(tmp_path: Path, enrolled: Path) -> Iterator[Quell]:
    """Set up: enrolled, with its rules, and stopped."""
    running = Quell(Path(shutil.copytree(enrolled, tmp_path / "quell")))
    try:
        yield running
    except BaseException:
        sys.stdout.write(running.log())
        raise
    finally:
        running.close()


def post(quell: Quell, content: bytes) -> bool:
    """Whether it was acknowledged."""
    try:
        quell.ask("POST", "/v1/events", content=content)
    except httpx.HTTPError:
        return False
    return True


def up(quell: Quell) -> bool:
    """The agent is linked; before that a kill would be refused for want of an agent."""
    try:
        return quell.linked()
    except httpx.HTTPError:
        return False


def record(quell: Quell, identifier: str) -> dict[str, Any]:
    told: dict[str, Any] = quell.ask("GET", f"/v1/events/{identifier}")
    return told


def settled(quell: Quell, identifier: str) -> bool:
    """Both the kill and the delivery have their outcome."""
    try:
        return len({outcome["id"] for outcome in record(quell, identifier).get("outcomes", [])}) == 2
    except httpx.HTTPError:
        return False


def assert_answered_once(quell: Quell, receiver: Receiver, victim: Victim) -> None:
    told = record(quell, victim.id)
    kill, delivery = (
        [outcome for outcome in told["outcomes"] if ("/webhook/" in outcome["id"]) is of_webhook]
        for of_webhook in (False, True)
    )
    assert [outcome["status"] for outcome in kill] in (["done"], ["gone"]), told
    assert [outcome["status"] for outcome in delivery] == ["done"], told
    assert len(told["flags"]) == 1, told
    assert victim.gone
    assert receiver.received[delivery[0]["id"]] >= 1


@pytest.mark.parametrize(
    "fault", [point for point in faults.POINTS if not point.startswith(("documents.", "kubernetes."))]
)
def test_crash_at_each_step(fault: str, quell: Quell, receiver: Receiver, bystander: subprocess.Popen[bytes]) -> None:
    of_agent = fault.startswith("agent.")
    quell.start_controller("" if of_agent else fault)
    quell.start_agent(fault if of_agent else "")
    ended = quell.agent_ended if of_agent else quell.controller_ended
    victim = Victim("crash-" + fault.replace(".", "-"))
    try:
        wait_for(lambda: ended() or up(quell), what="the agent's link")
        acknowledged = post(quell, victim.event())
        wait_for(ended, what=f"the crash at {fault}")
        if of_agent:
            quell.start_agent()
        else:
            quell.start_controller()
        wait_for(lambda: up(quell), what="the agent's link")
        while not acknowledged:
            acknowledged = post(quell, victim.event())
        wait_for(lambda: settled(quell, victim.id), what="outcomes")
        assert_answered_once(quell, receiver, victim)
    finally:
        victim.close()


@pytest.mark.parametrize("fault", [point for point in faults.POINTS if point.startswith("documents.")])
def test_crash_while_documents_are_applied(fault: str, quell: Quell, receiver: Receiver) -> None:
    """All of them are in force after the restart, or none."""
    quell.start_controller(fault)
    new = rules(receiver.url).replace("name: answer", "name: second").replace("name: hook}", "name: other}")
    new = new.replace("webhooks: [hook]", "webhooks: [other]")
    with pytest.raises(httpx.HTTPError):
        quell.ask("POST", "/v1/documents", content=new)
    wait_for(quell.controller_ended, what=f"the crash at {fault}")
    quell.start_controller()
    documents = quell.ask("GET", "/v1/documents")["items"]
    names = {name for document in documents if not (name := document["metadata"]["name"]).startswith("default-")}
    assert names == {"hook", "answer"} | ({"second", "other"} if fault.endswith("after-commit") else set())


@pytest.mark.parametrize("part", range(PARTS))
def test_kill_at_random_moments(
    part: int, quell: Quell, receiver: Receiver, bystander: subprocess.Popen[bytes]
) -> None:
    chance = random.Random(20 + part)  # noqa: S311 - the same moments each time
    rounds = ROUNDS // PARTS
    victims: list[Victim] = []
    unacknowledged: list[Victim] = []
    try:
        for number in range(rounds):
            if quell.controller_ended():
                quell.start_controller()
            if quell.agent_ended():
                quell.start_agent()
            moment = time.monotonic() + chance.uniform(0.02, 0.4)
            serial = 0
            while time.monotonic() < moment:
                victim = Victim(f"random-{part}-{number}-{serial}")
                victims.append(victim)
                time.sleep(0.011)
                for waiting in [*unacknowledged, victim]:
                    if post(quell, waiting.event()):
                        unacknowledged = [other for other in unacknowledged if other is not waiting]
                    elif waiting is victim:
                        unacknowledged.append(victim)
                serial += 1
            for process in chance.choice(([quell.controller], [quell.agent], [quell.controller, quell.agent])):
                quell.kill(process)
        quell.start_controller() if quell.controller_ended() else None
        quell.start_agent() if quell.agent_ended() else None
        for victim in unacknowledged:
            wait_for(lambda victim=victim: post(quell, victim.event()))  # type: ignore[misc]
        for victim in victims:
            wait_for(lambda victim=victim: settled(quell, victim.id), what=f"outcomes of {victim.id}")  # type: ignore[misc]
        for victim in victims:
            assert_answered_once(quell, receiver, victim)
        assert len(victims) >= rounds // 2
    finally:
        for victim in victims:
            victim.close()
