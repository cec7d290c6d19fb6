"""Whose a socket is: the processes of workloads, and their open files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from msgspec import Struct

from quell.agent import proc
from quell.agent.cgroup import Placement

_SOCKET = "socket:["


class Holder(Struct, frozen=True):
    """One process instance of a workload, and the network namespace it lives in."""

    pid: int
    start_ticks: int
    placement: Placement
    netns: int


class Search:
    """One look's search through open files. What is not found in time is searched for at the next look."""

    def __init__(self, holders: Iterable[Holder], strangers: set[int], seconds: float) -> None:
        """strangers: numbers of processes seen to be of no workload, kept from look to look."""
        #: By namespace, the oldest first: of several that hold a socket the oldest is taken to have made it.
        self.homes: dict[int, list[Holder]] = {}
        self._pids: set[int] = set()
        for holder in sorted(holders, key=lambda holder: (holder.start_ticks, holder.pid)):
            self.homes.setdefault(holder.netns, []).append(holder)
            self._pids.add(holder.pid)
        self._strangers = strangers
        self._end = time.monotonic() + seconds
        self._looked_around = False
        #: Processes of workloads that were not among the holders given.
        self.newcomers: list[Holder] = []

    def owners(self, netns: int, inodes: Iterable[int]) -> dict[int, Holder]:
        """Which of these sockets are held by processes of workloads, and by whom."""
        left, owners = set(inodes), dict[int, Holder]()
        self._through(self.homes.get(netns, []), left, owners)
        if left and not self._looked_around:
            self._look_around()
        if left:
            self._through([each for each in self.newcomers if each.netns == netns], left, owners)
        return owners

    def _through(self, holders: Iterable[Holder], left: set[int], owners: dict[int, Holder]) -> None:
        for holder in holders:
            if not left or time.monotonic() > self._end:
                return
            held = _held(holder.pid, left)
            if held and _is_same(holder):
                left -= held
                owners.update(dict.fromkeys(held, holder))

    def _look_around(self) -> None:
        """Processes that forked and never executed anything: nobody has told of them."""
        self._looked_around = True
        pids = set(proc.pids())
        self._strangers &= pids
        for pid in sorted(pids - self._strangers - self._pids):
            placement, stat = proc.read_placement(pid), proc.read_stat(pid)
            if placement is None or stat is None:
                continue
            if placement.workload is None:
                self._strangers.add(pid)
            elif (netns := proc.netns(pid)) is not None:
                self.newcomers.append(Holder(pid, stat.start_ticks, placement, netns))


def _held(pid: int, wanted: set[int]) -> set[int]:
    """Which of these sockets a process holds open."""
    found: set[int] = set()
    try:
        folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return found  # it has ended, or is not ours to see
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - of an open folder
            try:
                link = os.readlink(name, dir_fd=folder)
            except OSError:
                continue
            if link.startswith(_SOCKET) and (inode := int(link[len(_SOCKET) : -1])) in wanted:
                found.add(inode)
    except OSError:
        return found
    finally:
        os.close(folder)
    return found


def _is_same(holder: Holder) -> bool:
    stat = proc.read_stat(holder.pid)
    return stat is not None and stat.start_ticks == holder.start_ticks
