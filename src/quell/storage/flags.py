"""Findings for people. SEMANTICS section 6. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass, Repetition
from quell.model.flag import Acknowledgement, KeptFlag
from quell.storage import packed

#: By rank, as the table has them.
SEVERITIES = (Severity.INFO, Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL)
_RANKS = {severity: rank for rank, severity in enumerate(SEVERITIES)}

# A flag's id is derived, so the same flag again is the same row (SEMANTICS section 9: once).
INSERT = packed.statement("INSERT OR IGNORE INTO flags (id, time, red, severity, body)", plain=4)
#: {rows}: what `repetitions` made. Counted on the flag that each repeats, if that is still there.
REPEAT = """UPDATE flags SET repeats = repeats + told.count, last = max(coalesce(flags.last, 0), told.last)
    FROM (SELECT value ->> 0 AS flag, count(*) AS count, max(value ->> 1) AS last FROM json_each({rows}) GROUP BY flag) AS told
    WHERE id = told.flag"""

#: Rows read at once by a search.
_ROWS = 256
_COLUMNS = "n, body, repeats, last, acknowledged, trace"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Flag).decode
_decode_acknowledged = msgspec.msgpack.Decoder(Acknowledgement).decode


class Bounds(Struct, frozen=True, kw_only=True):
    """What the columns say of the flags that are wanted."""

    since: float = float("-inf")
    until: float = float("inf")
    #: None: of either class.
    red: bool | None = None
    severities: frozenset[Severity] = frozenset(Severity)
    acknowledged: bool | None = None
    #: None: in any trace, or none.
    traces: tuple[str, ...] | None = None


class Found(Struct, frozen=True, kw_only=True):
    flags: list[KeptFlag]
    #: The number to go on from; None: the end was reached.
    next: int | None
    #: When the flag was raised at which the search stopped; None: it looked at everything.
    until: float | None
    #: The highest number there was.
    newest: int


def rows(found: Iterable[Flag | Repetition]) -> tuple[str, bytes] | tuple[None, None]:
    """The flags among them, for INSERT."""
    flags = [one for one in found if isinstance(one, Flag)]
    return packed.pack(
        ((one.id, one.time, int(one.flag_class is FlagClass.RED), _RANKS[one.severity]), _encode(one)) for one in flags
    )


def repetitions(found: Iterable[Flag | Repetition]) -> str | None:
    """The repetitions among them, for REPEAT after INSERT; None: there are none."""
    told = [(one.flag, one.time) for one in found if isinstance(one, Repetition)]
    return packed.rows_text(told) if told else None


def insert(connection: sqlite3.Connection, found: Sequence[Flag]) -> None:
    packed.run(connection, INSERT, rows(found))


def raised_since(connection: sqlite3.Connection, prefix: str, time: float) -> bool:
    """Whether a flag whose id begins with prefix/ was raised after that moment."""
    # "0" is the character after "/".
    sql = "SELECT 1 FROM flags WHERE id > ?1 || '/' AND id < ?1 || '0' AND time > ?2 LIMIT 1"
    return connection.execute(sql, (prefix, time)).fetchone() is not None


def get(connection: sqlite3.Connection, flag_id: str) -> KeptFlag | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM flags WHERE id = ?", (flag_id,)).fetchone()  # noqa: S608 - literals
    return None if row is None else _kept(row)


def recent(connection: sqlite3.Connection, limit: int, before: str | None = None) -> list[Flag]:
    """Newest first, older than the flag `before`."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM flags"  # noqa: S608 - literals
        " WHERE ?1 IS NULL OR n < (SELECT n FROM flags WHERE id = ?1) ORDER BY n DESC LIMIT ?2",
        (before, limit),
    )
    return [_kept(row).flag for row in rows]


def of_event(connection: sqlite3.Connection, event_id: str) -> list[Flag]:
    """The flags whose ids begin with the event's."""
    rows = connection.execute(
        # "0" is the character after "/".
        f"SELECT {_COLUMNS} FROM flags WHERE id = ?1 OR (id > ?1 || '/' AND id < ?1 || '0') ORDER BY n",  # noqa: S608 - literals
        (event_id,),
    )
    return [_kept(row).flag for row in rows]


