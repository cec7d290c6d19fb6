"""Executions on this machine: which of them are on the watch list, and those that the controller wants to be told of.

The kernel reports an execution some hundred microseconds after it (quell.agent.connector). Everything is looked at
from /proc while the process runs; a handle on it is opened first and kept, so that what a rule then asks for reaches
this very process. What ended before it could be read is counted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from msgspec import Struct

from quell.agent import proc
from quell.agent.connector import Connector
from quell.agent.contents import Executable
from quell.agent.events import Emit, Notices, incident
from quell.agent.observing import Observing
from quell.agent.pidfds import Pidfds
from quell.agent.subjects import Subjects
from quell.agent.users import user_name
from quell.agent.watchlist import Circumstances, Execution, Hit, WatchList

#: Executions taken at one wake, which are two or three milliseconds; between two such the loop does its other work.
_AT_ONCE = 16
#: The start in /proc is rounded down to a clock tick; the kernel's stamp is not.
_TICK_SECONDS = 1 / proc.HZ


class Counts(Struct):
    """Since the start."""

    seen: int = 0
    suspicious: int = 0
    #: Ended before it could be read.
    vanished: int = 0
    #: Not ours to look at, because the agent does not run as root.
    unreadable: int = 0
    #: Messages that the kernel could not deliver.
    lost: int = 0


class Sensor:
    """Runs on the event loop's thread from start() to stop(); kept() may be called from any."""

    def __init__(
        self,
        connector: Connector,
        watch_list: WatchList,
        subjects: Subjects,
        emit: Emit,
        notices: Notices,
        observing: Observing,
    ) -> None:
        self._connector = connector
        self._watch_list = watch_list
        self._subjects = subjects
        self._emit = emit
        self._notices = notices
        self._observing = observing
        self._pidfds = Pidfds()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.counts = Counts()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._connector.fileno(), self._readable)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._connector.fileno())
        self._connector.close()
        self._pidfds.close()

    @property
    def kept(self) -> Callable[[int], int | None]:
        """A pidfd of the caller's own for a process seen to start, if one is kept (quell.agent.pidfds)."""
        return self._pidfds.kept

    def _readable(self) -> None:
        for pid in self._pidfds.sweep():
            self._observing.ended(pid)
        for pid, stamp in self._connector.read(_AT_ONCE):
            self.counts.seen += 1
            try:
                self._look(pid, stamp)
            except PermissionError:
                self.counts.unreadable += 1
            except (FileNotFoundError, ProcessLookupError):
                self.counts.vanished += 1
        if lost := self._connector.lost():
            self.counts.lost += lost
            self._observing.lost(lost)
            self._notices.note(
                "Sensor.Events.Lost",
                "{count} executions were not seen: the kernel's messages came faster than read",
                lost,
            )

    def _look(self, pid: int, stamp: float) -> None:
        pidfd = os.pidfd_open(pid)
        stat = proc.read_stat(pid)
        # A start after the execution: the number has already gone to another process.
        if stat is None or _started(stat) > stamp:
            os.close(pidfd)
            raise ProcessLookupError(pid)
        self._pidfds.hold(pid, pidfd)
        execution = _execution(pid, stat.name)
        if hits := self._watch_list.find(execution):
            self._judge(pid, stat, stamp, execution, hits)
        if self._observing.executions:
            self._observing.executed(pid, pidfd, stat, execution, _epoch(stamp))

    def _judge(self, pid: int, stat: proc.Stat, stamp: float, execution: Execution, hits: list[Hit]) -> None:
        facts = proc.read_process(pid)
        inhabitant = None if facts is None else self._subjects.of(facts)
        process = None if inhabitant is None else inhabitant.subject.process
        if inhabitant is None or process is None or process.start_ticks != stat.start_ticks or process.uid is None:
            raise ProcessLookupError(pid)
        parent = process.lineage[0] if process.lineage else None
        circumstances = Circumstances(
            uid=process.uid,
            user=user_name(process.uid),  # the machine's name for it: a container could take any
            parent_name=None if parent is None else parent.name,
            parent_exe=None if parent is None else parent.exe,
        )
        hit = next((hit for hit in hits if not self._watch_list.is_allowed(hit, execution, circumstances)), None)
        if hit is None:
            return
        self.counts.suspicious += 1
        name = "Container.Suspicious.Process" if inhabitant.subject.is_workload else "Host.Suspicious.Process"
        message = f"{process.cmdline or process.exe} is on the watch list: {hit.watch.name} ({hit.why})"
        self._emit(*incident(name, _epoch(stamp), inhabitant.subject, message))


def _epoch(stamp: float) -> float:
    """A stamp of the kernel's in epoch seconds, by the clock as it is set now."""
    return time.time() - (time.monotonic() - stamp)


def _execution(pid: int, name: str) -> Execution:
    exe, content = _exe(pid)
    arguments = proc.read_arguments(pid)
    try:
        file = Executable.at(f"/proc/{pid}/exe")
    except PermissionError:
        file = None
    return Execution(
        exe=exe,
        name=name,
        arguments=tuple(argument.decode(errors="backslashreplace") for argument in arguments),
        content=content,
        file=file,
    )


def _exe(pid: int) -> tuple[str, str | None]:
    return proc.parse_exe(os.readlink(f"/proc/{pid}/exe".encode()))  # noqa: PTH115 - a path need not be text


def _started(stat: proc.Stat) -> float:
    """The latest moment at which it cannot have started later, CLOCK_MONOTONIC seconds."""
    suspended = proc.clock_ahead(time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC)
    return stat.start_ticks / proc.HZ - suspended - _TICK_SECONDS
