"""Ends a process group: every member of the group that the proven process is in. SEMANTICS sections 5 and 8.

A group is a number that the kernel gives away anew once nobody is in it. So it is defined by the proven process, which
holds the number while it is looked at; every member is opened by a handle and looked at again; and one that appears
later counts only while a known member keeps the number, or if it started before one was last known to do so.

Members may fork while they are killed. After those that were looked at, the group as a whole is signalled through the
handle of its leader, which reaches what was forked since and no group that gets the number later (Linux 6.9). Without it
there are rounds: a process cannot fork any more once it was sent SIGKILL, so that a look after the last signal finds all.
"""

from __future__ import annotations

import time

from quell.agent.kernel import Kernel
from quell.agent.members import SECONDS, Came, Members, Told
from quell.agent.proc import Facts, Stat
from quell.agent.refusal import Refused
from quell.model.decision import OutcomeStatus, Reason


class Group:
    """One action on one group."""

    def __init__(self, kernel: Kernel, members: Members, target: Facts) -> None:
        """target: the proven process, which members holds. Refused: a member must not be touched, or it cannot be told who
        is one.
        """
        self._kernel = kernel
        self._members = members
        self._target = target
        self._pid = target.process.pid or 0
        self._pgid = target.process.pgid or 0
        self._namespace = kernel.pid_namespace(self._pid)
        self._handle = members.held[self._pid][1]
        self._sid = target.sid
        if not self._pgid:
            raise Refused(Reason.IDENTITY, f"the process group of process {self._pid} is not to be seen from here")
        self._keepers: list[int] = []
        self._is_late = False
        #: Members of the group that are not in the target's container or pid namespace.
        self._outside = 0
        self._leader = self._handle if self._pgid == self._pid else members.keep(self._pgid)
        self._gather(kernel.table(), late=False)
        # The target is looked at last, by its own handle: while it lives and is in the group, the number is this group's,
        # and so are those who were found in it and the leader's handle.
        now = kernel.facts(self._pid)
        if now is None or now.process.pgid != self._pgid or kernel.wait_ended(self._handle, 0):
            raise Refused(
                Reason.GONE, f"process {self._pid} ended or left its group at this moment", OutcomeStatus.GONE
            )

    def kill(self) -> Came:
        """Once the ledger is written."""
        started = time.perf_counter()
        until = time.monotonic() + SECONDS
        rounds, complete = 0, False
        while not complete and time.monotonic() < until:
            rounds += 1
            self._members.kill(last=self._pid)
            # What was forked since the look. Not where some of the group are outside, or must be left alone.
            if self._leader is not None and not self._outside and not self._members.left:
                self._kernel.kill_group(self._leader)
            if not self._gather(self._kernel.table(), late=True):
                complete = self._members.wait(until) and not self._gather(self._kernel.table(), late=True)
        told: Told = {"pgid": self._pgid, "rounds": rounds, "seconds_to_gone": time.perf_counter() - started}
        return self._members.came(told, until, complete=complete)

    def _gather(self, table: dict[int, Stat], *, late: bool) -> bool:
        """Take what is in the group and is not held yet. late: signals were sent; what is protected is left alone then."""
        found = [
            (pid, stat)
            for pid, stat in table.items()
            if stat.pgid == self._pgid and stat.sid == self._sid and not self._members.holds(pid, stat.start_ticks)
        ]
        held = self._members.held
        # Of those that the table shows in the group: one that still has its number keeps the group's from being another's.
        self._keepers = [pid for pid in held if pid in table and table[pid].pgid == self._pgid]
        self._is_late = late
        take = self._members.take_late if late else self._members.take
        return sum(take(pid, stat.start_ticks, self._belongs) for pid, stat in found) > 0

    def _is_same_group(self, facts: Facts) -> bool:
        """Whether the number was never free since the target had it; else a new group may have got it."""
        if any(self._members.keeps_number(pid) for pid in self._keepers):
            return True
        # It started in an earlier clock tick than that in which a signal last reached a member.
        return (facts.process.start_ticks or 0) < max(self._members.seen.values(), default=0)

    def _belongs(self, facts: Facts) -> bool | None:
        if facts.process.pgid != self._pgid:
            return None
        if self._is_late and not self._is_same_group(facts):
            return False
        container = self._target.container_id
        if container is not None:
            is_inside = container in facts.placement.containers
        else:
            is_inside = self._kernel.is_within(facts.process.pid or 0, self._namespace)
        if not is_inside:
            self._members.guard(
                facts
            )  # it would not be hit, but who shares a group with it is not to be judged from here
            self._outside += 1
        return is_inside
