"""What the executor asks of the machine. LinuxKernel does it; RecordingKernel writes down what would have been done."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from quell.agent.proc import Facts


class Isolation(Struct, frozen=True, kw_only=True):
    """What closing a network namespace achieved."""

    #: The kernel's number for the namespace, never used twice in a boot; 0 where it has none (before Linux 5.14).
    cookie: int
    interfaces: tuple[str, ...]
    #: What still passes and why, for people; empty: nothing does.
    limits: tuple[str, ...] = ()
    #: TCP ports that stay open to the machine itself.
    ports: tuple[int, ...] = ()


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


class Kernel(Protocol):
    """Handles name one process instance or one namespace for as long as they are open; close each.

    Whatever the machine refuses is raised as OSError (PermissionError where a privilege is missing).
    """

    def capabilities(self) -> Capabilities: ...

    def open_process(self, pid: int) -> int | None:
        """A handle of the process that has this pid now; None if there is none."""

    def adopt_process(self, kept: int, pid: int) -> int | None:
        """A handle of its own for a pidfd that the sensor keeps; None if that is not one of this pid (any more)."""

    def facts(self, pid: int) -> Facts | None:
        """What is known of the process that has this pid now, but for the costly ones: quell.agent.proc.read_process."""

    def names_of(self, uid: int, pid: int) -> frozenset[str]:
        """Every name a detector may use for this user of this process."""

    def wait_ended(self, process: int, timeout: float) -> bool:
        """Whether the process has ended, waiting for that up to timeout seconds."""

    def kill(self, process: int) -> None:
        """SIGKILL to exactly this process instance."""

    def renice(self, pid: int, priority: int) -> int:
        """Set the priority of every thread; the process's priority before is returned."""

    def members(self, *, container_id: str | None = None, pod_uid: str | None = None) -> list[int]:
        """Processes of a container (its id or 12 characters of it and more) or of a pod, the oldest first."""

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

    def isolate(self, namespace: int, *, strict: bool, ports: tuple[int, ...] = ()) -> Isolation:
        """Close it: nothing in, nothing out, at any layer. Again: the same, anew.

        Unless strict its loopback stays open, and so do these TCP ports for the machine's own addresses.
        """

    def release(self, namespace: int, *, cookie: int = 0) -> bool:
        """Open it again, undoing isolate and nothing else. False: it was not closed, or is not the one of this cookie."""

    def close(self, handle: int) -> None: ...
