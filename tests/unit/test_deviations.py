"""Repeats of deviations: what becomes an event, what is only counted, and what a restart still knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from quell.controller.deviations import AGAIN, INSTANCES, POLICIES, Deviations, Found
from quell.controller.guardian_settings import GuardianSettings
from quell.model.details import Deviation
from quell.model.observation import Observation, Seen
from quell.model.repeats import Repeated, Standing
from quell.model.subject import Container, Process, Subject
from quell.storage import deviations as stored
from quell.storage.deviations import Wanted
from quell.storage.store import Store

ALL = Wanted()
SMALL = GuardianSettings(deviations=10, deviations_age="1d")


class Counted:
    """The counts over a store, with a clock that is set by hand."""

    def __init__(self, store: Store, settings: GuardianSettings = SMALL) -> None:
        self.now = 1000.0
        self.store = store
        self.settings = settings
        self.deviations = self.again()

    def again(self) -> Deviations:
        """As after a restart."""
        self.deviations = Deviations(self.store, self.settings, lambda: self.now)
        return self.deviations

    def find(self, pid: int, checksum: str = "c", policy: str = "p", *, acts: bool = False) -> str | None:
        return self.deviations.count(self.found(pid, checksum, policy), acts=acts)

    def found(self, pid: int, checksum: str = "c", policy: str = "p") -> Found:
        subject = Subject(container=Container(id="f" * 64), process=Process(pid=pid, start_ticks=pid))
        return Found(
            policy=policy,
            deviation=Deviation(policy=policy, checksum=checksum, message=f"{checksum} deviates"),
            name="Process.Profile.Violation",
            subject=subject,
            time=self.now,
            instance=f"process:{pid}",
            example=Observation(seen=Seen.EXECUTED, time=self.now, subject=subject),
        )

    def kept(self, wanted: Wanted = ALL) -> list[Repeated]:
        self.deviations.close()
        self.store.submit(lambda _: None).result()
        return [each for _, each in self.store.read(lambda connection: stored.find(connection, wanted))]

    def only(self) -> Repeated:
        [one] = self.kept()
        return one


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    with Store.open(tmp_path / "quell.db") as store:
        yield Counted(store)


def test_the_first_is_an_event_and_another_an_hour_later(counted: Counted) -> None:
    first = counted.find(1)
    assert first is not None
    assert first.startswith("deviation/")
    assert counted.find(2) is None
    counted.now += AGAIN - 1
    assert counted.find(3) is None
    counted.now += 1
    assert counted.find(4) not in (None, first)
    kept = counted.only()
    assert (kept.count, kept.events, kept.omitted, kept.first, kept.last) == (4, 2, 0, 1000.0, 1000.0 + AGAIN)
    assert kept.subject.process == Process(pid=4, start_ticks=4)
    assert kept.example == Observation(seen=Seen.EXECUTED, time=1000.0, subject=counted.found(1).subject)
    assert kept.deviation.message == "c deviates"


def test_each_process_is_an_event_where_something_is_done_to_it(counted: Counted) -> None:
    ids = [counted.find(pid, acts=True) for pid in range(5)]
    assert None not in ids
    assert len(set(ids)) == 5
    assert [counted.find(pid, acts=True) for pid in range(5)] == [None] * 5
    assert counted.only().count == 5


def test_a_flood_is_bounded_for_a_checksum_and_for_a_policy(counted: Counted) -> None:
    counted.settings = msgspec.structs.replace(SMALL, events_checksum="3/1m", events_policy="5/1m")
    counted.again()
    events = [counted.find(pid, acts=True) for pid in range(10)]
    assert [event is not None for event in events] == [True] * 3 + [False] * 7
    more = [counted.find(100 + number, checksum=f"c{number}", acts=True) for number in range(4)]
    assert [event is not None for event in more] == [True] * 2 + [False] * 2
    counts = {each.checksum: (each.count, each.events, each.omitted) for each in counted.kept()}
    assert counts == {"c": (10, 3, 7), "c0": (1, 1, 0), "c1": (1, 1, 0), "c2": (1, 0, 1), "c3": (1, 0, 1)}
    # What was left out is acted on when it is told of again and there is room.
    counted.now += 60.0
    assert counted.find(9, acts=True) is not None
    assert counted.find(0, acts=True) is None
    assert {each.checksum: each.count for each in counted.kept()}["c"] == 10


def test_what_ran_under_audit_is_acted_on_once_the_policy_enforces(counted: Counted) -> None:
    audited = counted.find(1)
    enforced = counted.find(1, acts=True)
    assert enforced not in (None, audited)
    assert counted.find(1, acts=True) is None
    assert counted.find(1) is None
    assert counted.only().count == 1


def test_a_restart_counts_on_and_knows_who_was_counted(counted: Counted) -> None:
    counted.find(1)
    counted.find(2)
    counted.find(3, checksum="d", acts=True)
    counted.kept()
    counted.again()
    assert counted.find(1) is None
    assert counted.find(3, checksum="d", acts=True) is None
    assert counted.find(4) is None
    assert {each.checksum: each.count for each in counted.kept()} == {"c": 3, "d": 1}
    assert counted.deviations.totals() == {"p": (2, 4)}


def test_ready_made_ones_are_counted_once_an_event(counted: Counted) -> None:
    for event in ("a", "b", "a"):
        counted.deviations.note(counted.found(1)._replace(instance=event), event)
    kept = counted.only()
    assert (kept.count, kept.events, kept.event_id) == (2, 2, "b")


def test_only_so_many_are_kept(counted: Counted) -> None:
    for number in range(15):
        counted.now += 1
        counted.find(1, checksum=f"c{number}")
    assert [each.checksum for each in counted.kept()] == [f"c{number}" for number in range(14, 4, -1)]
    counted.now += 1
    counted.find(2, checksum="c5")
    counted.find(3, checksum="new")
    assert "c5" in {each.checksum for each in counted.kept()}
    assert "c6" not in {each.checksum for each in counted.kept()}
    for number in range(POLICIES * 10 + 5):
        counted.find(1, policy=f"p{number}")
    assert len(counted.kept()) == POLICIES * 10
    assert len(counted.deviations._instances) <= INSTANCES


def test_what_does_not_come_again_goes(counted: Counted) -> None:
    counted.find(1)
    counted.now += 86_399
    counted.find(1, checksum="d")
    counted.deviations.tick()
    assert len(counted.kept()) == 2
    counted.now += 2
    counted.deviations.tick()
    assert counted.only().checksum == "d"


def test_a_status_lasts_until_it_is_found_again(counted: Counted) -> None:
    counted.find(1)
    counted.deviations.set_status([("p", "c"), ("p", "unknown")], Standing.MERGED)
    assert counted.only().status is Standing.MERGED
    assert counted.deviations.totals() == {"p": (0, 0)}
    counted.find(2)
    assert counted.only().status is Standing.OPEN
    assert counted.deviations.forget([("p", "c")]) == 1
    assert counted.kept() == []


def test_filters(counted: Counted) -> None:
    for pid, (checksum, policy) in enumerate([("a", "p"), ("b", "p"), ("a", "q")]):
        counted.now += 1
        counted.find(pid, checksum, policy)
    counted.deviations.set_status([("q", "a")], Standing.IRRELEVANT)

    def found(wanted: Wanted) -> list[tuple[str, str]]:
        return [(each.policy, each.checksum) for each in counted.kept(wanted)]

    assert found(Wanted(policies=["p"])) == [("p", "b"), ("p", "a")]
    assert found(Wanted(checksums=["a"], statuses=[Standing.OPEN])) == [("p", "a")]
    assert found(Wanted(since=1002.0)) == [("q", "a"), ("p", "b")]
    assert found(Wanted(whats=["egress"])) == []
