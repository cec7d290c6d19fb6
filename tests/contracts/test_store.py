"""What every store does, whatever it is built on. A second store is one more line in STORES."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell import ids
from quell.errors import QueueFull, StoreError
from quell.model.action import KillProcess, MakeRedFlag, Severity, SuppressLog
from quell.model.decision import (
    ActionRecord,
    BudgetSpent,
    CooldownStarted,
    Decision,
    Evidence,
    Flag,
    FlagClass,
    Match,
    NearMiss,
    Outcome,
    OutcomeStatus,
    QuarantineHeld,
    QuarantineLetGo,
    Reason,
    Repetition,
    Status,
)
from quell.model.event import Category, Event, Level
from quell.model.subject import Container, NetworkTarget, Pod, Process, ProcessTarget, Subject
from quell.storage import rejects
from quell.storage.records import Entry, OutboxItem, Reject, Retention, Settled
from quell.storage.store import Store

Open = Callable[..., Store]

STORES: dict[str, Open] = {"sqlite": lambda folder, **options: Store.open(folder / "quell.db", **options)}


@pytest.fixture(params=STORES)
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store each time, after closing it if it is open."""
    opened: list[Store] = []

    def opener(**options: Any) -> Store:
        for store in opened:
            store.close()
        opened.append(STORES[request.param](tmp_path, **options))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(opening: Open) -> Store:
    return opening()


def event(event_id: str | None = None, raw: bytes = b'{"name":"x"}', received: float | None = None) -> Event:
    return Event(
        id=event_id or ids.uuid7(),
        id_given=event_id is not None,
        time=None,
        received=time.time() if received is None else received,
        source="native",
        category=Category.SECURITY_EVENT,
        name="Host.Suspicious.Process",
        level=Level.CRITICAL,
        subject=Subject(node="n1"),
        raw=raw,
    )


def entry(
    event_id: str | None = None, *, raw: bytes = b'{"name":"x"}', received: float | None = None, **parts: Any
) -> Entry:
    made = event(event_id, raw, received)
    decision = Decision(event_id=made.id, time=1.25, revision=7)
    decided = {key: value for key, value in parts.items() if key not in {"outbox", "flags"}}
    return Entry(
        event=made,
        decision=msgspec.structs.replace(decision, **decided),
        outbox=parts.get("outbox", ()),
        flags=parts.get("flags", ()),
        own_id=event_id is None,
    )


#: Retention looks at the clock.
NOW = time.time()


def cooldown(key: str) -> CooldownStarted:
    return CooldownStarted(key=key, at=1.5, until=5.5)


def item(item_id: str, channel: str = "agent:a") -> OutboxItem:
    return OutboxItem(id=item_id, channel=channel, body=b"\x00do it", created=0.1, expires=30.3, event_id="e")


def flag(flag_id: str, at: float = NOW) -> Flag:
    return Flag(id=flag_id, flag_class=FlagClass.RED, severity=Severity.HIGH, name="f", time=at, event_id="e")


def outcome(outcome_id: str, status: OutcomeStatus = OutcomeStatus.DONE) -> Outcome:
    return Outcome(id=outcome_id, status=status, time=NOW, duration=0.001, facts={"pids": [1, 2], "n": 1})


class Told:
    """A done callback that remembers, and a place to wait for it."""

    def __init__(self) -> None:
        self.errors: list[StoreError | None] = []
        self._one = threading.Semaphore(0)

    def __call__(self, error: StoreError | None) -> None:
        self.errors.append(error)
        self._one.release()

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._one.acquire(timeout=20)


def append(store: Store, *entries: Entry) -> StoreError | None:
    told = Told()
    store.append(entries, told)
    told.wait()
    return told.errors[0]


def record(store: Store, outcomes: Sequence[Outcome], changes: Sequence[Any] = ()) -> None:
    told = Told()
    store.record_outcomes(outcomes, told, changes)
    told.wait()
    assert told.errors == [None]


