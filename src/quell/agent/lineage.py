"""A process's ancestors, from its parent up to the machine's first process, and how many of them are its workload's.

No fact is kept from one question to the next, only open files of /proc: reading one again takes half the time, and it
is tied to its process instance, so that a number which went to another process is noticed. Names, executables, users
and control groups may change at any time, and most of that nobody reports.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import OrderedDict

from msgspec import Struct

from quell.agent import proc
from quell.agent.cgroup import Placement, placement
from quell.agent.users import Users
from quell.model.subject import Ancestor

#: Deeper chains are cut: whoever forks decides how deep they are.
_DEEPEST = 64
#: Processes whose files are kept open, three each.
_MOST_KEPT = 256
#: Readings of a process that changes meanwhile.
_TRIES = 3
_STAT_BYTES, _CGROUP_BYTES = 1024, 16384


class _Kept(Struct):
    """The files of one process instance, and what was read of them last."""

    folder: int
    stat: int
    cgroup: int
    #: Name, executable and effective user; None: not read yet.
    facts: tuple[bytes, bytes | None, int] | None = None
    container: str | None = None
    ancestor: Ancestor = Ancestor("")


class Lineage:
    """For one thread."""

    def __init__(self, users: Users) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _MOST_KEPT if soft == resource.RLIM_INFINITY else max(1, min(_MOST_KEPT, soft // 24))
        self._users = users
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def of(self, pid: int, ppid: int, workload: str | None) -> tuple[tuple[Ancestor, ...], int]:
        """The ancestors of a process that lives, and how many, from the parent up, are of its workload."""
        chain: list[Ancestor] = []
        inside, within, renewed = 0, workload is not None, 0
        while ppid and len(chain) < _DEEPEST:
            found = self._look(ppid, near=within)
            if found is None:
                # It ended meanwhile, and its child has another parent by now.
                below = proc.read_stat(chain[-1].pid or 0 if chain else pid)
                renewed += 1
                if below is None or renewed > _TRIES:
                    break
                ppid = below.ppid
                continue
            ancestor, ppid, place = found
            within = within and place is not None and place.workload == workload
            inside += within
            chain.append(ancestor)
        return tuple(chain), inside

    def close(self) -> None:
        while self._kept:
            _close(self._kept.popitem()[1])

    def _look(self, pid: int, *, near: bool) -> tuple[Ancestor, int, Placement | None] | None:
        """The process, its parent's number and, if near, where it lives. None: there is none."""
        kept = self._kept.get(pid)
        if kept is not None:
            try:
                found = self._read(pid, kept, near=near)
            except ProcessLookupError:
                del self._kept[pid]  # it was another process's number
                _close(kept)
            else:
                self._kept.move_to_end(pid)
                return found
        try:
            kept = _open(pid)
        except OSError:
            return None
        try:
            found = self._read(pid, kept, near=True)
        except ProcessLookupError:
            _close(kept)
            return None
        self._kept[pid] = kept
        if len(self._kept) > self._most:
            _close(self._kept.popitem(last=False)[1])
        return found

    def _read(self, pid: int, kept: _Kept, *, near: bool) -> tuple[Ancestor, int, Placement | None]:
        """ProcessLookupError: it has ended."""
        changed = False
        for _ in range(_TRIES):
            exe, uid = _exe(kept.folder), os.fstat(kept.folder).st_uid
            # Last, since this alone fails once it has ended.
            stat = os.pread(kept.stat, _STAT_BYTES, 0)
            end = stat.rindex(b")")
            facts = (stat[stat.index(b"(") + 1 : end], exe, uid)
            if facts == kept.facts:
                break
            # It may be executing another program: once the same is seen twice, all of it is of one moment.
            kept.facts, changed = facts, True
        place = placement(os.pread(kept.cgroup, _CGROUP_BYTES, 0)) if near else None
        container = kept.container if place is None else place.container_id
        if changed or container != kept.container:
            kept.container = container
            kept.ancestor = Ancestor(
                name=facts[0].decode(errors="backslashreplace"),
                exe=None if exe is None else proc.parse_exe(exe)[0],
                user=self._users.name(uid, pid, container),
                pid=pid,
                start_ticks=proc.parse_stat(stat).start_ticks,
            )
        return kept.ancestor, int(stat[end + 4 :].split(b" ", 1)[0]), place


def _open(pid: int) -> _Kept:
    """OSError: there is no such process, or no more files may be open."""
    with contextlib.ExitStack() as undo:

        def opened(name: str, flags: int, folder: int | None = None) -> int:
            file = os.open(name, flags | os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
            undo.callback(os.close, file)
            return file

        folder = opened(f"/proc/{pid}", os.O_DIRECTORY)
        kept = _Kept(folder, opened("stat", 0, folder), opened("cgroup", 0, folder))
        undo.pop_all()
        return kept


def _close(kept: _Kept) -> None:
    for file in (kept.folder, kept.stat, kept.cgroup):
        os.close(file)


def _exe(folder: int) -> bytes | None:
    try:
        return os.readlink(b"exe", dir_fd=folder)
    except OSError:
        return None  # a thread of the kernel, one that ended, or not ours to see
