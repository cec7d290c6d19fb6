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

    @property
    def endpoint(self) -> str:
        return self.item.channel.partition(":")[2]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DeadLetter).decode


def bury(connection: sqlite3.Connection, letter: DeadLetter) -> None:
    """Takes its item out of the outbox and keeps it here; one of the same id is replaced."""
    outbox.delete(connection, [letter.item.id])
    connection.execute(
        "INSERT OR REPLACE INTO dead_letters (id, time, endpoint, body) VALUES (?, ?, ?, ?)",
        (letter.item.id, letter.time, letter.endpoint, _encode(letter)),
    )


def replay(connection: sqlite3.Connection, item_id: str, now: float, expires: float | None = None) -> OutboxItem | None:
    """Puts it back into the outbox as new, with the same id; returns the item. None: there is no such letter."""
    row = connection.execute("DELETE FROM dead_letters WHERE id = ? RETURNING body", (item_id,)).fetchone()
    if row is None:
        return None
    item = _anew(row[0], now, expires)
    outbox.insert(connection, [item])
    return item


def replay_of(connection: sqlite3.Connection, endpoint: str, now: float, limit: int) -> int:
    """Puts an endpoint's oldest letters, at most `limit`, back into the outbox in the order they were given up in.

    Returns how many there were.
    """
    rows = connection.execute(
        "SELECT n, body FROM dead_letters WHERE endpoint = ? ORDER BY n LIMIT ?", (endpoint, limit)
    ).fetchall()
    outbox.insert(connection, [_anew(body, now, None) for _, body in rows])
    connection.executemany("DELETE FROM dead_letters WHERE n = ?", [(n,) for n, _ in rows])
    return len(rows)


def discard(connection: sqlite3.Connection, item_id: str) -> DeadLetter | None:
    """Forgets it for good; returns it. None: there is no such letter."""
    row = connection.execute("DELETE FROM dead_letters WHERE id = ? RETURNING body", (item_id,)).fetchone()
    return None if row is None else _decode(row[0])


def discard_of(connection: sqlite3.Connection, endpoint: str, limit: int) -> int:
    """Forgets an endpoint's oldest letters, at most `limit`; returns how many there were."""
    return connection.execute(
        "DELETE FROM dead_letters WHERE n IN (SELECT n FROM dead_letters WHERE endpoint = ? ORDER BY n LIMIT ?)",
        (endpoint, limit),
    ).rowcount


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many there are, by endpoint."""
    return dict(connection.execute("SELECT endpoint, count(*) FROM dead_letters GROUP BY endpoint").fetchall())


def _anew(body: bytes, now: float, expires: float | None) -> OutboxItem:
    return msgspec.structs.replace(_decode(body).item, created=now, expires=expires, attempts=0, due=now)


def get(connection: sqlite3.Connection, item_id: str) -> DeadLetter | None:
    row = connection.execute("SELECT body FROM dead_letters WHERE id = ?", (item_id,)).fetchone()
    return None if row is None else _decode(row[0])


def recent(connection: sqlite3.Connection, limit: int) -> list[DeadLetter]:
    """Newest first."""
    return [each for _, each in paged(connection, limit, None)]


def paged(
    connection: sqlite3.Connection, limit: int, before: int | None, *, endpoint: str | None = None
) -> list[tuple[int, DeadLetter]]:
    """Newest first, each with its number; only those with a lower number than `before`, and of `endpoint` if given."""
    rows = connection.execute(
        "SELECT n, body FROM dead_letters WHERE (?1 IS NULL OR n < ?1) AND (?3 IS NULL OR endpoint = ?3)"
        " ORDER BY n DESC LIMIT ?2",
        (before, limit, endpoint),
    )
    return [(n, _decode(body)) for n, body in rows]