def search(
    connection: sqlite3.Connection,
    bounds: Bounds,
    test: Callable[[KeptFlag], bool],
    *,
    limit: int,
    at: int | None = None,
    stop: int | None = None,
    newer: bool = False,
    seconds: float = float("inf"),
) -> Found:
    """At most `limit` flags, newest first from before number `at` on; newer: oldest first, from after it.

    stop: later ones are none of this search's. seconds: it stops after about so long, but never without getting on.
    """
    deadline = time.monotonic() + seconds
    newest = newest_number(connection) if stop is None else stop
    reached = at if at is not None else 0 if newer else newest + 1
    found: list[KeptFlag] = []
    until: float | None = None
    while True:
        rows = _following(connection, bounds, reached, newest, newer=newer)
        for row in rows:
            kept = _kept(row)
            reached, until = kept.n, kept.flag.time
            if test(kept):
                found.append(kept)
                if len(found) >= limit:
                    break
        done = len(rows) < _ROWS and (not rows or reached == rows[-1][0])
        if done or len(found) >= limit or time.monotonic() >= deadline:
            break
    if not done and len(found) >= limit:
        done = not _following(connection, bounds, reached, newest, newer=newer, limit=1)
    return Found(flags=found, next=None if done else reached, until=None if done else until, newest=newest)


def newest_number(connection: sqlite3.Connection) -> int:
    (newest,) = connection.execute("SELECT coalesce(max(n), 0) FROM flags").fetchone()
    return int(newest)


def count_within(connection: sqlite3.Connection, bounds: Bounds) -> int:
    """No more flags than this can be found."""
    where, values = _where(bounds)
    (count,) = connection.execute(f"SELECT count(*) FROM flags WHERE {where}", values).fetchone()  # noqa: S608 - literals
    return int(count)


def acknowledge(
    connection: sqlite3.Connection, identifiers: Iterable[str], acknowledged: Acknowledgement | None
) -> list[str]:
    """None: take it back. Those that it changed: what somebody has acknowledged stays theirs."""
    wanted = "IS NULL" if acknowledged is not None else "IS NOT NULL"
    value = None if acknowledged is None else _encode(acknowledged)
    sql = f"UPDATE flags SET acknowledged = ? WHERE id = ? AND acknowledged {wanted}"  # noqa: S608 - literals
    return [one for one in dict.fromkeys(identifiers) if connection.execute(sql, (value, one)).rowcount]


def red_after(connection: sqlite3.Connection, number: int, limit: int) -> tuple[list[Flag], int]:
    """Red flags of severity low and above with a higher number, in order, and up to which number that is all."""
    rows = connection.execute(
        "SELECT n, red AND severity > 0, CASE WHEN red AND severity > 0 THEN body END FROM flags WHERE n > ? ORDER BY n LIMIT ?",
        (number, limit),
    ).fetchall()
    return [_decode(body) for _, wanted, body in rows if wanted], rows[-1][0] if rows else number


def put_traces(
    connection: sqlite3.Connection, found: Iterable[tuple[str, str]], merged: Iterable[tuple[str, str]]
) -> None:
    """found: (flag, its trace). merged: (trace, the one that has its flags now)."""
    if taken := list(found):
        connection.execute(
            "UPDATE flags SET trace = told.value ->> 1 FROM json_each(?) AS told WHERE flags.id = told.value ->> 0",
            (packed.rows_text(taken),),
        )
    connection.executemany("UPDATE flags SET trace = ? WHERE trace = ?", [(new, old) for old, new in merged])


def _following(
    connection: sqlite3.Connection, bounds: Bounds, at: int, newest: int, *, newer: bool, limit: int = _ROWS
) -> list[tuple[int, bytes, int, float | None, bytes | None, str | None]]:
    where, values = _where(bounds)
    beyond, order = ("n > ?", "n") if newer else ("n < ?", "n DESC")
    return connection.execute(
        f"SELECT {_COLUMNS} FROM flags WHERE {beyond} AND n <= ? AND {where} ORDER BY {order} LIMIT ?",  # noqa: S608 - literals
        (at, newest, *values, limit),
    ).fetchall()


def _where(bounds: Bounds) -> tuple[str, list[object]]:
    parts: list[tuple[str, Sequence[object]]] = [("time >= ? AND time < ?", (bounds.since, bounds.until))]
    if bounds.red is not None:
        parts.append(("red = ?", (int(bounds.red),)))
    if len(bounds.severities) < len(SEVERITIES):
        ranks = [_RANKS[severity] for severity in bounds.severities]
        parts.append((f"severity IN ({_marks(ranks)})", ranks))
    if bounds.acknowledged is not None:
        parts.append((f"acknowledged IS {'NOT ' if bounds.acknowledged else ''}NULL", ()))
    if bounds.traces is not None:
        parts.append((f"trace IN ({_marks(bounds.traces)})", bounds.traces))
    return " AND ".join(sql for sql, _ in parts), [value for _, values in parts for value in values]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _kept(row: tuple[int, bytes, int, float | None, bytes | None, str | None]) -> KeptFlag:
    n, body, repeats, last, acknowledged, trace = row
    flag = _decode(body)
    if repeats:
        flag = msgspec.structs.replace(flag, repeats=repeats, last=last)
    return KeptFlag(
        n=n,
        flag=flag,
        acknowledged=None if acknowledged is None else _decode_acknowledged(acknowledged),
        trace=trace or "",
    )
