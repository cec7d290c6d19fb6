"""Answers that are kept once and named by number, and rows that hold the text that events came in."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from test_storage import answer, append_batch, entries

from quell.detectors import DETECTORS
from quell.errors import StoreError
from quell.model.answer import NOTHING, Answer
from quell.model.event import Event
from quell.storage import answers, group, journal, retention, schema
from quell.storage.answers import NONE, Numbered
from quell.storage.group import Compressor, Group, Packer
from quell.storage.records import Batch, Entry, Retention
from quell.storage.store import Store


def batch(events: Sequence[Event], given: Sequence[Answer | None], text: bytes | None = None) -> Batch:
    return Batch(
        events=events,
        answers=given,
        times=[5.0] * len(events),
        revisions=[9] * len(events),
        sizes=[len(event.raw) for event in events],
        text=text,
    )


def made(count: int) -> list[Event]:
    return [entry.event for entry in entries(count)]


def lines(text: bytes) -> list[Event]:
    decode = DETECTORS["native"].decode
    return [decode(line, id=None, received=time.time()) for line in text.split(b"\n") if line.strip()]


def line(n: int) -> bytes:
    return b'{"name": "Container.Start", "subject": {"node": "node-%d"}}' % n


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM answers ORDER BY number")]


def decisions(store: Store, events: Sequence[Event]) -> list[str]:
    """Names of the rules that matched each of them."""
    found = [store.event(event.id) for event in events]
    return ["".join(match.name for match in one.decision.matches) if one else "gone" for one in found]


# ---- each answer once


def test_an_answer_is_written_once_however_often_it_is_given(tmp_path: Path) -> None:
    one, two = answer(1), answer(2)
    with Store.open(tmp_path / "quell.db") as store:
        first, second = made(300), made(3)
        append_batch(store, batch(first, [one, two, NOTHING] * 100))
        append_batch(store, batch(second, [two, one, NOTHING]))
        assert decisions(store, first) == ["r1", "r2", ""] * 100
        assert decisions(store, second) == ["r2", "r1", ""]
        assert store.read(answers.kept) == {1, 2}
        assert numbers(tmp_path / "quell.db") == [1, 2]


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    one, before, after = answer(1), made(2), made(3)
    with Store.open(tmp_path / "quell.db") as store:
        append_batch(store, batch(before, [one, NOTHING]))
    with Store.open(tmp_path / "quell.db") as store:
        append_batch(store, batch(after, [answer(2), one, NOTHING]))
        assert decisions(store, [*before, *after]) == ["r1", "", "r2", "r1", ""]
    assert numbers(tmp_path / "quell.db") == [1, 2, 3]


def test_more_answers_than_are_remembered_get_new_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST", 4)
    many = [answer(n) for n in range(6)]
    with Store.open(tmp_path / "quell.db") as store:
        for _ in range(40):
            some = made(6)
            append_batch(store, batch(some, many))
            assert decisions(store, some) == [f"r{n}" for n in range(6)]
        assert len(store._writer._intake._answered) <= 4 * answers.MOST + len(many) + 1
    assert numbers(tmp_path / "quell.db") == list(range(1, 6 * 40 + 1))


def test_what_a_failed_transaction_took_back_is_written_with_the_next(tmp_path: Path) -> None:
    one, two = answer(1), answer(2)
    with Store.open(tmp_path / "quell.db") as store:
        (pages,) = store.submit(lambda connection: connection.execute("PRAGMA page_count").fetchone()).result(20)
        store.submit(lambda connection: connection.execute(f"PRAGMA max_page_count={pages}").fetchone()).result(20)
        large = [msgspec.structs.replace(event, raw=os.urandom(100_000)) for event in made(4)]
        assert append_batch(store, batch(large, [one] * 4)) is not None
        store.submit(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchone()).result(20)
        assert store.read(answers.kept) == set()
        small = made(2)
        assert append_batch(store, batch(small, [one, two])) is None
        assert decisions(store, small) == ["r1", "r2"]


def test_of_neighbours_that_fail_apart_each_that_stands_has_its_answers(tmp_path: Path) -> None:
    """Written in one transaction with what fails, then again without it."""
    one, go, told = answer(1), threading.Event(), threading.Event()

    def fails(_: sqlite3.Connection) -> None:
        raise ZeroDivisionError

    with Store.open(tmp_path / "quell.db") as store:
        held = store.submit(lambda _: go.wait(20))
        first, second = made(2), made(2)
        store.append_batch(batch(first, [one, NOTHING]), lambda _: None)
        failed = store.submit(fails)
        store.append_batch(batch(second, [NOTHING, one]), lambda _: told.set())
        go.set()
        held.result(20)
        assert told.wait(20)
        assert isinstance(failed.exception(20), ZeroDivisionError)
        assert decisions(store, [*first, *second]) == ["r1", "", "", "r1"]


def test_an_answer_that_is_not_there_is_said_to_be_damage(tmp_path: Path) -> None:
    some = made(2)
    with Store.open(tmp_path / "quell.db") as store:
        append_batch(store, batch(some, [answer(1), NOTHING]))
    with closing(sqlite3.connect(tmp_path / "quell.db")) as connection, connection:
        connection.execute("DELETE FROM answers")
    with Store.open(tmp_path / "quell.db") as store:
        with pytest.raises(StoreError, match=r"damaged: .* answer 1 "):
            store.event(some[0].id)
        assert decisions(store, some[1:]) == [""]


# ---- until no row names it


def test_answers_go_when_no_row_names_them_and_numbers_never_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    with Store.open(path) as store:
        old = made(2)
        append_batch(store, batch(old, [answer(1), answer(2)]))
    # A second process numbers anew, so that its rows name only its own.
    with Store.open(path) as store:
        kept, three = made(3), answer(3)
        append_batch(store, batch(kept, [three, three, NOTHING]))
    assert numbers(path) == [1, 2, 3]
    with closing(schema.connect(path)) as connection:
        trimmer = retention.Trimmer(connection, Retention())
        connection.execute("DELETE FROM journal WHERE seq = 1")
        trimmer.step(time.time(), records=True)
        # Who read the row a moment ago may still ask for its answers.
        assert numbers(path) == [1, 2, 3]
        trimmer.step(time.time(), records=True)
        assert numbers(path) == [3]
        connection.execute("DELETE FROM journal WHERE seq = 2")
        nothing = made(1)
    with Store.open(path) as store:
        append_batch(store, batch(nothing, [NOTHING]))
    with closing(schema.connect(path)) as connection:
        trimmer = retention.Trimmer(connection, Retention())
        for _ in range(2):
            trimmer.step(time.time(), records=True)
        assert numbers(path) == []
    # The newest row says what its numbers would have been: they are not given again while it stands.
    with Store.open(path) as store:
        last = made(1)
        append_batch(store, batch(last, [answer(4)]))
        assert decisions(store, last) == ["r4"]
    assert numbers(path) == [4]


def test_rows_of_an_older_quell_keep_every_answer(tmp_path: Path) -> None:
    """They do not say what they name, which is nothing here; they go first, and until then nothing is deleted."""
    path = tmp_path / "quell.db"
    with Store.open(path) as store:
        append_batch(store, batch(made(1), [answer(1)]))
    with closing(schema.connect(path)) as connection:
        connection.execute("UPDATE journal SET answers_from = 0")
        trimmer = retention.Trimmer(connection, Retention())
        for _ in range(3):
            trimmer.step(time.time(), records=True)
    assert numbers(path) == [1]


def test_the_rules_of_many_answers_are_said_once() -> None:
    numbered = Numbered(1)
    alike = [Answer(matches=answer(1).matches) for _ in range(500)]
    assert numbered.rules(numbered.of(alike)) == {"rule/1", "r1"}
    assert numbered.rules([NONE]) == frozenset()
    assert numbered.rules(numbered.of([answer(n) for n in range(20)])) == {
        text for n in range(20) for text in (f"rule/{n}", f"r{n}")
    }
    assert numbered.rules(numbered.of([answer(n) for n in range(300)])) is None


# ---- the text


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_what_lines_came_in_is_kept_as_it_came(end: bytes) -> None:
    text = b"\n".join(map(line, range(5))) + end
    (chunk,) = Packer().chunks(batch(lines(text), [NOTHING] * 5, text))
    assert chunk.text is text
    assert raws([chunk]) == list(map(line, range(5)))


@pytest.mark.parametrize(
    "text",
    [
        line(0) + b"\n\n" + line(1),  # a blank line
        line(0) + b"\r\n" + line(1) + b"\r\n",
        line(0) + b"\nnot an event\n" + line(1),
        b"[" + line(0) + b",\n" + line(1) + b"]",
        line(0) + b" \n" + line(1),
        b"\n" + line(0) + b"\n" + line(1),
        line(0) + b"\n" + line(1) + b"\n\n",
        line(0) + b"\n" + line(1) + b"\n" + line(2),  # the third was known before
    ],
)
def test_a_text_that_is_more_than_its_events_is_not_kept(text: bytes) -> None:
    decode = DETECTORS["native"].decode
    events = [decode(line(n), id=None, received=time.time()) for n in range(2)]
    (chunk,) = Packer().chunks(batch(events, [NOTHING] * 2, text))
    assert chunk.text == line(0) + b"\n" + line(1)
    assert raws([chunk]) == [line(0), line(1)]


def raws(chunks: Sequence[group.Chunk]) -> list[bytes]:
    """As they come out of one row."""
    ((codec, body),) = Compressor().pack([chunks])
    own = b"".join([chunk.own for chunk in chunks])
    found = Group(lambda _: NOTHING, 1, own, b"", group.unpack(codec, body))
    return [found.raw(n) for n in range(len(found))]


@pytest.mark.parametrize("size", [1, 10, 3_000, 40_000, 300_000])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_chunks_of_any_size_come_back(size: int, count: int) -> None:
    """Small ones are compressed together or not at all, large ones by themselves."""
    packer = Packer()
    wanted: list[bytes] = []
    chunks = []
    for n in range(count):
        part = entries(1 + n % 3, size + n)
        wanted += [entry.event.raw for entry in part]
        chunks += packer.chunks(Batch.of(part))
    assert raws(chunks) == wanted


def test_texts_and_events_by_themselves_lie_in_one_row(tmp_path: Path) -> None:
    text = b"\n".join(map(line, range(100))) + b"\n"
    first, single, last = lines(text), lines(line(200)), lines(text)
    with Store.open(tmp_path / "quell.db") as store:
        go = threading.Event()
        held = store.submit(lambda _: go.wait(20))
        told = threading.Event()
        store.append_batch(batch(first, [answer(1)] * 100, text), lambda _: None)
        store.append_batch(batch(single, [NOTHING]), lambda _: None)
        store.append_batch(batch(last, [NOTHING] * 100, text), lambda _: told.set())
        go.set()
        held.result(20)
        assert told.wait(20)
        assert store.read(lambda connection: connection.execute("SELECT count(*) FROM journal").fetchone()) == (1,)
        stored = store.recent(1000)[::-1]
        assert [one.raw for one in stored] == [event.raw for event in (*first, *single, *last)]
        assert [one.id for one in stored] == [event.id for event in (*first, *single, *last)]
        assert store.read(lambda connection: journal.place(connection, single[0].id)) == (1, 100)


def test_events_known_before_are_left_out_of_a_text(tmp_path: Path) -> None:
    def given(n: int) -> bytes:
        return b'{"id": "given-%d", "name": "Container.Start", "subject": {"node": "n"}}' % n

    with Store.open(tmp_path / "quell.db") as store:
        known = lines(given(1))
        append_batch(store, batch(known, [NOTHING]))
        text = b"\n".join(map(given, range(4)))
        append_batch(store, batch(lines(text), [answer(n) for n in range(4)], text))
        stored = {one.id: (one.raw, one.decision.matches) for one in store.recent(10)}
        assert stored == {f"given-{n}": (given(n), () if n == 1 else answer(n).matches) for n in range(4)}


def test_a_row_of_entries_alone_names_no_answer(tmp_path: Path) -> None:
    with Store.open(tmp_path / "quell.db") as store:
        some: list[Entry] = entries(3)
        append_batch(store, Batch.of(some))
        assert decisions(store, [entry.event for entry in some]) == [""] * 3
    assert numbers(tmp_path / "quell.db") == []
