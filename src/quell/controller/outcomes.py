"""What became of a command, on its way to the disk: outcome, state changes and audit entry in one transaction.

Nobody waits for an outcome as a target waits for an order. An event that comes while one is being written would have to wait
for the disk first, so an outcome lets events go before it for a moment; those that gather meanwhile are written together.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import msgspec
import structlog

from quell import metrics
from quell.controller import audit_trail
from quell.errors import QuellError, StoreError
from quell.model.audit import QUELL, AuditEntry
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason, StateChange
from quell.storage.records import Noted, OutboxItem
from quell.storage.store import Store

#: Seconds for which an outcome waits for the orders of an event, behind which it is written.
GIVE_WAY = 0.010

_log = structlog.get_logger(__name__)


class Outcomes:
    """On the event loop's thread only."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        *,
        changes: Callable[[Command, Outcome], Sequence[StateChange]],
        on_recorded: Callable[[Command, Outcome], None],
        on_failure: Callable[[], None],
    ) -> None:
        """changes: tells what follows from an outcome for the engine's state (a cooldown starts); it is written in the
        same transaction. on_recorded: called once for each, after it is on disk. on_failure: that did not succeed.
        """
        self._store = store
        self._clock = clock
        self._changes = changes
        self._on_recorded = on_recorded
        self._on_failure = on_failure
        self._waiting: list[tuple[Command, Outcome, Callable[[QuellError | None], None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def record(self, command: Command, outcome: Outcome, done: Callable[[QuellError | None], None]) -> None:
        """Soon. done: called on the loop with None once it is on disk, or with the error if it is not."""
        self._waiting.append((command, outcome, done))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GIVE_WAY, self.write)

    def ordered(self) -> None:
        """The orders of an event are on their way: this is the moment at which a commit is in nobody's."""
        if self._waiting:
            asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """All that waits, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for command, outcome, done in waiting:
            self._write(command, outcome, done)

    def _write(self, command: Command, outcome: Outcome, done: Callable[[QuellError | None], None]) -> None:
        loop, thread = asyncio.get_running_loop(), threading.get_ident()

        def written(error: StoreError | None) -> None:
            # A store calls back on its writing thread or, if told how, on the loop's.
            if threading.get_ident() == thread:
                self._written(command, outcome, done, error)
            elif not loop.is_closed():  # after a stop there is nobody to tell: it is reported again to the next process
                loop.call_soon_threadsafe(self._written, command, outcome, done, error)

        try:
            noted = self._noted(audit_trail.of_outcome(command, outcome), outcome)
            self._store.record_outcomes([outcome], written, self._changes(command, outcome), [noted])
        except QuellError as error:
            self._written(command, outcome, done, error)

    def unreadable(self, item: OutboxItem, error: Exception) -> None:
        """A command of another version: it must neither stop the others nor stay for ever."""
        _log.error("a command in the outbox cannot be read", command=item.id, error=str(error))
        outcome = Outcome(
            id=item.id,
            status=OutcomeStatus.FAILED,
            reason=Reason.UNSUPPORTED,
            explanation=f"this version cannot read the command: {error}",
            time=self._clock(),
        )
        entry = AuditEntry(actor=QUELL, verb="discard", kind="action", name=item.id, after=msgspec.to_builtins(outcome))
        try:
            self._store.record_outcomes([outcome], _ignore, noted=[self._noted(entry, outcome)])
        except QuellError as problem:
            _log.error("an outcome could not be recorded", command=item.id, error=str(problem))

    def _noted(self, entry: AuditEntry, outcome: Outcome) -> Noted:
        """An entry of the audit log that is written once, with its outcome."""
        return Noted(entry=entry, time=self._clock(), outcome=(outcome.id, outcome.status.value))

    def _written(
        self,
        command: Command,
        outcome: Outcome,
        done: Callable[[QuellError | None], None],
        error: QuellError | None,
    ) -> None:
        if error is not None:
            self._on_failure()
        else:
            metrics.command_ended(command, outcome, self._clock())
            self._on_recorded(command, outcome)
        done(error)


def _ignore(_error: StoreError | None) -> None:
    """The item stays in the outbox and the next start tries again."""
