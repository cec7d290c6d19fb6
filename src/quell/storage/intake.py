"""All rows of a commit by one statement.

The statement inserts one row into a view of the writing connection, and the view's trigger puts what it holds where it
belongs. Alone it is a transaction of its own, with one fdatasync and one release of the interpreter lock for
everything; quell.storage.packed says why that counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgspec import Struct

from quell.model.answer import Answer
from quell.storage import answers, changes, flags, journal, outbox, outcomes, packed, seal, summary
from quell.storage.changes import Change
from quell.storage.group import Chunk
from quell.storage.journal import Appender
from quell.storage.records import Noted, Settled
from quell.storage.seal import Seal

_COLUMNS = (
    "journal_rows",
    "journal_bytes",
    "event_ids",
    "answer_rows",
    "answer_bytes",
    "outbox_rows",
    "outbox_bytes",
    "flag_rows",
    "flag_bytes",
    "flags_repeated",
    "outcome_rows",
    "outcome_bytes",
    "settled_ids",
    "changes",
    "audit_rows",
    "audit_bytes",
    "head_n",
    "head_hash",
    "head_signature",
)
_VIEW = f"CREATE TEMP VIEW intake AS SELECT {', '.join(f'NULL AS {name}' for name in _COLUMNS)}"
_TRIGGER = f"""
    CREATE TEMP TRIGGER intake_insert INSTEAD OF INSERT ON intake BEGIN
        {journal.INSERT.format(rows="new.journal_rows", bytes="new.journal_bytes")};
        {summary.INSERT.format(rows="new.journal_rows")};
        {journal.INSERT_IDS.format(rows="new.event_ids", bytes="NULL")};
        {answers.INSERT.format(rows="new.answer_rows", bytes="new.answer_bytes")};
        {outbox.INSERT.format(rows="new.outbox_rows", bytes="new.outbox_bytes")};
        {flags.INSERT.format(rows="new.flag_rows", bytes="new.flag_bytes")};
        {flags.REPEAT.format(rows="new.flags_repeated")};
        {outcomes.INSERT.format(rows="new.outcome_rows", bytes="new.outcome_bytes")};
        {outbox.DELETE.format(ids="new.settled_ids")};
        {changes.INSERT.format(body="new.changes")};
        {seal.INSERT.format(rows="new.audit_rows", bytes="new.audit_bytes")};
        {seal.INSERT_HEAD.format(n="new.head_n", hash="new.head_hash", signature="new.head_signature")};
    END
"""
_INSERT = f"INSERT INTO intake VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - literals


class Written(Struct, frozen=True):
    """What a call of Intake.write came to."""

    events: int
    #: Bytes of everything, and of state changes among it.
    size: int
    replay: int


class Intake:
    """It belongs to the writing thread and its connection."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._connection = connection
        self._seal = seal
        connection.execute(_VIEW)
        connection.execute(_TRIGGER)
        self._appender = Appender(connection)
        #: Numbers of answers that are written.
        self._answered = {answers.NONE, *answers.kept(connection)}

    def resume(self) -> None:
        """After a transaction was rolled back."""
        self._appender.resume()
        self._answered = {answers.NONE, *answers.kept(self._connection)}

    def write(self, steps: Sequence[Sequence[Chunk] | Settled], noted: Sequence[Noted] = ()) -> Written:
        """Appends and outcomes, in the order they came in, with their entries of the audit log.

        All events go before all outcomes, which is the same: an outcome never comes before the outbox item it settles.
        The state changes keep their order.
        """
        given = [chunk for step in steps if not isinstance(step, Settled) for chunk in step]
        chunks = self._appender.fresh(given)
        settled = [outcome for step in steps if isinstance(step, Settled) for outcome in step.outcomes]
        made: list[Change] = []
        rest = iter(chunks)
        for step in steps:
            if isinstance(step, Settled):
                made.append(step)
            else:
                made += [decision for _ in step for _, decision in next(rest).changes]
        if not chunks and not settled and not made and not noted:
            return Written(0, 0, 0)
        events = self._appender.rows(chunks) if chunks else None
        raised = [flag for chunk in chunks for _, flag in chunk.flags]
        replay = changes.pack(made)
        values: tuple[str | bytes | int | None, ...] = (
            *((None, None, None) if events is None else (events.rows, events.bytes, events.ids)),
            *answers.rows(self._unwritten(chunks)),
            *outbox.rows([item for chunk in chunks for _, item in chunk.outbox]),
            *flags.rows(raised),
            flags.repetitions(raised),
            *outcomes.rows(settled),
            packed.texts([outcome.id for outcome in settled]) if settled else None,
            replay,
            *self._seal.chained(noted),
        )
        # As one of many: Python then leaves out asking for the row's number, and with it a turn of the interpreter lock.
        self._connection.executemany(_INSERT, (values,))
        return Written(
            sum([chunk.events for chunk in chunks]),
            sum([len(value) for value in values if isinstance(value, str | bytes)]),
            0 if replay is None else len(replay),
        )

    def _unwritten(self, chunks: Sequence[Chunk]) -> list[tuple[int, Answer]]:
        """Answers of these chunks that are on disk after this."""
        found: list[tuple[int, Answer]] = []
        for chunk in chunks:
            new = {*chunk.numbers} - self._answered
            found += [(number, chunk.answers[number]) for number in sorted(new)]
            self._answered |= new
        if len(self._answered) > 4 * answers.MOST:
            # What comes is named by numbers of the last chunk's or later ones.
            first = chunks[-1].answers.first
            self._answered = {answers.NONE} | {number for number in self._answered if number >= first}
        return found
