"""Executions on this machine, and which of them are on the watch list.

The kernel reports an execution some hundred microseconds after it (quell.agent.connector). Everything is looked at
from /proc while the process runs; a handle on it is opened first and kept, so that what a rule then asks for reaches
this very process. What ended before it could be read is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

from msgspec import Struct

from quell.agent import proc
from quell.agent.connector import Connector
from quell.agent.contents import Executable
from quell.agent.events import Emit, Notices, incident
from quell.agent.pidfds import Pidfds
from quell.agent.watchlist import Circumstances, Execution, Hit, WatchList
from quell.model.subject import Container, Pod, Subject

#: Executions taken at one wake; between two such the loop does its other work.
_AT_ONCE = 64
_ARGUMENTS_BYTES = 4096
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
        self, connector: Connector, watch_list: WatchList, machine: Subject, emit: Emit, notices: Notices
    ) -> None:
        self._connector = connector
        self._watch_list = watch_list
        self._machine = machine
        self._emit = emit
        self._notices = notices
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
        """The pidfd of a process seen to start, if it is kept (quell.agent.pidfds)."""
        return self._pidfds.kept

    def _readable(self) -> None:
        self._pidfds.sweep()
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

    def _judge(self, pid: int, stat: proc.Stat, stamp: float, execution: Execution, hits: list[Hit]) -> None:
        facts = proc.read_process(pid)
        if facts is None or facts.process.start_ticks != stat.start_ticks or facts.process.uid is None:
            raise ProcessLookupError(pid)
        parent = proc.read_stat(stat.ppid)
        parent_exe = None
        with contextlib.suppress(OSError):
            parent_exe = _exe(stat.ppid)[0]
        circumstances = Circumstances(
            uid=facts.process.uid,
            user=facts.process.user,
            parent_name=parent.name if parent else None,
            parent_exe=parent_exe,
        )
        hit = next((hit for hit in hits if not self._watch_list.is_allowed(hit, execution, circumstances)), None)
        if hit is None:
            return
        self.counts.suspicious += 1
        container = Container(id=facts.container_id) if facts.container_id else None
        subject = Subject(
            node=self._machine.node,
            machine_id=self._machine.machine_id,
            container=container,
            pod=Pod(uid=facts.pod_uid) if facts.pod_uid else None,
            process=facts.process,
        )
        name = "Container.Suspicious.Process" if subject.is_workload else "Host.Suspicious.Process"
        message = f"{facts.process.cmdline or facts.process.exe} is on the watch list: {hit.watch.name} ({hit.why})"
        happened = time.time() - (time.monotonic() - stamp)
        self._emit(*incident(name, happened, subject, message))


def _execution(pid: int, name: str) -> Execution:
    folder = f"/proc/{pid}"
    exe, content = _exe(pid)
    with open(f"{folder}/cmdline", "rb", buffering=0) as file:  # noqa: PTH123 - for each execution on the machine
        arguments = file.read(_ARGUMENTS_BYTES).rstrip(b"\0").split(b"\0")
    return Execution(
        exe=exe,
        name=name,
        arguments=tuple(argument.decode(errors="backslashreplace") for argument in arguments),
        content=content,
        file=Executable.at(f"{folder}/exe"),
    )


def _exe(pid: int) -> tuple[str, str | None]:
    return proc.parse_exe(os.readlink(f"/proc/{pid}/exe".encode()))  # noqa: PTH115 - a path need not be text


def _started(stat: proc.Stat) -> float:
    """The latest moment at which it cannot have started later, CLOCK_MONOTONIC seconds."""
    suspended = proc.clock_ahead(time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC)
    return stat.start_ticks / proc.HZ - suspended - _TICK_SECONDS
