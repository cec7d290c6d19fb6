"""What became of commands and deliveries. SEMANTICS sections 0 and 9."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from quell.model.decision import Outcome
from quell.storage import packed

# The same report again is the same row; `expired` and a late `done` are two facts, kept both.
INSERT = packed.statement("INSERT OR IGNORE INTO outcomes (id, status, time, body)", plain=3)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Outcome).decode


def rows(recorded: Iterable[Outcome]) -> tuple[str, bytes] | tuple[None, None]:
    """For INSERT."""
    return packed.pack(((outcome.id, outcome.status, outcome.time), _encode(outcome)) for outcome in recorded)


def insert(connection: sqlite3.Connection, recorded: Iterable[Outcome]) -> None:
    packed.run(connection, INSERT, rows(recorded))


def of(connection: sqlite3.Connection, prefix: str) -> list[Outcome]:
    """Those of one command or delivery, or of all that followed from an event, in the order they were recorded."""
    rows = connection.execute(
        # "0" is the character after "/".
        "SELECT body FROM outcomes WHERE id = ?1 OR (id > ?1 || '/' AND id < ?1 || '0') ORDER BY n",
        (prefix,),
    )
    return [_decode(body) for (body,) in rows]


def known(connection: sqlite3.Connection, ids: Iterable[str]) -> set[str]:
    """Those of the command or delivery ids that have an outcome."""
    sql = "SELECT DISTINCT id FROM outcomes WHERE id IN (SELECT value FROM json_each(?))"
    return {found for (found,) in connection.execute(sql, (packed.texts(ids),))}
