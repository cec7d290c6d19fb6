"""The history of attempts to deliver; retention keeps the newest. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct


class Delivery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt."""

    #: The outbox item's.
    id: str
    endpoint: str
    time: float
    #: From 1.
    attempt: int
    #: HTTP status; None: no answer.
    status: int | None = None
    delivered: bool = False
    explanation: str = ""
    #: Seconds.
    duration: float = 0.0
    event_id: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Delivery).decode


def insert(connection: sqlite3.Connection, delivery: Delivery) -> None:
    connection.execute(
        "INSERT INTO deliveries (id, time, body) VALUES (?, ?, ?)", (delivery.id, delivery.time, _encode(delivery))
    )


def recent(connection: sqlite3.Connection, limit: int) -> list[Delivery]:
    """Newest first."""
    return [each for _, each in paged(connection, limit, None)]


def paged(connection: sqlite3.Connection, limit: int, before: int | None) -> list[tuple[int, Delivery]]:
    """Newest first, each with its number; only those with a lower number than `before`."""
    rows = connection.execute(
        "SELECT n, body FROM deliveries WHERE ?1 IS NULL OR n < ?1 ORDER BY n DESC LIMIT ?2", (before, limit)
    )
    return [(n, _decode(body)) for n, body in rows]


def of(connection: sqlite3.Connection, item_id: str) -> list[Delivery]:
    """The attempts for one outbox item, in order."""
    rows = connection.execute("SELECT body FROM deliveries WHERE id = ? ORDER BY n", (item_id,))
    return [_decode(body) for (body,) in rows]
