"""The kernel as it is."""

from __future__ import annotations

import os
import select
import signal

from quell.agent import proc, users
from quell.agent.kernel import Capabilities, Isolation, Look
from quell.agent.linux import capabilities, namespace
from quell.agent.proc import Facts


class LinuxKernel:
    """quell.agent.kernel.Kernel by system calls; handles are file descriptors."""

    def capabilities(self) -> Capabilities:
        return capabilities.probe()

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

    def adopt_process(self, kept: int, pid: int) -> int | None:
        try:
            mine = os.dup(kept)
        except OSError:
            return None
        # The sensor may have closed it a moment ago, and the number may be another file's by now.
        if _pid_of(mine) == pid:
            return mine
        os.close(mine)
        return None

    def facts(self, pid: int) -> Facts | None:
        return proc.read_process(pid, full=False)

    def names_of(self, uid: int, pid: int) -> frozenset[str]:
        return users.names_of(uid, pid)

    def wait_ended(self, process: int, timeout: float) -> bool:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def kill(self, process: int) -> None:
        signal.pidfd_send_signal(process, signal.SIGKILL)

    def renice(self, pid: int, priority: int) -> int:
        before = os.getpriority(os.PRIO_PROCESS, pid)
        # The call reaches one thread; a second look reaches those that a thread made meanwhile.
        for _ in range(2):
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names are all that is needed
                try:
                    os.setpriority(os.PRIO_PROCESS, int(thread), priority)
                except ProcessLookupError:
                    continue
        return before

    def members(self, *, container_id: str | None = None, pod_uid: str | None = None) -> list[int]:
        found = []
        for pid in proc.pids():
            place = proc.read_placement(pid)
            if place is None:
                continue
            in_container = container_id is None or any(each.startswith(container_id) for each in place.containers)
            if in_container and (pod_uid is None or place.pod_uid == pod_uid) and (stat := proc.read_stat(pid)):
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

    def isolate(self, opened: int, *, strict: bool, ports: tuple[int, ...] = ()) -> Isolation:
        return namespace.isolate(opened, strict=strict, ports=ports)

    def release(self, opened: int, *, cookie: int = 0) -> bool:
        return namespace.release(opened, cookie=cookie)

    def close(self, handle: int) -> None:
        os.close(handle)


def _pid_of(pidfd: int) -> int | None:
    """The pid a pidfd stands for, of proc_pid_fdinfo(5); None: it is none, or its process is gone."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as text:  # noqa: PTH123 - on the way to a kill
            for line in text:
                if line.startswith(b"Pid:"):
                    return int(line[4:])
    except OSError:
        return None
    return None
