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

_MOST = 2048
#: Ends taken in one go.
_AT_ONCE = 64
#: Descriptors left for everything else.
_SPARE = 256


class Pidfds:
    """The most recent executions. kept() is for any thread, the rest for the sensor's."""

    def __init__(self, most: int = _MOST) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - _SPARE))
        self._held: OrderedDict[int, int] = OrderedDict()
        #: The same the other way round.
        self._pids: dict[int, int] = {}
        self._epoll = select.epoll()
        #: No handle is closed while it is duplicated: its number may be another file's a moment later.
        self._closing = threading.Lock()

    def hold(self, pid: int, pidfd: int) -> None:
        """Takes over the handle."""
        if pid in self._held:
            self._close(pid)
        elif len(self._held) >= self._most:
            self._close(next(iter(self._held)))
        self._held[pid] = pidfd
        self._pids[pidfd] = pid
        self._epoll.register(pidfd, select.EPOLLIN)

    def kept(self, pid: int) -> int | None:
        """A pidfd of the caller's own for a process seen to start here; None as well where there are no descriptors left."""
        with self._closing:
            pidfd = self._held.get(pid)
            try:
                return None if pidfd is None else os.dup(pidfd)
            except OSError:
                return None

    def sweep(self) -> list[int]:
        """Close the handles of processes that have ended; which these are."""
        pids: list[int] = []
        while ended := self._epoll.poll(0, _AT_ONCE):
            for pidfd, _ in ended:
                pid = self._pids[pidfd]
                self._close(pid)
                pids.append(pid)
        return pids

    def __len__(self) -> int:
        return len(self._held)

    def close(self) -> None:
        while self._held:
            self._close(next(iter(self._held)))
        self._epoll.close()

    def _close(self, pid: int) -> None:
        with self._closing:
            pidfd = self._held.pop(pid)
            del self._pids[pidfd]
            self._epoll.unregister(pidfd)
            os.close(pidfd)
