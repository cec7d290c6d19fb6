"""Ends more than one process: a process group, a process tree, a pod. SEMANTICS sections 5, 8 and 9.

The order is the executor's: who is meant and who belongs to that, each on a handle and none of them protected, then the
ledger, then the action. The process that was meant is signalled last, so that after a crash it still says who the others are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from quell.agent.gathering import Gatherer, gathered
from quell.agent.group import Group
from quell.agent.identity import SHORTEST_ID
from quell.agent.kernel import Kernel
from quell.agent.ledger import Ledger
from quell.agent.members import LISTED, Came, Members, Told, told
from quell.agent.pod import NotYet, Pod
from quell.agent.proc import Facts
from quell.agent.protected import Protected
from quell.agent.refusal import Refused
from quell.agent.tree import Tree, cgroup_name
from quell.faults import point
from quell.model.action import KillPod
from quell.model.decision import Command, OutcomeStatus, Reason
from quell.model.subject import PodTarget, ProcessTarget

#: Seconds between two looks at a pod that was asked to end: first, and at most, and what part of the time so far.
_LOOK_FIRST, _LOOK_LAST, _LOOK_SHARE = 0.05, 2.0, 0.1


class Kills:
    """Safe to use from several threads. Whatever speaks against an action is Refused."""

    def __init__(
        self,
        kernel: Kernel,
        ledger: Ledger,
        protected: Protected,
        find: Callable[[ProcessTarget], tuple[int, Facts]],
        clock: Callable[[], float],
        gatherer: Gatherer | None = None,
        not_paused: Callable[[], None] = lambda: None,
    ) -> None:
        """find: a proved handle of a process and its facts, or Refused. gatherer: as Executor's. not_paused: or Refused."""
        self._kernel = kernel
        self._ledger = ledger
        self._protected = protected
        self._find = find
        self._clock = clock
        self._gatherer = gatherer
        self._not_paused = not_paused
        #: Commands whose pods this process has asked to end.
        self._asked: set[str] = set()

    def group(self, command: Command, target: ProcessTarget) -> Came:
        evidence = self._before(command, lambda: self._group(target))

        def kill() -> Came:
            with self._group(target) as (_, (facts, _), group):
                return _with(facts, self._acted(command, group.kill))

        return _after(evidence, kill)

    def tree(self, command: Command, target: ProcessTarget) -> Came:
        evidence = self._before(command, lambda: self._tree(command, target))

        def kill() -> Came:
            with self._tree(command, target) as (_, (facts, _), tree):
                return _with(facts, self._acted(command, tree.kill))

        return _after(evidence, kill)

    @contextlib.contextmanager
    def _group(self, target: ProcessTarget) -> Iterator[tuple[Members, tuple[Facts, int], Group]]:
        """As it is now, with its members and the proven process."""
        process, facts = self._find(target)
        with self._kernel.hurrying(), Members(self._kernel, self._protected) as members:
            members.add(process, facts)
            yield members, (facts, process), Group(self._kernel, members, facts)

    @contextlib.contextmanager
    def _tree(self, command: Command, target: ProcessTarget) -> Iterator[tuple[Members, tuple[Facts, int], Tree]]:
        """As it is now, with its members and the proven process."""
        process, facts = self._find(target)
        with self._kernel.hurrying(), Members(self._kernel, self._protected) as members:
            members.add(process, facts)
            with Tree(self._kernel, members, facts, cgroup_name(command)) as tree:
                yield members, (facts, process), tree

    def _before(
        self,
        command: Command,
        look: Callable[[], AbstractContextManager[tuple[Members, tuple[Facts, int], object]]],
    ) -> Told:
        """Evidence, of who is to be ended at a first look. The kill waits for it, and then everything is proved anew."""
        if command.evidence is None:
            return {}
        again = self._ledger.begun(command.id)
        with look() as (members, meant, _):
            if not again:
                self._ledger.begin(command)
            told = gathered(self._gatherer, command, self._kernel, [meant], members.instances, again=again)
        self._not_paused()
        return told

    def has_left(self, command: Command) -> bool:
        """Whether a crash left a part of the tree that this command was to end, in the control groups it had made."""
        cgroups, found = self._kernel.cgroups, False
        if cgroups is None:
            return False
        for group in cgroups.find(cgroup_name(command)):
            if cgroups.members(group):
                found = True
            else:
                with contextlib.suppress(OSError):
                    cgroups.remove(group)
            self._kernel.close(group)
        return found

    def finish(self, command: Command) -> Came:
        """End what has_left tells of: all of it was proved when it was put there, or is descended from that."""
        with (
            self._kernel.hurrying(),
            Members(self._kernel, self._protected) as members,
            Tree(self._kernel, members, None, cgroup_name(command)) as tree,
        ):
            return self._acted(command, tree.kill)

    def pod(self, command: Command, target: PodTarget, action: KillPod) -> Came:
        """NotYet: it was asked to end, and its grace period is not over."""
        if target.container_id is not None and len(target.container_id) < SHORTEST_ID:
            raise Refused(Reason.IDENTITY, f"{target.container_id!r} is too short to name one container")
        noted: Told = {**self._ledger.noted(command.id)}
        again = self._ledger.begun(command.id)
        evidence = {} if again or command.evidence is None else self._evidence_of_pod(command, target)
        meant = str((noted or evidence).get("containers", "")).split()
        with self._kernel.hurrying(), Members(self._kernel, self._protected) as members:
            try:
                pod = Pod(self._kernel, members, target, frozenset(meant) if meant else None)
            except Refused as refused:
                if refused.reason is Reason.GONE and again:
                    self._asked.discard(command.id)
                    return OutcomeStatus.DONE, None, "", noted | {"pod": target.uid or ""}
                if evidence:
                    return refused.status, refused.reason, str(refused), evidence
                raise
            now = self._clock()
            if not again:
                noted = evidence | {"containers": " ".join(pod.containers), "pids": members.pids[:LISTED]}
                noted |= {"asked_at": now} if action.grace_period else {}
                self._ledger.begin(command, noted=noted)
            asked_at = noted.get("asked_at")
            if isinstance(asked_at, float) and now < asked_at + action.grace_period:
                self._ask(command, pod)
                wait = min(max(_LOOK_FIRST, (now - asked_at) * _LOOK_SHARE), _LOOK_LAST)
                raise NotYet(min(wait, asked_at + action.grace_period - now))
            self._asked.discard(command.id)
            status, reason, why, facts = self._acted(command, pod.kill)
            return status, reason, why, noted | facts | {"pod": target.uid or ""}

    def _evidence_of_pod(self, command: Command, target: PodTarget) -> Told:
        """As _before, with the containers that were there: they alone are meant."""
        with self._kernel.hurrying(), Members(self._kernel, self._protected) as members:
            pod = Pod(self._kernel, members, target, None)
            told = gathered(self._gatherer, command, self._kernel, pod.first(), members.instances)
            told |= {"containers": " ".join(pod.containers)}
        self._not_paused()
        return told

    def _ask(self, command: Command, pod: Pod) -> None:
        """Once, and again after a restart, since it is not known whether it came to that before."""
        if command.id not in self._asked:
            self._asked.add(command.id)
            point("agent.before-action")
            pod.terminate()

    def _acted(self, command: Command, act: Callable[[], Came]) -> Came:
        if not self._ledger.begun(command.id):
            self._ledger.begin(command)
        point("agent.before-action")
        came = act()
        point("agent.after-action")
        return came


def _after(evidence: Told, act: Callable[[], Came]) -> Came:
    """What an action came to, with the evidence from before it; also where it came to nothing."""
    try:
        status, reason, why, told = act()
    except Refused as refused:
        if not evidence:
            raise
        return refused.status, refused.reason, str(refused), evidence
    return status, reason, why, evidence | told


def _with(facts: Facts, came: Came) -> Came:
    status, reason, why, more = came
    return status, reason, why, told(facts) | more
