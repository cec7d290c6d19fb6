"""Handles on processes from their first sight. SEMANTICS section 8, identity.

A pidfd names one process instance for good, so that a kill cannot reach a later process of the same number. Handles
of processes that have ended are closed at the next execution, all at once; nothing wakes for a single end.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import threading
from collections import OrderedDict
from typing import NamedTuple

_MOST = 2048
#: Descriptors left for everything else.
_SPARE = 256


class _Held(NamedTuple):
    pidfd: int
    start_ticks: int


class Pidfds:
    """The most recent executions. hold() and sweep() are for the sensor's thread, kept() for any."""

    def __init__(self, most: int = _MOST) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - _SPARE))
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._epoll = select.epoll()
        self._lock = threading.Lock()

    def hold(self, pid: int, pidfd: int, start_ticks: int) -> None:
        """Takes over the handle."""
        with self._lock:
            if pid in self._held:
                self._close(self._held.pop(pid))
            elif len(self._held) >= self._most:
                self._close(self._held.popitem(last=False)[1])
            self._held[pid] = _Held(pidfd, start_ticks)
            self._epoll.register(pidfd, select.EPOLLIN)

    def kept(self, pid: int) -> tuple[int, int] | None:
        """(pidfd, start in clock ticks) of a process seen to start here. The pidfd is the caller's own, to be closed."""
        with self._lock:
            held = self._held.get(pid)
            return None if held is None else (os.dup(held.pidfd), held.start_ticks)

    def sweep(self) -> None:
        """Close the handles of processes that have ended."""
        with self._lock:
            ended = {pidfd for pidfd, _ in self._epoll.poll(0, self._most)}
            if ended:
                for pid in [pid for pid, held in self._held.items() if held.pidfd in ended]:
                    self._close(self._held.pop(pid))

    def __len__(self) -> int:
        return len(self._held)

    def close(self) -> None:
        with self._lock:
            while self._held:
                self._close(self._held.popitem()[1])
            self._epoll.close()

    def _close(self, held: _Held) -> None:
        self._epoll.unregister(held.pidfd)
        os.close(held.pidfd)
