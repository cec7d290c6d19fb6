"""What the engine knows of the world beside documents and events: limits, agents, clusters, workloads. SEMANTICS section 8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from msgspec import Struct

from quell.model.action import KillPod, word
from quell.model.subject import NetworkTarget, Subject

#: What begins the id of a cluster's API, which stands where an agent's id could.
KUBERNETES = "kubernetes:"


class Safety(Struct, frozen=True, kw_only=True):
    """The operator's bounds on everything destructive. Budgets are (actions, seconds); ages and times seconds."""

    paused: bool = False
    budget_engine: tuple[int, float] = (30, 60.0)
    budget_rule: tuple[int, float] = (10, 60.0)
    budget_namespace: tuple[int, float] = (10, 60.0)
    #: Percent of an owner's replicas that may be acted on in a minute, and of all workloads that may be isolated at once;
    #: one replica, and three workloads, always may.
    budget_replicas: int = 50
    budget_isolated: int = 10
    #: So many identical actions on one owner and image in so many seconds, and the rule stops for it.
    breaker: tuple[int, float] = (3, 3600.0)
    #: How long an action waits for a person.
    approval_ttl: float = 3600.0
    max_age_kill: float = 60.0
    max_age_quarantine: float = 600.0
    max_age_report: float = 86400.0
    clock_skew: float = 5.0
    protected_namespaces: tuple[str, ...] = ("kube-system", "quell")
    command_ttl: float = 30.0
    #: How long a kill waits for evidence, and bytes of an executable above which no copy is kept; 0: none is.
    evidence_wait: float = 0.2
    evidence_executable: int = 32 << 20


class AgentFacts(Struct, frozen=True, kw_only=True):
    """One agent that commands can be sent to, as its hello says."""

    id: str
    node: str = ""
    machine_id: str = ""
    boot_id: str = ""
    #: Epoch seconds; an event before it is about processes that no longer are.
    boot_time: float = 0.0
    #: Words of the actions that it can carry out.
    capabilities: frozenset[str] = frozenset()
    #: Inode of the network namespace of pid 1.
    host_netns: int | None = None
    #: A node of Kubernetes: there, an unknown namespace is protected.
    kubernetes: bool = False
    #: Processes it will not touch, as far as the controller can know of them.
    protected_pids: frozenset[int] = frozenset()


class ClusterFacts(Struct, frozen=True, kw_only=True):
    """A cluster whose Kubernetes API is configured: what is done to its pods is asked there and of no agent."""

    #: Begins with KUBERNETES.
    id: str
    #: As events name it; None: it has no name, or it is not known yet. Then it is the only one there is.
    name: str | None = None

    def has(self, subject: Subject) -> bool:
        """What names no cluster is taken to be of this one: whether it is, the API says."""
        return self.name is None or subject.cluster is None or subject.cluster == self.name

    @property
    def as_agent(self) -> AgentFacts:
        """Who carries it out, and what."""
        return AgentFacts(id=self.id, kubernetes=True, capabilities=frozenset((word(KillPod),)))


class Workload(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A container as the inventory knows it: what all its sources say, joined (quell.inventory.join)."""

    id: str
    name: str | None = None
    image: str | None = None
    image_id: str | None = None
    node: str | None = None
    cluster: str | None = None
    #: See docs/inventory.md: a Kubernetes Service, else the owner, else a label, else the container's name.
    service: str | None = None
    namespace: str | None = None
    #: The pod's; the container's own where it is in no pod.
    labels: dict[str, str] | None = None
    namespace_labels: dict[str, str] | None = None
    pod_name: str | None = None
    pod_uid: str | None = None
    #: podman's id of the pod of its own that it is in.
    podman_pod: str | None = None
    #: Owner of the network namespace that it shares; None: its own.
    sandbox: str | None = None
    host_network: bool | None = None
    #: TCP ports of its pod's liveness and startup probes, as Kubernetes says.
    probe_ports: tuple[int, ...] = ()
    runtime: str | None = None
    #: Its first process, on its node.
    pid: int | None = None
    #: Epoch seconds.
    started: float | None = None
    running: bool = True
    #: Since when no source sees it any more, epoch seconds; None: it is there.
    gone: float | None = None
    #: Nodes that sources say it is on, where they disagree: then nobody knows, and nothing of it counts.
    contested: tuple[str, ...] = ()
    #: Who says so.
    sources: tuple[str, ...] = ()
    #: The detector whose event is all that is known of it; "": an agent or Kubernetes says it.
    taught_by: str = ""


class Phase(StrEnum):
    """Where a quarantine is on its way; quell.response.lifecycle has the ways between."""

    #: A command to isolate is on its way.
    ASKED = "asked"
    ISOLATED = "isolated"
    #: Nobody holds it; a command to release is on its way, or is tried again.
    RELEASING = "releasing"


class Quarantined(Struct, kw_only=True, omit_defaults=True):
    """One isolated network namespace, and who holds it so until when (None: until let go). SEMANTICS section 4."""

    target: NetworkTarget
    #: Empty while it is being released.
    holders: dict[str, float | None]
    strict: bool = False
    #: Of those holders that ask for it: addresses that may reach it, unless it is strict.
    investigators: dict[str, tuple[str, ...]] = {}
    #: The last order to change them has not been done, and is to be given again.
    unsettled: bool = False
    agent: str = ""
    since: float = 0.0
    #: The agent said that it is done.
    confirmed: bool = False
    #: Id of the event that it began with.
    cause: str = ""
    #: Those who held it before, and let go.
    former: tuple[str, ...] = ()
    #: How often its release, or a change of who may reach it, was ordered in vain, and when last.
    tries: int = 0
    tried: float = 0.0

    @property
    def phase(self) -> Phase:
        if not self.holders:
            return Phase.RELEASING
        return Phase.ISOLATED if self.confirmed else Phase.ASKED

    @property
    def lease(self) -> float | None:
        """When the last holder's time is over; None: never by itself."""
        return last(self.holders.values())


def admitted(investigators: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """All addresses that any holder lets in."""
    return tuple(sorted({address for each in investigators.values() for address in each}))


def last(ends: Collection[float | None]) -> float | None:
    """The end of all of them; None if one has none."""
    known = [end for end in ends if end is not None]
    return max(known, default=0.0) if len(known) == len(ends) else None
