"""Ends a pod: every container of it that is there at the first look. SEMANTICS sections 5, 8 and 10.

A pod is named by its UID, or by podman's id of one of its own; neither is ever given twice. A container that its runtime
starts again meanwhile under another id is a new one, and is left alone.
"""

from __future__ import annotations

import time

from quell.agent.kernel import Cgroups, Kernel
from quell.agent.members import SECONDS, Came, Members, Told
from quell.agent.proc import Facts
from quell.agent.refusal import Refused
from quell.model.decision import OutcomeStatus, Reason
from quell.model.subject import PodTarget


class NotYet(Exception):
    """It was begun, and is to be executed again after so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"to be executed again in {seconds:g} s")
        self.seconds = seconds


class Pod:
    """One action on one pod."""

    def __init__(
        self, kernel: Kernel, members: Members, target: PodTarget, containers: frozenset[str] | None = None
    ) -> None:
        """containers: those of a first look before, which alone are meant. Refused: a process in it must not be touched, it
        is not the pod meant, or it is gone.
        """
        self._kernel = kernel
        self._members = members
        if not target.uid:
            raise Refused(Reason.NO_TARGET, "the pod's UID is not known, and a name may be another pod's by now")
        self._uid = target.uid
        self._containers = set(containers or ())
        self._all = containers is None
        self._look_at_container(target)
        self._gather(late=False)
        if not self._members.held:
            raise Refused(Reason.GONE, f"no container of pod {self._uid} is here", OutcomeStatus.GONE)

    @property
    def containers(self) -> list[str]:
        return sorted(self._containers)

    def first(self) -> list[tuple[Facts, int]]:
        """What the runtime started: the first process of each container, and what was executed in it. With their handles."""
        held = self._members.held
        return [each for each in held.values() if each[0].process.ppid not in held]

    def terminate(self) -> None:
        """SIGTERM to what the runtime started."""
        self._members.terminate([facts.process.pid or 0 for facts, _ in self.first()])

    def kill(self) -> Came:
        """Once the ledger is written."""
        started = time.perf_counter()
        until = time.monotonic() + SECONDS
        rounds, complete = 0, False
        groups = self._groups()
        try:
            while not complete and time.monotonic() < until:
                rounds += 1
                for cgroups, group in groups if not self._members.left else ():
                    cgroups.kill(group)
                self._members.kill()
                if not self._gather(late=True):
                    complete = self._members.wait(until) and not self._gather(late=True)
        finally:
            for _, group in groups:
                self._kernel.close(group)
        told: Told = {"rounds": rounds, "seconds_to_gone": time.perf_counter() - started}
        return self._members.came(told, until, complete=complete)

    def _groups(self) -> list[tuple[Cgroups, int]]:
        """The containers' control groups, as far as they can be killed as a whole."""
        cgroups, found = self._kernel.cgroups, dict[str, int]()
        if cgroups is None:
            return []
        for pid, (facts, _) in self._members.held.items():
            container = facts.placement.container_in(self._uid)
            if container is not None and container not in found:
                group = cgroups.of_container(pid, container)
                if group is not None:
                    found[container] = group
        return [(cgroups, group) for group in found.values()]

    def _gather(self, *, late: bool) -> bool:
        """Take the processes of its containers that are not held yet. late: signals were sent."""
        pids = self._kernel.members(pod_uid=self._uid)
        table = self._kernel.table()
        take = self._members.take_late if late else self._members.take
        found = [(pid, table[pid].start_ticks) for pid in pids if pid in table]
        new = [(pid, start) for pid, start in found if not self._members.holds(pid, start)]
        taken = sum(take(pid, start, self._belongs) for pid, start in new)
        self._all = False
        return taken > 0

    def _belongs(self, facts: Facts) -> bool:
        container = facts.placement.container_in(self._uid)
        if self._all and container is not None:
            self._containers.add(container)
        return container in self._containers

    def _look_at_container(self, target: PodTarget) -> None:
        """The container that the event is about must be in this pod, if it is here at all."""
        if target.container_id is None:
            return
        for pid in self._kernel.members(container_id=target.container_id):
            facts = self._kernel.facts(pid)
            if facts is not None and not facts.placement.is_in_pod(self._uid):
                inside = ", ".join(pod for pod, _ in facts.placement.pods) or "no pod"
                why = f"container {target.container_id[:12]} is in {inside}, not in pod {self._uid}"
                raise Refused(Reason.IDENTITY, why)
