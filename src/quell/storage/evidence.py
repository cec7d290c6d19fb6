"""What was gathered before kills, and copies of executables. Functions over a connection: see quell.storage."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection

import msgspec
import zstandard

from quell.model.evidence import EvidenceSummary, Gathered, StoredEvidence

_KEEP = """
INSERT INTO evidence (id, event, agent, time, received, size, body) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET time = excluded.time, size = excluded.size, body = excluded.body
        WHERE evidence.agent = excluded.agent
    RETURNING n
"""
_WHOLE = """
SELECT e.sha256 FROM evidence_executables AS of JOIN executables AS e ON e.sha256 = of.sha256
    WHERE of.evidence = ? AND e.whole = 1 ORDER BY e.sha256
"""
_decode = msgspec.json.Decoder(Gathered).decode


def pack(facts: bytes) -> bytes:
    """The body of a row, made where there is time for it."""
    return zstandard.ZstdCompressor(level=1).compress(facts)


def keep(
    connection: sqlite3.Connection, gathered: Gathered, packed: bytes, *, event: str, agent: str, received: float
) -> bool:
    """Adds it, or replaces what its agent gathered for the same command. received: of the event, epoch seconds. False: it is
    another agent's, whose word stands.
    """
    row = (gathered.id, event, agent, gathered.time, received, len(packed), packed)
    kept = connection.execute(_KEEP, row).fetchone()
    if kept is None:
        return False
    (n,) = kept
    connection.execute("DELETE FROM evidence_executables WHERE evidence = ?", (n,))
    connection.executemany(
        "INSERT OR IGNORE INTO evidence_executables (evidence, sha256) VALUES (?, ?)",
        [(n, sha256) for sha256 in copies(gathered)],
    )
    return True


def copies(gathered: Gathered) -> dict[str, int]:
    """The copies that its agent has: hash -> bytes."""
    found = (process.executable for process in gathered.processes)
    return {each.sha256: each.size for each in found if each is not None and each.copied and each.sha256}


def whole(connection: sqlite3.Connection, hashes: Collection[str]) -> set[str]:
    """Those of which the copy is there."""
    sql = "SELECT sha256 FROM executables WHERE whole = 1 AND sha256 IN (SELECT value FROM json_each(?))"
    return {sha256 for (sha256,) in connection.execute(sql, (msgspec.json.encode(list(hashes)).decode(),))}


def begin_copy(connection: sqlite3.Connection, sha256: str, size: int) -> None:
    """Room for the pieces of a copy; what came of it before is thrown away unless it is whole."""
    connection.execute("DELETE FROM executables WHERE sha256 = ? AND whole = 0", (sha256,))
    connection.execute("INSERT OR IGNORE INTO executables (sha256, size, whole) VALUES (?, ?, 0)", (sha256, size))


def add_piece(connection: sqlite3.Connection, sha256: str, offset: int, data: bytes) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO executable_pieces (sha256, offset, data) SELECT sha256, ?2, ?3 FROM executables "
        "WHERE sha256 = ?1 AND whole = 0",
        (sha256, offset, data),
    )


def is_right(connection: sqlite3.Connection, sha256: str) -> bool:
    """Whether the pieces together have that hash."""
    digest = hashlib.sha256()
    for (data,) in connection.execute("SELECT data FROM executable_pieces WHERE sha256 = ? ORDER BY offset", (sha256,)):
        digest.update(data)
    return digest.hexdigest() == sha256


def end_copy(connection: sqlite3.Connection, sha256: str, *, right: bool) -> None:
    """It is whole, or was not what it should be and is thrown away."""
    if right:
        connection.execute("UPDATE executables SET whole = 1 WHERE sha256 = ?", (sha256,))
    else:
        connection.execute("DELETE FROM executables WHERE sha256 = ? AND whole = 0", (sha256,))


def drop_parts(connection: sqlite3.Connection) -> None:
    """What came of copies that nobody goes on with."""
    connection.execute("DELETE FROM executables WHERE whole = 0")


def size_of(connection: sqlite3.Connection, sha256: str) -> int | None:
    """Bytes of a copy; None: there is none."""
    found = connection.execute("SELECT size FROM executables WHERE sha256 = ? AND whole = 1", (sha256,)).fetchone()
    return None if found is None else int(found[0])


def piece(connection: sqlite3.Connection, sha256: str, offset: int) -> bytes:
    """The piece of a copy that begins there; b"": none does."""
    sql = "SELECT data FROM executable_pieces WHERE sha256 = ? AND offset = ?"
    found = connection.execute(sql, (sha256, offset)).fetchone()
    return b"" if found is None else bytes(found[0])


def of_event(connection: sqlite3.Connection, event: str) -> list[StoredEvidence]:
    """All that was gathered because of an event, in the order it came."""
    rows = connection.execute("SELECT n, agent, body FROM evidence WHERE event = ? ORDER BY n", (event,)).fetchall()
    unpack = zstandard.ZstdDecompressor().decompress
    return [
        StoredEvidence(
            event=event,
            agent=agent,
            gathered=_decode(unpack(body)),
            copies=tuple(sha256 for (sha256,) in connection.execute(_WHOLE, (n,))),
        )
        for n, agent, body in rows
    ]


def recent(connection: sqlite3.Connection, limit: int, before: str | None = None) -> list[EvidenceSummary]:
    """Newest first, older than that of the command `before`."""
    rows = connection.execute(
        "SELECT id, event, agent, time, size FROM evidence "
        "WHERE ?1 IS NULL OR n < (SELECT n FROM evidence WHERE id = ?1) ORDER BY n DESC LIMIT ?2",
        (before, limit),
    )
    return [
        EvidenceSummary(id=id_, event=event, agent=agent, time=time, size=size)
        for id_, event, agent, time, size in rows
    ]


def bytes_of(connection: sqlite3.Connection) -> int:
    """Of everything here: of a copy that is on its way what has come of it, whatever its agent says it will be."""
    (facts,) = connection.execute("SELECT coalesce(sum(size), 0) FROM evidence").fetchone()
    (files,) = connection.execute("SELECT coalesce(sum(size), 0) FROM executables WHERE whole = 1").fetchone()
    (parts,) = connection.execute(
        "SELECT coalesce(sum(length(data)), 0) FROM executables JOIN executable_pieces USING (sha256) WHERE whole = 0"
    ).fetchone()
    return int(facts) + int(files) + int(parts)


def trim(connection: sqlite3.Connection, *, most: int, oldest: float, rows: int) -> bool:
    """Forget some of what is too much in bytes, or whose event was received before the oldest that is kept. True: it was.

    At most so many rows at once; a copy goes when no evidence is of it any more.
    """
    n = None
    if bytes_of(connection) > most:
        n = connection.execute("SELECT n FROM evidence ORDER BY n LIMIT 1").fetchone()
    gone = connection.execute(
        "DELETE FROM evidence WHERE n IN (SELECT n FROM evidence WHERE n = ? OR received < ? ORDER BY n LIMIT ?)",
        (None if n is None else n[0], oldest, rows),
    ).rowcount
    if not gone:
        return False
    connection.execute(
        "DELETE FROM executables WHERE whole = 1 AND sha256 NOT IN (SELECT sha256 FROM evidence_executables)"
    )
    return True
