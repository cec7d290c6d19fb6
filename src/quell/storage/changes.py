"""The engine's state: a snapshot and the changes after it, in the order they were made. SEMANTICS section 9.

The changes of a commit are one row. Taking a snapshot removes the rows before it, so a restart reads the snapshot and
what is left, and never has to look through the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from quell.model.decision import Decision
from quell.storage.records import Settled

Change = Decision | Settled


class _Step(Struct, frozen=True, array_like=True):
    """One of the two: a Decision has no tag of its own."""

    decision: Decision | None = None
    settled: Settled | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Step]).decode


#: {body}: what `pack` made.
INSERT = "INSERT INTO changes (body) SELECT {body} WHERE {body} IS NOT NULL"


def pack(made: Sequence[Change]) -> bytes | None:
    """One row's body; None of no changes."""
    if not made:
        return None
    return _encode([_Step(decision=c) if isinstance(c, Decision) else _Step(settled=c) for c in made])


def put_snapshot(connection: sqlite3.Connection, state: bytes, time: float) -> None:
    """Replaces the snapshot; it covers every change written so far."""
    connection.execute("INSERT OR REPLACE INTO snapshot (one, time, body) VALUES (1, ?, ?)", (time, state))
    connection.execute("DELETE FROM changes")


def waiting(connection: sqlite3.Connection) -> int:
    """Bytes of changes after the snapshot."""
    (size,) = connection.execute("SELECT coalesce(sum(length(body)), 0) FROM changes").fetchone()
    return int(size)


def restore(connection: sqlite3.Connection) -> tuple[bytes | None, Iterator[Change]]:
    """The snapshot (None: there is none yet) and the changes after it; both are of one moment."""
    connection.execute("BEGIN")
    try:
        row = connection.execute("SELECT body FROM snapshot").fetchone()
        rows = connection.execute("SELECT body FROM changes ORDER BY n").fetchall()
    finally:
        connection.execute("COMMIT")
    return (None if row is None else row[0]), _unpack([body for (body,) in rows])


def _unpack(bodies: list[bytes]) -> Iterator[Change]:
    for body in bodies:
        for step in _decode(body):
            change = step.decision if step.decision is not None else step.settled
            if change is not None:
                yield change
