"""The journal: events a second that are on disk, and what an event costs the thread that decides.

The second half runs a pure Python loop in the main thread beside the writing, as the event loop would be busy, and asks
how much of the loop was lost for each event: time under the interpreter lock, wherever it was spent.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.alerts import alerts
from quell.errors import StoreError
from quell.model.decision import Decision
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject
from quell.storage.store import Entry, Retention, Store

#: Events a second that the pipeline has to reach, and bounds of the journal's share in it.
RATE = 40_000
BOUND_RATE = 100_000
BOUND_MICROSECONDS = 3.0

SECONDS = 1.5
RAWS = list(alerts(20_000))


def entries(count: int, at: int) -> list[Entry]:
    now = time.time()
    made = []
    for n in range(at, at + count):
        # Not quell.ids: it asks the system for random bits now and then, and each such call hands the interpreter lock
        # on or starts the writer's wait for it anew; here only the store's own share is wanted.
        event_id = f"01990000-0000-7000-8000-{n:012x}"
        event = Event(
            id=event_id,
            time=now,
            received=now,
            source="falco",
            category=Category.SECURITY_EVENT,
            name="Terminal shell in container",
            level=Level.NOTICE,
            subject=Subject(),
            # A copy, as it comes from a socket: in the processor's cache.
            raw=RAWS[n % len(RAWS)] + b"\n",
        )
        made.append(Entry(event=event, decision=Decision(event_id=event_id, time=now, revision=1), own_id=True))
    return made


class Feeder:
    """Appends `total` events in batches, at most `window` batches not yet on disk."""

    def __init__(self, store: Store, size: int, window: int, total: int) -> None:
        self.store = store
        self.batches = (entries(size, at) for at in range(0, total, size))
        self.free = threading.Semaphore(window)
        self.errors: list[StoreError] = []
        self.caller_seconds = 0.0

    def done(self, error: StoreError | None) -> None:
        if error is not None:
            self.errors.append(error)
        self.free.release()

    def one(self) -> bool:
        batch = next(self.batches, None)
        if batch is None:
            return False
        self.free.acquire()
        start = time.thread_time()
        self.store.append(batch, self.done)
        self.caller_seconds += time.thread_time() - start
        return True


def alone(folder: Path, size: int, window: int, total: int) -> float:
    """Events a second, with nothing beside it; prints a line."""
    with Store.open(folder / f"alone-{size}.db") as store:
        feeder = Feeder(store, size, window, total)
        cpu, start = time.process_time(), time.perf_counter()
        while time.perf_counter() - start < SECONDS and feeder.one():
            pass
        for _ in range(window):
            feeder.free.acquire()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        facts = store.statistics()
    assert not feeder.errors
    rate = facts.events / seconds
    print(
        f"batches of {size:>4}, {window:>3} at once: {rate:>9,.0f} events/s"
        f"   CPU {cpu / facts.events * 1e6:6.2f} us, in the caller {feeder.caller_seconds / facts.events * 1e6:5.2f} us"
        f"   {facts.events / facts.commits:7.1f} events a commit"
    )
    return rate


def latency(folder: Path) -> float:
    """Median seconds from append to done, one event at a time."""
    spent = []
    with Store.open(folder / "latency.db") as store:
        for entry in entries(400, 0):
            ready = threading.Event()
            start = time.perf_counter()
            store.append([entry], lambda _, ready=ready: ready.set())
            ready.wait()
            spent.append(time.perf_counter() - start)
    spent.sort()
    print(f"one at a time: p50 {spent[200] * 1e3:.2f} ms, p99 {spent[396] * 1e3:.2f} ms from append to done")
    return spent[200]


def waited(seconds: float, step: Callable[[], object] | None = None, every: float = 0.0) -> float:
    """The part of that many seconds of a pure Python loop in which this thread did not run.

    step is called every so many seconds. The loop never sleeps: what it waits for is the interpreter lock, and other
    programs. Counting turns instead would measure how the machine's speed changes.
    """
    start = now = time.perf_counter()
    cpu = time.thread_time()
    next_step = start
    while now - start < seconds:
        for _ in range(200):
            pass
        now = time.perf_counter()
        if step is not None and now >= next_step:
            step()
            next_step += every
    return (now - start - (time.thread_time() - cpu)) / (now - start)


def beside_a_busy_loop(folder: Path, size: int) -> float:
    """Microseconds of the main thread that an event costs, at RATE; prints a line."""
    slices, length = 12, 0.25
    every = size / RATE
    # As the controller does: collections of what stays would be charged to whoever allocates next.
    gc.collect()
    gc.freeze()
    costs = []
    with Store.open(folder / f"busy-{size}.db") as store:
        feeder = Feeder(store, size, 10_000, 1 << 40)
        for _ in range(slices):
            bare = waited(length)
            events = store.statistics().events
            loaded = waited(length, feeder.one, every)
            while store.statistics().queued_entries:
                time.sleep(0.001)
            written = store.statistics().events - events
            costs.append(length * (loaded - bare) / written * 1e6)
        facts = store.statistics()
    gc.unfreeze()
    lost = statistics.median(costs)
    caller = feeder.caller_seconds / facts.events * 1e6
    print(
        f"batches of {size:>4} at {RATE:,} events/s beside a busy loop: {lost + caller:5.2f} us of the loop an event:"
        f" {caller:.2f} in append, {lost:.2f} waiting (quartiles {statistics.quantiles(costs)[0]:.2f} to"
        f" {statistics.quantiles(costs)[2]:.2f}); {facts.events / facts.commits:.0f} events a commit"
    )
    return lost + caller


def main() -> bool:
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        folder = Path(name)
        print(
            f"SQLite, WAL, synchronous FULL, alerts of {len(RAWS[0])} bytes, retention {Retention().max_bytes >> 20} MiB"
        )
        latency(folder)
        alone(folder, 1, 64, 30_000)
        rate = alone(folder, 100, 64, 300_000)
        alone(folder, 1000, 8, 300_000)
        beside_a_busy_loop(folder, 1)
        cost = beside_a_busy_loop(folder, 100)
    print(
        f"bounds: {BOUND_RATE:,} events/s alone in batches of 100, {BOUND_MICROSECONDS} us an event beside a busy loop"
    )
    return rate >= BOUND_RATE and cost <= BOUND_MICROSECONDS
