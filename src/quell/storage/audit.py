"""The audit log: a row an entry, each holding the hash of the one before. Functions over a connection: see quell.storage.

An entry is written in the transaction of the change it tells of, so neither is ever there without the other.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct

import msgspec

from quell.model.audit import AuditEntry

#: What the first entry follows.
GENESIS = bytes(32)

_encode = msgspec.json.Encoder(order="deterministic").encode


def append(connection: sqlite3.Connection, entry: AuditEntry, now: float) -> None:
    """Adds an entry at the end of the chain, in the caller's transaction."""
    row = connection.execute("SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1").fetchone()
    last, before = (0, GENESIS) if row is None else row
    body = _encode(entry)
    connection.execute(
        "INSERT INTO audit (n, time, body, hash) VALUES (?, ?, ?, ?)",
        (last + 1, now, body, link(before, last + 1, now, body)),
    )


def link(before: bytes, n: int, time: float, body: bytes) -> bytes:
    """The hash of an entry that follows the one whose hash is `before`."""
    return hashlib.sha256(before + struct.pack(">Qd", n, time) + body).digest()