class Held:
    """Keeps the writer busy, so that what is queued meanwhile goes into one transaction."""

    def __init__(self, store: Store) -> None:
        self._go = threading.Event()
        entered = threading.Event()

        def hold(_: object) -> None:
            entered.set()
            assert self._go.wait(20)

        self._future = store.submit(hold)
        assert entered.wait(20)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._future.result(20)


# ---- events


def test_an_event_comes_back_as_it_went_in(store: Store) -> None:
    now = time.time()  # what is older than the retention could be gone before it is looked for
    entries = [entry(raw=b"\x00\xffnot json %d" % n, received=now + n) for n in range(700)]
    entries.insert(300, entry("their id", raw=b"{}"))
    assert append(store, *entries) is None
    for one in (entries[0], entries[299], entries[300], entries[301], entries[-1]):
        stored = store.event(one.event.id)
        assert stored is not None
        assert (stored.id, stored.received, stored.source, stored.raw) == (
            one.event.id,
            one.event.received,
            "native",
            one.event.raw,
        )
        assert stored.decision == one.decision
    assert store.event("another") is None
    assert store.event(ids.uuid7()) is None


TARGET = ProcessTarget(node="n1", process=Process(pid=7, start_ticks=99, ancestors=("sh", "init")), seen=1.5)
NETWORK = NetworkTarget(node="n1", key="netns:4026531840", netns=4026531840)
PARTS: dict[str, Any] = {
    "matches": (Match(ref="rule/8", name="r", evidence=(Evidence(criterion="name:X", value="X"),)),),
    "near_misses": (NearMiss(ref="rule/9", name="s", criterion="level", expected=">=Error", got="Info"),),
    "actions": (
        ActionRecord(id="e/1", action=KillProcess(), target=TARGET, asked_by=("rule/8",), status=Status.GRANTED),
        ActionRecord(
            id="e/2",
            action=MakeRedFlag(severity=Severity.HIGH),
            asked_by=("rule/8", "policy/p/default"),
            status=Status.REFUSED,
            reason=Reason.LIMIT,
        ),
        ActionRecord(id="e/3", action=SuppressLog(), asked_by=("rule/8",), status=Status.GRANTED),
    ),
    "suppressed": True,
    "default_skipped": ("policy/p/makeRedFlag",),
    "changes": (
        cooldown("k"),
        BudgetSpent(keys=("engine", "rule/8"), at=4.75),
        QuarantineHeld(target=NETWORK, holder="rule/8", until=9.5),
        QuarantineLetGo(key=NETWORK.key, holder="rule/9"),
    ),
    "added": Subject(image="nginx:1.27", pod=Pod(labels={"app": "web"}), container=Container(id="c" * 64, name="web")),
    "conflicts": ("image: the event says a, the inventory b",),
}


def test_every_part_of_a_decision_is_known_here() -> None:
    assert {"event_id", "time", "revision", *PARTS} == set(Decision.__struct_fields__)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_a_decision_is_kept_even_alone(store: Store, part: str) -> None:
    plain, telling = entry(), entry(**{part: PARTS[part]})
    append(store, plain, telling)
    for one in (plain, telling):
        stored = store.event(one.event.id)
        assert stored is not None
        assert stored.decision == one.decision


def test_what_was_added_to_events_is_kept_beside_what_they_matched(store: Store) -> None:
    first, second = PARTS["added"], Subject(node="n1")
    entries = [
        entry(added=first),
        entry(),
        entry(added=second, conflicts=PARTS["conflicts"]),
        entry(added=first),
        entry(added=first, matches=PARTS["matches"]),
    ]
    append(store, *entries)
    for one in entries:
        stored = store.event(one.event.id)
        assert stored is not None
        assert stored.decision == one.decision
    assert [stored.id for stored in store.recent(10, decided=True)] == [entries[-1].event.id]


