"""When sockets are looked at: as often as asked for, at once where a new network namespace is lived in, and once more
when nobody lives in one any more. The looks themselves (quell.agent.sockets) have a thread of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from quell.agent.holders import Holder
from quell.agent.sockets import Seen, Sockets

#: Looks take at most this share of one processor's time, whatever was asked for.
_SHARE = 0.02
#: Seconds between two looks because of new network namespaces.
_HURRY = 0.25
#: Namespaces remembered for whose sake a look was hurried.
_MOST_HURRIED = 4096


class Looks:
    """Runs on the event loop's thread."""

    def __init__(self, holders: Callable[[], list[Holder]], on_seen: Callable[[Seen], None]) -> None:
        """holders: the processes of workloads as they are known now."""
        self._holders = holders
        self._on_seen = on_seen
        self._interval: float | None = None
        #: Counts what was asked for: what comes back from the thread may answer an older question.
        self._question = 0
        self._anew = False
        self._busy = 0
        self._again = False
        self._looked = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._hurried: set[int] = set()
        self._sockets: Sockets | None = None
        self._thread: ThreadPoolExecutor | None = None

    def ask(self, interval: float | None) -> None:
        """So many seconds between two looks from now on, everything anew at the first; None: no looks."""
        self._question += 1
        self._interval = interval
        self._anew = True
        self._hurried.clear()
        self._cancel()
        if interval is not None:
            self.plan(interval)
        elif self._sockets is not None and self._thread is not None:
            asyncio.get_running_loop().remove_reader(self._sockets)
            self._thread.submit(self._sockets.close)
            self._sockets = None

    def stop(self) -> None:
        self.ask(None)
        if self._thread is not None:
            self._thread.shutdown()

    def hurry(self, netns: int) -> None:
        """A workload's process is there: open its network namespace before it talks to anybody."""
        if self._interval is None or netns in self._hurried or len(self._hurried) >= _MOST_HURRIED:
            return
        if self._sockets is None or not self._sockets.is_open(netns):
            self._hurried.add(netns)
            self.plan(0.0)

    def plan(self, wait: float) -> None:
        """The next look in so many seconds, unless one is to be sooner."""
        if self._interval is None:
            return
        if self._busy:
            self._again = self._again or wait < self._interval
            return
        loop = asyncio.get_running_loop()
        at = max(loop.time() + wait, self._looked + _HURRY)
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._sockets is None:
            self._sockets = Sockets()
            asyncio.get_running_loop().add_reader(self._sockets, self._left)
        if self._anew:
            self._anew = False
            self._submit(self._sockets, _look_anew, leaving=False)
        else:
            self._submit(self._sockets, Sockets.look, leaving=False)

    def _left(self) -> None:
        """Nobody may live in one of the namespaces any more; that is seen to before anything else."""
        if self._sockets is None:
            return
        # Readable until the thread has dealt with it.
        asyncio.get_running_loop().remove_reader(self._sockets)
        self._submit(self._sockets, Sockets.leave, leaving=True)

    def _submit(self, sockets: Sockets, work: Callable[[Sockets, list[Holder]], Seen], *, leaving: bool) -> None:
        loop, question, holders = asyncio.get_running_loop(), self._question, self._holders()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sockets")
        self._busy += 1

        def timed() -> tuple[Seen, float]:
            started = time.thread_time()
            return work(sockets, holders), time.thread_time() - started

        def done(future: Future[tuple[Seen, float]]) -> None:
            loop.call_soon_threadsafe(self._done, question, sockets, future, leaving)

        self._thread.submit(timed).add_done_callback(done)

    def _done(self, question: int, sockets: Sockets, future: Future[tuple[Seen, float]], leaving: bool) -> None:
        loop = asyncio.get_running_loop()
        self._busy -= 1
        self._looked = loop.time()
        if sockets is self._sockets and leaving:
            loop.add_reader(sockets, self._left)
        seen, took = future.result()
        if question == self._question:
            self._on_seen(seen)
        if self._interval is not None:
            soon, self._again = self._again, False
            self.plan(max(0.0 if soon else self._interval, took / _SHARE))


def _look_anew(sockets: Sockets, holders: list[Holder]) -> Seen:
    sockets.forget()
    return sockets.look(holders)
