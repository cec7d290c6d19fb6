"""The kernel as it is."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
from contextlib import AbstractContextManager

from quell.agent import proc, users
from quell.agent.file_status import ASKS_NOBODY
from quell.agent.kernel import Capabilities, Cgroups, Isolation, Look
from quell.agent.linux import capabilities, cgroups, namespace
from quell.agent.linux.urgency import hurrying
from quell.agent.proc import Facts, Stat
from quell.agent.users import Users

#: linux/pidfd.h: the process group whose leader the handle names. Linux 6.9.
_PROCESS_GROUP = 1 << 2
#: linux/nsfs.h: the namespace around a pid or user namespace.
_GET_PARENT = 0xB702
#: Looks at lists of what may make more of its kind meanwhile: processes, threads.
_LOOKS = 10


class LinuxKernel:
    """quell.agent.kernel.Kernel by system calls; handles are file descriptors."""

    cgroups: Cgroups = cgroups
    facts_at_once = ASKS_NOBODY

    def __init__(self, given: Users | None = None) -> None:
        """given: the names of users that this agent's sensor tells."""
        self._given = given

    def capabilities(self) -> Capabilities:
        return capabilities.probe()

    def hurrying(self) -> AbstractContextManager[None]:
        return hurrying()

    def open_process(self, pid: int) -> int | None:
        try:
            return os.pidfd_open(pid)
        except (ProcessLookupError, ValueError):
            return None
        except OSError as error:
            # The id of a thread other than the first is none of a process (EINVAL; ENOENT since Linux 6.9).
            if isinstance(error, PermissionError):
                raise
            return None

    def adopt_process(self, kept: int, pid: int) -> int | None:  # noqa: ARG002 - a kernel that only records asks for it
        if not self.wait_ended(kept, 0):
            return kept
        os.close(kept)
        return None

    def facts(self, pid: int) -> Facts | None:
        return proc.read_process(pid, full=False)

    def names_of(self, uid: int, pid: int) -> frozenset[str]:
        names = users.names_of(uid, pid)
        placement = None if self._given is None else proc.read_placement(pid)
        if self._given is not None and placement is not None and placement.container_id is not None:
            # A container may have renamed its users since this agent told of one.
            names |= self._given.given(uid, placement.container_id)
        return names

    def wait_ended(self, process: int, timeout: float) -> bool:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self, process: int) -> None:
        signal.pidfd_send_signal(process, signal.SIGKILL)

    def terminate(self, process: int) -> None:
        signal.pidfd_send_signal(process, signal.SIGTERM)

    def may_kill(self, process: int) -> bool:
        try:
            signal.pidfd_send_signal(process, 0)
        except PermissionError:
            return False
        return True

    def kill_group(self, leader: int) -> bool:
        try:
            signal.pidfd_send_signal(leader, signal.SIGKILL, None, _PROCESS_GROUP)
        except ProcessLookupError:
            return True  # nobody is left in it
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return True

    def priority(self, pid: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, pid)

    def renice(self, pid: int, priority: int) -> None:
        done: set[str] = set()
        for _ in range(_LOOKS):
            # The call reaches one thread, so those that a thread made meanwhile are looked for.
            threads = set(_threads(pid))
            if threads <= done:
                return
            for thread in threads - done:
                try:
                    os.setpriority(os.PRIO_PROCESS, int(thread), priority)
                except ProcessLookupError:
                    continue
            done |= threads

    def table(self) -> dict[int, Stat]:
        table: dict[int, Stat] = {}
        listed: set[int] = set()
        # A process that forks and ends may be seen in no list, nor may its child: so what is new is looked for again.
        for _ in range(_LOOKS):
            new = [pid for pid in proc.pids() if pid not in listed]
            if not new:
                break
            listed.update(new)
            table |= {pid: stat for pid in new if (stat := proc.read_stat(pid)) is not None}
        return table

    def pid_namespace(self, pid: int) -> int | None:
        try:
            return os.stat(f"/proc/{pid}/ns/pid").st_ino  # noqa: PTH116 - many at a time
        except OSError:
            return None

    def is_within(self, pid: int, namespace: int | None) -> bool:
        if namespace == self.pid_namespace(os.getpid()):
            return True  # there is no process to be seen that is not
        try:
            inner = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        while (inode := os.fstat(inner).st_ino) != namespace:
            try:
                around = fcntl.ioctl(inner, _GET_PARENT)
            except OSError:
                break  # the agent's own is around it, or one that the agent may not see
            finally:
                os.close(inner)
            inner = around
        else:
            os.close(inner)
        return inode == namespace

    def members(self, *, container_id: str | None = None, pod_uid: str | None = None) -> list[int]:
        found = []
        for pid in proc.pids():
            place = proc.read_placement(pid)
            if place is None:
                continue
            in_container = container_id is None or any(each.startswith(container_id) for each in place.containers)
            # A runtime's monitor may be in the pod's control group, but is in no container of it.
            in_pod = pod_uid is None or place.container_in(pod_uid) is not None
            if in_container and in_pod and (stat := proc.read_stat(pid)):
                found.append((stat.start_ticks, pid))
        return [pid for _, pid in sorted(found)]

    def netns(self, pid: int) -> int | None:
        return proc.netns(pid)

    def residents(self, netns: int) -> list[int]:
        return [pid for pid in proc.pids() if proc.netns(pid) == netns]

    def host_namespaces(self) -> frozenset[int]:
        # Pid 1's may be hidden from us; the kernel's own threads (pid 2 is their parent) live in the first one.
        return frozenset(inode for pid in (1, 2, os.getpid()) if (inode := proc.netns(pid)) is not None)

    def namespaces(self) -> list[int]:
        return sorted(namespace.reachable() - self.host_namespaces())

    def open_namespace(self, pid: int) -> int | None:
        try:
            return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None

    def find_namespace(self, netns: int) -> int | None:
        return namespace.find(netns)

    def inode(self, namespace: int) -> int:
        return os.fstat(namespace).st_ino

    def look(self, opened: int) -> Look:
        return namespace.look(opened)

    def isolate(
        self, opened: int, *, strict: bool, ports: tuple[int, ...] = (), investigators: tuple[str, ...] = ()
    ) -> Isolation:
        return namespace.isolate(opened, strict=strict, ports=ports, investigators=investigators)

    def release(self, opened: int, *, cookie: int = 0) -> bool:
        return namespace.release(opened, cookie=cookie)

    def close(self, handle: int) -> None:
        os.close(handle)


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names are all that is needed
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "no such process") from None
