"""What the workloads of this machine listen on and whom they are connected with, by looks at their network namespaces.

A namespace in which a container or a service lives is kept open (quell.agent.linux.sock_diag) while a process of it
does, so that a connection which comes and goes between two looks is seen as well.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from msgspec import Struct

from quell.agent import proc
from quell.agent.cgroup import Placement
from quell.agent.holders import Holder, Search
from quell.agent.linux.namespace import within
from quell.agent.linux.sock_diag import Diag
from quell.agent.place import Finding, Place

#: Namespaces kept open, with five files each.
_MOST_OPEN = 256
#: Seconds within which the same is not told again, and how much is remembered for that.
_HOUR, _MOST_TOLD = 3600.0, 16_384
#: A namespace is listed at every so manieth look, whatever its counts say: a socket may be shut and not be gone.
_ANYWAY = 10
#: Seconds of one look that are spent on open files.
_SEARCH_SECONDS = 0.2


class Seen(Struct):
    """What one look brought."""

    findings: list[tuple[int, Finding]] = []
    #: Processes of workloads that were not among those given.
    newcomers: list[Holder] = []
    #: Sockets that were not looked at, or went without a word.
    lost: int = 0
    #: Connections that went and cannot be said to be any workload's (quell.agent.place.Taken).
    unattributed: int = 0
    #: Why namespaces could not be looked at.
    failures: list[str] = []


class _Open(Struct):
    diag: Diag
    place: Place
    #: Of a process in it; -1: of none.
    pidfd: int
    #: What those who live there have in common, as of the last time that anybody did.
    common: Placement | None = None


class Sockets:
    """For one thread, but fileno and is_open. It becomes readable when leave is to be called."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = _MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(_MOST_OPEN, soft // 32))
        self._clock = clock
        self._own, self._machines = proc.netns(os.getpid()), proc.host_netns()
        self._open: dict[int, _Open] = {}
        self._told: OrderedDict[int, float] = OrderedDict()
        self._strangers: set[int] = set()
        self._looks = 0
        self._epoll = select.epoll()

    def fileno(self) -> int:
        """Readable once a process has ended for whose sake a namespace is open."""
        return self._epoll.fileno()

    def is_open(self, netns: int) -> bool:
        return netns in self._open

    def close(self) -> None:
        for netns in list(self._open):
            self._close(netns)
        self._epoll.close()

    def forget(self) -> None:
        """The next look brings everything anew."""
        self._told.clear()
        for each in self._open.values():
            each.place.forget()

    def look(self, holders: Iterable[Holder]) -> Seen:
        """holders: the processes of workloads, as far as they are known."""
        self._looks += 1
        search = Search(holders, self._strangers, _SEARCH_SECONDS)
        seen = Seen(newcomers=search.newcomers)
        for netns in self._open.keys() - search.homes.keys():
            self._close(netns)
        for number, (netns, residents) in enumerate(search.homes.items()):
            opened = self._open.get(netns) or self._enter(netns, residents, seen)
            if opened is not None:
                self._look_at(netns, opened, search, seen, anyway=(self._looks + number) % _ANYWAY == 0)
        return seen

    def leave(self, holders: Iterable[Holder]) -> Seen:
        """Close the namespaces in which nobody lives any more, after a last look at each."""
        search = Search(holders, self._strangers, _SEARCH_SECONDS)
        seen = Seen(newcomers=search.newcomers)
        ended = {pidfd for pidfd, _ in self._epoll.poll(0)}
        for netns, opened in list(self._open.items()):
            if opened.pidfd not in ended:
                continue
            self._unwatch(opened.pidfd)
            opened.pidfd = self._watch(each for each in search.homes.get(netns, ()) if proc.netns(each.pid) == netns)
            if opened.pidfd < 0:
                self._look_at(netns, opened, search, seen, anyway=True, last=True)
                self._close(netns)
        return seen

    def _look_at(
        self, netns: int, opened: _Open, search: Search, seen: Seen, *, anyway: bool, last: bool = False
    ) -> None:
        try:
            looked = opened.diag.look(opened.place.known, anyway=anyway or opened.place.wants_all)
        except OSError as error:
            seen.failures.append(str(error.strerror))
            return
        seen.lost += looked.lost
        # Others than workloads live in the machine's own namespace.
        if netns != self._machines and (residents := search.homes.get(netns)):
            opened.common = common(residents)
        taken = opened.place.take(looked, lambda inodes: search.owners(netns, inodes), opened.common, last=last)
        seen.unattributed += taken.unattributed
        seen.findings += [(netns, each) for each in taken.findings if self._is_news(netns, each)]

    def _is_news(self, netns: int, finding: Finding) -> bool:
        """Whether it was not told within the hour."""
        holder = finding.holder
        who = (netns, finding.placement.workload) if holder is None else (holder.pid, holder.start_ticks)
        what = hash((who, finding.direction, finding.peer, finding.address, finding.port, finding.protocol))
        now = self._clock()
        if (told := self._told.get(what)) is not None and now - told < _HOUR:
            return False
        self._told[what] = now
        self._told.move_to_end(what)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        return True

    def _enter(self, netns: int, residents: Iterable[Holder], seen: Seen) -> _Open | None:
        if len(self._open) >= self._most:
            seen.failures.append(f"at most {self._most} network namespaces are looked at")
            return None
        for holder in residents:
            try:
                namespace = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it has ended
            try:
                if os.fstat(namespace).st_ino != netns or (pidfd := self._watch([holder])) < 0:
                    continue
                try:
                    diag = Diag() if netns == self._own else within(namespace, Diag)
                except OSError as error:
                    self._unwatch(pidfd)
                    seen.failures.append(str(error.strerror))
                    return None
            finally:
                os.close(namespace)
            opened = self._open[netns] = _Open(diag, Place(diag.ephemeral), pidfd)
            return opened
        return None

    def _close(self, netns: int) -> None:
        opened = self._open.pop(netns)
        if opened.pidfd >= 0:
            self._unwatch(opened.pidfd)
        opened.diag.close()

    def _watch(self, holders: Iterable[Holder]) -> int:
        """A handle of the first of them that lives; -1: none does."""
        for holder in holders:
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(holder.pid)
                stat = proc.read_stat(holder.pid)
                if stat is not None and stat.start_ticks == holder.start_ticks and stat.state not in "ZX":
                    self._epoll.register(pidfd, select.EPOLLIN)
                    return pidfd
                os.close(pidfd)
        return -1

    def _unwatch(self, pidfd: int) -> None:
        self._epoll.unregister(pidfd)
        os.close(pidfd)


def common(holders: Iterable[Holder]) -> Placement | None:
    """Where all of them live: their container or service, else their pod; None: they have neither in common."""
    placements = {each.placement.workload: each.placement for each in holders}
    if len(placements) == 1:
        return next(iter(placements.values()))
    pods = {each.pod_uid for each in placements.values()}
    pod = pods.pop() if len(pods) == 1 else None
    return None if pod is None else Placement(pod_uid=pod)
