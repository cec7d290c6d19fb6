"""The processes that one action is to end, each looked at and held by a handle. SEMANTICS section 8.

A handle names one process instance, so that a number which is given to another process meanwhile changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from quell.agent.kernel import Kernel
from quell.agent.proc import HZ, Facts
from quell.agent.protected import Protected
from quell.agent.refusal import Refused
from quell.model.decision import OutcomeStatus, Reason

#: Seconds for all of them to be gone.
SECONDS = 5.0
#: Most pids that an outcome lists; it counts them all.
LISTED = 256

Told = dict[str, str | int | float | list[int]]
#: What an action came to but for its duration: status, reason, explanation and facts.
Came = tuple[OutcomeStatus, Reason | None, str, Told]
#: Whether a process is one of these; None: not to be told now, so look again.
Belongs = Callable[[Facts], bool | None]


class Members:
    """A context: at its end every handle is closed."""

    def __init__(self, kernel: Kernel, protected: Protected) -> None:
        self._kernel = kernel
        self._protected = protected
        #: By pid: what was seen of it last, and its handle.
        self.held: dict[int, tuple[Facts, int]] = {}
        self._signalled: set[int] = set()
        #: By pid, the clock tick in which a signal reached a member: it was there, and kept its number, until then.
        self.seen: dict[int, int] = {}
        #: Instances that need no second look, because they have ended or are left alone: (pid, start in ticks).
        self._settled: set[tuple[int, int]] = set()
        #: Sentences about members that were left alone.
        self.left: list[str] = []
        #: Members whose number went to another member: their pids, and all handles that are to be closed beside.
        self._replaced: list[int] = []
        self._kept: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in [*self._kept, *(handle for _, handle in self.held.values())]:
            self._kernel.close(handle)

    @property
    def pids(self) -> list[int]:
        return [*self._replaced, *self.held]

    @property
    def instances(self) -> list[tuple[int, int]]:
        """Pids, each with its start in ticks."""
        return [(pid, facts.process.start_ticks or 0) for pid, (facts, _) in self.held.items()]

    def add(self, process: int, facts: Facts) -> None:
        """One that is proved already. Its handle is closed with the others."""
        self.held[facts.process.pid or 0] = (facts, process)

    def keep(self, pid: int) -> int | None:
        """A handle of a process that is none of these, closed with the others; None: there is no such process."""
        handle = self._kernel.open_process(pid)
        if handle is not None:
            self._kept.append(handle)
        return handle

    def holds(self, pid: int, start_ticks: int) -> bool:
        """Whether it is one of these, or one that needs no second look."""
        held = self.held.get(pid)
        return (held is not None and held[0].process.start_ticks == start_ticks) or (pid, start_ticks) in self._settled

    def is_alive(self, pid: int) -> bool:
        """Whether a member has not ended. While it has not, the number is its own."""
        return not self._kernel.wait_ended(self.held[pid][1], 0)

    def keeps_number(self, pid: int) -> bool:
        """Whether a member has not been reaped: until then the number is its own, and so are a group and a session of it."""
        try:
            self._kernel.may_kill(self.held[pid][1])
        except ProcessLookupError:
            return False
        return True

    def terminate(self, pids: Iterable[int]) -> None:
        """SIGTERM to these of them."""
        for pid in pids:
            try:
                self._kernel.terminate(self.held[pid][1])
            except ProcessLookupError:
                continue

    def take(self, pid: int, start_ticks: int, belongs: Belongs) -> bool:
        """Open a handle of this instance, which is not held, and look again whether it belongs here.

        False: it is settled that it is none of these. True: it is, or it went while it was looked at, and what it forked
        before is to be looked for. Refused: it is protected, or this agent may not signal it.
        """
        handle = self._kernel.open_process(pid)
        if handle is None:
            return True
        kept = False
        try:
            facts = self._kernel.facts(pid)
            if facts is None or facts.process.start_ticks != start_ticks:
                return True
            if facts.ended:
                self._settled.add((pid, start_ticks))
                return True
            if (is_one := belongs(facts)) is None:
                return True
            if not is_one:
                self._settled.add((pid, start_ticks))
                return False
            # Looked at last: while the process lives, the pid is its own, and so are the facts just read.
            if not self._kernel.wait_ended(handle, 0):
                self._check(handle, facts)
                self._hold(pid, facts, handle)
                kept = True
        except ProcessLookupError:
            return True
        finally:
            if not kept:
                self._kernel.close(handle)
        return True

    def take_late(self, pid: int, start_ticks: int, belongs: Belongs) -> bool:
        """As take, once others were signalled: what may not be touched is left alone and told of."""
        try:
            return self.take(pid, start_ticks, belongs)
        except Refused as refused:
            self._settled.add((pid, start_ticks))
            self.left.append(str(refused))
            return False

    def kill(self, *, last: int = 0, spared: int = 0) -> int:
        """SIGKILL to all that had none yet; how many those were. last: the pid of the one whose turn comes last; spared: of
        the one that gets none now.
        """
        waiting = [pid for pid in self.held if pid not in self._signalled and pid != spared]
        waiting.sort(key=lambda pid: pid == last)
        for pid in waiting:
            self._signalled.add(pid)
            try:
                self._kernel.kill(self.held[pid][1])
                self.seen[pid] = now()
            except ProcessLookupError:
                continue
            except PermissionError:
                self.left.append(f"process {pid} may not be killed by this agent")
        return len(waiting)

    def wait(self, until: float) -> bool:
        """Whether all have ended, by a time of the monotonic clock."""
        return not self.survivors(until)

    def survivors(self, until: float = 0.0) -> list[int]:
        """Those that have not ended by then; it waits for the rest."""
        return [
            pid
            for pid, (_, handle) in self.held.items()
            if not self._kernel.wait_ended(handle, max(0.0, until - time.monotonic()))
        ]

    def told(self) -> Told:
        pids = self.pids
        told: Told = {"pids": pids[:LISTED], "processes": len(pids)}
        if self.left:
            told["left"] = "; ".join(dict.fromkeys(self.left))
        return told

    def came(self, told: Told, until: float, *, complete: bool) -> Came:
        """The outcome, once everything was signalled. complete: and a look after that found no other."""
        told |= self.told()
        survivors = self.survivors(until)
        if survivors:
            listed = ", ".join(map(str, survivors[:10]))
            why = f"killed, and still there: {listed}. They hang in the kernel or are frozen"
            return OutcomeStatus.FAILED, Reason.FAILED, why, told
        if self.left:
            return OutcomeStatus.FAILED, Reason.FAILED, f"some were left alone: {told['left']}", told
        if not complete:
            why = f"after {SECONDS:g} s there are still others: they fork faster than they are killed"
            return OutcomeStatus.FAILED, Reason.FAILED, why, told
        return OutcomeStatus.DONE, None, "", told

    def guard(self, facts: Facts) -> None:
        """Refused: the process is protected."""
        if why := self._protected.check(facts):
            process = facts.process
            raise Refused(Reason.PROTECTED, f"process {process.pid} ({process.name}) is protected: {why}")

    def _check(self, handle: int, facts: Facts) -> None:
        self.guard(facts)
        pid = facts.process.pid
        if not self._kernel.may_kill(handle):
            raise Refused(
                Reason.UNSUPPORTED, f"this agent lacks the privilege to kill process {pid}, which belongs to it"
            )

    def _hold(self, pid: int, facts: Facts, handle: int) -> None:
        before = self.held.pop(pid, None)
        if before is not None:
            self._replaced.append(pid)
            self._kept.append(before[1])
            self._signalled.discard(pid)
        self.held[pid] = (facts, handle)


def now() -> int:
    """The time in the unit that /proc writes starts in: clock ticks after boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * HZ)


def told(facts: Facts) -> Told:
    """What an outcome says of the process that was meant."""
    process = facts.process
    said: Told = {"pid": process.pid or 0, "start_ticks": process.start_ticks or 0, "name": process.name or ""}
    if process.exe:
        said["exe"] = process.exe
    if facts.container_id:
        said["container"] = facts.container_id
    return said
