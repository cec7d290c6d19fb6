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
from quell.agent.file_status import file_status
from quell.model.subject import Process

#: Clock ticks a second, the unit of starts in /proc/PID/stat (USER_HZ).
HZ = os.sysconf("SC_CLK_TCK")

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the kernel's include/linux/sched.h
_DELETED = b" (deleted)"
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
    #: Its session; 0: not known.
    sid: int = 0

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
    #: Its session, which only a fork can bring another process into.
    sid: int
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
        sid=int(fields[3]),
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


def read_arguments(pid: int) -> list[bytes]:
    """The first bytes of a process's arguments. OSError: there is no such process."""
    return _read(f"/proc/{pid}/cmdline", _CMDLINE).rstrip(b"\0").split(b"\0")


def read_process(pid: int, *, full: bool = True) -> Facts | None:
    """Everything /proc says of a process; None if there is none.

    Without full, the command line and the working directory are left out. Never here: the user's name
    (quell.agent.users) and the ancestors (quell.agent.lineage).
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


def read_execution(
    pid: int,
    stat: Stat,
    placement: Placement,
    *,
    exe: tuple[str, str | None],
    exe_id: tuple[int, int] | None,
    cmdline: str,
) -> Facts:
    """As read_process, at half of its cost, for a process of which all this was just read.

    Whoever calls it holds a pidfd and sees afterwards that the process lives: the number was then its own all the time.
    OSError: it ended.
    """
    folder = f"/proc/{pid}/"
    uid = _effective_uid(folder)
    cwd, netns = _cwd(folder, None), _inode(f"{folder}ns/net", None)
    return Facts(
        process=_process(pid, stat, exe, uid, cmdline=cmdline, cwd=cwd, netns=netns),
        placement=placement,
        exe_id=exe_id,
        kernel_thread=False,
        ended=False,
        sid=stat.sid,
    )


def _facts(pid: int, directory: int, *, full: bool) -> Facts:
    stat = parse_stat(_read("stat", 1024, directory))
    ended = stat.state in "ZX"
    base = ""
    if ended and (alive := _living_thread(directory)):
        # The first thread may end while others run on; executable and namespaces are then seen on those only.
        ended, base = False, f"task/{alive}/"
    link, exe_id = _exe(directory, base)
    uid = _effective_uid(base or ".", directory)
    cmdline = cwd = None
    if full:
        cmdline = (
            _read(f"{base}cmdline", _CMDLINE, directory)
            .rstrip(b"\0")
            .replace(b"\0", b" ")
            .decode(errors="backslashreplace")
        )
        cwd = _cwd(base, directory)
    return Facts(
        process=_process(
            pid,
            stat,
            parse_exe(link) if link else (None, None),
            uid,
            cmdline=cmdline,
            cwd=cwd,
            netns=_inode(f"{base}ns/net", directory),
        ),
        placement=placement(_read(f"{base}cgroup", _CGROUP, directory)),
        exe_id=exe_id,
        kernel_thread=stat.kernel_thread,
        ended=ended,
        sid=stat.sid,
    )


def _process(
    pid: int,
    stat: Stat,
    exe: tuple[str | None, str | None],
    uid: int,
    *,
    cmdline: str | None,
    cwd: str | None,
    netns: int | None,
) -> Process:
    return Process(
        pid=pid,
        start_ticks=stat.start_ticks,
        start_time=boot_time() + stat.start_ticks / HZ,
        boot_id=boot_id(),
        name=stat.name,
        exe=exe[0],
        cmdline=cmdline,
        cwd=cwd,
        ppid=stat.ppid,
        pgid=stat.pgid,
        uid=uid,
        content=exe[1],
        netns=netns,
    )


def _cwd(base: str, directory: int | None) -> str | None:
    try:
        return os.readlink(os.fsencode(f"{base}cwd"), dir_fd=directory).decode(errors="backslashreplace")
    except OSError:
        return None


def netns(pid: int) -> int | None:
    """Inode of the network namespace of a process; None if it is gone or may not be seen."""
    return _inode(f"/proc/{pid}/ns/net", None)


def mounts(pid: int) -> int | None:
    """Inode of the mount namespace of a process; None if it is gone or may not be seen."""
    return _inode(f"/proc/{pid}/ns/mnt", None)


@cache
def host_mounts() -> int | None:
    """Inode of the machine's own mount namespace, which is pid 1's; this process's where that may not be seen."""
    return mounts(1) or mounts(os.getpid())


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
        status = file_status(f"{base}exe", directory)
    except OSError:
        return link, None
    return link, (status.device, status.inode)


def _inode(path: str, directory: int | None) -> int | None:
    try:
        return os.stat(path, dir_fd=directory).st_ino
    except OSError:
        return None


def _effective_uid(path: str, directory: int | None = None) -> int:
    """Whom a process's folder belongs to, which is its effective user, and quicker than to read its status.

    Only of that folder and those of threads: the owner of other files in /proc depends on more (proc(5)). Of a process
    that has just ended it is 0: something must be read of it afterwards.
    """
    return os.stat(path, dir_fd=directory).st_uid


def _read(path: str, limit: int, directory: int | None = None) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, limit)
    finally:
        os.close(file)