def test_the_same_id_twice_is_one_event_and_its_first_decision(store: Store) -> None:
    first = entry("id", changes=(cooldown("first"),), outbox=(item("id/1"),), flags=(flag("id/2"),))
    again = entry("id", changes=(cooldown("again"),), outbox=(item("id/3"),), flags=(flag("id/4"),))
    other = entry("other", changes=(cooldown("other"),), outbox=(item("other/1"),))
    last = entry()
    append(store, first)
    append(store, last, again, other, again)
    with Held(store):
        told = Told()
        store.append([again], told)
        store.append([entry("third"), again], told)
        store.append([entry("third")], told)
    told.wait(3)
    assert told.errors == [None] * 3
    assert [stored.id for stored in store.recent(10)] == ["third", "other", last.event.id, "id"]
    assert store.event("id").decision == first.decision  # type: ignore[union-attr]
    assert [one.id for one in store.outbox()] == ["id/1", "other/1"]
    assert [one.id for one in store.flags(10)] == ["id/2"]
    assert list(store.restore()[1]) == [first.decision, other.decision]


def test_a_repetition_counts_on_the_flag_that_it_repeats(store: Store) -> None:
    append(store, entry("a", flags=(flag("a/0", NOW), flag("a/1", NOW))))
    for n in range(1, 4):
        append(store, entry(f"b{n}", flags=(Repetition(flag="a/0", time=NOW + n),)))
    # The same event again, a flag that is long gone, and the same flag again change nothing.
    append(store, entry("b1", flags=(Repetition(flag="a/0", time=NOW + 9),)))
    append(store, entry("c", flags=(Repetition(flag="gone/0", time=NOW), flag("a/1", NOW))))
    found = {one.id: (one.count, one.repeats, one.last) for one in store.flags(10)}
    assert found == {"a/0": (1, 3, NOW + 3), "a/1": (1, 0, None)}


def test_known_ids_are_those_on_disk_given_or_generated(store: Store) -> None:
    mine, theirs = [entry() for _ in range(300)], [entry(f"their/{n}") for n in range(300)]
    mixed = [one for pair in zip(mine, theirs, strict=True) for one in pair]
    append(store, *mixed)
    wanted = [one.event.id for one in mixed[::7]]
    assert store.known_ids([*wanted, "none", ids.uuid7()]) == set(wanted)
    assert store.known_ids([]) == set()


def test_a_generated_id_given_back_is_known_and_not_decided_again(store: Store) -> None:
    mine = entry()
    append(store, mine)
    append(store, entry(mine.event.id, raw=b"again"))
    assert [stored.raw for stored in store.recent(10)] == [mine.event.raw]


def test_generated_ids_are_found_in_whatever_order_they_come(opening: Open) -> None:
    store = opening()
    early, middle, late = ([entry() for _ in range(5)] for _ in range(3))
    shuffled = [late[3], late[1], late[4], late[0], late[2]]
    append(store, *middle)
    append(store, *early)
    append(store, *shuffled)
    store = opening()
    before = entry()
    object_id = ids.uuid7(1_000_000.0)
    before = Entry(event=msgspec.structs.replace(before.event, id=object_id), decision=before.decision, own_id=True)
    append(store, before)
    everything = [*middle, *early, *shuffled, before]
    for one in everything:
        stored = store.event(one.event.id)
        assert stored is not None
        assert stored.id == one.event.id
    assert store.known_ids([one.event.id for one in everything]) == {one.event.id for one in everything}
    assert [stored.id for stored in store.recent(100)] == [one.event.id for one in reversed(everything)]


def test_recent_goes_back_page_by_page_without_gap_or_repeat(store: Store) -> None:
    made = []
    for size in (1, 2, 300, 1, 700, 3):
        batch = [entry(f"given-{len(made) + n}" if n % 50 == 7 else None) for n in range(size)]
        append(store, *batch)
        made += [one.event.id for one in batch]
    seen: list[str] = []
    while page := store.recent(97, seen[-1] if seen else None):
        assert len(page) <= 97
        seen += [stored.id for stored in page]
    assert seen == made[::-1]
    assert store.recent(5, "unknown") == []
    assert store.recent(0) == []


