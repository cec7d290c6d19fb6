"""Ends a process tree: the proven process and all that descend from it. SEMANTICS sections 5 and 8.

The machine knows the parent of a process only while that lives: what a dying member has just forked belongs to pid 1 the
moment after. So nothing is killed before the tree is together. Each member is moved into a control group that is made
for this, below the one it is in, and whatever it forks from then on is born there, whoever its parent becomes; once a
look finds no descendant outside, one write ends all that is in it. Nothing is stopped or frozen, so that a crash leaves
processes that run on, and the command that comes again finds them in their group.

Where no such group can be made, members are killed in rounds until none is left, and a process that was forked and
orphaned between a look and a signal can be missed. Known then is who is in a session that a member leads: only a fork
brings a process into a session.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Self

from quell.agent.cgroup import OWN
from quell.agent.kernel import Kernel
from quell.agent.members import SECONDS, Came, Members, Told
from quell.agent.proc import Facts, Stat
from quell.model.decision import Command

#: Seconds to get a tree together that changes all the time; then it is killed as far as it is known.
_GATHERING_SECONDS = 0.6
#: Seconds for what was killed in a control group to leave it, before it is looked at one by one; between two looks.
_EMPTYING_SECONDS, _PAUSE_SECONDS = 0.2, 0.001
#: Rounds in which the target is spared, where the tree is not in control groups.
_ROUNDS = 8
_LEFT = "what was forked and orphaned while it was killed may be left"
_NO_CGROUPS = f"no control group (version 2) could be made to keep it together: {_LEFT}"
_TOO_FAST = f"it forked faster than it could be brought together: {_LEFT}"


def cgroup_name(command: Command) -> str:
    """The name of the control groups that a command makes: the same when it comes again, and no other command's."""
    what = f"{command.agent}\x00{command.id}\x00{command.nonce}"
    return OWN + hashlib.blake2b(what.encode(), digest_size=16).hexdigest()


def offspring(table: Mapping[int, Stat], known: Mapping[int, int]) -> list[int]:
    """Pids of all that descend from known processes (pid to start in ticks) and are not among them, parents first.

    A session that a known process leads counts as well, and does after its leader's end, unless the number is another's.
    """
    children: dict[int, list[int]] = defaultdict(list)
    sessions: dict[int, list[int]] = defaultdict(list)
    for pid, stat in table.items():
        children[stat.ppid].append(pid)
        sessions[stat.sid].append(pid)
    found: dict[int, None] = {}
    waiting = [(pid, start) for pid, start in known.items() if pid not in table or table[pid].start_ticks == start]
    for parent, start in waiting:  # grows while it is walked
        for pid in (*(children[parent] if parent in table else ()), *sessions[parent]):
            # A child is not older than its parent: else the parent's number is another's by now.
            if pid in found or pid == parent or table[pid].start_ticks < start:
                continue
            if known.get(pid) != table[pid].start_ticks:
                found[pid] = None
                waiting.append((pid, table[pid].start_ticks))
    return list(found)


