"""What is appended in one turn is one item for the writer, before whatever comes after it, and as good as apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from test_storage import entries

from quell.errors import QueueFull, StoreError
from quell.model.answer import NOTHING
from quell.model.subject import Container, Subject
from quell.storage.gathering import MOST_GATHERED
from quell.storage.records import Batch, Entry
from quell.storage.store import Store

Turn = list[Callable[[], None]]


@pytest.fixture
def turn() -> Turn:
    """What is to be called in the next turn."""
    return []


@pytest.fixture
def store(tmp_path: Path, turn: Turn) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db", soon=turn.append, queue_entries=1000) as store:
        yield store


class Told:
    """What became of each append."""

    def __init__(self) -> None:
        self.of: dict[int, StoreError | None] = {}
        self._changed = threading.Condition()

    def by(self, number: int) -> Callable[[StoreError | None], None]:
        def done(error: StoreError | None) -> None:
            with self._changed:
                self.of[number] = error
                self._changed.notify()

        return done

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of) >= count, 20)


def run(turn: Turn) -> None:
    due = turn[:]
    turn.clear()
    for each in due:
        each()


def ids(some: Sequence[Entry]) -> list[str]:
    return [entry.event.id for entry in some]


def test_a_turn_is_one_commit_and_everybody_is_told(store: Store, turn: Turn) -> None:
    told, made = Told(), entries(10)
    for number, entry in enumerate(made):
        store.append([entry], told.by(number))
    assert len(turn) == 1
    assert told.of == {}
    commits = store.statistics().commits
    run(turn)
    told.wait(10)
    assert set(told.of.values()) == {None}
    assert [stored.id for stored in store.recent(20)][::-1] == ids(made)
    assert store.statistics().commits == commits + 1


def test_the_next_turn_is_asked_for_anew(store: Store, turn: Turn) -> None:
    told, made = Told(), entries(2)
    for number, entry in enumerate(made):
        store.append([entry], told.by(number))
        run(turn)
        told.wait(number + 1)
    assert [stored.id for stored in store.recent(20)][::-1] == ids(made)


def test_many_do_not_wait_for_the_turn(store: Store) -> None:
    told = Told()
    store.append(entries(MOST_GATHERED), told.by(0))
    told.wait(1)
    assert told.of == {0: None}


def test_what_comes_after_is_written_after(store: Store, turn: Turn) -> None:
    """A snapshot, an outcome, a row of somebody's: each finds on disk what was appended before."""
    told, made = Told(), entries(3)
    for number, entry in enumerate(made):
        store.append([entry], told.by(number))
        seen = store.submit(lambda connection: connection.execute("SELECT sum(events) FROM journal").fetchone()[0])
        assert seen.result(20) == number + 1
    run(turn)
    told.wait(3)
    store.append([entries(4)[3]], told.by(3))
    snapped = threading.Event()
    store.snapshot(b"state", lambda _: snapped.set())
    assert snapped.wait(20)
    assert 3 in told.of


def test_what_may_wait_a_moment_waits_for_nothing_else(tmp_path: Path, turn: Turn) -> None:
    told, made, moment = Told(), entries(6), Turn()
    with Store.open(tmp_path / "other.db", soon=turn.append, later=moment.append) as store:
        store.append_batch(Batch.of(made[:1]), told.by(0), later=True)
        assert (len(turn), len(moment)) == (0, 1)
        run(moment)
        told.wait(1)
        # What comes in the meantime takes it along, before itself.
        store.append_batch(Batch.of(made[1:2]), told.by(1), later=True)
        store.append(made[2:3], told.by(2))
        assert (len(turn), len(moment)) == (1, 1)
        run(turn)
        told.wait(3)
        run(moment)
        store.append_batch(Batch.of(made[3:4]), told.by(3), later=True)
        seen = store.submit(lambda connection: connection.execute("SELECT sum(events) FROM journal").fetchone()[0])
        assert seen.result(20) == 4
        store.append(made[4:5], told.by(4))
        store.append_batch(Batch.of(made[5:6]), told.by(5), later=True)
        assert (len(turn), len(moment)) == (1, 2)
        run(turn)
        told.wait(6)
        assert set(told.of.values()) == {None}
        assert [stored.id for stored in store.recent(20)][::-1] == ids(made)
        store.append_batch(Batch.of(entries(7)[6:]), told.by(6), later=True)
    assert told.of[6] is None


def test_what_is_held_counts_for_the_queue(store: Store) -> None:
    told = Told()
    store.append(entries(MOST_GATHERED - 1), told.by(0))
    store.check(1000 - MOST_GATHERED + 1, 0)
    with pytest.raises(QueueFull):
        store.check(1000 - MOST_GATHERED + 2, 0)


def test_closing_writes_what_is_held(tmp_path: Path) -> None:
    told, made = Told(), entries(3)
    with Store.open(tmp_path / "other.db", soon=lambda _: None) as store:
        store.append(made, told.by(0))
    assert told.of == {0: None}
    with Store.open(tmp_path / "other.db") as store:
        assert [stored.id for stored in store.recent(20)][::-1] == ids(made)
        closed = store
    with pytest.raises(StoreError):
        closed.append(made, told.by(1))


def test_joined_is_each_in_its_place() -> None:
    made = entries(5)
    answer = NOTHING
    subject = Subject(container=Container(id="c"))
    decided = Batch.of(made[3:])
    answered = Batch(
        events=[entry.event for entry in made[:3]],
        answers=[answer, None, answer],
        times=[1.0, 2.0, 3.0],
        revisions=[4, 5, 6],
        sizes=[len(entry.event.raw) for entry in made[:3]],
        added={0: subject},
        conflicts={2: ("told",)},
        entries={1: made[1]},
    )
    both = Batch.joined([decided, answered, decided])
    assert [event.id for event in both.events] == [*ids(made[3:]), *ids(made[:3]), *ids(made[3:])]
    assert both.answers == [None, None, answer, None, answer, None, None]
    assert both.times[2:5] == [1.0, 2.0, 3.0]
    assert both.revisions[2:5] == [4, 5, 6]
    assert both.added == {2: subject}
    assert both.conflicts == {4: ("told",)}
    assert both.entries == {0: made[3], 1: made[4], 3: made[1], 5: made[3], 6: made[4]}
    assert Batch.joined([answered]) is answered
