"""Names of users: the machine's own, and those that a container has for them.

Nothing here asks a directory service, which could block. A container's list is a file that its owner can change at any
time: it names users as it did when the container was first seen, and what is added later only names those that had no
name yet. Else whoever has broken in could rename a user to one that is expected.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from functools import cache
from pathlib import Path

from msgspec import Struct

from quell.agent import proc

#: Lists of so many containers are kept, each with so many names, read from so many bytes.
_MOST_LISTS, _MOST_NAMES, _MOST_BYTES = 256, 256, 32 << 10
#: Bytes of /proc/PID/uid_map: at most 340 lines.
_MAP_BYTES = 16 << 10


def user_name(uid: int) -> str | None:
    """The name of a user by the machine's own list."""
    try:
        stamp = os.stat("/etc/passwd").st_mtime_ns  # noqa: PTH116 - on the sensor's path
    except OSError:
        return None
    return _machines(stamp).get(uid)


def names_of(uid: int, pid: int) -> frozenset[str]:
    """Every name a detector may use for the user of a process: the machine's, and that of the process's own root folder."""
    names = {user_name(uid)}
    listed = _read_list(pid, 1 << 20)
    if listed is not None:
        users = parse_users(listed)
        number = inner(uid, _read_map(pid))
        names |= {users.get(uid), None if number is None else users.get(number)}
    return frozenset(name for name in names if name)


def parse_users(text: bytes) -> dict[int, str]:
    """Names by number, from a text of passwd(5); the first of a number counts."""
    users: dict[int, str] = {}
    for line in text.splitlines():
        fields = line.split(b":")
        if len(fields) > 2 and fields[2].isdigit():
            users.setdefault(int(fields[2]), fields[0].decode(errors="backslashreplace"))
    return users


def inner(uid: int, mapping: bytes) -> int | None:
    """The number that a user of the machine has in a user namespace (user_namespaces(7)); None: it has none there."""
    for line in mapping.splitlines():
        within, without, count = map(int, line.split())
        if without <= uid < without + count:
            return within + uid - without
    return None


class _List(Struct):
    """What a container names its users."""

    names: dict[int, str]
    #: Of its first process: /proc/PID/uid_map.
    mapping: bytes
    #: Of the file it was read from; None: there was none.
    stamp: tuple[int, ...] | None


class Users:
    """Names as observations and incidents give them. For one thread, but given()."""

    def __init__(self) -> None:
        self._lists: OrderedDict[str, _List] = OrderedDict()

    def name(self, uid: int, pid: int, container: str | None) -> str:
        """The container's own name for the user of a process of it; else the machine's; else the number."""
        found = None if container is None else self._contained(uid, pid, container)
        return found or user_name(uid) or str(uid)

    def given(self, uid: int, container: str) -> frozenset[str]:
        """The container's own name for a user, if it was told."""
        listed = self._lists.get(container)
        number = None if listed is None else inner(uid, listed.mapping)
        name = None if listed is None or number is None else listed.names.get(number)
        return frozenset() if name is None else frozenset((name,))

    def _contained(self, uid: int, pid: int, container: str) -> str | None:
        listed = self._lists.get(container)
        if listed is None:
            if proc.mounts(pid) in (None, proc.host_mounts()):
                return None  # still being made: its root folder is the machine's
            listed = self._lists[container] = _List({}, _read_map(pid), None)
            if len(self._lists) > _MOST_LISTS:
                self._lists.popitem(last=False)
        number = inner(uid, listed.mapping)
        if number is None:
            return None
        if number not in listed.names:
            _extend(listed, pid)
        return listed.names.get(number)


def _extend(listed: _List, pid: int) -> None:
    try:
        found = os.stat(f"/proc/{pid}/root/etc/passwd", follow_symlinks=False)  # noqa: PTH116 - on the sensor's path
    except OSError:
        return
    stamp = (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)
    if stamp == listed.stamp or (read := _read_list(pid, _MOST_BYTES)) is None:
        return
    listed.stamp = stamp
    for number, name in parse_users(read).items():
        if len(listed.names) < _MOST_NAMES:
            listed.names.setdefault(number, name)


def _read_list(pid: int, limit: int) -> bytes | None:
    """The list in a process's own root folder; None if there is none, or it is no file."""
    try:
        # The file belongs to whoever owns the container: never wait on it, never follow it elsewhere.
        file = os.open(f"/proc/{pid}/root/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(file, limit)
    except OSError:
        return None  # a folder, a pipe
    finally:
        os.close(file)


def _read_map(pid: int) -> bytes:
    try:
        file = os.open(f"/proc/{pid}/uid_map", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, _MAP_BYTES)
    except OSError:
        return b""
    finally:
        os.close(file)


@cache
def _machines(_stamp: int) -> dict[int, str]:
    return parse_users(Path("/etc/passwd").read_bytes())
