"""Whom an event is about, and the targets that a command may name. SEMANTICS sections 1 and 8."""

from __future__ import annotations

from msgspec import Struct


class Ancestor(Struct, frozen=True, gc=False, array_like=True):
    """One process between another and the first one of its machine, as it was when the other was seen."""

    name: str
    exe: str | None = None
    #: Effective user.
    user: str | None = None
    pid: int | None = None
    #: As in Process.
    start_ticks: int | None = None


class Process(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A process instance. pid alone never names one: a start and the other facts go with it."""

    pid: int | None = None
    #: Field 22 of /proc/PID/stat: clock ticks after boot. Exact, where the source is on the machine.
    start_ticks: int | None = None
    #: The start in epoch seconds, where the source only knows that (Falco's proc.pid.ts).
    start_time: float | None = None
    boot_id: str | None = None
    name: str | None = None
    exe: str | None = None
    cmdline: str | None = None
    cwd: str | None = None
    ppid: int | None = None
    pgid: int | None = None
    #: Effective user.
    uid: int | None = None
    user: str | None = None
    #: Names from parent to root.
    ancestors: tuple[str, ...] = ()
    #: The same with what is known of each, where the source says more than names: traces and policies go by these.
    lineage: tuple[Ancestor, ...] = ()
    #: What kind of content is executed, where that is telling: memfd, deleted.
    content: str | None = None
    #: Inode of its network namespace.
    netns: int | None = None


class Container(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    id: str
    name: str | None = None
    image_id: str | None = None
    #: True where the detector says that it is in the host's network namespace.
    host_network: bool | None = None
    #: Its own labels, where it is in no pod; only the inventory gives them.
    labels: dict[str, str] | None = None
    #: Id of the container whose network namespace it shares; only the inventory gives it.
    sandbox: str | None = None


class Pod(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    name: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None


class Subject(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Every part is optional; an absent part is None and never matches anything."""

    cluster: str | None = None
    cluster_uid: str | None = None
    #: The host's name, as agents and Kubernetes know it.
    node: str | None = None
    machine_id: str | None = None
    #: Another system's own number for the machine (machineSelector's uid, such as mach:8vuJRMgyTEs): no agent has it.
    machine_uid: str | None = None
    #: The machine's name as its source has it (machineSelector's sourceName).
    source_name: str | None = None
    namespace: str | None = None
    namespace_labels: dict[str, str] | None = None
    pod: Pod | None = None
    container: Container | None = None
    image: str | None = None
    service: str | None = None
    #: The service's control group (serviceSelector's cgroup), such as systemd:/system.slice/nginx.service.
    service_cgroup: str | None = None
    process: Process | None = None
    user: str | None = None
    #: A group the event itself is about (Group.Auto.*).
    group: str | None = None

    @property
    def is_workload(self) -> bool:
        return self.container is not None or self.pod is not None


class ProcessTarget(Struct, frozen=True, gc=False, kw_only=True, tag="process", omit_defaults=True):
    """One process instance on one machine; every fact given must hold before a signal."""

    node: str
    process: Process
    container_id: str | None = None
    #: When the event happened: a process that started later is another one.
    seen: float | None = None


class NetworkTarget(Struct, frozen=True, gc=False, kw_only=True, tag="network", omit_defaults=True):
    """One network namespace on one machine, named by what lives in it."""

    node: str
    #: What quarantines are keyed on: pod UID, else container id, else "netns:<inode>" or "process:<boot>:<pid>:<ticks>".
    key: str
    container_id: str | None = None
    pod_uid: str | None = None
    process: Process | None = None
    netns: int | None = None
    seen: float | None = None
    #: TCP ports on which its node probes the pod; they stay open to the node's own addresses, unless strict.
    probe_ports: tuple[int, ...] = ()


class PodTarget(Struct, frozen=True, gc=False, kw_only=True, tag="pod", omit_defaults=True):
    """One pod; every fact given must hold before it is ended."""

    cluster: str | None = None
    node: str | None = None
    machine_id: str | None = None
    namespace: str | None = None
    name: str | None = None
    #: Or podman's id of one of its own pods.
    uid: str | None = None
    #: A container of it, as the event names it: perhaps by the first digits of its id.
    container_id: str | None = None
    #: When the event happened: a pod made later is another one.
    seen: float | None = None


Target = ProcessTarget | NetworkTarget | PodTarget
