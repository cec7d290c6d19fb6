"""A thread that goes before others for a moment: what it is to end may fork and fork.

Real time of the lowest priority (sched(7)), where this process may have that. A high priority among ordinary threads would
not do: with autogroups it counts only against those of the same session. All of it is of the calling thread alone, and none
of it goes to what the thread starts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH)


@contextlib.contextmanager
def hurrying() -> Iterator[None]:
    """Nothing where this process may not, or where somebody has chosen a policy for the thread."""
    try:
        policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
        is_ordinary = policy & ~os.SCHED_RESET_ON_FORK in _ORDINARY
        if is_ordinary:
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        is_ordinary = False  # not its right, or its control group has no share of real time
    if not is_ordinary:
        yield
        return
    try:
        yield
    finally:
        try:
            os.sched_setscheduler(0, policy, parameter)
        except PermissionError:
            # A thread without CAP_SYS_NICE may be in a hurry, and not take back that its children are not.
            os.sched_setscheduler(0, policy | os.SCHED_RESET_ON_FORK, parameter)
