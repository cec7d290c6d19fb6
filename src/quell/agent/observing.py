"""What the workloads of this machine do, told to the controller for as long as it asks. SEMANTICS section 1, observations.

An execution is told at once (quell.agent.sensor hands it over). What runs is told when observing begins and, where
something changed without an execution, by a look at all processes each minute; what listens and is connected, by looks
at sockets (quell.agent.looks). What these bring is told in short turns, so that an execution never waits long for its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator

import structlog

from quell.agent import proc
from quell.agent.backlog import Backlog
from quell.agent.events import Notices
from quell.agent.holders import Holder
from quell.agent.looks import Looks
from quell.agent.place import Finding
from quell.agent.proc import Facts, Stat
from quell.agent.residents import Residents
from quell.agent.sockets import Seen as Sighted
from quell.agent.subjects import Inhabitant, Subjects
from quell.agent.watchlist import Execution
from quell.channel.messages import Observe
from quell.model.observation import Observation, Peer, Seen
from quell.model.subject import Process

#: Seconds between two looks at all processes, and from the first one or from a loss to another.
_SCAN, _SCAN_SOON = 60.0, 3.0
#: Such a look passes over what is younger: it may be on its way into a container, and what it executes is told anyway.
_YOUNG = 2.0
#: Seconds of one turn of work on the event loop.
_TURN = 0.001
_NOTHING = Observe()

_log = structlog.get_logger(__name__)


class Observing:
    """Runs on the event loop's thread."""

    def __init__(self, subjects: Subjects, notices: Notices, rouse: Callable[[], None]) -> None:
        """rouse: called when there is something to take out of frame()."""
        self._subjects = subjects
        self._notices = notices
        self._rouse = rouse
        self._asked = _NOTHING
        self._backlog = Backlog()
        self._residents = Residents()
        self._looks = Looks(self._residents.holders, self._sighted)
        self._work: deque[Iterator[None]] = deque()
        self._turning = False
        self._scan_timer: asyncio.TimerHandle | None = None
        self._failures: set[str] = set()
        #: Connections that cannot be said to be any workload's, since the start (quell.agent.place.Taken).
        self.unattributed = 0

    @property
    def executions(self) -> bool:
        """Whether executions are to be handed over."""
        return self._asked.executions

    def frame(self) -> bytes | None:
        """What is to be sent next; None: nothing."""
        return self._backlog.frame()

    def ask(self, observe: Observe | None) -> None:
        """From now on look at this and at nothing else; None: at nothing. What there is is told anew."""
        self._asked = observe or _NOTHING
        self._backlog.clear()
        self._residents.clear()
        self._work.clear()
        if self._scan_timer is not None:
            self._scan_timer.cancel()
            self._scan_timer = None
        self._looks.ask(self._asked.sockets)
        if self._asked != _NOTHING:
            self._do(self._scanning(first=True))

    def stop(self) -> None:
        self.ask(None)
        self._looks.stop()
        self._subjects.lineage.close()

    def executed(self, pid: int, pidfd: int, stat: Stat, execution: Execution, happened: float) -> None:
        """The sensor saw it. ProcessLookupError, FileNotFoundError: it ended before it could be read."""
        placement = proc.read_placement(pid)
        if placement is None:
            raise ProcessLookupError(pid)
        if placement.workload is None:
            self._residents.drop(pid)
            return
        facts = proc.read_execution(
            pid,
            stat,
            placement,
            exe=(execution.exe, execution.content),
            exe_id=None if (file := execution.file) is None else (file.status.device, file.status.inode),
            cmdline=" ".join(execution.arguments),
        )
        among_machines = facts.container_id is not None and _is_among_machines(pid)
        signal.pidfd_send_signal(pidfd, 0)
        inhabitant = self._subjects.of(facts)
        if inhabitant is None or (among_machines and _is_runtime(facts, inhabitant)):
            return
        self._residents.put(facts, inhabitant)
        self._tell(Seen.EXECUTED, inhabitant, happened)
        if facts.netns is not None:
            self._looks.hurry(facts.netns)

    def ended(self, pid: int) -> None:
        self._residents.drop(pid)

    def lost(self, count: int) -> None:
        """So many executions passed unseen on this machine: what they left running is looked for soon."""
        if self._asked.executions:
            self._backlog.lose(count)
            self._rouse()
            self._plan_scan(_SCAN_SOON)

    def _tell(self, seen: Seen, inhabitant: Inhabitant, now: float) -> None:
        self._put(Observation(seen=seen, time=now, subject=inhabitant.subject, inside=inhabitant.inside))

    def _put(self, observation: Observation) -> None:
        if lost := self._backlog.put(observation):
            self._note(lost)
        self._rouse()

    def _note(self, lost: int) -> None:
        self._notices.note(
            "Sensor.Observations.Lost",
            "{count} observations of workloads were given up: more than can be looked at, or than the controller takes",
            lost,
        )

    def _do(self, work: Iterator[None]) -> None:
        self._work.append(work)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        end = time.monotonic() + _TURN
        while self._work and time.monotonic() < end:
            work = self._work[0]
            # What was asked for may change meanwhile, and the work be thrown away.
            if next(work, work) is work and self._work and self._work[0] is work:
                self._work.popleft()
        self._turning = bool(self._work)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)

    def _scan(self) -> None:
        self._scan_timer = None
        self._do(self._scanning(first=False))

    def _scanning(self, *, first: bool) -> Iterator[None]:
        pids = proc.pids()
        self._residents.keep(pids)
        for pid in pids:
            self._meet(pid)
            yield
        if first:
            self._looks.plan(0.0)
        self._plan_scan(_SCAN_SOON if first else _SCAN)

    def _plan_scan(self, wait: float) -> None:
        loop = asyncio.get_running_loop()
        if self._scan_timer is not None:
            if self._scan_timer.when() <= loop.time() + wait:
                return
            self._scan_timer.cancel()
        self._scan_timer = loop.call_later(wait, self._scan)

    def _meet(self, pid: int) -> None:
        """Tell of a process of a workload if it is new, or not what it was."""
        placement = proc.read_placement(pid)
        facts = None if placement is None or placement.workload is None else proc.read_process(pid, full=False)
        if facts is None or facts.ended or facts.placement.workload is None:
            self._residents.drop(pid)
            return
        known = self._residents.get(pid)
        if known is None and (facts.process.start_time or 0.0) > time.time() - _YOUNG:
            return
        if known is None or not known.is_still(facts):
            self._renewed(pid)

    def _renewed(self, pid: int) -> tuple[Facts, Inhabitant] | None:
        """A process of a workload as it is now, told of if that was not known. None: there is none any more."""
        facts = proc.read_process(pid)
        if facts is None or facts.ended or _is_ending(facts) or facts.placement.workload is None:
            return None
        inhabitant = self._subjects.of(facts)
        if inhabitant is None:
            return None
        known = self._residents.get(pid)
        if known is None or not known.is_still(facts):
            self._residents.put(facts, inhabitant)
            if self._asked.executions:
                self._tell(Seen.RUNNING, inhabitant, time.time())
        return facts, inhabitant

    def _sighted(self, sighted: Sighted) -> None:
        self.unattributed += sighted.unattributed
        for failure in set(sighted.failures) - self._failures:
            self._failures.add(failure)
            _log.warning("sockets of some workloads are not looked at", reason=failure)
        if sighted.lost:
            self._backlog.lose(sighted.lost)
            self._note(sighted.lost)
            self._rouse()
        if sighted.findings or sighted.newcomers:
            self._do(self._telling(sighted, time.time()))

    def _telling(self, sighted: Sighted, now: float) -> Iterator[None]:
        for newcomer in sighted.newcomers:
            self._renewed(newcomer.pid)
            yield
        inhabitants: dict[int, Inhabitant] = {}
        for netns, finding in sighted.findings:
            holder = finding.holder
            if holder is None:
                unknown = Process(boot_id=proc.boot_id(), netns=netns)
                inhabitant = Inhabitant(self._subjects.within(finding.placement, unknown), 0)
            elif holder.pid in inhabitants:
                inhabitant = inhabitants[holder.pid]
            else:
                inhabitant = inhabitants[holder.pid] = self._holder(holder)
            self._put(_observation(finding, inhabitant, now))
            yield

    def _holder(self, holder: Holder) -> Inhabitant:
        found = self._renewed(holder.pid)
        if found is not None and found[0].process.start_ticks == holder.start_ticks:
            return found[1]
        known = self._residents.get(holder.pid)
        if known is not None and known.holder is not None and known.holder.start_ticks == holder.start_ticks:
            return known.inhabitant
        ended = Process(pid=holder.pid, start_ticks=holder.start_ticks, boot_id=proc.boot_id(), netns=holder.netns)
        return Inhabitant(self._subjects.within(holder.placement, ended), 0)


