"""Whom an action can reach for an event: a process, a network namespace, a pod. SEMANTICS sections 3, 4 and 8."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from quell.model.action import (
    AgentAction,
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
)
from quell.model.decision import Reason
from quell.model.details import CveReport, Details, Deviation, Endpoint, Role, SecurityDetails
from quell.model.event import Category, Event, Kind
from quell.model.subject import Container, NetworkTarget, Pod, PodTarget, Process, ProcessTarget, Subject, Target
from quell.response.facts import AgentFacts
from quell.response.state import State

#: Digits of a container's id by which runtimes and detectors shorten it.
SHORT_ID = 12
#: The event of Quell's own that a person's wish to isolate something is.
REQUEST = "Quarantine.Request"

_PROCESS_ACTIONS = (KillProcess, KillProcessGroup, KillProcessTree, ReniceProcess)
_VICTIM = "it is the victim, not the attacker"


class Refusal(NamedTuple):
    reason: Reason
    explanation: str


class Aim(NamedTuple):
    """A target that an action can be asked for, whose it is, and what is against acting on it (None: nothing)."""

    target: Target | None
    subject: Subject
    agent: AgentFacts | None
    refusal: Refusal | None


Decoded = Callable[[], Details | None]


def aim(action: AgentAction, event: Event, details: Decoded, state: State) -> Aim:
    """The action's target for this event. A refusal NOT_APPLICABLE: no event like this can have the action."""
    match action:
        case Quarantine() | ReleaseQuarantine():
            return _network(event, details, state)
        case KillPod():
            return _pod(event, state)
        case _:
            return _process(event, details, state)


def subject_key(subject: Subject) -> str:
    """What a cooldown of a flag or message is kept for: the container, pod, process or machine."""
    if subject.container is not None:
        return subject.container.id
    pod = subject.pod
    if pod is not None:
        return pod.uid or f"{subject.namespace}/{pod.name}"
    if subject.process is not None:
        return process_key(subject.process)
    return subject.node or subject.image or subject.user or ""


def owner_of(subject: Subject) -> str:
    """The workload's owner, for counting refusals: its service, else its pod, container, executable or machine."""
    if subject.service:
        return f"{subject.namespace or ''}/{subject.service}"
    if subject.is_workload:
        return subject_key(subject)
    process = subject.process
    return f"{subject.node or ''}:{(process.exe or process.name or '') if process is not None else ''}"


def replica_of(subject: Subject) -> str:
    """The workload itself, one of its owner's replicas: the pod's uid, else the container."""
    return subject.pod.uid if subject.pod is not None and subject.pod.uid else subject_key(subject)


def is_container(subject: Subject, identifier: str) -> bool:
    """Whether the subject's container has this id: whole, or as detectors shorten it (12 digits or more)."""
    if subject.container is None:
        return False
    whole = subject.container.id
    return whole == identifier or (len(identifier) >= SHORT_ID and whole.startswith(identifier))


def process_key(process: Process) -> str:
    start = process.start_ticks if process.start_ticks is not None else process.start_time
    return f"process:{process.boot_id or ''}:{process.pid}:{start}"


def target_key(target: Target) -> str:
    match target:
        case ProcessTarget():
            return f"{target.node}/{process_key(target.process)}"
        case NetworkTarget():
            return target.key
        case PodTarget():
            return target.uid or f"{target.namespace}/{target.name}"


def _not_applicable(subject: Subject, explanation: str) -> Aim:
    return Aim(None, subject, None, Refusal(Reason.NOT_APPLICABLE, explanation))


def _agent(subject: Subject, state: State) -> tuple[AgentFacts | None, Refusal | None]:
    agent = state.agent_for(subject)
    if isinstance(agent, AgentFacts):
        return agent, None
    where = subject.node or subject.machine_id
    said = f"no one agent is known to run on {where}" if where else "the event does not say on which node it happened"
    return None, Refusal(agent, said)


def _process(event: Event, details: Decoded, state: State) -> Aim:
    subject = event.subject
    process = subject.process
    if event.category not in (Category.SECURITY_EVENT, Category.DEVIATION):
        return _not_applicable(subject, f"events of category {event.category} name no process to act on")
    deviation = details() if event.category is Category.DEVIATION else None
    if isinstance(deviation, Deviation) and deviation.what != "process":
        return _not_applicable(subject, f"it is a deviation of {deviation.what}, not of a process")
    if process is None:
        return _not_applicable(subject, "the event names no process")
    agent, refusal = _agent(subject, state)
    if process.pid is None:
        refusal = Refusal(Reason.NO_TARGET, "the event gives no process id; a process is never found by its name")
    elif process.start_ticks is None and process.start_time is None:
        refusal = Refusal(Reason.IDENTITY, "the event gives no start time of the process, so that it could be another")
    elif agent is not None and process.boot_id is not None and agent.boot_id and process.boot_id != agent.boot_id:
        refusal = Refusal(Reason.STALE, "the process is of another boot of the machine")
    elif agent is not None and process.boot_id is None and agent.boot_id:
        process = msgspec.structs.replace(process, boot_id=agent.boot_id)
    target = ProcessTarget(
        node=_node(subject, agent),
        process=process,
        container_id=None if subject.container is None else subject.container.id,
        seen=event.time,
    )
    if process.pid is not None and (refusal is None or refusal.reason is Reason.NO_AGENT):
        refusal = _guarded(process, agent) or refusal
    return Aim(target, subject, agent, refusal)


