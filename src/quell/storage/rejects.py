"""Bytes that were no event, kept for people to look at."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from quell.storage import packed
from quell.storage.records import Reject

#: Of the refused bytes so many are kept.
RAW_BYTES = 16 << 10

_INSERT = packed.statement("INSERT OR IGNORE INTO rejects (id, time, body)", plain=2)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reject).decode


def insert(connection: sqlite3.Connection, refused: Iterable[Reject]) -> None:
    """Keeps them, each with the first RAW_BYTES of what was refused."""
    short = (msgspec.structs.replace(r, raw=r.raw[:RAW_BYTES]) if len(r.raw) > RAW_BYTES else r for r in refused)
    packed.run(connection, _INSERT, packed.pack(((reject.id, reject.time), _encode(reject)) for reject in short))


def recent(connection: sqlite3.Connection, limit: int, before: str | None = None) -> list[Reject]:
    """Newest first, older than the reject of id `before`."""
    rows = connection.execute(
        "SELECT body FROM rejects WHERE ?1 IS NULL OR n < (SELECT n FROM rejects WHERE id = ?1) ORDER BY n DESC LIMIT ?2",
        (before, limit),
    )
    return [_decode(body) for (body,) in rows]
