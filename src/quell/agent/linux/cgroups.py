"""Control groups, version 2: those of containers, and those the agent makes for a moment to keep a tree together.

On hybrid machines version 2 is mounted beside version 1, and has no controllers; what is moved in it is limited as before.
A group made here lies below the one its processes are in, so that it takes nothing from and gives nothing to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from quell.agent import proc
from quell.agent.cgroup import OWN, placement

#: Times that it is tried to remove a group, and seconds between two tries.
_TRIES, _PAUSE_SECONDS = 200, 0.002
_LONGEST = 1 << 20


class Mount(NamedTuple):
    """Where version 2 is mounted, and which of its groups is at the top of that."""

    folder: str
    root: str


@cache
def mounted() -> Mount | None:
    """None: this machine has no version 2, or this process does not see it."""
    with open("/proc/self/mountinfo", "rb") as text:  # noqa: PTH123 - lines of bytes
        for line in text:
            fields, _, rest = line.partition(b" - ")
            if rest.startswith(b"cgroup2 "):
                _, _, _, root, folder, *_ = fields.split()
                return Mount(os.fsdecode(folder), os.fsdecode(root).rstrip("/"))
    return None


def folder_of(pid: int) -> str | None:
    """The folder of the group that a process is in; None: it is not to be seen from here. ProcessLookupError: it is gone."""
    mount = mounted()
    if mount is None:
        return None
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as text:  # noqa: PTH123 - as above
            line = next((line for line in text if line.startswith(b"0::")), b"0::")
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "no such process") from None
    path = os.fsdecode(line[3:].rstrip(b"\n"))
    # A group outside of the agent's own cgroup namespace is written with "..".
    if not path.startswith(f"{mount.root}/") or "/.." in path:
        return None
    return mount.folder + path[len(mount.root) :].rstrip("/")


def of_container(pid: int, container_id: str) -> int | None:
    """The container's group, through a process in it. None: it has none of its own here that can be killed."""
    try:
        folder = folder_of(pid)
    except ProcessLookupError:
        return None
    if folder is None:
        return None
    parts = folder.split("/")
    for end in range(1, len(parts) + 1):
        inside = placement(f"0::{'/'.join(parts[:end])}".encode()).containers
        if inside and inside[-1] == container_id:
            break
    else:
        return None
    group = _open("/".join(parts[:end]))
    if group is None:
        return None
    if not can_kill(group) or pid not in members(group):
        os.close(group)
        return None
    return group


def make(pid: int, name: str) -> int | None:
    """A group of the agent's own below that of a process, or that of this name which is there already."""
    folder = folder_of(pid)
    if folder is None:
        return None
    parts = folder.split("/")
    while parts[-1].startswith(OWN):
        parts.pop()  # one that a crash has left
    folder = "/".join([*parts, name])
    try:
        os.mkdir(folder)  # noqa: PTH102 - a path for one call
    except FileExistsError:
        pass
    except OSError as error:
        # Not this agent's to write, mounted to be read only, too many or too deep, a group of threads, or just gone.
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOENT):
            return None
        raise
    return _open(folder)


def may_make() -> bool:
    """Whether groups can be made, by the one that this process is in."""
    folder = folder_of(os.getpid())
    return folder is not None and os.access(folder, os.W_OK)


def find(name: str) -> list[int]:
    """Every group of this name."""
    mount = mounted()
    found = []
    for folder, names, _ in os.walk(mount.folder) if mount else ():
        if name in names and (group := _open(f"{folder}/{name}")) is not None:
            found.append(group)
    return found


def move(process: int, pid: int, group: int) -> bool:
    """A process into a group. process: its pidfd; by that a number which went to another meanwhile is found out."""
    try:
        _write(group, "cgroup.procs", str(pid))
    except ProcessLookupError:
        return False
    if not _has_ended(process):
        return True
    stranger = proc.read_stat(pid)
    # Ended, and its number may have been another's by the time it was moved: back to where its parent is.
    if stranger is not None and pid in members(group):
        with contextlib.suppress(OSError):
            home = folder_of(stranger.ppid)
            if home is not None:
                with _opened(home) as back:
                    _write(back, "cgroup.procs", str(pid))
    return False


def members(group: int) -> list[int]:
    """Processes in a group and below it; a process that has ended is in none."""
    found = _numbers(group)
    for name in _below(group):
        with contextlib.suppress(FileNotFoundError), _opened(name, group) as inner:
            found += members(inner)
    return found


def can_kill(group: int) -> bool:
    try:
        os.stat("cgroup.kill", dir_fd=group)
    except OSError:
        return False
    return True


def kill(group: int) -> bool:
    """Everything in it, with what is being forked there at this moment."""
    try:
        _write(group, "cgroup.kill", "1")
    except FileNotFoundError:
        return False  # before Linux 5.14, or removed meanwhile
    except OSError as error:
        if error.errno == errno.ENODEV:
            return True  # removed meanwhile: nothing is in it
        raise
    return True


def remove(group: int) -> None:
    """What is in it goes to the group above it."""
    folder = Path(f"/proc/self/fd/{group}").readlink()
    if not folder.name.startswith(OWN):
        raise ValueError(f"{folder} is no control group of the agent's own")
    with _opened("..", group) as above:
        for left in reversed(range(_TRIES)):
            for pid in _numbers(group):
                with contextlib.suppress(ProcessLookupError):
                    _write(above, "cgroup.procs", str(pid))
            try:
                folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                # Something forked into it, or what has ended in it is not put away by the kernel yet.
                if not left:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return


def _numbers(group: int) -> list[int]:
    try:
        file = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=group)
    except OSError:
        return []
    try:
        text = b""
        while part := os.read(file, _LONGEST):
            text += part
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return []  # removed meanwhile; or a group of threads
        raise
    finally:
        os.close(file)
    # Processes of a pid namespace that cannot be seen from here are written as 0.
    return [pid for pid in map(int, text.split()) if pid]


def _below(group: int) -> list[str]:
    with os.scandir(group) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _write(group: int, name: str, text: str) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=group)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _open(folder: str) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _opened(folder: str, beneath: int | None = None) -> Iterator[int]:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=beneath)
    try:
        yield opened
    finally:
        os.close(opened)


def _has_ended(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(0))