def test_recent_can_leave_out_what_nothing_matched(store: Store) -> None:
    chosen = []
    for n in range(1000):
        one = entry(suppressed=True) if n % 301 == 5 else entry()
        if n % 301 == 5:
            chosen.append(one.event.id)
        append(store, one) if n % 301 == 6 else store.append([one], lambda _: None)
    store.submit(lambda _: None).result(20)
    assert [stored.id for stored in store.recent(10, decided=True)] == chosen[::-1]
    assert [stored.id for stored in store.recent(10, chosen[2], decided=True)] == chosen[1::-1]


def test_large_events_and_none_at_all(store: Store) -> None:
    large = [entry(raw=os.urandom(900_000)) for _ in range(3)]
    assert append(store, large[0], entry(), *large[1:]) is None
    assert append(store) is None
    for one in large:
        assert store.event(one.event.id).raw == one.event.raw  # type: ignore[union-attr]


# ---- outbox, outcomes, flags


def test_an_outbox_item_waits_until_its_outcome(opening: Open) -> None:
    store = opening()
    items = [item("e/1"), item("e/2", "webhook:w"), item("e/3"), item("f/1")]
    append(store, entry(outbox=tuple(items[:3])), entry(outbox=(items[3],)))
    assert store.outbox() == items
    assert store.outbox("agent:a") == [items[0], items[2], items[3]]
    record(store, [outcome("e/1"), outcome("e/2")])
    store = opening()
    assert store.outbox() == items[2:]
    assert store.outcomes("e") == [outcome("e/1"), outcome("e/2")]
    assert store.outcomes("e/2") == [outcome("e/2")]
    assert store.outcomes("f") == []


def test_an_outcome_queued_behind_its_event_settles_it(store: Store) -> None:
    told = Told()
    with Held(store):
        store.append([entry(outbox=(item("e/1"),))], told)
        store.record_outcomes([outcome("e/1")], told)
        store.append([entry(outbox=(item("e/2"),))], told)
    told.wait(3)
    assert [one.id for one in store.outbox()] == ["e/2"]


def test_the_same_outcome_again_is_one(store: Store) -> None:
    record(store, [outcome("e/1", OutcomeStatus.EXPIRED)])
    record(store, [outcome("e/1", OutcomeStatus.EXPIRED), outcome("e/1"), outcome("e/10"), outcome("ef/1")])
    record(store, [outcome("e/1")])
    assert store.outcomes("e/1") == [outcome("e/1", OutcomeStatus.EXPIRED), outcome("e/1")]
    assert [one.id for one in store.outcomes("e")] == ["e/1", "e/1", "e/10"]


def test_a_flag_is_kept_once_and_newest_come_first(store: Store) -> None:
    made = [flag(f"e{n}/1", NOW - n) for n in range(5)]
    append(store, entry(flags=tuple(made[:3])))
    append(store, entry(flags=(made[1], *made[3:])))
    assert store.flags(10) == made[::-1]
    assert store.flags(2, "e3/1") == [made[2], made[1]]


def test_rejects_are_listed_newest_first(store: Store) -> None:
    made = [Reject(id=str(n), time=NOW - n, source="falco", line=n, reason="not JSON", raw=b"\xff") for n in range(3)]
    store.submit(lambda connection: rejects.insert(connection, made)).result(20)
    assert store.rejects(2) == [made[2], made[1]]


# ---- the engine's state


def test_changes_come_back_in_the_order_they_were_made(opening: Open) -> None:
    store = opening()
    assert store.restore()[0] is None
    told = Told()
    made: list[Any] = []
    with Held(store):
        for n in range(40):
            if n % 3:
                one = entry(changes=(cooldown(str(n)),))
                store.append([entry(), one, entry()], told)
                made.append(one.decision)
            else:
                settled = Settled(outcomes=(outcome(f"{n}/1"),), changes=(cooldown(str(n)),))
                store.record_outcomes(settled.outcomes, told, settled.changes)
                made.append(settled)
    told.wait(40)
    append(store, *(one := [entry(changes=(cooldown("x"),)), entry(), entry(changes=(cooldown("y"),))]))
    made += [one[0].decision, one[2].decision]
    for _ in range(2):
        state, changes = store.restore()
        assert state is None
        assert list(changes) == made
        store = opening()


