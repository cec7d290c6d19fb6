"""Facts of processes and of this machine, read from /proc. Quick: the sensor reads every execution with it.

All reads of one process go through one open directory of /proc, which the kernel ties to that process instance: once
it is gone the reads fail, so facts of two instances are never mixed.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

from msgspec import Struct

from quell.agent.cgroup import Placement, placement
from quell.model.subject import Process

#: Clock ticks a second, the unit of starts in /proc/PID/stat (USER_HZ).
HZ = os.sysconf("SC_CLK_TCK")

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the kernel's include/linux/sched.h
_DELETED = b" (deleted)"
_ANCESTORS = 64  # deeper chains are cut: an attacker decides how deep they are
_CMDLINE = 4096  # bytes kept of a command line
_CGROUP = 16384


class Facts(Struct, frozen=True, kw_only=True):
    """What /proc says of one process instance. Things this agent may not see are None."""

    process: Process
    placement: Placement
    #: Device and inode of its executable.
    exe_id: tuple[int, int] | None
    kernel_thread: bool
    #: Has ended, and waits only to be reaped.
    ended: bool

    @property
    def container_id(self) -> str | None:
        return self.placement.container_id

    @property
    def pod_uid(self) -> str | None:
        return self.placement.pod_uid

    @property
    def netns(self) -> int | None:
        return self.process.netns


class Stat(Struct, frozen=True, kw_only=True):
    """The fields of /proc/PID/stat that matter here."""

    name: str
    state: str
    ppid: int
    pgid: int
    kernel_thread: bool
    #: Clock ticks after boot.
    start_ticks: int


@cache
def boot_id() -> str:
    """The kernel's random name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boot_time() -> float:
    """When this machine started, in epoch seconds, by the clock as it is set now."""
    return clock_ahead(time.CLOCK_REALTIME, time.CLOCK_BOOTTIME)


def clock_ahead(clock: int, other: int) -> float:
    """By how many seconds a clock is ahead of another.

    On a busy machine this process may be put aside between two readings. The closest of a few is taken, which is never
    too small and too large by at most the time between its readings.
    """
    closest, ahead = float("inf"), 0.0
    for _ in range(_READINGS):
        before = time.clock_gettime(other)
        between = time.clock_gettime(clock)
        gap = time.clock_gettime(other) - before
        if gap < closest:
            closest, ahead = gap, between - before
        if closest < _CLOSE:
            break
    return ahead


#: Two readings of clocks within so many seconds are good enough; so often is a closer pair tried for.
_CLOSE, _READINGS = 0.0002, 5


@cache
def machine_id() -> str:
    """The machine's lasting name (machine-id(5)); empty where it has none."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text:
            return text
    return ""


def parse_stat(text: bytes) -> Stat:
    """Read the text of /proc/PID/stat. The name may hold spaces, parentheses and newlines, so its end is the last one."""
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 2 :].split()
    return Stat(
        name=text[opening + 1 : closing].decode(errors="backslashreplace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        kernel_thread=bool(int(fields[6]) & _KERNEL_THREAD),
        start_ticks=int(fields[19]),
    )


def parse_exe(link: bytes) -> tuple[str, str | None]:
    """The path of an executable's link and what kind of content it tells of: memfd, deleted or None."""
    path = link.removesuffix(_DELETED)
    content = "memfd" if path.startswith(b"/memfd:") else "deleted" if path != link else None
    return path.decode(errors="backslashreplace"), content


def read_stat(pid: int) -> Stat | None:
    """Name, parents and start of a process; None if there is none. The cheapest way to ask for a start."""
    try:
        return parse_stat(_read(f"/proc/{pid}/stat", 1024))
    except OSError:
        return None


def read_placement(pid: int) -> Placement | None:
    """Container, pod and control groups of a process; None if there is none."""
    try:
        return placement(_read(f"/proc/{pid}/cgroup", _CGROUP))
    except OSError:
        return None


def read_process(pid: int, *, full: bool = True) -> Facts | None:
    """Everything /proc says of a process; None if there is none.

    Without full, the command line, the working directory, the user's name and the ancestors are left out.
    """
    try:
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _facts(pid, directory, full=full)
    except (FileNotFoundError, ProcessLookupError):
        return None  # it went while we read
    finally:
        os.close(directory)


