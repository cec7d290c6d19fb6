"""The containers of this machine as all runtimes tell them, and what of it the controller has been told.

A container's first process is proved before it is believed: a handle (pidfd) is opened on it, and it must live in the
container's control group, or have started before the runtime wrote its number down. The handle then tells its end at
once, whatever the runtime says and even if it is gone.
"""

from __future__ import annotations

import asyncio
import os
import resource
import select
from collections.abc import Callable, Sequence

import structlog
from msgspec import Struct
from msgspec.structs import replace

from quell.agent import proc
from quell.agent.containers.folders import Folders
from quell.agent.containers.frames import frames
from quell.agent.containers.machine import machine
from quell.agent.containers.runtime import Runtime
from quell.channel.messages import Seen
from quell.model.sighting import ContainerSeen, Gone

_MOST = 10_000
_MOST_WATCHED = 4096
#: Changes that come together are told together.
_GATHER_SECONDS = 0.02
#: The first complete list does not wait longer for a runtime that does not answer.
_SETTLE_SECONDS = 5.0
#: A start in /proc is rounded down to a clock tick, a file's time to a tick of the kernel.
_TICK_SECONDS = 2 / proc.HZ

_log = structlog.get_logger(__name__)


class _First(Struct, frozen=True, kw_only=True):
    """A container's first process, proved. pidfd: None where there are no more handles to be had."""

    pid: int
    pidfd: int | None
    started: float
    host_network: bool | None


class Census:
    """Runs on the event loop's thread from start() to stop()."""

    def __init__(self, node: str, folders: Folders, runtimes: Sequence[Runtime], send: Callable[[Seen], None]) -> None:
        """What send takes is for the controller; it may drop it while there is no link, see welcomed()."""
        self._node = node
        self._folders = folders
        self._runtimes = runtimes
        self._send = send
        self._known: dict[str, ContainerSeen] = {}
        self._first: dict[str, _First] = {}
        self._told: dict[str, ContainerSeen] = {}
        self._changed: dict[str, None] = {}
        self._unsettled = {id(runtime) for runtime in runtimes}
        self._linked = False
        self._in_kubernetes = False
        self._full = False
        self._most_watched = 0
        self._host_netns: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def limits(self) -> tuple[str, ...]:
        return tuple(f"containers: {limit}" for runtime in self._runtimes for limit in runtime.limits())

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_watched = _MOST_WATCHED if soft == resource.RLIM_INFINITY else min(_MOST_WATCHED, soft // 2)
        self._host_netns = proc.host_netns()
        self._timers["settle"] = self._loop.call_later(_SETTLE_SECONDS, self._settle)
        self._folders.start()
        for runtime in self._runtimes:
            runtime.start(self)

    def stop(self) -> None:
        for runtime in self._runtimes:
            runtime.stop()
        self._folders.stop()
        for timer in self._timers.values():
            timer.cancel()
        for identity in list(self._first):
            self._forget(identity)

    def welcomed(self) -> None:
        """A new link: everything is told again."""
        self._linked = True
        self._tell_all()

    def put(self, seen: ContainerSeen, *, written: float | None = None) -> None:
        if seen.id not in self._known and len(self._known) >= _MOST:
            if not self._full:
                self._full = True
                _log.warning("not all containers are told of: there are too many", most=_MOST)
            return
        self._known[seen.id] = self._proved(seen, written)
        self._plan(seen.id)

    def drop(self, identity: str) -> None:
        self._forget(identity)
        if self._known.pop(identity, None) is not None:
            self._plan(identity)

    def settled(self, runtime: Runtime) -> None:
        if self._unsettled:
            self._unsettled.discard(id(runtime))
            if not self._unsettled:
                self._tell_all()

    def containers(self) -> list[ContainerSeen]:
        """What is known now."""
        return list(self._known.values())

    def _settle(self) -> None:
        if self._unsettled:
            self._unsettled.clear()
            self._tell_all()

    def _tell_all(self) -> None:
        """Not before every runtime has been looked at: what a complete list does not have is gone for the controller."""
        if not self._linked or self._unsettled:
            return
        self._changed.clear()
        self._told = dict(self._known)
        self._in_kubernetes = any(seen.pod_uid for seen in self._known.values())
        node = machine(self._node, kubernetes=self._in_kubernetes)
        for message in frames([node, *self._known.values()]):
            self._send(message)

    def _plan(self, identity: str) -> None:
        self._changed[identity] = None
        if self._loop is not None and len(self._changed) == 1:
            self._timers["tell"] = self._loop.call_later(_GATHER_SECONDS, self._tell)

    def _tell(self) -> None:
        changed, self._changed = self._changed, {}
        if not self._linked or self._unsettled:
            return  # all of it will be told
        seen = [self._known[each] for each in changed if each in self._known]
        seen = [each for each in seen if self._told.get(each.id) != each]
        gone = [Gone(kind="container", key=each) for each in changed if each not in self._known and each in self._told]
        if any(each.pod_uid for each in seen) and not self._in_kubernetes:
            self._tell_all()  # the machine turns out to be a cluster's
            return
        for each in seen:
            self._told[each.id] = each
        for lost in gone:
            del self._told[lost.key]
        for message in frames(seen, gone, complete=False):
            self._send(message)

    def _proved(self, seen: ContainerSeen, written: float | None) -> ContainerSeen:
        seen = replace(seen, node=self._node)
        if seen.pid is None or not seen.running:
            self._forget(seen.id)
            return replace(seen, pid=None)
        first = self._first.get(seen.id)
        if first is None or first.pid != seen.pid or first.pidfd is None:
            self._forget(seen.id)
            first = self._open(seen.id, seen.pid, written)
            if first is None:
                return replace(seen, pid=None, running=False)
            self._first[seen.id] = first
            if first.pidfd is not None and self._loop is not None:
                self._loop.add_reader(first.pidfd, self._ended, seen.id)
        host_network = seen.host_network if first.host_network is None else first.host_network
        return replace(seen, started=first.started, host_network=host_network)

    def _open(self, identity: str, pid: int, written: float | None) -> _First | None:
        pidfd = None
        if len(self._first) < self._most_watched:
            try:
                pidfd = os.pidfd_open(pid)
            except (ProcessLookupError, ValueError, OverflowError):
                return None
            except OSError:
                pidfd = None
        stat, placement = proc.read_stat(pid), proc.read_placement(pid)
        started = proc.boot_time() + stat.start_ticks / proc.HZ if stat else 0.0
        inside = placement.containers if placement else ()
        # A container may be run without a control group of its own; then only the start can speak for the process.
        belongs = identity in inside or (not inside and written is not None and started <= written + _TICK_SECONDS)
        netns = proc.netns(pid)
        if stat is None or stat.state in "ZX" or not belongs or (pidfd is not None and _has_ended(pidfd)):
            if pidfd is not None:
                os.close(pidfd)
            return None
        host = None if netns is None or self._host_netns is None else netns == self._host_netns
        return _First(pid=pid, pidfd=pidfd, started=round(started, 3), host_network=host)

    def _ended(self, identity: str) -> None:
        self._forget(identity)
        self._known[identity] = replace(self._known[identity], pid=None, running=False)
        self._plan(identity)

    def _forget(self, identity: str) -> None:
        first = self._first.pop(identity, None)
        if first is not None and first.pidfd is not None:
            if self._loop is not None:
                self._loop.remove_reader(first.pidfd)
            os.close(first.pidfd)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
