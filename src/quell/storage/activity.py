"""How much happened in each minute, from the journal's summaries and the outcomes: no event is unpacked for it.

Rows of both are only ever added, so whoever keeps the Mark of the last look reads each of them once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from msgspec import Struct

#: Seconds that are counted together.
STEP = 60

_EVENTS = """
    SELECT CAST(received_max / 60 AS INTEGER), sum(events), sum(decided), max(seq)
    FROM journal_summary WHERE seq > ? AND received_max >= ? GROUP BY 1
"""
_OUTCOMES = """
    SELECT CAST(time / 60 AS INTEGER), status, count(*), max(n) FROM outcomes WHERE n > ? AND time >= ? GROUP BY 1, 2
"""


class Mark(Struct, frozen=True, kw_only=True):
    """The last row of each that was counted."""

    seq: int = 0
    outcome: int = 0


class Counted(Struct, frozen=True, kw_only=True):
    """By minute since 1970."""

    #: Events, and those of them that a rule or policy answered.
    events: Mapping[int, tuple[int, int]]
    #: By status of the outcome.
    outcomes: Mapping[tuple[int, str], int]
    mark: Mark


def counted(connection: sqlite3.Connection, after: Mark, since: float) -> Counted:
    """What came after the mark, and since then (epoch seconds)."""
    connection.execute("BEGIN")
    after = _valid(connection, after)
    events: dict[int, tuple[int, int]] = {}
    outcomes: dict[tuple[int, str], int] = {}
    seq, outcome = after.seq, after.outcome
    for minute, count, decided, last in connection.execute(_EVENTS, (after.seq, since)):
        events[minute] = (count, decided)
        seq = max(seq, last)
    for minute, status, count, last in connection.execute(_OUTCOMES, (after.outcome, since)):
        outcomes[minute, status] = count
        outcome = max(outcome, last)
    return Counted(events=events, outcomes=outcomes, mark=Mark(seq=seq, outcome=outcome))


def _valid(connection: sqlite3.Connection, mark: Mark) -> Mark:
    """Numbers of outcomes begin anew when their table was empty."""
    (newest,) = connection.execute("SELECT coalesce(max(n), 0) FROM outcomes").fetchone()
    return mark if newest >= mark.outcome else Mark(seq=mark.seq)
