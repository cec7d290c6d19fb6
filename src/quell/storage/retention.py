"""What is too old or too much is deleted in small steps between commits.

The oldest groups of events go first, whole. Pages they leave are used again, so the file stays near its bound; when
much is free and nothing else is to be done, the file is cut.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from quell.storage import answers, evidence, group, packed, tail
from quell.storage.records import Retention

#: At most so many rows and bytes a step, so that a commit never waits long.
STEP_ROWS = 256
STEP_BYTES = 8 << 20
#: Below the bound by the smaller of the two once deleting has begun, so that it is not begun at each commit.
MARGIN_BYTES = 16 << 20
MARGIN_PART = 32
#: Pages a step gives back to the file system.
STEP_PAGES = 2048

Table = Literal["flags", "traces", "outcomes", "rejects", "deliveries", "dead_letters"]
_TABLES: tuple[Table, ...] = ("flags", "traces", "outcomes", "rejects", "deliveries", "dead_letters")


class Trimmer:
    """It belongs to the writing thread and its connection."""

    def __init__(self, connection: sqlite3.Connection, retention: Retention) -> None:
        self._connection = connection
        self._retention = retention
        self._margin = min(MARGIN_BYTES, retention.max_bytes // MARGIN_PART)
        (self._page_size,) = connection.execute("PRAGMA page_size").fetchone()
        self._cutting = False
        #: No row named a lower answer when this was last looked at. Who read a row then has read its answers since.
        self._unnamed = 0

    def step(self, now: float, *, records: bool) -> bool:
        """Deletes a little; True: there is more to do. records: look at flags, outcomes and their like as well.

        Raises sqlite3.Error; the caller rolls back.
        """
        used, free = self._sizes()
        more = self._trim_journal(now, used)
        if records:
            more |= self._trim_records(now)
        if not more and free * self._page_size > 2 * self._margin + self._retention.size_step + STEP_BYTES:
            # Each step of this statement frees one page; execute() would stop after the first, executescript() does not.
            self._connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")
            more = True
        return more

    def _sizes(self) -> tuple[int, int]:
        """Bytes in use, evidence left out, which has a bound of its own; and free pages."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return (pages - free) * self._page_size - evidence.bytes_of(self._connection), free

    def _trim_journal(self, now: float, used: int) -> bool:
        self._cutting = used > self._retention.max_bytes - (self._margin if self._cutting else 0)
        surplus = used - self._retention.max_bytes + self._margin if self._cutting else 0
        oldest = now - self._retention.max_age
        rows = self._connection.execute(
            "SELECT seq, length(own) + length(ids) + length(body), supplied, received_max FROM journal ORDER BY seq LIMIT ?",
            (STEP_ROWS,),
        ).fetchall()
        taken = size = 0
        for _, length, _, received in rows:
            if size >= STEP_BYTES or (size >= surplus and received >= oldest):
                break
            taken += 1
            size += length
        if not taken:
            return False
        self._delete([(seq, supplied) for seq, _, supplied, _ in rows[:taken]])
        return True

    def _delete(self, rows: list[tuple[int, int]]) -> None:
        last = rows[-1][0]
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        if any(supplied for _, supplied in rows):
            found = connection.execute("SELECT ids FROM journal WHERE seq <= ? AND supplied > 0", (last,))
            ids = [event_id for (raw,) in found for event_id in group.unpack_ids(raw).values()]
            connection.execute(
                "DELETE FROM event_ids WHERE id IN (SELECT value FROM json_each(?))", (packed.texts(ids),)
            )
        tail.count_deleted(connection, last)
        connection.execute("DELETE FROM journal WHERE seq <= ?", (last,))
        # The last number stays, so that none comes twice: a search goes on where it stopped by it.
        connection.execute("DELETE FROM journal_summary WHERE seq < ?", (last,))
        connection.execute("COMMIT")

    def _trim_records(self, now: float) -> bool:
        oldest = now - self._retention.record_age
        connection = self._connection
        deleted = 0
        connection.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            (newest,) = connection.execute(f"SELECT coalesce(max(n), 0) FROM {table}").fetchone()  # noqa: S608 - literals
            deleted += connection.execute(
                f"DELETE FROM {table} WHERE n IN (SELECT n FROM {table} WHERE n <= ? OR time < ? ORDER BY n LIMIT ?)",  # noqa: S608 - literals
                (newest - self._retention.record_count, oldest, STEP_ROWS),
            ).rowcount
        answers.trim(connection, self._unnamed)
        self._unnamed = answers.oldest_named(connection)
        # Evidence is kept as long as the event that led to it.
        first = connection.execute("SELECT received_min FROM journal ORDER BY seq LIMIT 1").fetchone()
        kept_since = now - self._retention.max_age if first is None else first[0]
        more = evidence.trim(connection, most=self._retention.evidence_bytes, oldest=kept_since, rows=STEP_ROWS)
        connection.execute("COMMIT")
        return deleted > 0 or more
