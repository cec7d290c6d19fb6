"""Searching a million stored events, and what their summaries cost when events are taken in.

Falco alerts of about 1.2 KB as bench/alerts.py makes them, with settings as they come: 1 in 1,000 is met by a rule, 1 in
2,000 has a rare name, 1 in 1,000 a level of Error or above. A page is 50 entries, from the newest on, as the REST API
asks for it: at most half a second of searching each, so that what is rare may take several pages. The floor beside it is
the time that reading and unpacking every row takes.
"""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.alerts import alert
from bench.figures import percentile
from quell.controller import notifications
from quell.controller.notifications import Hit, Scope, compiled
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.evaluate import conclude
from quell.matching.index import (
    Index,
    Matched,
    compile,  # noqa: A004 - the word of the design
)
from quell.model.answer import Answer
from quell.model.event import Event
from quell.model.notification import Filter, NotificationList
from quell.response.state import State
from quell.storage import group, summary
from quell.storage.records import Batch, Entry, Retention
from quell.storage.search import Found, Gap, Query
from quell.storage.store import Store
from quell.storage.summary import Summary

EVENTS = int(os.environ.get("BENCH_EVENTS", "1000000"))
BATCH = 100
PAGES = 40
PAGE = 50
#: As of the REST API.
SECONDS = 0.5
#: A page without a filter, with one that a summary tells of, and the longest a page may take.
BOUND_PLAIN, BOUND_SUMMED, BOUND_PAGE = 0.025, 0.150, 0.600
BOUND_SECOND = 200_000
BOUND_INGEST = 0.3

