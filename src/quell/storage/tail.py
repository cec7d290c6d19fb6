"""What was committed after a place: events in the journal's order, flags in the order they were raised.

A reader keeps a Position and goes on from there, at its own pace; whoever writes knows nothing of it. What retention
deleted before it was read is counted: the store keeps how many events were ever deleted, a position how many lay before
it, and where the first is more than the second the difference was never read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from quell.model.decision import Flag
from quell.storage import answers, key_values
from quell.storage.group import Group, unpack
from quell.storage.records import Stored

#: Under which the store keeps how many events retention has ever deleted.
_DELETED = "journal.deleted"

_FROM = "SELECT seq, codec, own, ids, body FROM journal WHERE seq >= ? ORDER BY seq"
_decode_flag = msgspec.msgpack.Decoder(Flag).decode


class Position(Struct, frozen=True, kw_only=True):
    """The next event is the one at `place` of row `seq` of the journal, or the first after it."""

    seq: int = 0
    place: int = 0
    #: The last flag's number.
    flag: int = 0
    #: Events before this place since the store was made; None: not yet counted.
    events: int | None = None


class Batch(Struct, frozen=True, kw_only=True):
    events: Sequence[Stored]
    #: Those raised up to the last of the events, or all if it is the last of all.
    flags: Sequence[Flag]
    #: Where to go on.
    after: Position
    #: Nothing more was committed.
    exhausted: bool
    #: Deleted by retention since the position, before they were read.
    lost_events: int = 0
    lost_flags: int = 0


class Lag(Struct, frozen=True, kw_only=True):
    """What lies beyond a position."""

    events: int = 0
    flags: int = 0
    #: When the first of the events was taken in, epoch seconds; None: there is none.
    oldest: float | None = None


def end(connection: sqlite3.Connection) -> Position:
    """After everything that is committed."""
    row = connection.execute("SELECT seq, events FROM journal ORDER BY seq DESC LIMIT 1").fetchone() or (0, 0)
    return Position(seq=row[0], place=row[1], flag=_newest_flag(connection))


def counted(connection: sqlite3.Connection, position: Position) -> Position:
    """With its events. The first time this looks at every row before it."""
    if position.events is not None:
        return position
    connection.execute("BEGIN")
    return msgspec.structs.replace(position, events=_before(connection, position.seq, position.place))


def read(connection: sqlite3.Connection, position: Position, limit: int) -> Batch:
    """At most `limit` events, and at most as many flags. One snapshot, whatever is committed meanwhile."""
    connection.execute("BEGIN")
    seq, place, read_flag = _valid(connection, position)
    deleted = _deleted(connection)
    before = _before(connection, seq, place) if position.events is None else position.events
    lost = max(0, deleted - before)
    answer = partial(answers.get, connection)
    events: list[Stored] = []
    exhausted = True
    for number, codec, own, ids, body in connection.execute(_FROM, (seq,)):
        if len(events) >= limit:
            exhausted = False
            break
        group = Group(answer, number, own, ids, unpack(codec, body))
        first = place if group.seq == seq else 0
        last = min(len(group), first + limit - len(events))
        events += [group.at(n) for n in range(first, last)]
        seq, place = group.seq, last
        if last < len(group):
            exhausted = False
            break
    flags, flag, lost_flags = _flags(
        connection, read_flag, limit, None if exhausted or not events else events[-1].decision.time
    )
    return Batch(
        events=events,
        flags=flags,
        after=Position(seq=seq, place=place, flag=flag, events=before + lost + len(events)),
        exhausted=exhausted and len(flags) < limit,
        lost_events=lost,
        lost_flags=lost_flags,
    )


def lag(connection: sqlite3.Connection, position: Position) -> Lag:
    """It costs as much as there is."""
    connection.execute("BEGIN")
    seq, place, flag = _valid(connection, position)
    row = connection.execute("SELECT events, received_min FROM journal WHERE seq = ?", (seq,)).fetchone()
    here = row[0] - place if row else 0
    oldest = row[1] if here else None
    if oldest is None:
        (oldest,) = connection.execute(
            "SELECT received_min FROM journal WHERE seq > ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone() or (None,)
    (flags,) = connection.execute("SELECT count(*) FROM flags WHERE n > ?", (flag,)).fetchone()
    return Lag(events=here + _count(connection, "seq > ?", seq), flags=flags, oldest=oldest)


def count_deleted(connection: sqlite3.Connection, last: int) -> None:
    """For retention, in the transaction that deletes the rows up to `last`."""
    gone = _count(connection, "seq <= ?", last)
    key_values.put(connection, _DELETED, str(_deleted(connection) + gone).encode())


def _valid(connection: sqlite3.Connection, position: Position) -> tuple[int, int, int]:
    """seq, place and flag of the position. Numbers begin anew after an older journal was restored, those of flags also
    after the table was empty: what has a lower number than the position's is newer then, and all is still to be read.
    """
    (newest,) = connection.execute("SELECT max(seq) FROM journal").fetchone()
    seq, place = (0, 0) if newest is not None and newest < position.seq else (position.seq, position.place)
    flag = _newest_flag(connection)
    return seq, place, 0 if 0 < flag < position.flag else position.flag


def _flags(connection: sqlite3.Connection, after: int, limit: int, until: float | None) -> tuple[list[Flag], int, int]:
    """Flags up to that moment, the number of the last, and how many are gone before the first."""
    flags: list[Flag] = []
    lost, last = 0, after
    rows = connection.execute("SELECT n, time, body FROM flags WHERE n > ? ORDER BY n LIMIT ?", (after, limit))
    for n, time, body in rows:
        if until is not None and time > until:
            break
        lost += n - last - 1
        last = n
        flags.append(_decode_flag(body))
    return flags, last, lost


def _newest_flag(connection: sqlite3.Connection) -> int:
    (newest,) = connection.execute("SELECT coalesce(max(n), 0) FROM flags").fetchone()
    return int(newest)


def _before(connection: sqlite3.Connection, seq: int, place: int) -> int:
    here = connection.execute("SELECT 1 FROM journal WHERE seq = ?", (seq,)).fetchone() is not None
    return _deleted(connection) + _count(connection, "seq < ?", seq) + (place if here else 0)


def _count(connection: sqlite3.Connection, where: str, seq: int) -> int:
    (events,) = connection.execute(f"SELECT coalesce(sum(events), 0) FROM journal WHERE {where}", (seq,)).fetchone()  # noqa: S608 - literals
    return int(events)


def _deleted(connection: sqlite3.Connection) -> int:
    return int(key_values.get(connection, _DELETED) or b"0")
