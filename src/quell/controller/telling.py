"""Quell's own events on their way into the journal: what is told in one turn of the loop is decided and written together.

What cannot be written yet waits, up to a bound, and is tried again; ids are derived, so that a second try is harmless.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from quell import metrics
from quell.clock import Clock
from quell.controller.own_events import own_event
from quell.errors import QueueFull, StoreError
from quell.ids import uuid7
from quell.model.event import Event
from quell.model.subject import Subject

#: Events that wait; beyond it the oldest are given up, and counted.
WAITING = 10_000
#: Events handed over at once: some milliseconds' work.
BATCH = 200
#: Seconds before what could not be written is tried again.
_AGAIN = 1.0

Done = Callable[[], None]

_log = structlog.get_logger(__name__)


def _nothing() -> None:
    """Nobody waits for it."""


class Teller:
    """On the event loop's thread only. lost: events given up because too many waited."""

    def __init__(self, ingest: Callable[[Sequence[Event]], Awaitable[None]], clock: Clock) -> None:
        self._ingest = ingest
        self._clock = clock
        self._waiting: deque[tuple[Event, Done]] = deque()
        self._work: asyncio.Task[None] | None = None
        self.lost = 0

    def tell(
        self,
        name: str,
        subject: Subject,
        message: str,
        *,
        identifier: str = "",
        time: float | None = None,
        facts: Mapping[str, str] | None = None,
        done: Done = _nothing,
    ) -> None:
        """identifier: derived from what happened, so that it is told once; "": a new one. time: epoch seconds, now if
        None. facts: what programs read in place of the message. done: called when the event is on disk.
        """
        now = self._clock()
        stamp = now if time is None else time
        self.put(own_event(identifier or uuid7(), name, subject, message, stamp, now, facts), done)

    def put(self, event: Event, done: Done = _nothing) -> None:
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            self.lost += 1
            metrics.own_event_lost()
            if self.lost == 1:
                _log.error("events of Quell's own are given up: too many wait for the journal", most=WAITING)
        self._waiting.append((event, done))
        if self._work is None or self._work.done():
            self._work = asyncio.get_running_loop().create_task(self._write())

    async def settled(self, seconds: float) -> bool:
        """Wait until all that was told is on disk. False: some of it was not after so many seconds."""
        if self._work is None or self._work.done():
            return not self._waiting
        await asyncio.wait({self._work}, timeout=seconds)
        if not self._work.done():
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
            return False
        return not self._waiting

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await self._ingest([event for event, _ in batch])
            except (QueueFull, StoreError) as error:
                _log.error("events of Quell's own cannot be written yet", events=len(batch), error=str(error))
                self._waiting.extendleft(reversed(batch))
                await asyncio.sleep(_AGAIN)
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            else:
                for _, done in batch:
                    done()
