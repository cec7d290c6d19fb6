"""What became of containers, out of what the inventory knew before and knows now: started, stopped, gone, covered. Pure.

A container's start is told only if it lies after the moment at which a source first spoke: what ran already when a
machine was first seen has not just started. Ids are made of the container's id and its start, so that a census after a
reconnect, a restart of the controller or a second source tells nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from quell.response.facts import Workload

START, STOP, REMOVE = "Container.Start", "Container.Stop", "Container.Remove"
SECURED, UNSECURED = "Container.Secured", "Container.Unsecured"
#: Seconds after a source first spoke in which a container of unknown start is taken for an old one.
_SETTLING = 60.0


class Happened(NamedTuple):
    """time: when, epoch seconds. identifier: the event's id, the same each time the same thing is told."""

    name: str
    workload: Workload
    time: float
    identifier: str


class _Was(NamedTuple):
    running: bool
    pid: int | None
    started: float | None


class Lifecycle:
    """workloads: the inventory's. since: when each source first spoke, epoch seconds."""

    def __init__(self, workloads: Mapping[str, Workload], since: Mapping[str, float]) -> None:
        self._workloads = workloads
        self._since = since
        self._was: dict[str, _Was] = {}
        #: Container -> the agent that covers it.
        self._covered: dict[str, str] = {}
        #: Agents that can isolate, and the number that makes an event's id another one each time they come anew.
        self._covering: dict[str, int] = {}

    def begin(self, covering: Mapping[str, int]) -> None:
        """What a restart found: known, and told before. covering: see cover()."""
        self._covering = dict(covering)
        for known in self._workloads.values():
            if known.gone is None and not known.taught_by and not known.contested:
                self._was[known.id] = _Was(known.running, known.pid, known.started)
                agent = self._agent_of(known)
                if agent is not None and known.running:
                    self._covered[known.id] = agent

    def changed(self, ids: Iterable[str], now: float, *, said: bool) -> list[Happened]:
        """said: a source said so. Otherwise its word only counts no more: that says nothing about the containers."""
        happened: list[Happened] = []
        for identifier in ids:
            known = self._workloads.get(identifier)
            if known is not None and (known.contested or known.taught_by):
                continue
            if known is None or known.gone is not None:
                was = self._was.pop(identifier, None)
                self._covered.pop(identifier, None)
                if was is not None and known is not None and said:
                    happened.append(Happened(REMOVE, known, now, f"{identifier}/remove"))
                continue
            happened += self._moved(known, now)
            happened += self._cover(known, now)
        return happened

    def cover(self, agent: str, number: int, ids: Collection[str], now: float) -> list[Happened]:
        """An agent that can isolate is there. ids: containers that it speaks of."""
        self._covering[agent] = number
        return [
            told for identifier in ids if (known := self._workloads.get(identifier)) for told in self._cover(known, now)
        ]

    def uncover(self, agent: str, now: float) -> list[Happened]:
        """It is not there any more, or cannot isolate."""
        number = self._covering.pop(agent, 0)
        left = [identifier for identifier, by in self._covered.items() if by == agent]
        for identifier in left:
            del self._covered[identifier]
        return [
            Happened(UNSECURED, known, now, f"{identifier}/unsecured/{agent}/{number}")
            for identifier in left
            if (known := self._workloads.get(identifier)) is not None and known.gone is None
        ]

    def _moved(self, known: Workload, now: float) -> list[Happened]:
        was = self._was.get(known.id)
        self._was[known.id] = _Was(known.running, known.pid, known.started)
        if was is None:
            return [self._start(known, now)] if known.running and self._is_new(known, now) else []
        if was.running and not known.running:
            stamp = was.started if was.started is not None else known.started
            return [Happened(STOP, known, now, f"{known.id}/stop/{int(now if stamp is None else stamp)}")]
        restarted = was.running and None not in (was.pid, known.pid) and was.pid != known.pid
        if known.running and (restarted or not was.running):
            return [self._start(known, now)]
        return []

    def _start(self, known: Workload, now: float) -> Happened:
        started = now if known.started is None else known.started
        return Happened(START, known, started, f"{known.id}/start/{int(started)}")

    def _is_new(self, known: Workload, now: float) -> bool:
        since = min((self._since.get(source, now) for source in known.sources), default=now)
        return known.started >= since if known.started is not None else now >= since + _SETTLING

    def _cover(self, known: Workload, now: float) -> list[Happened]:
        agent = self._agent_of(known)
        if agent is None or not known.running or known.gone is not None or self._covered.get(known.id) == agent:
            return []
        self._covered[known.id] = agent
        return [Happened(SECURED, known, now, f"{known.id}/secured/{agent}/{self._covering[agent]}")]

    def _agent_of(self, known: Workload) -> str | None:
        """The agent that speaks of it, if that one can isolate it: what has the host's network is never isolated."""
        if known.host_network:
            return None
        named = (source.partition("/")[2] for source in known.sources if source.startswith("agent/"))
        return next((agent for agent in named if agent in self._covering), None)


class Quota:
    """How many events a window has room for: in all, of one machine, of one service on it. What is more is counted."""

    def __init__(self, most: int, seconds: float, *, of_all: int, of_service: Callable[[int], int]) -> None:
        """most: of one machine. of_service: out of that, of one service."""
        self._most, self._seconds, self._of_all, self._of_service = most, seconds, of_all, of_service(most)
        self._began: float | None = None
        self._told: dict[tuple[str, ...], int] = {}
        self._omitted: dict[str, dict[str, int]] = {}

    def admits(self, happened: Happened, now: float) -> bool:
        """Call due() before."""
        if self._began is None:
            self._began = now
        known = happened.workload
        node = known.node or ""
        service = known.service or known.name or known.image or known.id
        bounds = (((), self._of_all), ((node,), self._most), ((node, known.namespace or "", service), self._of_service))
        if any(self._told.get(key, 0) >= most for key, most in bounds):
            names = self._omitted.setdefault(node, {})
            names[happened.name] = names.get(happened.name, 0) + 1
            return False
        for key, _ in bounds:
            self._told[key] = self._told.get(key, 0) + 1
        return True

    def due(self, now: float) -> dict[str, dict[str, int]]:
        """If the window is over, what it had no room for: by node, how many of each name."""
        if self._began is None or now - self._began < self._seconds:
            return {}
        omitted, self._omitted = self._omitted, {}
        self._told.clear()
        self._began = None
        return omitted
