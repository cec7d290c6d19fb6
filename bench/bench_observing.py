"""What it costs the agent to tell of workloads: each execution, a look at sockets, and nothing at all.

Needs root. Executions are of `sleep` in a control group named like a service, started by another process than the sensor's,
which is this one. Ten network namespaces have a server and a client each. Bounds: 150 µs of CPU an execution, 2 ms a look
at ten namespaces in which nothing came.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from bench.figures import row
from quell.agent import proc
from quell.agent.cgroup import Placement
from quell.agent.connector import Connector, ConnectorError
from quell.agent.events import Notices
from quell.agent.holders import Holder
from quell.agent.observing import Observing
from quell.agent.sensor import Sensor
from quell.agent.sockets import Sockets
from quell.agent.subjects import Subjects
from quell.agent.watchlist import WatchList
from quell.channel.messages import Observations, Observe, decode_from_agent
from quell.model.subject import Subject

COUNT, NAMESPACES, LOOKS = 1000, 10, 100
BOUND_EXECUTION, BOUND_LOOK = 150e-6, 2e-3
IDLE = float(os.environ.get("BENCH_IDLE", "10"))
_HIERARCHIES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup"))
#: Two shells of the service stand above each execution, and above these the machine's first process.
_BURST = "i=0; while [ $i -lt {count} ]; do sleep 60 & sleep 0.002; i=$((i+1)); done; wait"
_SHELLS = """sh -c 'sh -c "$0"; true' "$1" & exit 0"""
_TALK = (
    "import socket, sys\n"
    "server = socket.create_server(('10.88.0.1', 80))\n"
    "client = socket.create_connection(('10.88.0.1', 80))\n"
    "print(flush=True)\n"
    "sys.stdin.read()\n"
)


def main() -> bool:
    root = next((place for place in _HIERARCHIES if (place / "cgroup.procs").exists()), None)
    if os.geteuid() != 0 or root is None:
        print("needs root and a control group hierarchy")
        return False
    group = root / f"quell-bench-{os.getpid()}.service"
    group.mkdir()
    try:
        kept = uvloop.run(executions(group))
    except ConnectorError as error:
        print(error)
        return False
    finally:
        emptied(group)
        group.rmdir()
    return looks() and kept


async def executions(group: Path) -> bool:
    told: list[float] = []
    measuring = True
    machine = Subject(node="n", machine_id="m")
    subjects = Subjects(machine)
    notices = Notices(machine, lambda _id, _raw: None, time.time)

    def take() -> None:
        now = time.time()
        while (frame := observing.frame()) is not None:
            message = decode_from_agent(frame) if measuring else None
            if isinstance(message, Observations):
                told.extend(now - each.time for each in message.observations)

    observing = Observing(subjects, notices, take)
    sensor = Sensor(Connector(), WatchList.load(), subjects, lambda _id, _raw: None, notices, observing)
    sensor.start()
    try:
        floor = await burst(group, COUNT // 2, sensor)
        observing.ask(Observe(executions=True))
        await burst(group, COUNT // 2, sensor)
        measuring = False
        each = await burst(group, COUNT, sensor)
        before = time.process_time()
        await asyncio.sleep(IDLE)
        idle = time.process_time() - before
    finally:
        sensor.stop()
        observing.stop()
    print(row("execution until it is told", told))
    print(f"CPU of the sensor an execution: {each * 1e6:.0f} µs (bound {BOUND_EXECUTION * 1e6:.0f})")
    print(f"  while nobody wants to be told, for the watch list alone: {floor * 1e6:.0f} µs")
    print(f"nothing happens: {idle * 1000:.1f} ms of CPU in {IDLE:g} s (what others execute meanwhile included)")
    print(f"memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    return each <= BOUND_EXECUTION


async def burst(group: Path, count: int, sensor: Sensor) -> float:
    """Seconds of CPU of this process for each of twice so many executions, half of which soon end."""
    words = ["sh", "-c", f"echo $$ > {group}/cgroup.procs; {_SHELLS}", "sh", _BURST.format(count=count)]
    seen, started = sensor.counts.seen, time.process_time()
    process = await asyncio.create_subprocess_exec(*words)
    while sensor.counts.seen - seen < 2 * count:  # noqa: ASYNC110 - nobody says so
        await asyncio.sleep(0.2)
    used, number = time.process_time() - started, sensor.counts.seen - seen
    emptied(group)
    await process.wait()
    return used / number


def emptied(group: Path) -> None:
    """Ends all processes in the group, which are this program's."""
    deadline = time.monotonic() + 20
    while (pids := (group / "cgroup.procs").read_text().split()) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)


def looks() -> bool:
    with inhabited() as pids:
        holders = [holder(pid) for pid in pids]
        sockets = Sockets()

        def anew() -> None:
            sockets.forget()
            sockets.look(holders)

        try:
            first = cpu(lambda: sockets.look(holders), 1)
            quiet = cpu(lambda: sockets.look(holders), LOOKS)
            whole = cpu(anew, LOOKS)
        finally:
            sockets.close()
    print(
        f"a look at {NAMESPACES} namespaces where nothing came: {quiet * 1000:.2f} ms of CPU (bound {BOUND_LOOK * 1000:g})"
    )
    print(
        f"  all listed and every socket's process found again: {whole * 1000:.2f} ms; the first look {first * 1000:.2f} ms"
    )
    return quiet <= BOUND_LOOK


def cpu(work: Callable[[], object], times: int) -> float:
    started = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - started) / times


def holder(pid: int) -> Holder:
    stat, netns = proc.read_stat(pid), proc.netns(pid)
    assert stat is not None
    assert netns is not None
    return Holder(pid, stat.start_ticks, Placement(containers=(f"{pid:064x}",)), netns)


@contextlib.contextmanager
def inhabited() -> Iterator[list[int]]:
    """A process in each of several network namespaces, with three sockets."""
    with contextlib.ExitStack() as cleanup:
        pids = []
        for number in range(NAMESPACES):
            name = f"quell-bench-{os.getpid()}-{number}"
            subprocess.run(["ip", "netns", "add", name], check=True)
            cleanup.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            for line in ("link set lo up", "address add 10.88.0.1/24 dev lo"):
                subprocess.run(["ip", "-n", name, *line.split()], check=True)
            words = ["ip", "netns", "exec", name, sys.executable, "-c", _TALK]
            process = cleanup.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            cleanup.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            pids.append(process.pid)
        yield pids


if __name__ == "__main__":
    main()
