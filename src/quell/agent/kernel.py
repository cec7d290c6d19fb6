"""What the executor asks of the machine. LinuxKernel does it; RecordingKernel writes down what would have been done."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from quell.agent.proc import Facts, Stat


class Isolation(Struct, frozen=True, kw_only=True):
    """What closing a network namespace achieved."""

    #: The kernel's number for the namespace, never used twice in a boot; 0 where it has none (before Linux 5.14).
    cookie: int
    interfaces: tuple[str, ...]
    #: What still passes and why, for people; empty: nothing does.
    limits: tuple[str, ...] = ()
    #: TCP ports that stay open to the machine itself.
    ports: tuple[int, ...] = ()
    #: Addresses that may reach it.
    investigators: tuple[str, ...] = ()


class Look(Struct, frozen=True, kw_only=True):
    """What an open network namespace is like."""

    #: As in Isolation.
    cookie: int
    #: It is closed by Quell.
    closed: bool
    #: What closes it is as it was made; False: somebody has changed it.
    intact: bool = True
    #: It closes every interface there is now, as far as this process knows; False: close it again to be sure.
    complete: bool = True


class Capabilities(Struct, frozen=True, kw_only=True):
    """words: actions that can be done here. limits: what cannot be done and why, a sentence each."""

    words: frozenset[str]
    limits: tuple[str, ...] = ()


class Cgroups(Protocol):
    """Control groups of version 2. A handle of one is closed as the kernel's others are."""

    def of_container(self, pid: int, container_id: str) -> int | None:
        """The container's own, through one of its processes. None: it has none that can be killed as a whole."""

    def make(self, pid: int, name: str) -> int | None:
        """One below that of a process, or the one of this name that is there already; None: it cannot be made.

        name: begins with quell.agent.cgroup.OWN. ProcessLookupError: the process is gone.
        """

    def find(self, name: str) -> list[int]:
        """All that were made under this name."""

    def move(self, process: int, pid: int, group: int) -> bool:
        """Into the group, which what it forks from then on is in too. False: the process had ended."""

    def members(self, group: int) -> list[int]:
        """The processes in it and below it that have not ended."""

    def kill(self, group: int) -> bool:
        """SIGKILL at once to everything in it and below it, and to what is being forked there. False: it cannot be done."""

    def remove(self, group: int) -> None:
        """Undo make: what is still in it goes to the one above it."""


class Kernel(Protocol):
    """Handles name one process instance, namespace or control group for as long as they are open; close each.

    Whatever the machine refuses is raised as OSError (PermissionError where a privilege is missing).
    """

    @property
    def cgroups(self) -> Cgroups | None:
        """None: none can be used."""

    @property
    def facts_at_once(self) -> bool:
        """Whether facts waits for nobody, whatever a process executes and whoever serves that."""

    def capabilities(self) -> Capabilities: ...

    def hurrying(self) -> AbstractContextManager[None]:
        """The calling thread goes before others meanwhile, as far as it may: what it is to end may fork and fork."""

    def open_process(self, pid: int) -> int | None:
        """A handle of the process that has this pid now; None if there is none."""

    def adopt_process(self, kept: int, pid: int) -> int | None:
        """The handle for a pidfd that the sensor has had since it saw this pid begin, which is taken over and closed with
        it; None, and it is closed now: that process has ended, and the pid may be another's.
        """

    def facts(self, pid: int) -> Facts | None:
        """What is known of the process that has this pid now, but for the costly ones: quell.agent.proc.read_process."""

    def names_of(self, uid: int, pid: int) -> frozenset[str]:
        """Every name a detector may use for this user of this process."""

    def wait_ended(self, process: int, timeout: float) -> bool:
        """Whether the process has ended, waiting for that up to timeout seconds."""

    def kill(self, process: int) -> None:
        """SIGKILL to exactly this process instance."""

    def terminate(self, process: int) -> None:
        """SIGTERM to exactly this process instance."""

    def may_kill(self, process: int) -> bool:
        """Whether a signal to it would be allowed. ProcessLookupError: it is gone."""

    def kill_group(self, leader: int) -> bool:
        """SIGKILL at once to every process of the process group that the handle's process leads or led, and to no group
        that got its number later. False: this kernel cannot, and nothing was done.
        """

    def priority(self, pid: int) -> int:
        """The priority of the process that has this pid now. ProcessLookupError: there is none."""

    def renice(self, pid: int, priority: int) -> None:
        """Set the priority of every thread. ProcessLookupError: there is no such process."""

    def table(self) -> dict[int, Stat]:
        """All processes by their pid. It is read one after the other, so that two lines may be of different moments."""

    def pid_namespace(self, pid: int) -> int | None:
        """Inode of the pid namespace a process is in; None if it is gone or may not be seen."""

    def is_within(self, pid: int, namespace: int | None) -> bool:
        """Whether a process is in the pid namespace with this inode, or in one below it. None has nobody in it."""

    def members(self, *, container_id: str | None = None, pod_uid: str | None = None) -> list[int]:
        """Processes of a container (its id or 12 characters of it and more) or of a pod's containers (its UID, or
        podman's id of one of its own), the oldest first.
        """

    def netns(self, pid: int) -> int | None:
        """Inode of the network namespace a process is in now; None if it is gone or may not be seen."""

    def residents(self, netns: int) -> list[int]:
        """Processes in a network namespace, by its inode."""

    def host_namespaces(self) -> frozenset[int]:
        """Inodes of the network namespaces that are the machine's own: pid 1's, the kernel's and this agent's."""

    def namespaces(self) -> list[int]:
        """Inodes of all network namespaces that can be reached, the machine's own left out."""

    def open_namespace(self, pid: int) -> int | None:
        """A handle of the network namespace of a process; None if the process is gone."""

    def find_namespace(self, netns: int) -> int | None:
        """A handle of the network namespace with this inode, through a process in it or a mount; None if there is none."""

    def inode(self, namespace: int) -> int:
        """The inode of an open network namespace."""

    def look(self, namespace: int) -> Look:
        """Whether a network namespace is closed, and which it is. Nothing is changed."""

    def isolate(
        self, namespace: int, *, strict: bool, ports: tuple[int, ...] = (), investigators: tuple[str, ...] = ()
    ) -> Isolation:
        """Close it: nothing in, nothing out, at any layer. Again: the same, anew.

        Unless strict its loopback stays open, and so do these TCP ports for the machine's own addresses, and all of them
        for these of investigators.
        """

    def release(self, namespace: int, *, cookie: int = 0) -> bool:
        """Open it again, undoing isolate and nothing else. False: it was not closed, or is not the one of this cookie."""

    def close(self, handle: int) -> None: ...
