"""Traces at work: made of red flags once these are on disk, and stored with the place up to which that is done.

The flags that are stored are read on from that place, as a receiver of syslog reads the journal: nothing of it is on
the path of an event, and a crash between two steps repeats the one that was not written. All of it but the writing
happens in a thread beside the loop. SEMANTICS section 6, docs/traces.md.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from msgspec import Struct

from quell.clock import Clock
from quell.controller.trace_settings import TraceSettings
from quell.durations import parse_duration
from quell.errors import SettingError, StoreError
from quell.matching.suppression import Suppression
from quell.model.audit import Actor, AuditEntry
from quell.model.decision import Flag
from quell.model.policy import Policy, PolicyType
from quell.model.rule import Source
from quell.model.trace import Priority, Trace, TraceStatus
from quell.response.traces import Bounds, Traces
from quell.storage import audit, flags, traces
from quell.storage.store import Store
from quell.storage.traces import Row

#: Seconds between two looks whether anything was committed.
_LOOK = 0.1
#: Seconds between two looks for traces that have become quiet, and after a write that failed.
_TICK = 1.0
#: Flags taken, and traces stored, in one transaction.
_FLAGS = 256
_TRACES = 128
#: Of them, those after which others may have the interpreter: a busy thread keeps the loop from it for 5 ms.
_YIELD = 8
#: Flags and processes that a trace has on average where all are open that may be.
_HELD = 20

_log = structlog.get_logger(__name__)


class _Step(Struct, frozen=True):
    """What is to be written together."""

    rows: Sequence[Row] = ()
    flags: Sequence[tuple[str, str]] = ()
    merged: Sequence[tuple[str, str]] = ()
    #: The number of the last flag that was taken; None: as before.
    mark: int | None = None
    noted: AuditEntry | None = None


class Tracing:
    """The traces of one controller."""

    def __init__(self, store: Store, settings: TraceSettings, clock: Clock, policies: Sequence[Policy]) -> None:
        """StoreError, SettingError."""
        self._store = store
        self._clock = clock
        self._bounds = _bounds(settings)
        self._policies = _relevant(policies)
        self._suppression = Suppression(self._policies)
        #: What is in memory is changed by one at a time.
        self._turn = asyncio.Lock()
        self._is_judged = False
        self._unusable: set[str] = set()
        self._traces = Traces(self._bounds)
        self._mark = 0
        self._load()
        self._counts = dict(self._traces.counts())

    def use(self, policies: Sequence[Policy]) -> None:
        """Judge open traces by these from now on."""
        relevant = _relevant(policies)
        if relevant != self._policies:
            self._policies, self._suppression = relevant, Suppression(relevant)
            self._is_judged = False

    def counts(self) -> Mapping[Priority | None, int]:
        """Open traces by priority, as they are stored; None: those that a policy hides."""
        return self._counts

    async def run(self) -> None:
        """Until cancelled."""
        commits, ticked = -1, 0.0
        while True:
            try:
                seen, now = self._store.statistics().commits, time.monotonic()
                if seen != commits:
                    await self.catch_up()
                    commits = seen
                if not self._is_judged or now - ticked >= _TICK:
                    await self._tidy()
                    ticked = now
            except StoreError as error:
                _log.error("traces cannot be read or written; it is tried again", error=str(error))
                await asyncio.sleep(_TICK)
                commits = -1
            await asyncio.sleep(_LOOK)

    async def catch_up(self) -> None:
        """Take all flags that are on disk by now. StoreError."""
        while True:
            async with self._turn:
                step = await asyncio.to_thread(self._take)
                if step is None:
                    return
                await self._write(step)

    async def close(self, identifier: str, by: Actor, note: str) -> Trace | None:
        """As it is then; None: no open trace has this id. StoreError."""
        async with self._turn:
            now = self._clock()

            def close() -> _Step | None:
                if not self._traces.close(identifier, now, str(by), note):
                    return None
                return self._step(AuditEntry(actor=by, verb="close", kind="trace", name=identifier, note=note))

            step = await asyncio.to_thread(close)
            if step is None:
                return None
            await self._write(step)
        return await asyncio.to_thread(self._store.read, lambda connection: traces.get(connection, identifier))

    async def reopen(self, identifier: str, by: Actor, note: str) -> Trace | None:
        """The trace that has it then; None: no closed trace has this id. StoreError."""
        async with self._turn:
            trace = await asyncio.to_thread(self._store.read, lambda connection: traces.get(connection, identifier))
            if trace is None or trace.status is not TraceStatus.CLOSED:
                return None
            now = self._clock()

            def reopen() -> _Step:
                self._traces.reopen(trace, now)
                return self._step(AuditEntry(actor=by, verb="reopen", kind="trace", name=identifier, note=note))

            await self._write(await asyncio.to_thread(reopen))
        return await asyncio.to_thread(self._store.read, lambda connection: traces.final(connection, identifier))

    # ---- in the thread, when it is its turn

    def _take(self) -> _Step | None:
        """None: there is nothing new."""
        found, reached = self._store.read(self._following)
        if reached == self._mark:
            return None
        for number, flag in enumerate(found):
            if number % _YIELD == 0:
                time.sleep(0)
            if flag.id in self._unusable:
                continue
            try:
                self._traces.take(flag)
            except Exception:  # noqa: BLE001 - one flag that nothing can be made of must not keep all others out
                _log.exception("a flag could not be put into a trace", flag=flag.id)
                self._unusable.add(flag.id)
                self._load()
                return _Step()
        self._mark = reached
        return self._step(mark=reached)

    def _following(self, connection: sqlite3.Connection) -> tuple[list[Flag], int]:
        if flags.newest_number(connection) < self._mark:
            # Numbers begin anew where the table was empty.
            self._mark = 0
        return flags.red_after(connection, self._mark, _FLAGS)

    def _step(self, noted: AuditEntry | None = None, mark: int | None = None) -> _Step:
        """All that has changed."""
        rows: list[Row] = []
        flags: list[tuple[str, str]] = []
        merged: list[tuple[str, str]] = []
        while True:
            part = self._traces.changes(_YIELD)
            rows += traces.rows(part.traces)
            flags += part.flags
            merged += part.merged
            if not self._traces.has_changes:
                return _Step(rows, flags, merged, mark, noted)
            time.sleep(0)

    def _load(self) -> None:
        """Take up what is stored."""
        found, self._mark = self._store.read(lambda connection: (traces.open_ones(connection), traces.mark(connection)))
        self._traces = Traces(self._bounds, self._suppression.judge)
        self._traces.restore(found)
        self._is_judged = False

    # ---- on the loop's thread

    async def _tidy(self) -> None:
        """Close what has been quiet for long, and judge by policies that have changed."""
        async with self._turn:
            now, judge = self._clock(), None if self._is_judged else self._suppression.judge
            self._is_judged = True

            def tidy() -> None:
                self._traces.close_quiet(now)
                if judge is not None:
                    self._traces.rejudge(judge)

            await asyncio.to_thread(tidy)
            # No flag is among it, so that it may be written bit by bit.
            while self._traces.has_changes:
                changes = await asyncio.to_thread(self._traces.changes, _TRACES)
                await self._write(_Step(await asyncio.to_thread(traces.rows, changes.traces)))

    async def _write(self, step: _Step) -> None:
        """In one transaction, so that no flag counts twice. StoreError: what is in memory is what is stored."""
        now = self._clock()

        def write(connection: sqlite3.Connection) -> None:
            traces.put(connection, step.rows)
            flags.put_traces(connection, step.flags, step.merged)
            if step.mark is not None:
                traces.put_mark(connection, step.mark)
            if step.noted is not None:
                audit.append(connection, step.noted, now)

        try:
            await asyncio.wrap_future(self._store.submit(write, point="traces"))
        except StoreError:
            await asyncio.to_thread(self._load)
            raise
        self._counts = dict(self._traces.counts())


def _relevant(policies: Sequence[Policy]) -> list[Policy]:
    """Where a document stands in its file changes nothing."""
    nowhere = Source()
    return [msgspec.structs.replace(policy, source=nowhere) for policy in policies if policy.type is PolicyType.TRACE]


def _bounds(settings: TraceSettings) -> Bounds:
    try:
        return Bounds(quiet=parse_duration(settings.quiet), open=settings.most, held=settings.most * _HELD)
    except ValueError as error:
        raise SettingError(f"traces.quiet: {error}") from error
