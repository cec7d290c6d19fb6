"""What is kept of a process before it is killed. SEMANTICS sections 3 (evidence) and 8.

Secrets are hidden before any of it leaves the agent's memory (quell.secrets); texts are of the machine that is looked at,
and may be what an attacker chose.
"""

from __future__ import annotations

from msgspec import Struct


class EvidenceBounds(Struct, frozen=True, gc=False, kw_only=True):
    """What a command asks to be gathered first."""

    #: Seconds for which the kill waits at most.
    wait: float
    #: Bytes of an executable above which no copy is kept; 0: none is.
    executable: int


class OpenFile(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    fd: int
    #: As the kernel names it: a path, pipe:[1], anon_inode:[eventpoll] ...
    path: str
    #: read, write or read-write; "": not told.
    access: str = ""
    position: int | None = None


class OpenSocket(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    fd: int
    inode: int
    #: tcp, tcp6, udp, udp6, raw, raw6, unix or packet; "": it is in no list of the process's network namespace.
    protocol: str = ""
    #: An address with its port, [2001:db8::1]:443 where it is one of IPv6; of a unix socket its path.
    local: str = ""
    remote: str = ""
    #: Of TCP, such as ESTABLISHED.
    state: str = ""


class Executable(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The file that a process executes, read through the process: it may be deleted, or in memory alone."""

    path: str
    #: Bytes.
    size: int
    mode: int
    uid: int
    gid: int
    #: Epoch seconds.
    modified: float
    device: int
    inode: int
    #: deleted, memfd, or None.
    content: str | None = None
    #: "": it was not read whole.
    sha256: str = ""
    #: There is a copy; it is found by its sha256.
    copied: bool = False


class Relative(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A process beside the one that is meant."""

    #: ancestor, descendant, or member: of the group, the tree or the pod that is ended.
    relation: str
    pid: int
    ppid: int
    pgid: int
    sid: int
    start_ticks: int
    name: str
    exe: str | None = None
    arguments: tuple[str, ...] = ()
    uid: int | None = None


class ProcessEvidence(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One process instance: pid and start name it within its boot."""

    pid: int
    start_ticks: int
    start_time: float
    boot_id: str
    name: str
    ppid: int
    pgid: int
    sid: int
    exe: str | None = None
    cwd: str | None = None
    root: str | None = None
    container_id: str | None = None
    pod_uid: str | None = None
    #: Fields of /proc/PID/status: State, Uid, Gid, Groups, CapEff, Seccomp, Threads, VmRSS ...
    status: dict[str, str] = {}
    cgroups: tuple[str, ...] = ()
    #: By kind, such as net: the inode.
    namespaces: dict[str, int] = {}
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    files: tuple[OpenFile, ...] = ()
    sockets: tuple[OpenSocket, ...] = ()
    #: Files that are mapped into its memory, once each.
    mapped: tuple[str, ...] = ()
    executable: Executable | None = None


class Gathered(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that was gathered for one command."""

    #: The command's id, which is that of the decision's action.
    id: str
    #: When it was begun, epoch seconds by the agent's clock, and how many seconds the kill waited for it.
    time: float
    seconds: float
    #: The process that was meant; of a pod, the first one of each container.
    processes: tuple[ProcessEvidence, ...] = ()
    relatives: tuple[Relative, ...] = ()
    #: What was not gathered, or not whole, and why: by its part, such as environment.
    missing: dict[str, str] = {}


class StoredEvidence(Struct, frozen=True, kw_only=True):
    """As the controller keeps it."""

    event: str
    #: Id of the agent.
    agent: str
    gathered: Gathered
    #: Of the executables: those of which the copy has come whole.
    copies: tuple[str, ...] = ()


class EvidenceSummary(Struct, frozen=True, kw_only=True):
    """Of a list: nothing in it is secret."""

    id: str
    event: str
    agent: str
    time: float
    #: Bytes, without copies of executables.
    size: int