class Tree:
    """One action on one tree. A context: at its end no control group of its own is left."""

    def __init__(self, kernel: Kernel, members: Members, target: Facts | None, name: str) -> None:
        """target: the proven process, which members holds; None: it is gone, and a crash left a part of its tree. name: of
        the control groups. Refused: a member must not be touched.
        """
        self._kernel = kernel
        self._members = members
        self._pid = 0 if target is None else target.process.pid or 0
        self._name = name
        self._cgroups = kernel.cgroups
        #: Control groups of its own, by those that members came from: None where none could be made.
        self._made: dict[tuple[str, ...], int | None] = {}
        #: Those that a crash has left.
        self._left = self._cgroups.find(name) if self._cgroups else []
        self._moved: set[tuple[int, int]] = set()
        #: By session, the members that the table shows in it.
        self._sessions: dict[int, list[int]] = defaultdict(list)
        try:
            self._gather(late=False)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for group in self._all():
            # What can be neither ended nor moved stays in it; the outcome says so.
            with contextlib.suppress(OSError):
                if self._cgroups is not None:
                    self._cgroups.remove(group)
            self._kernel.close(group)
        self._made, self._left = {}, []

    def kill(self) -> Came:
        """Once the ledger is written. Refused: a descendant that must not be touched turned up before the first signal."""
        started = time.perf_counter()
        is_together = self._bring_together(time.monotonic() + _GATHERING_SECONDS)
        until = time.monotonic() + SECONDS
        is_whole = is_together and None not in self._made.values()
        rounds, complete = 0 if is_whole else self._kill_others(), False
        while not complete and time.monotonic() < until:
            rounds += 1
            self._members.kill(last=self._pid)
            self._kill_groups()
            if not self._gather(late=True):
                complete = self._members.wait(until) and not self._inside() and not self._gather(late=True)
        told: Told = {"rounds": rounds, "seconds_to_gone": time.perf_counter() - started}
        if not is_whole:
            told["limits"] = _NO_CGROUPS if is_together else _TOO_FAST
        return self._members.came(told, until, complete=complete)

    def _bring_together(self, until: float) -> bool:
        """Whether all that is known is in control groups, or has nowhere to go."""
        is_together = False
        while not is_together and time.monotonic() < until:
            for pid, (facts, handle) in list(self._members.held.items()):
                instance = (pid, facts.process.start_ticks or 0)
                if instance not in self._moved and time.monotonic() < until:
                    self._moved.add(instance)
                    self._move(pid, facts, handle)
            is_together = not self._gather(late=False, inside=False) and time.monotonic() < until
        # What was forked inside meanwhile cannot get away. It is looked at once, for what must not be touched.
        self._gather(late=False)
        return is_together

    def _kill_others(self) -> int:
        """In rounds, of which it tells the number. The target's session says who is of the tree for as long as it lives."""
        rounds, is_changing = 0, True
        while is_changing and rounds < _ROUNDS:
            rounds += 1
            self._members.kill(spared=self._pid)
            is_changing = self._gather(late=True)
        return rounds

    def _move(self, pid: int, facts: Facts, handle: int) -> None:
        """To a group of its own, if it is in none and there can be one."""
        paths = facts.placement.paths
        if self._is_inside(facts):
            return
        if paths not in self._made:
            try:
                self._made[paths] = self._cgroups.make(pid, self._name) if self._cgroups else None
            except ProcessLookupError:
                return
        group = self._made[paths]
        if group is None or self._cgroups is None:
            return
        try:
            self._cgroups.move(handle, pid, group)
        except OSError:
            self._made[paths] = None
            self._left.append(group)

    def _kill_groups(self) -> None:
        """Not while something in them is to be left alone."""
        if self._cgroups is None or self._members.left:
            return
        is_killed = [self._cgroups.kill(group) for group in self._all()]
        if is_killed and all(is_killed):
            until = time.monotonic() + _EMPTYING_SECONDS
            while self._inside() and time.monotonic() < until:
                time.sleep(_PAUSE_SECONDS)

    def _gather(self, *, late: bool, inside: bool = True) -> bool:
        """Take those that descend from members and are not held yet. late: signals were sent. inside: also what is in the
        control groups.
        """
        table = self._kernel.table()
        known = {pid: facts.process.start_ticks or 0 for pid, (facts, _) in self._members.held.items()}
        self._sessions = defaultdict(list)
        for pid in known:
            if pid in table:
                self._sessions[table[pid].sid].append(pid)
        within = dict.fromkeys(pid for pid in self._inside() if pid in table)
        found = [pid for pid in offspring(table, known) if pid not in within] + (list(within) if inside else [])
        take = self._members.take_late if late else self._members.take
        new = [(pid, table[pid].start_ticks) for pid in found if not self._members.holds(pid, table[pid].start_ticks)]
        return sum(take(pid, start, self._belongs) for pid, start in new) > 0

    def _belongs(self, facts: Facts) -> bool | None:
        if self._is_inside(facts):
            return True
        held = self._members.held
        parent = facts.process.ppid or 0
        if parent in held and self._members.is_alive(parent):
            return True
        leader, start = held.get(facts.sid), facts.process.start_ticks or 0
        if leader is None or start < (leader[0].process.start_ticks or 0):
            return None
        # While anybody is in a session, no other process gets its number.
        if any(self._members.keeps_number(pid) for pid in (facts.sid, *self._sessions[facts.sid])):
            return True
        return start < self._members.seen.get(facts.sid, 0) or None

    def _is_inside(self, facts: Facts) -> bool:
        return any(path.endswith(f"/{self._name}") for path in facts.placement.paths)

    def _inside(self) -> list[int]:
        return [pid for group in self._all() if self._cgroups for pid in self._cgroups.members(group)]

    def _all(self) -> list[int]:
        return [*self._left, *(group for group in self._made.values() if group is not None)]