def test_a_snapshot_covers_exactly_what_was_queued_before_it(opening: Open) -> None:
    store = opening()
    entries = [entry(changes=(cooldown(str(n)),)) for n in range(6)]
    told = Told()
    append(store, entries[0])
    with Held(store):
        store.append([entries[1]], told)
        store.snapshot(b"0 1", told)
        store.append([entries[2]], told)
        store.record_outcomes([outcome("2/1")], told)
        store.snapshot(b"0 1 2", told)
        store.append([entries[3]], told)
    told.wait(6)
    append(store, entries[4])
    for _ in range(2):
        state, changes = store.restore()
        assert state == b"0 1 2"
        assert list(changes) == [entries[3].decision, entries[4].decision]
        assert store.statistics().replay_bytes > 0
        store = opening()
    store.snapshot(b"all", told)
    told.wait()
    assert store.statistics().replay_bytes == 0
    append(store, entries[5])
    state, changes = store.restore()
    assert (state, list(changes)) == (b"all", [entries[5].decision])


# ---- the queue


def test_what_is_queued_is_written_and_told_in_order(store: Store) -> None:
    order: list[int] = []
    with Held(store):
        for n in range(50):
            if n % 5:
                store.append([entry()], lambda _, n=n: order.append(n))  # type: ignore[misc]
            else:
                store.write(lambda _: None, lambda _, n=n: order.append(n))  # type: ignore[misc]
    store.submit(lambda _: None).result(20)
    assert order == list(range(50))


def test_too_much_waiting_is_refused_and_nothing_of_it_kept(opening: Open) -> None:
    store = opening(queue_entries=10, queue_bytes=50_000)
    told = Told()
    with Held(store):
        store.append([entry() for _ in range(9)], told)
        with pytest.raises(QueueFull) as refused:
            store.append([entry(), entry()], told)
        assert 0 < refused.value.retry_after <= 30
        with pytest.raises(QueueFull):
            store.check(2, 100)
        store.record_outcomes([outcome("e/1")], told)
    told.wait(2)
    store.check(2, 100)
    with Held(store):
        store.append([entry(raw=b"x" * 45_000)], told)
        with pytest.raises(QueueFull):
            store.append([entry(raw=b"x" * 20_000)], told)
    told.wait()
    # More than the bound, alone: taken, for it would never be smaller.
    assert append(store, *[entry() for _ in range(30)]) is None
    assert told.errors == [None] * 3
    assert len(store.recent(100)) == 9 + 1 + 30
    assert store.statistics().queued_entries == 0
    assert store.statistics().queued_bytes == 0


def test_a_write_that_fails_fails_alone(store: Store) -> None:
    class OddError(Exception):
        pass

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO key_values (key, value) VALUES ('half', x'00')")
        raise OddError

    told, failed = Told(), Told()
    with Held(store):
        store.append([entry("a")], told)
        store.write(fail, failed)
        store.append([entry("b")], told)
        future = store.submit(fail)
        store.append([entry("c")], told)
    told.wait(3)
    failed.wait()
    assert told.errors == [None] * 3
    assert isinstance(failed.errors[0], StoreError)
    with pytest.raises(OddError):
        future.result(20)
    assert [stored.id for stored in store.recent(10)] == ["c", "b", "a"]
    assert store.read(lambda connection: connection.execute("SELECT count(*) FROM key_values").fetchone()) == (0,)


def test_a_callback_that_fails_keeps_nobody_else_from_being_told(store: Store) -> None:
    def bad(_: StoreError | None) -> None:
        raise ValueError

    told = Told()
    with Held(store):
        store.append([entry()], bad)
        store.append([entry()], told)
    told.wait()
    assert append(store, entry()) is None