def _facts(pid: int, directory: int, *, full: bool) -> Facts:
    stat = parse_stat(_read("stat", 1024, directory))
    ended = stat.state in "ZX"
    base = ""
    if ended and (alive := _living_thread(directory)):
        # The first thread may end while others run on; executable and namespaces are then seen on those only.
        ended, base = False, f"task/{alive}/"
    link, exe_id = _exe(directory, base)
    exe, content = parse_exe(link) if link else (None, None)
    uid = _effective_uid(_read(f"{base}status", 2048, directory))
    cmdline = cwd = user = None
    ancestors: tuple[str, ...] = ()
    if full:
        cmdline = (
            _read(f"{base}cmdline", _CMDLINE, directory)
            .rstrip(b"\0")
            .replace(b"\0", b" ")
            .decode(errors="backslashreplace")
        )
        try:
            cwd = os.readlink(os.fsencode(f"{base}cwd"), dir_fd=directory).decode(errors="backslashreplace")
        except OSError:
            cwd = None
        user = user_name(uid)
        ancestors = _ancestors(stat.ppid)
    return Facts(
        process=Process(
            pid=pid,
            start_ticks=stat.start_ticks,
            start_time=boot_time() + stat.start_ticks / HZ,
            boot_id=boot_id(),
            name=stat.name,
            exe=exe,
            cmdline=cmdline,
            cwd=cwd,
            ppid=stat.ppid,
            pgid=stat.pgid,
            uid=uid,
            user=user,
            ancestors=ancestors,
            content=content,
            netns=_inode(f"{base}ns/net", directory),
        ),
        placement=placement(_read(f"{base}cgroup", _CGROUP, directory)),
        exe_id=exe_id,
        kernel_thread=stat.kernel_thread,
        ended=ended,
    )


def netns(pid: int) -> int | None:
    """Inode of the network namespace of a process; None if it is gone or may not be seen."""
    return _inode(f"/proc/{pid}/ns/net", None)


def host_netns() -> int | None:
    """Inode of the machine's own network namespace, which is pid 1's; None if it cannot be told.

    Where pid 1 has capabilities that this process lacks its namespace may not be seen. /proc/PID/net then still tells
    whether it is the one of this process: every namespace has files of its own there.
    """
    found = netns(1)
    if found is None and _inode("/proc/1/net/dev", None) == _inode("/proc/self/net/dev", None) is not None:
        found = netns(os.getpid())
    return found


def pids() -> list[int]:
    """Every process of this machine, as far as /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - a Path for each entry costs more than the read


def user_name(uid: int) -> str | None:
    """The name of a user by the machine's own list, without asking a directory service, which could block."""
    try:
        stamp = os.stat("/etc/passwd").st_mtime_ns  # noqa: PTH116 - on the sensor's path
    except OSError:
        return None
    return _users(stamp).get(uid)


def names_of(uid: int, pid: int) -> frozenset[str]:
    """Every name a detector may use for the user of a process: the machine's, and that of the process's own root folder."""
    names = {user_name(uid)}
    try:
        # The file belongs to whoever owns the container: never wait on it, never follow it elsewhere.
        file = os.open(f"/proc/{pid}/root/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return frozenset(name for name in names if name)
    try:
        names.add(_parse_users(os.read(file, 1 << 20)).get(uid))
    except OSError:
        pass  # a folder, a pipe: no list of users
    finally:
        os.close(file)
    return frozenset(name for name in names if name)


@cache
def _users(_stamp: int) -> dict[int, str]:
    return _parse_users(Path("/etc/passwd").read_bytes())


def _parse_users(text: bytes) -> dict[int, str]:
    users: dict[int, str] = {}
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) > 2 and fields[2].isdigit():
            users.setdefault(int(fields[2]), fields[0].decode(errors="backslashreplace"))
    return users


def _ancestors(ppid: int) -> tuple[str, ...]:
    names: list[str] = []
    while ppid and len(names) < _ANCESTORS and (stat := read_stat(ppid)):
        names.append(stat.name)
        ppid = stat.ppid
    return tuple(names)


def _living_thread(directory: int) -> int | None:
    tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        for thread in os.listdir(tasks):  # noqa: PTH208 - of an open folder
            try:
                if parse_stat(_read(f"{thread}/stat", 1024, tasks)).state not in "ZX":
                    return int(thread)
            except (FileNotFoundError, ProcessLookupError):
                continue
        return None
    finally:
        os.close(tasks)


def _exe(directory: int, base: str) -> tuple[bytes | None, tuple[int, int] | None]:
    try:
        link = os.readlink(os.fsencode(f"{base}exe"), dir_fd=directory)
    except OSError:
        return None, None  # a kernel thread, one that ended, or not ours to see
    try:
        status = os.stat(f"{base}exe", dir_fd=directory)
    except OSError:
        return link, None
    return link, (status.st_dev, status.st_ino)


def _inode(path: str, directory: int | None) -> int | None:
    try:
        return os.stat(path, dir_fd=directory).st_ino
    except OSError:
        return None


def _effective_uid(status: bytes) -> int:
    start = status.index(b"\nUid:") + 5
    return int(status[start : status.index(b"\n", start)].split()[1])


def _read(path: str, limit: int, directory: int | None = None) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, limit)
    finally:
        os.close(file)
