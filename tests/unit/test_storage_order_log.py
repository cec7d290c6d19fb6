"""The order log's file: what is whole in it is found again, and nothing else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from quell import ids
from quell.errors import StoreError
from quell.model.action import Severity
from quell.model.decision import CooldownStarted, Decision, Flag, FlagClass, Repetition
from quell.model.event import Category, Event, Level
from quell.model.subject import Process, Subject
from quell.storage import order_log
from quell.storage.order_log import PAUSE, SLOT_BYTES, SLOTS, OrderLog
from quell.storage.records import Entry, OutboxItem
from quell.storage.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "quell.db-orders"


@pytest.fixture
def log(path: Path) -> Iterator[OrderLog]:
    log = OrderLog(path)
    yield log
    log.close()


def order(raw: bytes = b'{"name": "x"}') -> Entry:
    """An event with all that can follow from one."""
    event_id = ids.uuid7()
    event = Event(
        id=event_id,
        time=1.5,
        received=time.time(),
        source="native",
        category=Category.SECURITY_EVENT,
        name="x",
        catalogue_name="X.Y",
        level=Level.ERROR,
        subject=Subject(process=Process(pid=7)),
        raw=raw,
        decode=lambda _raw: None,
    )
    started = CooldownStarted(key="k", at=1.0, until=2.0)
    flag = Flag(
        id=f"{event_id}/2",
        flag_class=FlagClass.RED,
        severity=Severity.HIGH,
        name="f",
        time=2.0,
        event_id=event_id,
    )
    return Entry(
        event=event,
        decision=Decision(event_id=event_id, time=event.received, revision=3, changes=(started,)),
        outbox=(
            OutboxItem(id=f"{event_id}/1", channel="agent:a", body=b"\xc1\0", created=1.0, event_id=event_id),
            OutboxItem(id=f"{event_id}/3", channel="webhook:w", body=b"{}", created=1.0, event_id=event_id),
        ),
        flags=(flag, Repetition(flag="other", time=3.0)),
        own_id=True,
    )


def as_journaled(entry: Entry) -> Entry:
    """Without what the journal does not keep, and with an id that may be there already."""
    event = msgspec.structs.replace(entry.event, id_given=True, time=None, subject=Subject(), decode=None)
    return msgspec.structs.replace(entry, event=event, own_id=False)


def left_in(path: Path) -> list[Entry]:
    """As another process finds it."""
    log = OrderLog(path)
    try:
        return log.left()
    finally:
        log.close()


def test_what_is_kept_is_found_in_order_until_it_is_journaled(path: Path, log: OrderLog) -> None:
    assert left_in(path) == []
    kept = [order() for _ in range(3)]
    slots = [log.keep([kept[0]]), log.keep(kept[1:])]
    assert left_in(path) == log.left() == [as_journaled(one) for one in kept]
    for slot, rest in zip(slots, (kept[1:], []), strict=True):
        assert slot is not None
        log.journaled(slot)
        assert left_in(path) == [as_journaled(one) for one in rest]


def test_slots_are_used_in_turn_and_what_is_found_is_in_the_order_it_was_kept(path: Path, log: OrderLog) -> None:
    for _ in range(SLOTS - 1):
        slot = log.keep([order()])
        assert slot is not None
        log.journaled(slot)
    last, first = order(), order()
    assert (log.keep([last]), log.keep([first])) == (SLOTS - 1, 0)
    assert left_in(path) == [as_journaled(last), as_journaled(first)]


def test_more_than_it_has_place_for_waits_for_the_journal(path: Path, log: OrderLog) -> None:
    assert log.keep([order(b"x" * SLOT_BYTES)]) is None
    kept = [order() for _ in range(SLOTS)]
    slots = [log.keep([one]) for one in kept]
    assert sorted(slot for slot in slots if slot is not None) == list(range(SLOTS))
    assert log.keep([order()]) is None
    assert left_in(path) == [as_journaled(one) for one in kept]
    log.clear()
    assert left_in(path) == []
    assert log.keep([order()]) is not None


@pytest.mark.parametrize("torn", [0, 1, 8, 15, 16, 200])
def test_a_record_that_was_not_written_whole_is_none(path: Path, log: OrderLog, torn: int) -> None:
    one, two = order(), order()
    assert (log.keep([one]), log.keep([two])) == (0, 1)
    content = bytearray(path.read_bytes())
    content[SLOT_BYTES + torn :] = bytes(len(content) - SLOT_BYTES - torn)
    path.write_bytes(content)
    assert left_in(path) == [as_journaled(one)]


def test_any_other_byte_makes_it_none(path: Path, log: OrderLog) -> None:
    assert log.keep([order()]) == 0
    content = path.read_bytes()
    size = len(content[:SLOT_BYTES].rstrip(b"\0"))
    for at in range(0, size, 7):
        changed = bytearray(content)
        changed[at] ^= 0x41
        path.write_bytes(changed)
        assert left_in(path) == [], at
    path.write_bytes(content)
    assert len(left_in(path)) == 1


def test_what_an_event_says_is_never_taken_for_a_record(path: Path, log: OrderLog) -> None:
    """Whoever sends events must not be able to have orders given that no rule asked for."""
    assert log.keep([order()]) == 0
    forged = path.read_bytes()[:SLOT_BYTES].rstrip(b"\0")
    carrier = order(forged * ((SLOT_BYTES - 2000) // len(forged)))
    log.journaled(0)
    assert log.keep([carrier]) == 1
    assert left_in(path) == [as_journaled(carrier)]
    log.journaled(1)
    assert left_in(path) == []


def test_a_file_that_is_too_short_is_made_whole(path: Path) -> None:
    path.write_bytes(b"\0" * 100)
    assert left_in(path) == []
    assert path.stat().st_size == SLOTS * SLOT_BYTES


def test_a_slow_sync_is_the_last_for_a_while(path: Path) -> None:
    """The event loop waits for it."""
    now = [100.0]

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    log = OrderLog(path, clock=clock, slow=0.4)
    assert log.keep([order()]) is not None
    assert log.keep([order()]) is None
    now[0] += PAUSE
    assert log.keep([order()]) is not None
    log.close()


def test_another_version_of_a_record_is_put_aside(path: Path, log: OrderLog) -> None:
    one = order()
    assert log.keep([one]) == 0
    body = msgspec.msgpack.encode([["a newer Quell's"]])
    with path.open("r+b") as file:
        file.seek(SLOT_BYTES)
        file.write(order_log._head(1, body) + body)
    with capture_logs() as told:
        assert left_in(path) == [as_journaled(one)]
    (line,) = told
    assert line["log_level"] == "error"
    assert Path(line["kept_in"]).read_bytes() == path.read_bytes()


def test_what_cannot_be_read_is_put_aside_once(tmp_path: Path) -> None:
    """Each opening finds it anew until one has seen to it."""
    path = tmp_path / "quell.db"
    Store.open(path).close()
    body = msgspec.msgpack.encode([["a newer Quell's"]])
    with (tmp_path / "quell.db-orders").open("r+b") as file:
        file.write(order_log._head(1, body) + body)
    for _ in range(3):
        Store.open(path).close()
        assert len(list(tmp_path.glob("quell.db-orders.*"))) == 1


def test_a_file_that_cannot_be_made_or_written_keeps_nothing(tmp_path: Path, path: Path) -> None:
    path.mkdir()
    log = OrderLog(path)
    assert log.keep([order()]) is None
    assert log.left() == []
    log.clear()
    log.close()
    log = OrderLog(tmp_path / "other")
    log.close()
    assert log.keep([order()]) is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_where_there_is_little_room_orders_wait_for_the_journal(tmp_path: Path) -> None:
    """It might have none for their event: nothing unjournaled is done."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "none", small], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine cannot mount: {mounted.stderr.strip()}")
    try:
        log = OrderLog(small / "orders")
        slot = log.keep([order()])
        assert slot is not None
        ballast = small / "ballast"
        ballast.write_bytes(bytes(20 << 20))
        assert log.keep([order()]) is None
        ballast.unlink()
        assert log.keep([order()]) is not None
        log.close()
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_order_that_cannot_be_journaled_is_put_aside_and_holds_up_no_other(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    good, other = order(), order()
    impossible = order()
    # SQLite takes it for NULL, which a row's time must not be.
    impossible = msgspec.structs.replace(
        impossible, event=msgspec.structs.replace(impossible.event, received=float("nan"))
    )
    with Store.open(path) as store:
        for one in (good, impossible, other):
            assert store.keep_orders([one]) is not None
    kept = (tmp_path / "quell.db-orders").read_bytes()
    with Store.open(path) as store:
        assert [stored.id for stored in store.recent(10)] == [other.event.id, good.event.id]
        assert len(store.outbox()) == 4
        assert store.event(good.event.id) is not None
    (aside,) = tmp_path.glob("quell.db-orders.*")
    assert aside.read_bytes() == kept
    with Store.open(path) as store:
        assert len(store.recent(10)) == 2
    assert list(tmp_path.glob("quell.db-orders.*")) == [aside]


def test_where_the_journal_cannot_be_written_the_store_says_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    with Store.open(path) as store:
        assert store.keep_orders([order()]) is not None
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE outcomes RENAME TO elsewhere")
    with pytest.raises(StoreError, match=r"events whose orders were given before a crash are in .*quell\.db-orders"):
        Store.open(path)
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO outcomes")
    with Store.open(path) as store:
        assert len(store.recent(10)) == 1