def test_callbacks_of_a_commit_are_handed_over_together(opening: Open) -> None:
    calls: list[Callable[[], None]] = []
    store = opening(call=calls.append)
    told = Told()
    with Held(store):
        for _ in range(5):
            store.append([entry()], told)
    store.submit(lambda _: None).result(20)
    assert len(calls) == 1
    assert told.errors == []
    calls[0]()
    assert told.errors == [None] * 5


def test_closing_writes_what_is_queued(opening: Open) -> None:
    store = opening()
    told = Told()
    entries = [entry() for _ in range(2000)]
    for one in entries:
        store.append([one], told)
    store.close()
    assert told.errors == [None] * 2000
    with pytest.raises(StoreError):
        store.append([entry()], told)
    with pytest.raises(StoreError):
        store.recent(1)
    store.close()
    assert [stored.id for stored in opening().recent(3000)] == [one.event.id for one in reversed(entries)]


def test_many_threads_write_and_read(store: Store) -> None:
    told, problems = Told(), []

    def work(name: int) -> None:
        try:
            for n in range(40):
                store.append([entry(f"{name}/{n}"), entry()], told)
                store.recent(3)
                store.known_ids([f"{name}/{n}"])
        except (StoreError, QueueFull) as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.wait(240)
    assert problems == []
    assert len(store.recent(1000)) == 480
    for name in range(6):
        assert store.known_ids([f"{name}/{n}" for n in range(40)]) == {f"{name}/{n}" for n in range(40)}


# ---- retention


def test_the_oldest_events_go_when_there_is_too_much(opening: Open) -> None:
    bound = 4 << 20
    store = opening(retention=Retention(max_bytes=bound, size_step=256 << 10))
    first = entry("first", outbox=(item("first/1"),), flags=(flag("first/2"),), changes=(cooldown("first"),))
    append(store, first)
    record(store, [outcome("first/3")])
    sizes = []
    for n in range(80):
        # Random bytes: 16 MB that do not compress.
        last = [entry(f"{n}/{k}" if k % 2 else None, raw=os.urandom(2000)) for k in range(100)]
        assert append(store, *last) is None
        sizes.append(store.statistics().file_bytes)
    kept = store.recent(100_000)
    assert [stored.id for stored in kept[:100]] == [one.event.id for one in reversed(last)]
    assert bound / 2 < sum(len(stored.raw) for stored in kept) < bound
    assert max(sizes) < bound + (2 << 20)
    assert store.event("first") is None
    assert store.known_ids(["first", "0/1", "79/99"]) == {"79/99"}
    # What followed from it has its own time.
    assert store.outbox() == [item("first/1")]
    assert store.flags(1) == [flag("first/2")]
    assert store.outcomes("first") == [outcome("first/3")]
    assert next(store.restore()[1]) == first.decision


def test_events_and_records_that_are_too_old_go(opening: Open) -> None:
    now = 5_000_000.0
    retention = Retention(max_age=3600, record_age=7200)
    store = opening(clock=lambda: now - 5000)
    old = [entry(f"old/{n}", received=now - 4000, flags=(flag(f"old/{n}/1", now - 8000),)) for n in range(600)]
    for start in range(0, 600, 50):
        append(store, *old[start : start + 50])
    append(store, entry("new", received=now, flags=(flag("new/1", now),)))
    store = opening(retention=retention, clock=lambda: now)
    deadline = time.monotonic() + 20
    while len(store.recent(1000)) > 2 and time.monotonic() < deadline:
        append(store, entry("one more", received=now))
    assert [stored.id for stored in store.recent(1000)] == ["one more", "new"]
    while len(store.flags(1000)) > 1 and time.monotonic() < deadline:
        append(store, entry("one more", received=now))
    assert [one.id for one in store.flags(1000)] == ["new/1"]
    assert store.known_ids(["old/3", "new"]) == {"new"}


