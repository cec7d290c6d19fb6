"""Searching a journal that grows at one end and is cut at the other; and what its rows say of themselves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from quell import ids
from quell.model.decision import Decision, Match
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject
from quell.storage import search, summary
from quell.storage.records import Entry, Retention, Stored
from quell.storage.search import Found, Gap, Query, Search, anchor, needle
from quell.storage.store import Store
from quell.storage.summary import Bounds, Row

#: The events of these tests are old.
FOR_EVER = Retention(max_age=1e12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "quell.db"


def entry(
    name: str = "x",
    *,
    level: Level = Level.INFO,
    category: Category = Category.EVENT,
    received: float | None = None,
    hidden: bool = False,
    rule: str = "",
    size: int = 50,
) -> Entry:
    event = Event(
        id=ids.uuid7(),
        time=None,
        received=time.time() if received is None else received,
        source="native",
        category=category,
        name=name,
        level=level,
        subject=Subject(),
        raw=name.encode() + bytes(size),
    )
    matches = (Match(ref=f"rule/{rule}", name=f"name-{rule}"),) if rule else ()
    decision = Decision(event_id=event.id, time=event.received, revision=1, matches=matches, suppressed=hidden)
    return Entry(event=event, decision=decision, own_id=True)


def append(store: Store, made: Sequence[Entry]) -> None:
    ready = threading.Event()
    store.append(made, lambda _: ready.set())
    assert ready.wait(20)


def everything(**bounds: float) -> Query[Stored]:
    return Query(bounds=Bounds(suppressed=True, **bounds), test=lambda stored: stored)  # type: ignore[arg-type]


def page(
    store: Store, query: Query[Stored], at: Gap | None = None, *, limit: int = 100, newer: bool = False
) -> Found[Stored]:
    return store.read(lambda connection: Search(connection, query, limit=limit, at=at, newer=newer).run())


def rows(store: Store, **bounds: object) -> list[Row]:
    return store.read(
        lambda connection: summary.following(connection, Bounds(**bounds), 0, 1 << 60, 1000, newer=True)  # type: ignore[arg-type]
    )


# ---- what rows say of themselves


def test_a_row_says_what_is_in_it(path: Path) -> None:
    with Store.open(path, retention=FOR_EVER) as store:
        append(
            store,
            [
                entry("a", level=Level.ERROR, received=10.0),
                entry("b", category=Category.DEVIATION, received=12.0, hidden=True, rule="8"),
                entry("a", level=Level.ERROR, received=11.0),
            ],
        )
        (row,) = rows(store)
    assert (row.seq, row.received_min, row.received_max) == (1, 10.0, 12.0)
    assert {(trait.name, trait.level, shown) for trait, shown in (row.traits or {}).items()} == {
        ("a", Level.ERROR, True),
        ("b", Level.INFO, False),
    }
    assert row.rules == {"rule/8", "name-8"}


def test_rows_are_left_out_by_what_they_say(path: Path) -> None:
    with Store.open(path, retention=FOR_EVER) as store:
        append(store, [entry(level=Level.ERROR, received=10.0)])
        append(store, [entry(category=Category.DEVIATION, received=20.0, hidden=True, rule="8")])
        append(store, [entry("noise", received=30.0, hidden=True)])
        kept = {
            "all": rows(store),
            "hidden too": rows(store, suppressed=True),
            "since": rows(store, suppressed=True, since=15.0),
            "until": rows(store, suppressed=True, until=20.0),
            "level": rows(store, suppressed=True, levels=summary.LEVELS[Level.ERROR]),
            "category": rows(store, suppressed=True, categories=summary.CATEGORIES[Category.DEVIATION]),
            "decided": rows(store, suppressed=True, decided=True),
        }
    assert {what: [row.seq for row in found] for what, found in kept.items()} == {
        "all": [1],
        "hidden too": [1, 2, 3],
        "since": [2, 3],
        "until": [1],
        "level": [1],
        "category": [2],
        "decided": [2, 3],
    }


def test_a_row_of_too_many_names_says_none(path: Path) -> None:
    with Store.open(path, retention=FOR_EVER) as store:
        append(store, [entry(f"name {n}", rule=str(n)) for n in range(200)])
        (row,) = rows(store)
        assert row.traits is None
        assert row.rules is None or len(row.rules) == 400
        found = page(store, everything(), limit=1000)
        assert len(found.items) == 200


def test_an_event_that_came_twice_is_found_once(path: Path) -> None:
    with Store.open(path, retention=FOR_EVER) as store:
        first, second = entry("a"), entry("b")
        given = [Entry(event=one.event, decision=one.decision) for one in (first, second)]
        append(store, given[:1])
        append(store, given)
        assert [stored.id for stored in page(store, everything()).items] == [second.event.id, first.event.id]


# ---- retention


def test_a_search_goes_on_while_the_oldest_go(path: Path) -> None:
    """Every page of every search is of events that are there, in order, each once; none fails."""
    bound = Retention(max_bytes=3 << 20, size_step=64 << 10)
    stop = threading.Event()
    failures: list[BaseException] = []
    pages = [0]

    with Store.open(path, retention=bound) as store:
        sent: dict[str, int] = {}

        def look(*, newer: bool) -> None:
            try:
                while not stop.is_set():
                    at, seen = None, []
                    while not stop.is_set():
                        found = page(store, everything(), at, limit=300, newer=newer)
                        seen += [sent[stored.id] for stored in found.items]
                        pages[0] += 1
                        at = found.next
                        if at is None:
                            break
                    assert all(a < b if newer else a > b for a, b in pairwise(seen))
            except BaseException as error:  # noqa: BLE001 - told in the test's thread
                failures.append(error)

        threads = [threading.Thread(target=look, kwargs={"newer": newer}) for newer in (False, True)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(120):
                made = [entry(f"{len(sent) + n}", size=1000) for n in range(100)]
                sent.update({one.event.id: len(sent) + n for n, one in enumerate(made)})
                append(store, [Entry(event=_noisy(one.event), decision=one.decision, own_id=True) for one in made])
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        assert not failures
        assert pages[0] > 2
        left = _settled(store)
        assert left == list(sent)[: -len(left) - 1 : -1]
        assert 0 < len(left) < len(sent)
        counted = store.read(
            lambda connection: connection.execute(
                "SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM journal_summary)"
            ).fetchone()
        )
        assert counted[1] - counted[0] in (0, 1)
        # A cursor into what is gone leads to the end, or to the oldest that is there.
        assert page(store, everything(), Gap(2, 0)).items == []
        oldest = page(store, everything(), Gap(2, 0), limit=1, newer=True).items
        assert [stored.id for stored in oldest] == left[-1:]


def _settled(store: Store) -> list[str]:
    """Ids of what is left once the writing thread, which trims after a commit, has nothing more to trim."""
    before: list[str] | None = None
    while True:
        store.submit(lambda _: None).result(20)
        left = [stored.id for stored in page(store, everything(), limit=100_000).items]
        if left == before:
            return left
        before = left


def _noisy(event: Event) -> Event:
    """What does not compress, so that the journal grows."""
    return msgspec.structs.replace(event, raw=os.urandom(1000))


def test_what_is_too_old_is_not_found_and_numbers_never_come_twice(path: Path) -> None:
    now = [1_000_000.0]
    kept = Retention(max_age=100.0)

    def opened() -> Store:
        return Store.open(path, retention=kept, clock=lambda: now[0])

    with opened() as store:
        append(store, [entry(received=now[0])])
        resume = page(store, everything()).resume
    now[0] += 200.0
    with opened() as store:
        # Retention looks after the first commit.
        store.submit(lambda _: None).result(20)
        _until_empty(store)
    with opened() as store:
        assert page(store, everything()).items == []
        late = entry(received=now[0])
        append(store, [late])
        found = page(store, everything(), resume, newer=True)
        assert [stored.id for stored in found.items] == [late.event.id]


def _until_empty(store: Store) -> None:
    end = time.monotonic() + 30
    while store.read(lambda connection: connection.execute("SELECT count(*) FROM journal").fetchone())[0]:
        assert time.monotonic() < end, "retention did not come"
        time.sleep(0.05)


# ---- how it stops


def test_a_search_that_may_not_take_long_says_how_far_it_came(path: Path) -> None:
    with Store.open(path, retention=FOR_EVER) as store:
        for start in (0.0, 10.0, 20.0):
            append(store, [entry(received=start + n) for n in range(3)])
        query = Query[Stored](bounds=Bounds(), test=lambda _: None)
        reached, at = [], None
        for _ in range(5):
            found = store.read(lambda connection, at=at: Search(connection, query, limit=5, at=at, seconds=0).run())
            reached.append(found.until)
            at = found.next
            if at is None:
                break
    assert reached == [20.0, 10.0, 0.0, None]


def test_a_page_of_large_events_is_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MAX_BYTES", 5000)
    with Store.open(path, retention=FOR_EVER) as store:
        append(store, [entry(size=1500) for _ in range(10)])
        first = page(store, everything())
        assert len(first.items) == 4
        assert len(page(store, everything(), first.next).items) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/etc/shadow", b"shadow"), ("größe", b"gr"), ("ß", b""), ("", b""), ("a:b-cd", b"b-cd"), ("\ud800ab", b"ab")],
)
def test_an_anchor_stands_in_any_json_of_its_text(text: str, expected: bytes) -> None:
    assert anchor(text) == expected


def test_no_needle_where_bytes_do_not_tell() -> None:
    assert needle(["abc", "ß"]) is None
    made = needle(["Abc", "x.Yz"], folded=True)
    assert made is not None
    assert made.any_of == (b"abc", b"x.yz")
