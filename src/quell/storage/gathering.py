"""What is appended in one turn of the event loop goes to the writer as one.

A request brings few events, often one, and a busy loop answers dozens of them in a turn. Encoding what they bring
together costs little more than encoding one of them, and the writer, whose every step has to win the interpreter lock from
the loop, has one thing to take up where it had dozens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from quell.errors import StoreError
from quell.storage.group import MAX_BYTES, MAX_EVENTS, Chunk, Packer
from quell.storage.records import Batch, Noted
from quell.storage.writer import Appended, Done, Writer

#: Bytes a queued entry takes beside its raw event, roughly.
ENTRY_BYTES = 600
#: Events above which they go at once: the writer begins while the loop is busy with the next.
MOST_GATHERED = 32


class Gathering:
    """Safe from any thread. What it holds goes to the writer before anything else may: hand_over() first."""

    def __init__(
        self,
        writer: Writer,
        soon: Callable[[Callable[[], None]], object] | None,
        later: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """soon: calls in a later turn of the thread that appends, such as `loop.call_soon`; None: nothing is held. later: as
        soon, but after a moment for other programs; None: soon.
        """
        self._writer = writer
        self._soon = soon
        self._later = later or soon
        self._packer = Packer(writer.first_answer)
        self._lock = threading.RLock()
        self._batches: list[Batch] = []
        self._done: list[Done] = []
        self._noted: list[Noted] = []
        self._events = 0
        self._bytes = 0
        self._called = False

    def check(self, events: int, size: int) -> None:
        """QueueFull if so many events with so many raw bytes would not be taken now; StoreError (closed)."""
        held = self._events
        self._writer.check(events, size + ENTRY_BYTES * events, held, self._bytes + ENTRY_BYTES * held)

    def append(self, batch: Batch, done: Done, noted: Sequence[Noted], *, later: bool = False) -> None:
        """later: unless something else comes, it is of no use to anybody that it is written at once. QueueFull, StoreError
        (closed).
        """
        events, size = len(batch.events), sum(batch.sizes)
        with self._lock:
            self.check(events, size)
            if self._events + events > MAX_EVENTS or self._bytes + size > MAX_BYTES:
                self._hand_over()
            self._batches.append(batch)
            self._done.append(done)
            self._noted += noted
            self._events += events
            self._bytes += size
            if self._soon is None or self._later is None or self._events >= MOST_GATHERED:
                self._hand_over()
            elif later:
                self._later(self.hand_over)
            elif not self._called:
                self._called = True
                self._soon(self._turned)

    def hand_over(self) -> None:
        """To the writer, all that is held."""
        if self._batches:
            with self._lock:
                self._hand_over()

    def _turned(self) -> None:
        self._called = False
        self.hand_over()

    def _hand_over(self) -> None:
        if not self._batches:
            return
        batches, done, noted = self._batches, self._done, self._noted
        self._batches, self._done, self._noted = [], [], []
        events, self._events, self._bytes = self._events, 0, 0
        told = done[0] if len(done) == 1 else _all_of(done)
        chunks = self._packer.chunks(Batch.joined(batches))
        try:
            # Whether there is room was asked when it came: refused now, it would be decided and not written.
            self._writer.put(Appended(told, events, _size(chunks, events), chunks, noted), always=True)
        except StoreError as error:
            told(error)


def _size(chunks: Sequence[Chunk], events: int) -> int:
    return sum([len(chunk.columns) + len(chunk.text) for chunk in chunks]) + ENTRY_BYTES * events


def _all_of(done: Sequence[Done]) -> Done:
    def tell(error: StoreError | None) -> None:
        for each in done:
            each(error)

    return tell