def _guarded(process: Process, agent: AgentFacts | None) -> Refusal | None:
    """What must never be touched, as far as a number tells; the agent checks again on the machine (SEMANTICS 8)."""
    pid = process.pid
    if pid == 1:
        return Refusal(Reason.PROTECTED, "process 1 of the host")
    if pid == 2 or process.ppid == 2:
        return Refusal(Reason.PROTECTED, "a kernel thread")
    if agent is not None and pid in agent.protected_pids:
        return Refusal(Reason.PROTECTED, f"process {pid} is protected on {agent.node}")
    return None


def _pod(event: Event, state: State) -> Aim:
    subject = event.subject
    if event.category is Category.ADMISSION_CONTROL:
        return _not_applicable(subject, "an admission review has no pod that runs")
    known = None if subject.container is None else state.workloads.get(subject.container.id)
    of_podman = None if known is None else known.podman_pod
    pod = subject.pod or (Pod(uid=of_podman) if of_podman else None)
    if pod is None or not (pod.uid or (pod.name and subject.namespace)):
        return _not_applicable(subject, "the event names no pod")
    agent, refusal = _agent(subject, state)
    target = PodTarget(
        cluster=subject.cluster,
        node=_node(subject, agent) or None,
        machine_id=subject.machine_id,
        namespace=subject.namespace,
        name=pod.name,
        uid=pod.uid,
        container_id=None if subject.container is None else subject.container.id,
        seen=event.time,
    )
    # Whose API is configured is asked there, even if the API does not answer (SEMANTICS section 10). podman's own pods are
    # of no cluster.
    cluster = state.cluster_of(subject) if of_podman is None else None
    if cluster is not None:
        return Aim(target, subject, cluster, None)
    if refusal is not None and of_podman is None:
        of = f"cluster {subject.cluster}" if subject.cluster else "its cluster"
        refusal = Refusal(refusal.reason, f"{refusal.explanation}, and no Kubernetes API of {of} is configured")
    return Aim(target, subject, agent, refusal)


def _network(event: Event, details: Decoded, state: State) -> Aim:
    subject, said = _isolated(event, details, state)
    if said:
        return _not_applicable(subject, said)
    agent, refusal = _agent(subject, state)
    container, pod, process = subject.container, subject.pod, subject.process
    netns = None if process is None else process.netns
    host_netns = None if agent is None else agent.host_netns
    if not subject.is_workload and process is not None and _is_request(event):
        # A person means this process; the agent looks at its namespace, and knows which is the machine's own.
        process, doubt = _proven(process, agent)
        refusal = doubt or refusal
    elif not subject.is_workload:
        if process is None or netns is None:
            return _not_applicable(subject, "it is about a host, not a container")
        process, doubt = _proven(process, agent)
        refusal = doubt or refusal
        if host_netns is not None and netns == host_netns:
            return _not_applicable(subject, "the process is in the host's own network namespace")
        if host_netns is None and refusal is None:
            refusal = Refusal(Reason.UNSUPPORTED, "the agent does not know the host's own network namespace")
    if process is not None and process.pid is not None and not subject.is_workload:
        refusal = _guarded(process, agent) or refusal
    if _shares_host_network(container, netns, host_netns):
        refusal = Refusal(Reason.HOST_NETWORK, "it is in the host's own network namespace")
    target = NetworkTarget(
        node=_node(subject, agent),
        key=_network_key(subject, process),
        container_id=None if container is None else container.id,
        pod_uid=None if pod is None else pod.uid,
        process=process,
        netns=netns,
        seen=event.time,
        probe_ports=_probe_ports(subject, state),
    )
    return Aim(target, subject, agent, refusal)


def _probe_ports(subject: Subject, state: State) -> tuple[int, ...]:
    """On which the pod's node probes it; only Kubernetes says so, never an event."""
    pod = None if subject.pod is None else subject.pod.uid
    if subject.container is not None:
        known = state.workloads.get(subject.container.id)
        return known.probe_ports if known is not None and known.pod_uid in (None, pod) else ()
    if pod is None:
        return ()
    return next((each.probe_ports for each in state.workloads.values() if each.pod_uid == pod), ())


