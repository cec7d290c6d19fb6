"""The one door to everything that must survive. SEMANTICS section 9.

Writes from any thread go into one bounded queue and are taken up in order by one thread, which writes everything that
waits in one transaction (quell.storage.writer). Reads come from any thread over connections of their own and see what
is committed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from quell.errors import QueueFull, StoreError, StoreFull
from quell.model.decision import Flag, Outcome, StateChange
from quell.storage import changes, flags, journal, outbox, outcomes, rejects, schema
from quell.storage.changes import Change
from quell.storage.gathering import ENTRY_BYTES, Gathering
from quell.storage.lock import Lock
from quell.storage.order_log import OrderLog
from quell.storage.readers import Readers
from quell.storage.records import Batch, Entry, Noted, OutboxItem, Reject, Retention, Settled, Statistics, Stored
from quell.storage.writer import Done, Recorded, Snapshot, Writer, Written

__all__ = [
    "Change",
    "Done",
    "Entry",
    "Noted",
    "OutboxItem",
    "QueueFull",
    "Reject",
    "Retention",
    "Settled",
    "Statistics",
    "Store",
    "StoreError",
    "StoreFull",
    "Stored",
]

T = TypeVar("T")


class Store:
    """Open it with Store.open; close() writes what is queued. One process at a time."""

    def __init__(
        self, path: Path, lock: Lock, readers: Readers, writer: Writer, gathering: Gathering, orders: OrderLog
    ) -> None:
        self.path = path
        self._lock = lock
        self._readers = readers
        self._writer = writer
        self._gathering = gathering
        self._orders = orders

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        retention: Retention | None = None,
        queue_bytes: int = 64 << 20,
        queue_entries: int = 100_000,
        call: Callable[[Callable[[], None]], object] | None = None,
        soon: Callable[[Callable[[], None]], object] | None = None,
        later: Callable[[Callable[[], None]], object] | None = None,
        clock: Callable[[], float] = time.time,
        key: Ed25519PrivateKey | None = None,
        successor_of: Ed25519PublicKey | None = None,
    ) -> Self:
        """Opens or creates the database at `path`, with folder 0700 and files 0600.

        call: runs the `done` callbacks of a commit, all in one call, such as `loop.call_soon_threadsafe`; without it
        they run in the writing thread. soon: calls in a later turn of the thread that appends, such as `loop.call_soon`:
        what is appended until then is written as one; without it each append goes to the writer at once. later: as soon, for
        what append_batch says so of, after a moment in which other programs of the machine have its processors. clock: what
        retention measures age by, in epoch seconds. key: signs where the audit log ends; None: nobody does. successor_of:
        the key whose signature is good so far, where `key` takes its place. Raises StoreError if another process has the
        store, if it is from a newer version, or cannot be read.
        """
        path = Path(path)
        try:
            schema.create(path)
            lock = Lock(path)
        except OSError as error:
            raise StoreError(f"cannot open {path}: {error.strerror}") from error
        orders = None
        try:
            connection = schema.connect(path)
            try:
                schema.prepare(connection)
                orders = OrderLog(path.with_name(path.name + "-orders"))
                writer = Writer(
                    path,
                    connection,
                    retention or Retention(),
                    queue_bytes=queue_bytes,
                    queue_entries=queue_entries,
                    call=call,
                    clock=clock,
                    key=key,
                    orders=orders,
                    successor_of=successor_of,
                )
            except BaseException:
                connection.close()
                raise
        except BaseException as error:
            if orders is not None:
                orders.close()
            lock.release()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"cannot open {path}: {error}") from error
            raise
        return cls(path, lock, Readers(path), writer, Gathering(writer, soon, later), orders)

    def close(self) -> None:
        """Writes what is queued, then lets go of the file. Safe to call twice."""
        self._gathering.hand_over()
        if self._writer.close():
            self._orders.close()
            self._readers.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- writes: in the order of the calls

    def check(self, entries: int, size: int) -> None:
        """Raises QueueFull if so many entries with so many bytes of raw events would not be taken now.

        For asking before anything is decided: a decision that cannot be written must not be applied.
        """
        self._gathering.check(entries, size)

    def append(self, entries: Sequence[Entry], done: Done, noted: Sequence[Noted] = ()) -> None:
        """As `append_batch`, of events that each have a decision of their own."""
        self.append_batch(Batch.of(entries), done, noted)

    def append_batch(self, batch: Batch, done: Done, noted: Sequence[Noted] = (), *, later: bool = False) -> None:
        """Writes events with decisions, outbox and flags: all of the batch or none. noted: for the audit log.

        Returns at once. done(None) is called after the commit, done(StoreFull) or done(StoreError) if nothing of it was
        kept. An id the journal already has is left out: its first decision stands. later: it may wait a moment, unless
        something else is to be written. Raises QueueFull, StoreError (closed).
        """
        self._gathering.append(batch, done, noted, later=later)

    def keep_orders(self, entries: Sequence[Entry]) -> int | None:
        """Where these are on disk now, so that their orders may go before the commit; blocks for one sync.

        They must be appended next, alone or among others, and orders_journaled called when that is done. A crash before it
        leaves them to the next opening, and an append that fails to journal_orders. None: they are not on disk, and their
        orders have to wait for the commit.
        """
        return self._orders.keep(entries)

    def orders_journaled(self, kept: int) -> None:
        """What this keep_orders kept is committed."""
        self._orders.journaled(kept)

    def journal_orders(self) -> Future[Sequence[OutboxItem]]:
        """Writes what was kept by keep_orders and could not be appended; what of it is to be sent.

        For after a failed append, when nothing that was appended waits any more. StoreError, StoreFull.
        """
        future: Future[Sequence[OutboxItem]] = self.submit(self._writer.journal_orders)
        future.add_done_callback(lambda done: None if done.exception() else self._orders.clear())
        return future

    def record_outcomes(
        self,
        recorded: Sequence[Outcome],
        done: Done,
        changes: Sequence[StateChange] = (),
        noted: Sequence[Noted] = (),
    ) -> None:
        """Writes outcomes with the state changes that follow, and removes the outbox items of the same ids.

        The same (id, status) again is written once, and so are their entries of the audit log, `noted`. It is never
        refused for a full queue: it makes room.
        """
        settled = Settled(outcomes=tuple(recorded), changes=tuple(changes))
        self._put(Recorded(done, len(recorded), 400 * len(recorded), settled, noted))

    def write(self, change: Callable[[sqlite3.Connection], object], done: Done) -> None:
        """Runs change(connection) in the writing thread, in a transaction, in order with everything else.

        It may be run again if the transaction has to be repeated without a neighbour that failed; it must not commit.
        """
        self._put(Written(done, 1, ENTRY_BYTES, change))

    def submit(self, change: Callable[[sqlite3.Connection], T], *, point: str = "") -> Future[T]:
        """Like write, with the result as a future: `await asyncio.wrap_future(store.submit(...))`.

        point: passes the fail-points POINT.before-commit and POINT.after-commit of quell.faults.
        An exception that is no database error comes out as it was raised.
        """
        future: Future[T] = Future()
        result: list[T] = []

        def run(connection: sqlite3.Connection) -> None:
            result[:] = [change(connection)]

        def done(error: StoreError | None) -> None:
            if error is None:
                future.set_result(result[0])
            elif isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, sqlite3.Error | OSError):
                future.set_exception(error.__cause__)
            else:
                future.set_exception(error)

        self._put(Written(done, 1, ENTRY_BYTES, run, direct=True, point=point))
        return future

    def snapshot(self, state: bytes, done: Done) -> None:
        """Keeps the engine's state. It must hold exactly the changes of every append and record_outcomes called so far.

        So take it and hand it over in one go, in the thread that makes those calls. A snapshot after a failed write is
        right only if the state was restored from here first.
        """
        self._put(Snapshot(done, 1, len(state), state))

    def _put(self, item: Recorded | Written | Snapshot) -> None:
        self._gathering.hand_over()
        self._writer.put(item, always=True)

    # ---- reads: from any thread, of what is committed

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """query(connection) on a connection that cannot write. Raises StoreError."""
        try:
            with self._readers.connection() as connection:
                return query(connection)
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {self.path}: {error}") from error

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        """Those of the event ids that are in the journal."""
        return self.read(lambda connection: journal.known(connection, ids))

    def event(self, event_id: str) -> Stored | None:
        return self.read(lambda connection: journal.event(connection, event_id))

    def recent(self, limit: int, before: str | None = None, *, decided: bool = False) -> list[Stored]:
        """At most `limit` events, newest first, older than event `before`; decided: only those that something matched."""
        return self.read(lambda connection: journal.recent(connection, limit, before, decided=decided))

    def outcomes(self, prefix: str) -> list[Outcome]:
        """Of a command or delivery id, or of everything that followed from an event id."""
        return self.read(lambda connection: outcomes.of(connection, prefix))

    def outbox(self, channel: str | None = None) -> list[OutboxItem]:
        """What is still to be sent, in the order it was written."""
        return self.read(lambda connection: outbox.waiting(connection, channel))

    def flags(self, limit: int, before: str | None = None) -> list[Flag]:
        """Newest first, older than flag `before`."""
        return self.read(lambda connection: flags.recent(connection, limit, before))

    def rejects(self, limit: int, before: str | None = None) -> list[Reject]:
        """Newest first, older than reject `before`."""
        return self.read(lambda connection: rejects.recent(connection, limit, before))

    def restore(self) -> tuple[bytes | None, Iterator[Change]]:
        """The last snapshot and, in the order they were made, the changes after it: Decision or Settled."""
        return self.read(changes.restore)

    def statistics(self) -> Statistics:
        return self._writer.statistics()
