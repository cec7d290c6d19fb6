"""Floods of red flags: how long until all are in their traces, and how long the event loop is kept waiting meanwhile.

10,000 flags each, written as the pipeline would: of as many processes below one that is not flagged (the most traces), of
one chain (one large trace), and of 5,000 processes whose parent is flagged last (all of them become one). The floor is the
loop's own delay with nothing to do. Beside it: a page of a search of 200,000 flags, and what open traces take of memory.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from bench.figures import percentile
from quell.controller.flag_search import compiled
from quell.controller.trace_settings import TraceSettings
from quell.controller.traces import Tracing
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.flag import FlagFilter
from quell.model.subject import Ancestor, Process, Subject
from quell.storage import flags
from quell.storage.store import Store

FLAGS = 10_000
SEARCHED = 200_000
#: Seconds that a flood may take, that the loop may be late (p99), and that a page of a search may take.
BOUND_SECONDS, BOUND_LATE, BOUND_PAGE = 30.0, 0.025, 0.6

ABOVE = tuple(Ancestor(f"p{pid}", pid=pid, start_ticks=pid, exe="/usr/bin/x") for pid in range(9, 0, -1))


def flag(number: int, pid: int, above: Sequence[Ancestor]) -> Flag:
    process = Process(
        pid=pid, start_ticks=pid, boot_id="b", name="nc", cmdline="nc -l 4444", user="root", lineage=tuple(above)
    )
    return Flag(
        id=f"e{number}/0",
        flag_class=FlagClass.RED,
        severity=Severity.HIGH,
        name="Host.Suspicious.Process",
        description="nc -l 4444 is on the watch list: netcat (name nc)",
        subject=Subject(node="n1", process=process),
        asked_by=("rule/8",),
        event_id=f"e{number}",
        time=time.time(),
    )


def apart() -> list[Flag]:
    return [flag(n, 100 + n, ABOVE) for n in range(FLAGS)]


def one_trace() -> list[Flag]:
    return [flag(0, 9, ABOVE[1:]), *(flag(n, 100 + n, ABOVE) for n in range(1, FLAGS))]


def joined_last() -> list[Flag]:
    return [*(flag(n, 100 + n, ABOVE) for n in range(5000)), flag(5000, 9, ABOVE[1:])]


async def late(done: asyncio.Event) -> list[float]:
    """How late the loop is, each millisecond."""
    found = []
    while not done.is_set():
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        found.append(max(0.0, time.perf_counter() - started - 0.001))
    return found


async def idle() -> list[float]:
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(1.0, done.set)
    return await late(done)


async def flood(folder: Path, made: Sequence[Flag]) -> tuple[float, list[float], int]:
    """Seconds, how late the loop was, and open traces."""
    loop = asyncio.get_running_loop()
    with Store.open(folder / "quell.db", call=loop.call_soon_threadsafe) as store:
        tracing = Tracing(store, TraceSettings(), time.time, ())
        for start in range(0, len(made), 500):
            part = made[start : start + 500]
            await asyncio.wrap_future(store.submit(lambda connection, part=part: flags.insert(connection, part)))  # type: ignore[misc]
        done = asyncio.Event()
        lateness = asyncio.create_task(late(done))
        started = time.perf_counter()
        await tracing.catch_up()
        took = time.perf_counter() - started
        done.set()
        return took, await lateness, sum(tracing.counts().values())


def search(folder: Path) -> float:
    """Seconds of the page that finds the only one of all flags."""
    with Store.open(folder / "quell.db") as store:
        made = [flag(n, 100 + n, ABOVE[:2]) for n in range(1000)]
        for start in range(0, SEARCHED, 1000):
            part = [Flag(**{**_fields(one), "id": f"s{start}-{n}/0"}) for n, one in enumerate(made)]
            store.submit(lambda connection, part=part: flags.insert(connection, part)).result()  # type: ignore[misc]
        bounds, test = compiled(FlagFilter(event=("no such event",)), {})
        worst, at, pages = 0.0, None, 0
        while True:
            started = time.perf_counter()
            found = store.read(
                lambda connection, at=at: flags.search(connection, bounds, test, limit=50, at=at, seconds=0.5)
            )  # type: ignore[misc]
            worst, at, pages = max(worst, time.perf_counter() - started), found.next, pages + 1
            if at is None:
                print(f"all of {SEARCHED:,} flags searched through in {pages} pages")
                return worst


def _fields(one: Flag) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def main() -> bool:
    met = True
    floor = uvloop.run(idle())
    print(f"the loop with nothing to do is late by p99 {percentile(floor, 0.99) * 1000:.2f} ms")
    floods: tuple[tuple[str, Callable[[], list[Flag]]], ...] = (
        ("of as many processes", apart),
        ("of one chain", one_trace),
        ("joined by the last", joined_last),
    )
    for name, make in floods:
        made = make()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with tempfile.TemporaryDirectory() as folder:
            took, lateness, open_traces = uvloop.run(flood(Path(folder), made))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        p99 = percentile(lateness, 0.99)
        print(
            f"{len(made):,} flags {name:<22} {took:6.2f} s, {took / len(made) * 1e6:4.0f} us each; loop late by p50 "
            f"{percentile(lateness, 0.5) * 1000:.2f} p99 {p99 * 1000:.2f} max {max(lateness) * 1000:.1f} ms; "
            f"{open_traces} open, +{(after - before) / 1024:.0f} MiB"
        )
        met = met and took <= BOUND_SECONDS and p99 <= BOUND_LATE
    with tempfile.TemporaryDirectory() as folder:
        page = search(Path(folder))
    print(f"the longest page took {page * 1000:.0f} ms (bound {BOUND_PAGE * 1000:.0f} ms)")
    return met and page <= BOUND_PAGE
