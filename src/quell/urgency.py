"""A thread that goes before others for a moment: what it is about to do cannot wait for them.

Real time of the lowest priority (sched(7)), where this process may have that. A high priority among ordinary threads would
not do: with autogroups it counts only against those of the same session. All of it is of the calling thread alone, and none
of it goes to what the thread starts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH)
_LOWEST = os.sched_param(1)


class Urgency:
    """Of one thread, which makes every call."""

    def __init__(self) -> None:
        self._before: tuple[int, os.sched_param] | None = None
        self._refused = False

    def begin(self) -> None:
        """Nothing where it has begun, may not be, or somebody has chosen a policy for this thread."""
        if self._before is not None or self._refused:
            return
        try:
            before = os.sched_getscheduler(0), os.sched_getparam(0)
            if before[0] & ~os.SCHED_RESET_ON_FORK in _ORDINARY:
                os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, _LOWEST)
                self._before = before
        except OSError:
            self._refused = True  # not its right, or not there: its control group has no share of real time

    def end(self) -> None:
        """As it was before begin."""
        if self._before is None:
            return
        (policy, parameter), self._before = self._before, None
        try:
            os.sched_setscheduler(0, policy, parameter)
        except PermissionError:
            # A thread without CAP_SYS_NICE may be in a hurry, and not take back that its children are not.
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameter)


@contextlib.contextmanager
def hurrying() -> Iterator[None]:
    """The calling thread is in a hurry meanwhile."""
    urgency = Urgency()
    urgency.begin()
    try:
        yield
    finally:
        urgency.end()
