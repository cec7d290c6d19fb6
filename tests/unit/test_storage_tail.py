"""Reading the journal from a place on: all of it, in order, once; and what retention took before is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quell.ids import uuid7
from quell.model.action import Severity
from quell.model.decision import Decision, Flag, FlagClass
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject
from quell.storage import tail
from quell.storage.records import Entry, Retention
from quell.storage.store import Store
from quell.storage.tail import Batch, Lag, Position

NOW = 1_790_000_000.0
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db", clock=lambda: NOW) as opened:
        yield opened


def entry(name: str, *, at: float = NOW, flags: int = 0, given: bool = True) -> Entry:
    identifier = name if given else uuid7()
    event = Event(
        id=identifier,
        id_given=given,
        time=at,
        received=at,
        source="native",
        category=Category.EVENT,
        name="x",
        level=Level.INFO,
        subject=Subject(),
        raw=name.encode(),
    )
    raised = tuple(
        Flag(id=f"{name}/{n}", flag_class=FlagClass.OPS, severity=Severity.LOW, name=name, time=at)
        for n in range(flags)
    )
    decision = Decision(event_id=identifier, time=at, revision=1)
    return Entry(event=event, decision=decision, own_id=not given, flags=raised)


def append(store: Store, *entries: Entry) -> None:
    done = threading.Event()
    store.append(entries, lambda _: done.set())
    assert done.wait(10)


def read(store: Store, position: Position, limit: int = 1000) -> Batch:
    return store.read(lambda connection: tail.read(connection, position, limit))


def names(batch: Batch) -> list[str]:
    return [stored.raw.decode() for stored in batch.events]


def lag(store: Store, position: Position) -> Lag:
    return store.read(lambda connection: tail.lag(connection, position))


def test_all_of_it_in_order_and_once_however_it_lies(store: Store) -> None:
    start = store.read(tail.end)
    wanted = []
    for size in (1, 300, 1, 3, 256):
        some = [f"{len(wanted) + n:05}" for n in range(size)]
        wanted += some
        append(store, *(entry(name, given=bool(size % 2)) for name in some))
    for limit in (3, 50, 256, 10_000):
        position, found, rounds = start, [], 0
        while True:
            batch = read(store, position, limit)
            found += names(batch)
            assert len(batch.events) <= limit
            assert lag(store, batch.after).events == len(wanted) - len(found)
            position = batch.after
            rounds += 1
            if batch.exhausted:
                break
        assert found == wanted
        assert rounds >= len(wanted) // limit
        assert position.events == len(wanted)
        assert names(read(store, position, limit)) == []


def test_a_new_reader_starts_at_the_end(store: Store) -> None:
    append(store, entry("old", flags=1))
    place = store.read(tail.end)
    assert lag(store, place) == Lag()
    append(store, entry("new", at=NOW + 5, flags=2))
    assert lag(store, place) == Lag(events=1, flags=2, oldest=NOW + 5)
    batch = read(store, place)
    assert names(batch) == ["new"]
    assert [flag.id for flag in batch.flags] == ["new/0", "new/1"]
    assert batch.after.events == 2
    assert batch.exhausted
    assert read(store, batch.after).flags == []


def test_flags_do_not_come_before_their_events(store: Store) -> None:
    start = store.read(tail.end)
    append(store, *(entry(f"{n}", at=NOW + n, flags=1) for n in range(4)))
    first = read(store, start, 2)
    assert names(first) == ["0", "1"]
    assert [flag.name for flag in first.flags] == ["0", "1"]
    second = read(store, first.after, 2)
    assert [flag.name for flag in second.flags] == ["2", "3"]


def test_what_is_committed_later_is_read_later(store: Store) -> None:
    place = store.read(tail.end)
    for n in range(5):
        append(store, entry(f"{n}"))
        batch = read(store, place)
        assert names(batch) == [f"{n}"]
        place = batch.after


def test_what_retention_took_first_is_counted(tmp_path: Path) -> None:
    """Old events go while a reader is away; one that had read them has lost nothing."""
    clock = [NOW]
    path = tmp_path / "quell.db"
    with Store.open(path, clock=lambda: clock[0]) as store:
        away = keeping = store.read(tail.end)
        append(store, *(entry(f"old{n}") for n in range(300)))
        keeping = read(store, keeping).after
        away = read(store, away, 10).after
        append(store, *(entry(f"new{n}", at=NOW + 40 * DAY) for n in range(5)))
    clock[0] += 41 * DAY
    with Store.open(path, clock=lambda: clock[0], retention=Retention(max_age=30 * DAY)) as store:
        append(store, entry("newest", at=NOW + 41 * DAY))
        for _ in range(200):
            if len(store.recent(1000)) == 6:
                break
            threading.Event().wait(0.02)
        wanted = [f"new{n}" for n in range(5)] + ["newest"]
        batch = read(store, keeping)
        assert (names(batch), batch.lost_events) == (wanted, 0)
        batch = read(store, away)
        assert (names(batch), batch.lost_events) == (wanted, 290)
        assert read(store, batch.after).lost_events == 0
        uncounted = Position(seq=away.seq, place=away.place)
        assert names(read(store, uncounted)) == wanted


def test_a_journal_that_was_emptied_and_began_anew_is_read_from_its_start(tmp_path: Path) -> None:
    clock = [NOW]
    path = tmp_path / "quell.db"
    with Store.open(path, clock=lambda: clock[0]) as store:
        for n in range(6):
            append(store, entry(f"old{n}", flags=1))
        place = read(store, Position()).after
        assert (place.seq, place.flag) == (6, 6)
    clock[0] += 41 * DAY
    with Store.open(path, clock=lambda: clock[0], retention=Retention(max_age=DAY, record_age=DAY)) as store:
        store.submit(lambda _: None).result(10)
        for _ in range(200):
            if not store.recent(10) and not store.flags(10):
                break
            threading.Event().wait(0.02)
    with Store.open(path, clock=lambda: NOW) as store:
        append(store, entry("first", flags=1))
        batch = read(store, place)
        assert names(batch) == ["first"]
        assert [flag.name for flag in batch.flags] == ["first"]
        assert (batch.lost_events, batch.after.seq, batch.after.flag) == (0, 7, 1)
        append(store, entry("second"))
        assert names(read(store, batch.after)) == ["second"]


def test_writing_beside_reading_loses_and_repeats_nothing(store: Store) -> None:
    """A reader that never waits sees every event once while four threads append."""

    def write(name: int) -> None:
        for n in range(60):
            append(store, *(entry(f"{name}-{n}-{m}", given=False) for m in range(5)))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    place, found = store.read(tail.end), list[str]()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or lag(store, place).events:
        batch = read(store, place, 50)
        found += names(batch)
        place = batch.after
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 4 * 60 * 5
    for name in range(4):
        own = [each for each in found if each.startswith(f"{name}-")]
        assert own == [f"{name}-{n}-{m}" for n in range(60) for m in range(5)]
