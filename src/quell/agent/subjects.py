"""Whom an incident or an observation of this machine is about: a process, where it lives, and what it descends from."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from quell.agent.cgroup import Placement
from quell.agent.lineage import Lineage
from quell.agent.proc import Facts
from quell.agent.users import Users
from quell.model.subject import Container, Pod, Process, Subject


class Inhabitant(NamedTuple):
    subject: Subject
    #: How many of its lineage, from its parent up, are of the same container or service.
    inside: int


class Subjects:
    """For one thread."""

    def __init__(self, machine: Subject, users: Users | None = None) -> None:
        """machine: its node and machine_id."""
        self._machine = machine
        self.users = users or Users()
        self.lineage = Lineage(self.users)

    def of(self, facts: Facts) -> Inhabitant | None:
        """A process that lives; None if it has gone too far to be told of."""
        process, placement = facts.process, facts.placement
        if process.pid is None or process.ppid is None or process.uid is None:
            return None
        lineage, inside = self.lineage.of(process.pid, process.ppid, placement.workload)
        process = replace(
            process,
            user=self.users.name(process.uid, process.pid, placement.container_id),
            ancestors=tuple([each.name for each in lineage]),
            lineage=lineage,
        )
        return Inhabitant(self.within(placement, process), inside)

    def within(self, placement: Placement, process: Process | None) -> Subject:
        """A process of a container or a service, or (None) one of which no more is known."""
        container = placement.container_id
        return Subject(
            node=self._machine.node,
            machine_id=self._machine.machine_id,
            container=None if container is None else Container(id=container),
            pod=None if placement.pod_uid is None else Pod(uid=placement.pod_uid),
            service=placement.service,
            service_cgroup=placement.service_cgroup,
            process=process,
        )
