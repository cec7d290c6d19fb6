"""What is seen of workloads at work: executions, sockets, connections. Not events: not journaled, decided about by nobody.

The guardian compares them with policies and learns from them. SEMANTICS section 1, observations.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from quell.model.policy import Direction
from quell.model.subject import Subject


class Seen(StrEnum):
    #: It was executed just now.
    EXECUTED = "executed"
    #: It was there when somebody looked: at the start of the sensor, or now and then (what forks and never executes).
    RUNNING = "running"
    #: A socket of it listens.
    LISTENING = "listening"
    CONNECTED = "connected"


class Peer(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The other side of a connection, and its own side's port where that is the server's."""

    direction: Direction
    #: The peer's address, without a port.
    ip: str
    #: The server's port: the peer's of egress, the workload's own of ingress.
    port: int
    #: TCP or UDP.
    protocol: str = "TCP"
    #: The name that the address was looked up by; None where nobody saw that.
    dns: str | None = None


class Observation(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One thing that one process of a workload did.

    subject: node, machine_id, container (id) and pod (uid), or service and service_cgroup, and process with its lineage;
    the controller's inventory fills in the rest as it does for events. A process in neither a container nor a service
    belongs to no workload and is not told of.
    """

    seen: Seen
    #: Epoch seconds.
    time: float
    subject: Subject
    #: How many of the process's lineage, from its parent up, are in the same container or service.
    inside: int = 0
    #: Of LISTENING: TCP or UDP, the address it is bound to ("": every one) and the port.
    protocol: str = ""
    address: str = ""
    port: int = 0
    #: Of CONNECTED.
    peer: Peer | None = None
