"""A process tree that forks while somebody ends it: `forking_process.py KIND WORKERS FORKS SECONDS NAME`.

WORKERS children do what KIND says until FORKS forks were made by all of them together; each process ends by itself after
SECONDS. NAME is only there to be found in the command lines. "ready" is written once all children run.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable


def main(kind: str, workers: int, forks: int, seconds: int) -> None:
    counter = mmap.mmap(-1, 8)
    ends = time.monotonic() + seconds

    def may_fork() -> bool:
        made = struct.unpack("q", counter[:8])[0] + 1
        counter[:8] = struct.pack("q", made)
        return bool(made <= forks)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.alarm(seconds)  # a fork has none of its own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(workers):
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _work(kind, may_fork, ends)
            os._exit(0)
    os.write(1, b"ready\n")
    os.close(1)
    while time.monotonic() < ends:
        time.sleep(0.2)


def _work(kind: str, may_fork: Callable[[], bool], ends: float) -> None:
    while time.monotonic() < ends:
        signal.alarm(max(1, round(ends - time.monotonic())))
        if kind == "still" or not may_fork():
            time.sleep(0.2)
            continue
        pid = os.fork()
        match kind:
            case "short":  # children that end at once
                if pid == 0:
                    os._exit(0)
                os.waitpid(pid, 0)
                time.sleep(0.002)
            case "growing":  # all stay
                time.sleep(0.02)
            case "leaving":  # each in a session, and so a group, of its own, and its parent forgets it
                if pid == 0:
                    os.setsid()
                time.sleep(0.02)
            case "orphans":  # the parent ends at once, and the next one goes on: nobody lives for long
                if pid:
                    os._exit(0)
                time.sleep(0.003)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
