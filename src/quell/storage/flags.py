"""Findings for people. SEMANTICS section 6."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from quell.model.decision import Flag
from quell.storage import packed

# A flag's id is derived, so the same flag again is the same row (SEMANTICS section 9: once).
INSERT = packed.statement("INSERT OR IGNORE INTO flags (id, time, body)", plain=2)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Flag).decode


def rows(found: Iterable[Flag]) -> tuple[str, bytes] | tuple[None, None]:
    """For INSERT."""
    return packed.pack(((flag.id, flag.time), _encode(flag)) for flag in found)


def insert(connection: sqlite3.Connection, found: Iterable[Flag]) -> None:
    packed.run(connection, INSERT, rows(found))


def raised_since(connection: sqlite3.Connection, prefix: str, time: float) -> bool:
    """Whether a flag whose id begins with prefix/ was raised after that moment."""
    # "0" is the character after "/".
    sql = "SELECT 1 FROM flags WHERE id > ?1 || '/' AND id < ?1 || '0' AND time > ?2 LIMIT 1"
    return connection.execute(sql, (prefix, time)).fetchone() is not None


def get(connection: sqlite3.Connection, flag_id: str) -> Flag | None:
    row = connection.execute("SELECT body FROM flags WHERE id = ?", (flag_id,)).fetchone()
    return None if row is None else _decode(row[0])


def recent(connection: sqlite3.Connection, limit: int, before: str | None = None) -> list[Flag]:
    """Newest first, older than the flag `before`."""
    if before is None:
        rows = connection.execute("SELECT body FROM flags ORDER BY n DESC LIMIT ?", (limit,))
    else:
        rows = connection.execute(
            "SELECT body FROM flags WHERE n < (SELECT n FROM flags WHERE id = ?) ORDER BY n DESC LIMIT ?",
            (before, limit),
        )
    return [_decode(body) for (body,) in rows]


def of_event(connection: sqlite3.Connection, event_id: str) -> list[Flag]:
    """The flags whose ids begin with the event's."""
    rows = connection.execute(
        # "0" is the character after "/".
        "SELECT body FROM flags WHERE id = ?1 OR (id > ?1 || '/' AND id < ?1 || '0') ORDER BY n",
        (event_id,),
    )
    return [_decode(body) for (body,) in rows]
