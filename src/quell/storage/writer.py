"""The one thread that writes: group commit, and tidying between commits. SEMANTICS section 9.

It takes everything that waits, up to a bound, and writes it in one transaction with one fdatasync; alone, an entry is
written at once. If something of a transaction fails, nothing of it was kept and its halves are tried apart, so that
only what is at fault gets the error. A full disk fails all of it: trying again piece by piece would not make room.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from quell import faults, metrics
from quell.errors import QueueFull, StoreError, StoreFull
from quell.storage import answers, changes, checkpoint, journal
from quell.storage.checkpoint import Checkpoints
from quell.storage.group import Chunk, Packer
from quell.storage.intake import Intake
from quell.storage.order_log import OrderLog
from quell.storage.records import Batch, Noted, OutboxItem, Retention, Settled, Statistics
from quell.storage.retention import Trimmer
from quell.storage.seal import Seal

Done = Callable[[StoreError | None], None]

#: At most so much a transaction: more gains nothing, and what comes after waits longer.
TAKE_BYTES = 4 << 20
TAKE_ENTRIES = 4096
#: Seconds between two looks at what is too old.
TIDY_SECONDS = 30.0
#: Free bytes of a file system below which an I/O error is taken for a full disk.
NO_ROOM_BYTES = 1 << 20
#: Bytes that a commit adds to the log beside the bodies: the pages around them.
COMMIT_BYTES = 16 << 10
#: Bytes that a step of retention adds to it, roughly.
TIDY_BYTES = 2 << 20

_log = structlog.get_logger("quell.storage")


class Appended(Struct, frozen=True):
    done: Done
    count: int
    size: int
    chunks: Sequence[Chunk]
    noted: Sequence[Noted] = ()


class Recorded(Struct, frozen=True):
    done: Done
    count: int
    size: int
    settled: Settled
    noted: Sequence[Noted] = ()


class Written(Struct, frozen=True):
    done: Done
    count: int
    size: int
    change: Callable[[sqlite3.Connection], object]
    #: done runs in the writing thread whatever `call` is: somebody may be waiting for it in the thread `call` leads to.
    direct: bool = False
    #: Passes the fail-points POINT.before-commit and POINT.after-commit (quell.faults); "": none.
    point: str = ""


class Snapshot(Struct, frozen=True):
    done: Done
    count: int
    size: int
    state: bytes


Item = Appended | Recorded | Written | Snapshot


class Writer:
    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        retention: Retention,
        *,
        queue_bytes: int,
        queue_entries: int,
        call: Callable[[Callable[[], None]], object] | None,
        clock: Callable[[], float],
        key: Ed25519PrivateKey | None,
        orders: OrderLog,
        successor_of: Ed25519PublicKey | None = None,
    ) -> None:
        """It owns the connection from here on. orders: what a crash left in it is journaled first. StoreError."""
        self._path = path
        self._connection = connection
        connection.execute(f"PRAGMA journal_size_limit={checkpoint.LIMIT_BYTES}")
        self._seal = Seal(connection, key, clock, successor_of)
        self._intake = Intake(connection, self._seal)
        #: The number of the first answer that it is given (quell.storage.answers).
        self.first_answer = answers.next_number(connection)
        self._orders = orders
        self._journal_left()
        self._trimmer = Trimmer(connection, retention)
        self._size_step = retention.size_step
        self._max_bytes = queue_bytes
        self._max_entries = queue_entries
        self._call = call
        self._clock = clock
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._bytes = 0
        self._entries = 0
        #: Why nothing more is taken; "": it is.
        self._closed = ""
        self._ended = False

        # What follows belongs to the writing thread.
        self._rolled_back = False
        self._log_bytes = 0
        self._restart = False
        self._trim_bytes = self._size_step
        self._tidied = -TIDY_SECONDS
        self._drain_rate = 0.0
        self._events = 0
        self._commits = 0
        self._failures = 0
        self._commit_seconds = 0.0
        self._replay_bytes = changes.waiting(connection)

        self._checkpoints = Checkpoints(path)
        self._thread = threading.Thread(target=self._run, name="quell-writer", daemon=True)
        self._thread.start()

    # ---- any thread

    def check(self, count: int, size: int, held: int = 0, held_size: int = 0) -> None:
        """QueueFull, StoreError (closed). held: what is about to be put before it, and is counted as if it were."""
        with self._lock:
            if self._closed:
                raise StoreError(self._closed)
            self._check(count, size, held, held_size)

    def put(self, item: Item, *, always: bool = False) -> None:
        with self._lock:
            if self._closed:
                raise StoreError(self._closed)
            if not always:
                self._check(item.count, item.size)
            self._bytes += item.size
            self._entries += item.count
            self._queue.put(item)

    def _check(self, count: int, size: int, held: int = 0, held_size: int = 0) -> None:
        waiting, waiting_size = self._entries + held, self._bytes + held_size
        # Whatever its size, one batch is taken by an empty queue.
        if waiting and (waiting_size + size > self._max_bytes or waiting + count > self._max_entries):
            wait = min(max(waiting_size / self._drain_rate, 0.05), 30.0) if self._drain_rate else 1.0
            raise QueueFull(f"{waiting} entries ({waiting_size >> 10} KiB) wait to be written", wait)

    def close(self) -> bool:
        """Writes what is queued and ends the thread; False: it was closed before."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self._closed = self._closed or "the store is closed"
            self._queue.put(None)
        self._thread.join()
        return True

    def statistics(self) -> Statistics:
        try:
            file_bytes = self._path.stat().st_size
        except FileNotFoundError:
            file_bytes = 0
        return Statistics(
            queued_entries=self._entries,
            queued_bytes=self._bytes,
            events=self._events,
            commits=self._commits,
            failures=self._failures,
            commit_seconds=self._commit_seconds,
            drain_rate=self._drain_rate,
            wal_bytes=self._checkpoints.wal_bytes(),
            file_bytes=file_bytes,
            replay_bytes=self._replay_bytes,
        )

    def _journal_left(self) -> None:
        """What was ordered before the last process ended, and is in the order log only."""
        try:
            self.journal_orders(self._connection)
        except (sqlite3.Error, OSError, StoreError) as error:
            raise StoreError(
                f"events whose orders were given before a crash are in {self._orders.path} and cannot be journaled: "
                f"{_failure(error, self._path)}"
            ) from error
        self._orders.clear()

    # ---- the writing thread

    def journal_orders(self, _connection: sqlite3.Connection) -> Sequence[OutboxItem]:
        """Writes what the order log holds and the journal does not; what is to be sent of it.

        sqlite3.OperationalError: nothing can be written now. What cannot be written for a reason of its own is put aside, so
        that it holds up nothing else.
        """
        entries = self._orders.left()
        known = journal.known(self._connection, [entry.event.id for entry in entries])
        sent: list[OutboxItem] = []
        for entry in entries:
            if entry.event.id in known:
                continue
            _log.warning("orders went before a crash and were not in the journal", id=entry.event.id)
            try:
                self._intake.write([Packer(self.first_answer).chunks(Batch.of([entry]))])
            except sqlite3.OperationalError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others must not wait for it
                self._intake.resume()
                self._orders.put_aside(f"event {entry.event.id}: {error}")
            else:
                sent += entry.outbox
        return sent

    def _run(self) -> None:
        open_ = True
        try:
            while open_:
                items, open_ = self._take()
                if items:
                    self._settle(items)
                self._tidy(quiet=not items)
        except Exception as error:  # noqa: BLE001 - a fault of ours: whoever waits must be told, not left waiting
            _log.exception("the store's writer ended")
            self._give_up(StoreError(f"the store's writer ended: {error}"))
        self._checkpoints.close()
        self._connection.close()

    def _give_up(self, error: StoreError) -> None:
        """Takes nothing more, and says so to what is queued."""
        with self._lock:
            self._closed = str(error)
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return
            if item is not None:
                _tell([(item.done, error)])

    def _take(self) -> tuple[list[Item], bool]:
        """Everything that waits up to the bound, and whether there may be more; nothing after TIDY_SECONDS of quiet."""
        items: list[Item] = []
        count = size = 0
        try:
            item = self._queue.get(timeout=TIDY_SECONDS)
            while item is not None:
                items.append(item)
                count += item.count
                size += item.size
                if count >= TAKE_ENTRIES or size >= TAKE_BYTES:
                    return items, True
                item = self._queue.get_nowait()
        except Empty:
            return items, True
        return items, False

    def _settle(self, items: list[Item]) -> None:
        start = time.perf_counter()
        errors = self._transact(items)
        seconds = time.perf_counter() - start
        size = sum([item.size for item in items])
        with self._lock:
            self._bytes -= size
            self._entries -= sum([item.count for item in items])
        rate = size / seconds
        self._drain_rate = rate if not self._drain_rate else 0.8 * self._drain_rate + 0.2 * rate
        self._commit_seconds = seconds
        metrics.committed(seconds)

        later: list[tuple[Done, StoreError | None]] = []
        for item, error in zip(items, errors, strict=True):
            if self._call is None or (isinstance(item, Written) and item.direct):
                _tell([(item.done, error)])
            else:
                later.append((item.done, error))
        if later and self._call is not None:
            try:
                self._call(lambda: _tell(later))
            except RuntimeError as error:
                # The event loop was closed: nobody is left to be told, and the commit stands.
                _log.warning("nobody to tell of a commit", error=str(error), writes=len(later))

    def _transact(self, items: list[Item]) -> list[StoreError | None]:
        """One transaction; the error of each item, None for those that are on disk."""
        try:
            self._write(items)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, its senders must be told that nothing is kept
            failure = self._undo(error)
            if len(items) == 1 or isinstance(failure, StoreFull):
                self._failures += len(items)
                return [failure] * len(items)
            half = len(items) // 2
            return self._transact(items[:half]) + self._transact(items[half:])
        return [None] * len(items)

    def _undo(self, error: Exception) -> StoreError:
        self._rolled_back = True
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as second:
            _log.exception("rolling back failed", error=str(second))
        failure = _failure(error, self._path)
        failure.__cause__ = error
        return failure

    def _write(self, items: list[Item]) -> None:
        connection = self._connection
        if self._rolled_back:
            self._intake.resume()
            self._seal.resume()
            self._replay_bytes = changes.waiting(connection)
            self._rolled_back = False
        points = list(dict.fromkeys(filter(None, map(_point, items))))
        # Only appends and outcomes: one statement, and a transaction of its own.
        single = all(isinstance(item, Appended | Recorded) for item in items)
        if not single:
            connection.execute("BEGIN IMMEDIATE")
            self._seal.begin()
            events, replay = self._write_in_order(items)
            self._seal.close()
        for name in points:
            faults.point(f"{name}.before-commit")
        if single:
            events, replay = self._write_in_order(items)
        else:
            connection.execute("COMMIT")
        self._seal.commit()
        for name in points:
            faults.point(f"{name}.after-commit")
        self._events += events
        self._replay_bytes = replay
        self._commits += 1

    def _write_in_order(self, items: list[Item]) -> tuple[int, int]:
        """Events written, and bytes of state changes since the snapshot."""
        events, replay = 0, self._replay_bytes
        steps: list[Sequence[Chunk] | Settled] = []
        noted: list[Noted] = []
        for item in (*items, None):
            if isinstance(item, Appended | Recorded):
                steps.append(item.chunks if isinstance(item, Appended) else item.settled)
                noted += item.noted
                continue
            if steps:
                written = self._intake.write(steps, noted)
                events += written.events
                replay += written.replay
                self._log_bytes += written.size + COMMIT_BYTES
                self._trim_bytes += written.size + COMMIT_BYTES
                steps, noted = [], []
            if isinstance(item, Written):
                self._seal.open = True
                item.change(self._connection)
            elif isinstance(item, Snapshot):
                changes.put_snapshot(self._connection, item.state, self._clock())
                replay = 0
        return events, replay

    def _tidy(self, *, quiet: bool) -> None:
        """Small steps between commits: the log, then what retention takes."""
        self._tidy_log(quiet=quiet)
        now = time.monotonic()
        aged = now - self._tidied >= TIDY_SECONDS
        if not aged and self._trim_bytes < self._size_step:
            return
        more = True
        try:
            while more:
                more = self._trimmer.step(self._clock(), records=aged)
                if more:
                    self._log_bytes += TIDY_BYTES
                    self._tidy_log(quiet=False)
                if not self._queue.empty():
                    break
        except sqlite3.Error as error:
            # Deleting needs room in the log too. Nothing is lost by trying again later.
            self._undo(error)
            _log.warning("retention could not delete", error=str(error))
            more = False
        if not more:
            self._trim_bytes = 0
            self._tidied = now

    def _tidy_log(self, *, quiet: bool) -> None:
        if self._log_bytes >= checkpoint.PASSIVE_BYTES or (quiet and self._log_bytes):
            self._log_bytes = 0
            self._checkpoints.ask()
            self._restart = self._checkpoints.wal_bytes() >= checkpoint.RESTART_BYTES
        elif self._restart:
            self._restart = not checkpoint.restart(self._connection)


def _point(item: Item) -> str:
    """What the fail-points around its commit are called; "": it has none."""
    match item:
        case Appended():
            return "journal"
        case Recorded():
            return "outcome"
        case Written():
            return item.point
        case Snapshot():
            return ""


def _tell(results: Sequence[tuple[Done, StoreError | None]]) -> None:
    for done, error in results:
        try:
            done(error)
        except Exception:  # noqa: BLE001 - a sender's fault must not keep the others from being told
            _log.exception("a callback of the store failed")


def _failure(error: Exception, path: Path) -> StoreError:
    if isinstance(error, StoreError):
        return error
    full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        full = code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _free_bytes(path) < NO_ROOM_BYTES)
    if full:
        return StoreFull(f"no room for {path}")
    return StoreError(f"{path}: {type(error).__name__}: {error}")


def _free_bytes(path: Path) -> int:
    facts = os.statvfs(path.parent)
    return facts.f_bavail * facts.f_frsize