def _observation(finding: Finding, inhabitant: Inhabitant, now: float) -> Observation:
    if finding.peer is None or finding.direction is None:
        return Observation(
            seen=Seen.LISTENING,
            time=now,
            subject=inhabitant.subject,
            inside=inhabitant.inside,
            protocol=finding.protocol,
            address=finding.address,
            port=finding.port,
        )
    return Observation(
        seen=Seen.CONNECTED,
        time=now,
        subject=inhabitant.subject,
        inside=inhabitant.inside,
        peer=Peer(direction=finding.direction, ip=finding.peer, port=finding.port, protocol=finding.protocol),
    )


def _is_ending(facts: Facts) -> bool:
    """Whether its memory is gone, and with it what it executed, before the kernel calls it ended.

    Nothing could be said of it but that its program is not known. Of one that is only hidden from this agent the command
    line shows.
    """
    return facts.process.exe is None and not facts.process.cmdline and not facts.kernel_thread


def _is_runtime(facts: Facts, inhabitant: Inhabitant) -> bool:
    """Whether one that is among the machine's files is not the container's process but the runtime's own, on its way in.

    Such a one is in the control group already and has its parent outside. It executes the runtime (`runc init`), first as its parent does and then a sealed copy that has no path there. A process
    that got out of a container executes something else, something that can be found, or is told of by its parent.
    """
    process, subject = facts.process, inhabitant.subject.process
    if inhabitant.inside or subject is None or not subject.lineage or process.exe is None or process.ppid == 1:
        return False
    if process.exe == subject.lineage[0].exe:
        return (process.cmdline or "").endswith(" init")
    try:
        found = os.stat(process.exe)  # noqa: PTH116 - on the sensor's path
    except OSError:
        return True
    return (found.st_dev, found.st_ino) != facts.exe_id


def _is_among_machines(pid: int) -> bool:
    """ProcessLookupError: it has ended."""
    mounts = proc.mounts(pid)
    if mounts is None:
        raise ProcessLookupError(pid)
    return mounts == proc.host_mounts()
