"""CPU time of `quell up` until controller and agent are ready; then memory and idle CPU of the agent."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.figures import quell_up

IDLE = float(os.environ.get("BENCH_IDLE", "20"))


def main() -> bool:
    """Prints the three; whether the bounds were kept."""
    with quell_up() as running:
        pids = [running.process.pid, *_children(running.process.pid)]
        started = sum(map(_cpu, pids))
        agent = next(pid for pid in pids if b"quell.agent" in Path(f"/proc/{pid}/cmdline").read_bytes())
        before = _cpu(agent)
        time.sleep(IDLE)
        idle = _cpu(agent) - before
        resident = int(Path(f"/proc/{agent}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    print(f"quell up ready, controller and agent linked: {started:.2f} s of CPU time (bound 2.5)")
    print(f"agent: {resident:.1f} MiB resident (bound 60), {idle * 1000:.0f} ms of CPU in {IDLE:g} s of idling")
    return started <= 2.5 and resident <= 60 and idle <= 0.02 * IDLE / 10


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pid: int) -> float:
    """Seconds of user and system time of all its threads, and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[place]) for place in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
