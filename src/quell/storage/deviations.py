"""Deviations, once a policy and checksum, and how often each came. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.repeats import Repeated, Standing
from quell.model.subject import Subject
from quell.storage import packed

#: (policy, checksum).
Key = tuple[str, str]


class Told(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What stays the same however often it comes."""

    name: str
    deviation: Deviation
    example: Observation | None = None


class Counts(Struct, frozen=True, gc=False, kw_only=True):
    """What changes with each repeat."""

    policy: str
    checksum: str
    what: str
    status: Standing = Standing.OPEN
    first: float
    last: float
    count: int = 0
    events: int = 0
    omitted: int = 0
    event_id: str = ""
    event_time: float = 0.0
    #: Digests of the last processes and containers it came from.
    instances: tuple[str, ...] = ()


class Wanted(Struct, frozen=True, kw_only=True):
    """Which deviations; all that is given must hold, of several values any."""

    policies: Sequence[str] = ()
    whats: Sequence[str] = ()
    statuses: Sequence[Standing] = ()
    #: Whole, or how they begin.
    checksums: Sequence[str] = ()
    #: Last seen then or later.
    since: float | None = None


_COUNTED = "policy, checksum, what, status, first, last, count, events, omitted, event_id, event_time, instances"
_UPDATE = """
UPDATE deviations SET status = ?, last = ?, count = ?, events = ?, omitted = ?, event_id = ?, event_time = ?, instances = ?,
       subject = ifnull(?, subject)
WHERE policy = ? AND checksum = ?
"""

_encode = msgspec.msgpack.Encoder().encode
_subject = msgspec.msgpack.Decoder(Subject).decode
_told = msgspec.msgpack.Decoder(Told).decode
_texts = msgspec.json.Decoder(tuple[str, ...]).decode


def add(connection: sqlite3.Connection, counts: Counts, subject: Subject, told: Told) -> None:
    """A new one."""
    connection.execute(
        f"INSERT INTO deviations ({_COUNTED}, subject, body) VALUES ({', '.join('?' * 14)})"  # noqa: S608 - our own columns
        " ON CONFLICT (policy, checksum) DO UPDATE SET body = excluded.body",
        (*_row(counts), _encode(subject), _encode(told)),
    )


def update(connection: sqlite3.Connection, changed: Iterable[tuple[Counts, Subject | None]]) -> None:
    """Counts of those that are there. subject: of the last one; None: as it was."""
    connection.executemany(
        _UPDATE,
        [
            (*_row(counts)[3:4], *_row(counts)[5:], None if subject is None else _encode(subject), *_row(counts)[:2])
            for counts, subject in changed
        ],
    )


def delete(connection: sqlite3.Connection, keys: Iterable[Key]) -> int:
    """How many there were."""
    return connection.executemany("DELETE FROM deviations WHERE policy = ? AND checksum = ?", keys).rowcount


def counts(connection: sqlite3.Connection) -> list[Counts]:
    """Of all, the one first seen first."""
    return [_counts(row) for row in connection.execute(f"SELECT {_COUNTED} FROM deviations ORDER BY n")]  # noqa: S608 - our own columns


def find(
    connection: sqlite3.Connection, wanted: Wanted, limit: int | None = None, before: int | None = None
) -> list[tuple[int, Repeated]]:
    """Each with its number, the one first seen last comes first; before: only those of lower numbers."""
    where, values = _where(wanted)
    if before is not None:
        where.append("n < ?")
        values.append(before)
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    rows = connection.execute(
        f"SELECT n, subject, body, {_COUNTED} FROM deviations{condition} ORDER BY n DESC LIMIT ?",  # noqa: S608 - our own columns
        (*values, -1 if limit is None else limit),
    )
    return [(n, _repeated(_counts(rest), _subject(subject), _told(body))) for n, subject, body, *rest in rows]


def _where(wanted: Wanted) -> tuple[list[str], list[object]]:
    where: list[str] = []
    values: list[object] = []
    for column, among in (
        ("policy", wanted.policies),
        ("what", wanted.whats),
        ("status", wanted.statuses),
    ):
        if among:
            where.append(f"{column} IN (SELECT value FROM json_each(?))")  # noqa: S608 - our own columns
            values.append(packed.texts(map(str, among)))
    if wanted.checksums:
        where.append("EXISTS (SELECT 1 FROM json_each(?) WHERE substr(checksum, 1, length(value)) = value)")
        values.append(packed.texts(wanted.checksums))
    if wanted.since is not None:
        where.append("last >= ?")
        values.append(wanted.since)
    return where, values


def _row(counts: Counts) -> tuple[object, ...]:
    return (
        counts.policy,
        counts.checksum,
        counts.what,
        counts.status.value,
        counts.first,
        counts.last,
        counts.count,
        counts.events,
        counts.omitted,
        counts.event_id,
        counts.event_time,
        packed.texts(counts.instances),
    )


def _counts(row: Sequence[object]) -> Counts:
    names = _COUNTED.split(", ")
    told = dict(zip(names, row, strict=True))
    return msgspec.convert(told | {"instances": _texts(str(told["instances"]))}, Counts)


def _repeated(counts: Counts, subject: Subject, told: Told) -> Repeated:
    plain = msgspec.structs.asdict(counts)
    del plain["what"], plain["instances"]
    return Repeated(**plain, name=told.name, deviation=told.deviation, subject=subject, example=told.example)
