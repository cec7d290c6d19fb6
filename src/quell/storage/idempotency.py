"""Answers to requests with an Idempotency-Key, so that a repetition gets the same one. Functions over a connection."""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct

#: Seconds for which an answer is kept.
KEEP = 86_400.0

_encode = msgspec.msgpack.Encoder().encode


class Answered(Struct, frozen=True, kw_only=True):
    """What was asked (its SHA-256) and answered."""

    request: bytes
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


_decode = msgspec.msgpack.Decoder(Answered).decode


def put(connection: sqlite3.Connection, caller: str, key: str, answered: Answered, now: float) -> None:
    """Keeps an answer, and forgets those that are too old."""
    connection.execute("DELETE FROM idempotency WHERE time < ?", (now - KEEP,))
    connection.execute(
        "INSERT OR REPLACE INTO idempotency (caller, key, time, request, answer) VALUES (?, ?, ?, ?, ?)",
        (caller, key, now, answered.request, _encode(answered)),
    )


def find(connection: sqlite3.Connection, caller: str, key: str, now: float) -> Answered | None:
    """None: nothing was answered under this key, or too long ago."""
    row = connection.execute(
        "SELECT answer FROM idempotency WHERE caller = ? AND key = ? AND time >= ?", (caller, key, now - KEEP)
    ).fetchone()
    return None if row is None else _decode(row[0])
