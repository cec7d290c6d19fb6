"""A crash at each step of a pod's kill, and a restart: the pod is ended, and its successor never is. SEMANTICS section 9."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pods import RULE, SHOP, PodCluster, settings
from running import Quell, wait_for
from tests.support.kubernetes.server import serving
from tests.support.kubernetes.statuses import Failure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

POINTS = (
    "journal.before-commit",
    "journal.after-commit",
    "kubernetes.before-send",
    "kubernetes.after-send",
    "outcome.before-commit",
    "outcome.after-commit",
)
#: kill -9 at random moments.
ROUNDS = 15


@pytest.fixture
def standin() -> Iterator[PodCluster]:
    with serving(PodCluster()) as standin:
        assert isinstance(standin, PodCluster)
        yield standin


@pytest.fixture
def quell(tmp_path: Path, standin: PodCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quell]:
    """Set up with its rule, and stopped. Commands live as long as a test on a busy machine may take."""
    for name, value in settings(standin, tmp_path, **{"safety.command_ttl": "10m"}).items():
        monkeypatch.setenv(f"QUELL_{name.replace('.', '_').upper()}", str(value))
    running = Quell(tmp_path)
    try:
        running.start_controller()
        running.ask("POST", "/v1/documents", content=RULE.replace("GRACE", "0"))
        running.kill(running.controller)
        yield running
    except BaseException:
        sys.stdout.write(running.log())
        raise
    finally:
        running.close()


def post(quell: Quell, identifier: str, name: str, uid: str | None) -> bool:
    """Whether it was acknowledged."""
    subject = {"node": "node-1", "namespace": SHOP, "pod": {"name": name, **({"uid": uid} if uid else {})}}
    event = {"id": identifier, "time": time.time(), "name": "Container.Suspicious.Process", "subject": subject}
    try:
        quell.ask("POST", "/v1/events", content=json.dumps(event).encode())
    except httpx.HTTPError:
        return False
    return True


def outcomes(quell: Quell, identifier: str) -> list[Any]:
    try:
        found: list[Any] = quell.ask("GET", f"/v1/events/{identifier}").get("outcomes", [])
    except httpx.HTTPError:
        return []
    return found


class Witness:
    """Sees which pods were deleted through the API, by uid."""

    def __init__(self, standin: PodCluster) -> None:
        self._standin = standin
        self.meant: set[str] = set()

    def check(self) -> None:
        gone = {
            event.object["metadata"]["uid"]
            for event in list(self._standin.cluster.events)
            if event.type == "DELETED" and event.resource == "pods"
        }
        assert gone <= self.meant, "a pod that no event named was deleted"


@pytest.mark.parametrize(
    ("fault", "named"), [*((point, True) for point in POINTS), *((point, False) for point in POINTS[2:5])]
)
def test_crash_at_each_step(fault: str, named: bool, quell: Quell, standin: PodCluster) -> None:
    """named: the event gives the pod's uid; else it was there for a day, and only that says which it is."""
    standin.cluster.succeeded.add((SHOP, "web-1"))
    uid = standin.run()["metadata"]["uid"]
    standin.run("bystander")
    witness = Witness(standin)
    witness.meant.add(uid)
    quell.start_controller(fault)
    identifier = f"crash-{fault.replace('.', '-')}"
    acknowledged = post(quell, identifier, "web-1", uid if named else None)
    wait_for(quell.controller_ended, what=f"the crash at {fault}")
    quell.start_controller()
    while not acknowledged:
        acknowledged = post(quell, identifier, "web-1", uid if named else None)
    wait_for(lambda: bool(outcomes(quell, identifier)), what="the outcome")
    (outcome,) = outcomes(quell, identifier)
    assert outcome["status"] in ("done", "gone"), outcome
    assert standin.there() not in (None, uid), "its successor stays"
    assert standin.there("bystander") is not None
    witness.check()
    items = quell.ask("GET", "/v1/audit", params={"kind": "action"})["items"]
    assert [item["entry"]["name"] for item in items] == ["shop/web-1"]


def test_kill_at_random_moments(quell: Quell, standin: PodCluster) -> None:
    """Under load, with an API that often fails, and successors of every pod: each pod that was named ends, no other."""
    chance = random.Random(31)  # noqa: S311 - the same moments each time
    witness = Witness(standin)
    asked: dict[str, tuple[str, str]] = {}
    unacknowledged: list[str] = []
    serial = 0
    for _ in range(ROUNDS):
        quell.start_controller()
        moment = time.monotonic() + chance.uniform(0.1, 0.6)
        while time.monotonic() < moment:
            name, identifier = f"web-{serial}", f"random-{serial}"
            standin.cluster.succeeded.add((SHOP, name))
            uid = standin.run(name)["metadata"]["uid"]
            witness.meant.add(uid)
            asked[identifier] = (name, uid)
            if chance.random() < 0.2:
                standin.failing.append(Failure(chance.choice((429, 500, 503)), "Busy", "the test wants it so", {}))
            unacknowledged = [each for each in (*unacknowledged, identifier) if not post(quell, each, *asked[each])]
            serial += 1
        quell.kill(quell.controller)
    standin.failing.clear()
    quell.start_controller()
    for identifier in unacknowledged:
        wait_for(lambda each=identifier: post(quell, each, *asked[each]), what="an answer")  # type: ignore[misc]
    for identifier, (name, uid) in asked.items():
        wait_for(lambda each=identifier: bool(outcomes(quell, each)), 60, f"the outcome of {identifier}")  # type: ignore[misc]
        (outcome,) = outcomes(quell, identifier)
        assert outcome["status"] in ("done", "gone"), (identifier, outcome)
        assert standin.there(name) not in (None, uid), identifier
    witness.check()
    assert len(asked) >= ROUNDS