def test_only_the_newest_records_are_kept(opening: Open) -> None:
    opening().close()
    store = opening()
    now = time.time()
    append(store, entry(flags=tuple(flag(f"{n}/1", now) for n in range(700))))
    record(store, [outcome(f"{n}/2") for n in range(5)])
    store = opening(retention=Retention(record_count=100))
    deadline = time.monotonic() + 20
    while len(store.flags(1000)) > 100 and time.monotonic() < deadline:
        append(store, entry())
    assert [one.id for one in store.flags(1000)] == [f"{n}/1" for n in range(699, 599, -1)]


# ---- orders that go before their commit


def _ordered(event_id: str) -> Entry:
    return entry(
        event_id, outbox=(item(f"{event_id}/1"),), flags=(flag(f"{event_id}/2"),), changes=(cooldown(event_id),)
    )


def _held(store: Store) -> threading.Event:
    """Nothing is written until it is set."""
    going, gate = threading.Event(), threading.Event()
    store.submit(lambda _connection: (going.set(), gate.wait(30)))
    assert going.wait(10)
    return gate


def test_what_was_kept_for_its_orders_and_never_appended_is_there_after_a_restart(opening: Open) -> None:
    store = opening()
    first, second = _ordered("first"), _ordered("second")
    assert append(store, entry("before")) is None
    assert store.keep_orders([first]) is not None
    assert store.keep_orders([second]) is not None
    assert store.event("first") is None
    store = opening()
    assert [one.id for one in store.recent(10)] == ["second", "first", "before"]
    assert store.outbox() == [item("first/1"), item("second/1")]
    assert store.flags(10) == [flag("second/2"), flag("first/2")]
    assert list(store.restore()[1]) == [first.decision, second.decision]
    assert append(store, entry("first")) is None
    store = opening()
    assert [one.id for one in store.recent(10)] == ["second", "first", "before"]


def test_it_is_journaled_as_an_append_would_have(opening: Open) -> None:
    store = opening()
    kept = entry(raw=b'{"name": "x", "n": 1}', outbox=(item("x/1"),))
    assert store.keep_orders([kept]) is not None
    store = opening()
    (found,) = store.recent(10)
    event = kept.event
    assert (found.id, found.received, found.source, found.raw) == (event.id, event.received, event.source, event.raw)
    assert found.decision == kept.decision
    assert store.event(event.id) == found


def test_what_was_appended_as_well_is_there_once(opening: Open) -> None:
    store = opening()
    first, second, third = (_ordered(name) for name in ("first", "second", "third"))
    kept = store.keep_orders([first])
    assert kept is not None
    assert append(store, first) is None
    store.orders_journaled(kept)
    # The process ends between the commit and the word that it was made, with and without its outcome.
    for one in (second, third):
        assert store.keep_orders([one]) is not None
        assert append(store, one) is None
    record(store, [outcome("third/1")])
    store = opening()
    assert [one.id for one in store.recent(10)] == ["third", "second", "first"]
    assert store.outbox() == [item("first/1"), item("second/1")]
    assert list(store.restore()[1])[:3] == [first.decision, second.decision, third.decision]


def test_a_generated_id_is_recognized_too(opening: Open) -> None:
    store = opening()
    own = entry(outbox=(item("x/1"),))
    assert store.keep_orders([own]) is not None
    assert append(store, own, entry()) is None
    store = opening()
    assert len(store.recent(10)) == 2
    assert store.outbox() == [item("x/1")]


def test_what_could_not_be_appended_is_journaled_when_it_can_be(opening: Open) -> None:
    store = opening()
    assert store.keep_orders([_ordered("first")]) is not None
    gate = _held(store)
    later = store.journal_orders()
    assert store.event("first") is None
    gate.set()
    assert later.result(10) == [item("first/1")]
    assert [one.id for one in store.recent(10)] == ["first"]
    assert store.journal_orders().result(10) == []
    # Its place is free again.
    for n in range(40):
        kept = store.keep_orders([_ordered(f"{n}")])
        assert kept is not None
        store.orders_journaled(kept)
    store = opening()
    assert [one.id for one in store.recent(10)] == ["first"]
