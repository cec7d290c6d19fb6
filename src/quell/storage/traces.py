"""Traces as they are stored: a row each, whole. SEMANTICS section 6. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
import zstandard
from msgspec import Struct

from quell.model.trace import Priority, Trace, TraceStatus
from quell.storage import packed

#: Rows read at once by a search.
_ROWS = 64
#: Of merged traces that lead on to others.
_MAX_STEPS = 100

_INSERT = packed.statement("INSERT INTO traces (id, time, first, status, priority, score, suppressed, body)", plain=7)
_PUT = f"""{_INSERT}
    ON CONFLICT (id) DO UPDATE SET time = excluded.time, first = excluded.first, status = excluded.status,
        priority = excluded.priority, score = excluded.score, suppressed = excluded.suppressed, body = excluded.body"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Trace).decode

#: A row's plain values, and its body.
Row = tuple[Sequence[object], bytes]


class Bounds(Struct, frozen=True, kw_only=True):
    """What the columns say of the traces that are wanted. Times: flags came then or later, and before then."""

    since: float = float("-inf")
    until: float = float("inf")
    statuses: frozenset[TraceStatus] = frozenset((TraceStatus.OPEN, TraceStatus.CLOSED))
    priorities: frozenset[Priority] = frozenset(Priority)
    suppressed: bool = False


class Found(Struct, frozen=True, kw_only=True):
    traces: list[Trace]
    #: The number to go on from; None: the end was reached.
    next: int | None
    #: When the trace at which the search stopped began; None: it looked at everything.
    until: float | None
    #: The highest number there was.
    newest: int


def rows(traces: Iterable[Trace]) -> list[Row]:
    """For put, made where there is time for it. Not for several threads at once."""
    compress = zstandard.ZstdCompressor(level=1).compress
    return [
        (
            (
                trace.id,
                trace.last,
                trace.first,
                trace.status.value,
                trace.priority.value,
                trace.score,
                int(trace.is_suppressed),
            ),
            compress(_encode(trace)),
        )
        for trace in traces
    ]


def put(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """New ones, and others as they are now; the last, where one is there twice."""
    if rows:
        packed.run(connection, _PUT, packed.pack(rows))


def get(connection: sqlite3.Connection, identifier: str) -> Trace | None:
    row = connection.execute("SELECT body FROM traces WHERE id = ?", (identifier,)).fetchone()
    return None if row is None else _trace(row[0])


def final(connection: sqlite3.Connection, identifier: str) -> Trace | None:
    """It, or the one that has what it had."""
    trace = get(connection, identifier)
    for _ in range(_MAX_STEPS):
        if trace is None or not trace.merged_into:
            break
        trace = get(connection, trace.merged_into)
    return trace


def open_ones(connection: sqlite3.Connection) -> list[Trace]:
    rows = connection.execute("SELECT body FROM traces WHERE status = 'open'")
    return [_trace(body) for (body,) in rows]


def search(
    connection: sqlite3.Connection,
    bounds: Bounds,
    test: Callable[[Trace], bool],
    *,
    limit: int,
    at: int | None = None,
    newer: bool = False,
    by_score: bool = False,
    seconds: float = float("inf"),
) -> Found:
    """At most `limit` traces, those that began last first, from before number `at` on; newer: the other way round, after it.
    by_score: those with the highest score first, then those that began last.

    seconds: it stops after about so long, but never without getting on.
    """
    deadline = time.monotonic() + seconds
    (newest,) = connection.execute("SELECT coalesce(max(n), 0) FROM traces").fetchone()
    reached = at if at is not None else 0 if newer else newest + 1
    found: list[Trace] = []
    until: float | None = None
    rows: list[tuple[int, bytes]] = []

    def following(number: int, most: int) -> list[tuple[int, bytes]]:
        if by_score:
            return _following_score(connection, bounds, number, limit=most)
        return _following(connection, bounds, number, newer=newer, limit=most)

    while True:
        rows = following(reached, _ROWS)
        for n, body in rows:
            trace = _trace(body)
            reached, until = n, trace.first
            if test(trace):
                found.append(trace)
                if len(found) >= limit:
                    break
        done = len(rows) < _ROWS and (not rows or reached == rows[-1][0])
        if done or len(found) >= limit or time.monotonic() >= deadline:
            break
    if not done and len(found) >= limit:
        done = not following(reached, 1)
    return Found(traces=found, next=None if done else reached, until=None if done else until, newest=newest)


def mark(connection: sqlite3.Connection) -> int:
    """The number of the last flag that is in its trace."""
    (number,) = connection.execute("SELECT flag FROM traces_made").fetchone()
    return int(number)


def put_mark(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("UPDATE traces_made SET flag = ?", (number,))


def _following(
    connection: sqlite3.Connection, bounds: Bounds, at: int, *, newer: bool, limit: int
) -> list[tuple[int, bytes]]:
    beyond, order = ("n > ?", "n") if newer else ("n < ?", "n DESC")
    where, values = _where(bounds)
    return connection.execute(
        f"SELECT n, body FROM traces WHERE {beyond} AND {where} ORDER BY {order} LIMIT ?",  # noqa: S608 - literals
        (at, *values, limit),
    ).fetchall()


def _following_score(connection: sqlite3.Connection, bounds: Bounds, at: int, *, limit: int) -> list[tuple[int, bytes]]:
    """Behind the trace of that number, which may have another score by now: some may then be missed or come twice."""
    where, values = _where(bounds)
    row = connection.execute("SELECT score FROM traces WHERE n = ?", (at,)).fetchone()
    beyond, before = ("", []) if row is None else (" AND (score, n) < (?, ?)", [row[0], at])
    return connection.execute(
        f"SELECT n, body FROM traces WHERE {where}{beyond} ORDER BY score DESC, n DESC LIMIT ?",  # noqa: S608 - literals
        (*values, *before, limit),
    ).fetchall()


def _where(bounds: Bounds) -> tuple[str, list[object]]:
    where = "time >= ? AND first < ?"
    values: list[object] = [bounds.since, bounds.until]
    if bounds.statuses == {TraceStatus.OPEN}:
        # As a literal, so that the index of open ones is used.
        where += " AND status = 'open'"
    elif len(bounds.statuses) < len(TraceStatus):
        where += f" AND status IN ({_marks(bounds.statuses)})"
        values += [status.value for status in bounds.statuses]
    if len(bounds.priorities) < len(Priority):
        where += f" AND priority IN ({_marks(bounds.priorities)})"
        values += [priority.value for priority in bounds.priorities]
    if not bounds.suppressed:
        where += " AND suppressed = 0"
    return where, values


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _trace(body: bytes) -> Trace:
    return _decode(zstandard.ZstdDecompressor().decompress(body))
