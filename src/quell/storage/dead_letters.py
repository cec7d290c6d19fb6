"""Deliveries that were given up, until someone asks for them again. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct

from quell.storage import outbox
from quell.storage.records import OutboxItem


class DeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What could not be delivered, whole, and why."""

    item: OutboxItem
    #: When it was given up.
    time: float
    explanation: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeadLetter).decode


def bury(connection: sqlite3.Connection, letter: DeadLetter) -> None:
    """Takes its item out of the outbox and keeps it here; one of the same id is replaced."""
    outbox.delete(connection, [letter.item.id])
    connection.execute(
        "INSERT OR REPLACE INTO dead_letters (id, time, body) VALUES (?, ?, ?)",
        (letter.item.id, letter.time, _encode(letter)),
    )


def replay(connection: sqlite3.Connection, item_id: str, now: float, expires: float | None = None) -> OutboxItem | None:
    """Puts it back into the outbox as new, with the same id; returns the item. None: there is no such letter."""
    row = connection.execute("DELETE FROM dead_letters WHERE id = ? RETURNING body", (item_id,)).fetchone()
    if row is None:
        return None
    item = msgspec.structs.replace(_decode(row[0]).item, created=now, expires=expires, attempts=0, due=now)
    outbox.insert(connection, [item])
    return item


def get(connection: sqlite3.Connection, item_id: str) -> DeadLetter | None:
    row = connection.execute("SELECT body FROM dead_letters WHERE id = ?", (item_id,)).fetchone()
    return None if row is None else _decode(row[0])


def recent(connection: sqlite3.Connection, limit: int) -> list[DeadLetter]:
    """Newest first."""
    return [each for _, each in paged(connection, limit, None)]


def paged(connection: sqlite3.Connection, limit: int, before: int | None) -> list[tuple[int, DeadLetter]]:
    """Newest first, each with its number; only those with a lower number than `before`."""
    rows = connection.execute(
        "SELECT n, body FROM dead_letters WHERE ?1 IS NULL OR n < ?1 ORDER BY n DESC LIMIT ?2", (before, limit)
    )
    return [(n, _decode(body)) for n, body in rows]