RULES = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: rare}
spec: {event: security-event, criteria: ["name:A rare thing"], actions: [{makeRedFlag: {severity: low}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: one-app}
spec: {event: security-event, criteria: ["namespace:team-7", "image:*/app-7:*"], actions: [{makeRedFlag: {severity: low}}]}
"""
FILTERS: dict[str, Filter] = {
    "no filter": Filter(),
    "level>=Error (rare)": Filter(level=(">=Error",)),
    "name (rare)": Filter(name=("A rare thing",)),
    "rule (rare)": Filter(rule=("one-app",)),
    "workload (1 in 1,000)": Filter(workload=("app-777",)),
    "text that nothing has": Filter(text=("zebrafinch",)),
}
SUMMED = ("level>=Error (rare)", "name (rare)")


def raws(start: int, count: int) -> Iterator[bytes]:
    for serial in range(start, start + count):
        told = json.loads(alert((serial * 7919) % 1000, serial))
        told["priority"] = "Critical" if serial % 1000 == 500 else "Notice"
        if serial % 2000 == 1000:
            told["rule"] = "A rare thing"
        yield json.dumps(told, separators=(",", ":")).encode()


def decided(events: Sequence[Event], index: Index, state: State, now: float) -> Batch:
    matched = index.match_all(events, state, now)
    return Batch(
        events=events,
        answers=[each if isinstance(each, Answer) else None for each in matched],
        times=[now] * len(events),
        revisions=[index.revision] * len(events),
        sizes=[len(event.raw) for event in events],
        entries={
            n: Entry(event=events[n], decision=conclude(events[n], each, index, state, now), own_id=True)
            for n, each in enumerate(matched)
            if isinstance(each, Matched)
        },
    )


def fill(store: Store, scope: Scope) -> float:
    """Seconds; events come in as a controller's would: decided, in batches."""
    index, state, falco = scope.index, State(), DETECTORS["falco"]
    free = threading.Semaphore(16)
    start = time.perf_counter()
    for at in range(0, EVENTS, BATCH):
        now = time.time()
        events = [falco.decode(raw, id=None, received=now) for raw in raws(at, min(BATCH, EVENTS - at))]
        batch = decided(events, index, state, now)
        free.acquire()
        store.append_batch(batch, lambda _: free.release())
    for _ in range(16):
        free.acquire()
    return time.perf_counter() - start


def pages(store: Store, query: Query[Hit]) -> tuple[list[float], int, bool]:
    """Seconds of each page, entries found, and whether the end was reached."""
    spent: list[float] = []
    found = 0
    at: Gap | None = None

    def page(connection: sqlite3.Connection) -> tuple[Found[Hit], int]:
        got = notifications.find(connection, query, limit=PAGE, at=at, seconds=SECONDS)
        return got, len(notifications.told(connection, got.items))

    for _ in range(PAGES):
        start = time.perf_counter()
        got, count = store.read(page)
        spent.append(time.perf_counter() - start)
        found += count
        at = got.next
        if at is None:
            return spent, found, True
    return spent, found, False


def search_all(store: Store, query: Query[Hit]) -> tuple[float, int]:
    """Seconds and entries found of a search to the end, without a bound."""
    start = time.perf_counter()
    found = store.read(lambda connection: notifications.find(connection, query, limit=EVENTS + 1))
    return time.perf_counter() - start, len(found.items)


def floor(store: Store) -> float:
    """Seconds to read and unpack every row, and nothing more."""
    start = time.perf_counter()

    def read(connection: sqlite3.Connection) -> int:
        return sum(
            len(group.unpack(codec, body)) for codec, body in connection.execute("SELECT codec, body FROM journal")
        )

    store.read(read)
    return time.perf_counter() - start


@contextmanager
def without_summaries() -> Iterator[None]:
    """As if a chunk said nothing of itself."""
    real, nothing = summary.of_chunk, Summary(frozenset(), frozenset(), frozenset())
    summary.of_chunk = lambda _events, _suppressed, _found: nothing
    try:
        yield
    finally:
        summary.of_chunk = real


def of_an_event(batches: Sequence[Batch]) -> tuple[float, float]:
    """Microseconds of the processor that an event's place in a chunk costs, with and without summaries: the best of many
    rounds in turn, since the machine does other things too.
    """
    with_, without = [], []
    count = sum(len(batch.events) for batch in batches)
    for _ in range(25):
        with_.append(_chunked(batches))
        with without_summaries():
            without.append(_chunked(batches))
    return min(with_) / count * 1e6, min(without) / count * 1e6


def _chunked(batches: Sequence[Batch]) -> float:
    packer = group.Packer()
    start = time.thread_time()
    for batch in batches:
        packer.chunks(batch)
    return time.thread_time() - start


def ingest(folder: Path, batches: Sequence[Batch], name: str) -> float:
    """Microseconds of the whole process for each event, all threads, to the disk."""
    free = threading.Semaphore(16)
    with Store.open(folder / f"{name}.db") as store:
        start = time.process_time()
        for batch in batches:
            free.acquire()
            store.append_batch(batch, lambda _: free.release())
        for _ in range(16):
            free.acquire()
        return (time.process_time() - start) / sum(len(batch.events) for batch in batches) * 1e6


def main() -> bool:
    scope = Scope(index=compile(load_text(RULES), revision=1), world=State())
    kept = True
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        folder = Path(name)
        with Store.open(folder / "quell.db", retention=Retention(max_bytes=8 << 30)) as store:
            seconds = fill(store, scope)
            size = store.statistics().file_bytes
            print(f"{EVENTS:,} events stored in {seconds:.0f} s, {size / EVENTS:.0f} bytes each on disk")
            gc.collect()
            gc.freeze()
            bare = floor(store)
            print(f"floor: every row read and unpacked in {bare:.2f} s, {EVENTS / bare:,.0f} events/s")
            for what, wanted in FILTERS.items():
                query = compiled(wanted, scope, NotificationList.SECURITY_EVENTS)
                spent, found, ended = pages(store, query)
                p50, p95 = percentile(spent, 0.5), percentile(spent, 0.95)
                line = f"{what:<24} pages of {PAGE}: p50 {p50 * 1e3:7.1f} ms  p95 {p95 * 1e3:7.1f} ms  n={len(spent)}"
                line += f"  {found:,} found{' in all' if ended else ''}"
                if what != "no filter":
                    whole, every = search_all(store, query)
                    line += f"; all {every:,} in {whole:.2f} s: {EVENTS / whole:,.0f} events/s"
                    kept &= EVENTS / whole >= BOUND_SECOND
                print(line, flush=True)
                kept &= max(spent) <= BOUND_PAGE
                kept &= what != "no filter" or p95 <= BOUND_PLAIN
                kept &= what not in SUMMED or p50 <= BOUND_SUMMED
            gc.unfreeze()
        falco = DETECTORS["falco"]
        events = [falco.decode(raw, id=None, received=time.time()) for raw in raws(0, min(EVENTS, 40_000))]
        index, state = scope.index, State()
        batches = [decided(events[at : at + BATCH], index, state, time.time()) for at in range(0, len(events), BATCH)]
        gc.collect()
        gc.freeze()
        with_, without = of_an_event(batches)
        print(
            f"a chunk of {BATCH}: {with_:.2f} us an event with its summary, {without:.2f} without, {with_ - without:.2f} more"
        )
        for turn in range(3):
            told = ingest(folder, batches, f"with-{turn}")
            with without_summaries():
                plain = ingest(folder, batches, f"without-{turn}")
            print(f"ingest to the disk, all threads: {told:.2f} us an event with summaries, {plain:.2f} without")
        kept &= with_ - without <= BOUND_INGEST
    print(
        f"bounds: no filter p95 {BOUND_PLAIN * 1e3:.0f} ms, rare level and name p50 {BOUND_SUMMED * 1e3:.0f} ms, no page"
        f" over {BOUND_PAGE * 1e3:.0f} ms, {BOUND_SECOND:,} events/s searched, summaries {BOUND_INGEST} us an event"
    )
    return kept