def _shares_host_network(container: Container | None, netns: int | None, host_netns: int | None) -> bool:
    if container is None:
        return False
    return container.host_network is True or (netns is not None and netns == host_netns)


def _is_request(event: Event) -> bool:
    return event.source == "quell" and event.name == REQUEST


def _proven(process: Process, agent: AgentFacts | None) -> tuple[Process, Refusal | None]:
    """A process whose namespace is meant, with its boot, and what leaves open which process that is."""
    if process.pid is None:
        return process, Refusal(Reason.NO_TARGET, "there is no process id; a process is never found by its name")
    if process.start_ticks is None and process.start_time is None:
        said = "there is no start time of the process, so that the number could be another's by now"
        return process, Refusal(Reason.IDENTITY, said)
    if agent is None or not agent.boot_id:
        return process, None
    if process.boot_id is None:
        return msgspec.structs.replace(process, boot_id=agent.boot_id), None
    stale = process.boot_id != agent.boot_id
    return process, Refusal(Reason.STALE, "the process is of another boot of the machine") if stale else None


def _network_key(subject: Subject, process: Process | None) -> str:
    """Pod UID, else the sandbox's owner, else the container, else the process itself (SEMANTICS section 4)."""
    if subject.pod is not None and subject.pod.uid:
        return subject.pod.uid
    if subject.container is not None:
        return subject.container.sandbox or subject.container.id
    if subject.pod is not None:
        return f"{subject.namespace}/{subject.pod.name}"
    return process_key(process or Process())


def _isolated(event: Event, details: Decoded, state: State) -> tuple[Subject, str]:
    """Whom a quarantine is about, and why nobody is to be isolated ("": somebody is). Direction of SEMANTICS section 4."""
    subject = event.subject
    match event.category:
        case Category.ADMISSION_CONTROL:
            return subject, "an admission review has no container that runs"
        case Category.CVE_REPORT:
            report = details()
            if isinstance(report, CveReport) and report.report.casefold() != "container":
                return subject, f"a scan of a {report.report} is about no container that runs"
            if not subject.is_workload and subject.process is None:
                return subject, "the report does not say which container or pod was scanned"
        case Category.SECURITY_EVENT:
            security = details()
            return _attacker(event, security if isinstance(security, SecurityDetails) else SecurityDetails(), state)
        case _:
            pass
    return subject, ""


def _attacker(event: Event, security: SecurityDetails, state: State) -> tuple[Subject, str]:
    """A threat's reporting workload if it is the attacker; a violation's client if it is managed; nobody else."""
    subject = event.subject
    match event.kind:
        case Kind.VIOLATION:
            return _violator(subject, security, state)
        case Kind.THREAT if (event.catalogue_name or event.name)[:4].upper() not in ("DLP.", "WAF."):
            if security.role is None:
                return subject, "the event does not say whether it is the attacker or the victim"
            return subject, _VICTIM if security.role is Role.VICTIM else ""
        case Kind.THREAT:
            return subject, ""
        case _:
            return subject, _VICTIM if security.role is Role.VICTIM else ""


def _violator(subject: Subject, security: SecurityDetails, state: State) -> tuple[Subject, str]:
    """The client of a violation. Without a connection the event's subject is it only if the event says so."""
    client = None if security.connection is None else security.connection.client
    if client is None and security.connection is None and security.role is Role.ATTACKER:
        return subject, ""
    if client is None:
        return subject, "the event does not say who the client is, and a server is not isolated for what a client does"
    if not client.image:
        return subject, "the client is not managed, and a server is not isolated for what a client does"
    if client.workload:
        same = is_container(subject, client.workload)
        return (subject if same else _client(client, client.workload, subject, state)), ""
    if security.role is not Role.ATTACKER:
        return subject, "the event does not say which container the client is"
    return subject, ""


def _client(client: Endpoint, workload: str, other: Subject, state: State) -> Subject:
    """The client of a connection that the other side reported; where it runs, the inventory says, if it knows.

    What only an event told of is not known: it could be made up, and would send the action to another machine.
    """
    known = state.workloads.get(workload)
    if known is not None and known.taught_by:
        known = None
    here = known is None or known.node == other.node or (known.node is None and not known.contested)
    return Subject(
        cluster=other.cluster,
        cluster_uid=other.cluster_uid,
        node=other.node if here else known.node if known is not None else None,
        machine_id=other.machine_id if here else None,
        namespace=client.namespace,
        pod=None if known is None or known.pod_uid is None else Pod(name=known.pod_name, uid=known.pod_uid),
        container=Container(
            id=workload,
            name=client.name,
            host_network=None if known is None else known.host_network,
            sandbox=None if known is None else known.sandbox,
        ),
        image=client.image,
        service=client.service,
    )


def _node(subject: Subject, agent: AgentFacts | None) -> str:
    return agent.node if agent is not None and agent.node else subject.node or ""
