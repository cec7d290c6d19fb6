"""The audit log: a row an entry, each holding the hash of the one before. Functions over a connection: see quell.storage.

An entry is written in the transaction of the change it tells of, so neither is ever there without the other; the
writer signs where the log then ends (quell.storage.seal). quell.storage.chain checks it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from quell.model.audit import QUELL, AuditEntry, AuditRecord, Base, Head, Verification
from quell.storage.chain import CUT, GENESIS, OWN, Chain, Row, link

#: Entries read by one query while the log is walked.
_BATCH = 1000

encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(AuditEntry).decode


class Filter(Struct, frozen=True, kw_only=True):
    """Which entries are wanted. None: all. Times in epoch seconds, since included and until not."""

    since: float | None = None
    until: float | None = None
    #: As Actor's text: user/alice.
    actor: str | None = None
    verb: str | None = None
    kind: str | None = None
    name: str | None = None


class Ends(Struct, frozen=True, kw_only=True):
    """Of the log at one moment: what its first entry follows, its last entry (0: none), and its signed head."""

    base: Base
    last: int
    head: Head | None


def append(connection: sqlite3.Connection, entry: AuditEntry, now: float) -> None:
    """Adds an entry at the end of the chain, in the caller's transaction. now: epoch seconds."""
    row = connection.execute("SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1").fetchone()
    last, before = (0, GENESIS) if row is None else row
    body, time = encode(entry), micros(now)
    connection.execute(
        "INSERT INTO audit (n, time, body, hash) VALUES (?, ?, ?, ?)",
        (last + 1, time, body, link(before, last + 1, time, body)),
    )


def micros(seconds: float) -> int:
    return round(seconds * 1e6)


def recent(
    connection: sqlite3.Connection, limit: int, before: int | None = None, wanted: Filter | None = None
) -> list[AuditRecord]:
    """At most `limit` entries, newest first, older than entry `before`."""
    wanted = wanted or Filter()
    bounds: list[tuple[str, object]] = [
        ("n < ?", before),
        ("time >= ?", None if wanted.since is None else micros(wanted.since)),
        ("time < ?", None if wanted.until is None else micros(wanted.until)),
        ("actor = ?", wanted.actor),
        ("verb = ?", wanted.verb),
        ("kind = ?", wanted.kind),
        ("name = ?", wanted.name),
    ]
    given = [(sql, value) for sql, value in bounds if value is not None]
    where = f"WHERE {' AND '.join(sql for sql, _ in given)}" if given else ""
    found = connection.execute(
        f"SELECT n, time, body, hash FROM audit {where} ORDER BY n DESC LIMIT ?",  # noqa: S608 - literals
        (*(value for _, value in given), limit),
    )
    return [_record(row) for row in found]


def ends(connection: sqlite3.Connection) -> Ends:
    head = connection.execute(
        "SELECT n, hash, signature, (SELECT coalesce(max(n), 0) FROM audit) FROM audit_head"
    ).fetchone()
    if head is None:
        (last,) = connection.execute("SELECT coalesce(max(n), 0) FROM audit").fetchone()
        return Ends(base=_base(connection), last=last, head=None)
    n, end, signature, last = head
    return Ends(base=_base(connection), last=last, head=Head(n=n, hash=end.hex(), signature=signature.hex()))


def rows(
    connection: sqlite3.Connection, after: int, upto: int, rest: Callable[[], object] = lambda: None
) -> Iterator[Row]:
    """Entries after one and up to another, in order, some at a time, so that no read lasts long.

    rest is called between two reads.
    """
    while after < upto:
        found: list[Row] = connection.execute(
            "SELECT n, time, body, hash FROM audit WHERE n > ? AND n <= ? ORDER BY n LIMIT ?", (after, upto, _BATCH)
        ).fetchall()
        if not found:
            return
        yield from found
        after = found[-1][0]
        rest()


def verify(
    connection: sqlite3.Connection,
    key: Ed25519PublicKey | None,
    *,
    start: Base | None = None,
    limit: int | None = None,
    noted: tuple[str, ...] = (),
    progress: Callable[[int], object] = lambda _entries: None,
    rest: Callable[[], object] = lambda: None,
) -> Verification:
    """Check the log as it ends now, from `start` on (None: its beginning) and at most so many entries.

    key: the controller's; None leaves the signature unchecked. progress: called with the entries checked so far.
    """
    found = ends(connection)
    chain = Chain(start or found.base, noted=noted)
    complete = chain.follow(rows(connection, chain.n, found.last, rest), found.head, limit=limit, progress=progress)
    if complete:
        # Part by part, only the last one knows of the end, and none of all cuts.
        chain.finish(found.base if start is None else Base(), found.head, found.last, key)
    return chain.verification(found.head, complete=complete)


def cut(connection: sqlite3.Connection, before: float, limit: int, now: float) -> int:
    """Removes the oldest entries of before that moment, at most so many, never the newest; an entry says which.

    How many were removed. In the caller's transaction.
    """
    row = connection.execute(
        # The first that is young enough, or too many, or the last.
        "SELECT min(n), (SELECT min(n) FROM audit) FROM ("
        " SELECT min(n) AS n FROM audit WHERE time >= ?1"
        " UNION ALL SELECT min(n) + ?2 FROM audit UNION ALL SELECT max(n) FROM audit)",
        (micros(before), limit),
    ).fetchone()
    stop, first = row
    if first is None or stop <= first:
        return 0
    (end,) = connection.execute("SELECT hash FROM audit WHERE n = ?", (stop - 1,)).fetchone()
    connection.execute("DELETE FROM audit WHERE n < ?", (stop,))
    entry = AuditEntry(
        actor=QUELL,
        verb=CUT,
        kind=OWN,
        name=f"{first}-{stop - 1}",
        after=Base(n=stop - 1, hash=end.hex()),
        note=f"{stop - first} entries were older than audit.max_age allows",
    )
    append(connection, entry, now)
    return int(stop - first)


def _base(connection: sqlite3.Connection) -> Base:
    """What the first entry follows, as the last entry about a cut says."""
    row = connection.execute(
        "SELECT body FROM audit WHERE kind = ? AND verb = ? ORDER BY n DESC LIMIT 1", (OWN, CUT)
    ).fetchone()
    return Base() if row is None else msgspec.convert(_decode(row[0]).after, Base)


def _record(row: Row) -> AuditRecord:
    n, time, body, kept = row
    try:
        entry = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        entry = AuditEntry(actor=QUELL, verb="unreadable", kind=OWN, name=str(n), note="altered: verify the log")
    return AuditRecord(n=n, time=time / 1e6, hash=kept.hex(), entry=entry)
