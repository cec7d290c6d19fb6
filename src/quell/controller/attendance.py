"""Which agents are there, and the Enforcer.* events that say so: once each, and no storm when the controller restarts.

What was last told of an agent is kept, so that after a restart of the controller only what has really changed meanwhile
is told. An event's id is made of the agent's id and a number that grows with each telling.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from functools import partial

import msgspec
import structlog

from quell.channel.messages import Hello
from quell.clock import Clock
from quell.controller.telling import Teller
from quell.errors import StoreError
from quell.model.subject import Subject
from quell.storage import agents as stored_agents
from quell.storage.agents import Agent
from quell.storage.store import Store

#: Of one agent: so often in so many seconds it is told that it comes, goes or starts. Then only where it has ended up.
_MOST, _WINDOW = 10, 600.0
#: Seconds before a start of the controller in which an agent's enrolment is told again, lest a crash has swallowed it.
_RECENT = 3600.0

_log = structlog.get_logger(__name__)


class Told(StrEnum):
    """What the last event about an agent's presence said."""

    NOTHING = ""
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    STOPPED = "stopped"
    #: Away for so long that its containers count as unsecured.
    LOST = "lost"


class _Attending:
    """One agent. away: since when its link is down, by the controller's clock; None: it is up."""

    __slots__ = ("agent", "away", "missed", "number", "stamps", "told", "why")

    def __init__(self, agent: Agent, away: float | None) -> None:
        self.agent = agent
        self.away = away
        self.told = Told(agent.told)
        self.number = agent.tellings
        self.why = ""
        self.missed = 0
        self.stamps: deque[float] = deque()

    @property
    def subject(self) -> Subject:
        return Subject(node=self.agent.node, machine_id=self.agent.machine_id or None)

    @property
    def title(self) -> str:
        return f"agent {self.agent.name} on {self.agent.node}"

    def facts(self, **more: str) -> dict[str, str]:
        told = {"agent": self.agent.id, "name": self.agent.name, "version": self.agent.version} | more
        return {key: value for key, value in told.items() if value}


class Attendance:
    """On the event loop's thread only."""

    def __init__(
        self,
        store: Store,
        teller: Teller,
        clock: Clock,
        *,
        grace: float,
        lost_after: float,
        lost: Callable[[str], None],
    ) -> None:
        """grace, lost_after: seconds (quell.controller.own_settings). lost: told of an agent that is away for too long."""
        self._store = store
        self._teller = teller
        self._clock = clock
        self._lost_after = lost_after
        self._lost = lost
        now = clock()
        self._grace_ends = now + grace
        self._closing = False
        self._known = {agent.id: _Attending(agent, now) for agent in store.read(stored_agents.all_of)}
        #: Those of which something is still to be told.
        self._behind: dict[str, None] = {
            identifier: None for identifier, one in self._known.items() if one.told is Told.CONNECTED
        }

    def start(self) -> None:
        for one in self._known.values():
            if one.agent.enrolled > self._clock() - _RECENT:
                self._tell_join(one)

    def close(self) -> None:
        """Links that end from here on are ended by the controller."""
        self._closing = True

    def number(self, agent: str) -> int:
        """How often something was told of it: another one each time it comes back."""
        one = self._known.get(agent)
        return 0 if one is None else one.number

    def covering(self) -> dict[str, int]:
        """Agents whose containers counted as secured when the controller stopped, with their numbers."""
        return {
            identifier: one.number
            for identifier, one in self._known.items()
            if one.told not in {Told.NOTHING, Told.LOST} and "quarantine" in one.agent.capabilities
        }

    # ---- what happens

    def joined(self, agent: str) -> None:
        """It has enrolled."""
        one = self._one(agent)
        if one is not None:
            self._tell_join(one)

    def connected(self, hello: Hello) -> None:
        one = self._one(hello.agent)
        if one is None:
            return
        one.away, one.why = None, ""
        before = one.agent.instance
        one.agent = msgspec.structs.replace(one.agent, version=hello.version, capabilities=hello.capabilities)
        if hello.instance and hello.instance != before:
            one.agent = msgspec.structs.replace(one.agent, instance=hello.instance)
            self._tell_start(one, hello)
        self._catch_up(one)

    def leaving(self, agent: str, reason: str) -> None:
        """It says that it stops."""
        one = self._known.get(agent)
        if one is not None and self._may(one):
            self._turn(one, Told.STOPPED)
            self._teller.tell(
                "Enforcer.Stop",
                one.subject,
                f"{one.title} stopped: {reason or 'it does not say why'}",
                identifier=f"{agent}/stop/{one.agent.instance or one.number}",
                facts=one.facts(reason=reason),
                done=partial(self._keep, agent, one.told, one.number, one.agent.instance),
            )

    def disconnected(self, agent: str, why: str) -> None:
        one = self._known.get(agent)
        if one is not None and not self._closing:
            one.away, one.why = self._clock(), why
            self._catch_up(one)

    def withdrawn(self, agent: str, why: str) -> None:
        """Its enrolment has ended."""
        one = self._known.pop(agent, None)
        self._behind.pop(agent, None)
        if one is not None:
            self._teller.tell(
                "Enforcer.Kicked",
                one.subject,
                f"the enrolment of {one.title} was withdrawn: {why}",
                identifier=f"{agent}/kicked",
                facts=one.facts(reason=why),
            )

    def tick(self) -> None:
        """About once a second."""
        now = self._clock()
        for identifier in list(self._behind):
            self._catch_up(self._known[identifier])
        for identifier, one in self._known.items():
            away = one.away is not None and now - one.away >= self._lost_after
            if away and one.told not in {Told.NOTHING, Told.LOST} and identifier not in self._behind:
                self._lost(identifier)
                one.told = Told.LOST
                self._keep(identifier, one.told, one.number, one.agent.instance)

    # ---- telling

    def _catch_up(self, one: _Attending) -> None:
        """Tell where the agent is now, if that is not what was told last."""
        now, identifier = self._clock(), one.agent.id
        here = one.away is None
        if here == (one.told is Told.CONNECTED):
            self._behind.pop(identifier, None)
            return
        if (not here and now < self._grace_ends and not one.why) or not self._may(one):
            self._behind[identifier] = None
            return
        self._behind.pop(identifier, None)
        missed, one.missed = one.missed, 0
        self._turn(one, Told.CONNECTED if here else Told.DISCONNECTED)
        often = f", after {missed} more changes in ten minutes" if missed else ""
        if here:
            version = f", version {one.agent.version}" if one.agent.version else ""
            name, message = "Enforcer.Connect", f"{one.title} is connected{version}{often}"
            facts = one.facts()
        else:
            why = one.why or "it has not come back since the controller started"
            name, message = "Enforcer.Disconnect", f"{one.title} is not connected any more{often}: {why}"
            facts = one.facts(reason=why)
        self._teller.tell(
            name,
            one.subject,
            message,
            identifier=f"{identifier}/{'connect' if here else 'disconnect'}/{one.number}",
            facts=facts,
            done=partial(self._keep, identifier, one.told, one.number, one.agent.instance),
        )

    def _tell_start(self, one: _Attending, hello: Hello) -> None:
        if self._may(one):
            self._teller.tell(
                "Enforcer.Start",
                one.subject,
                f"{one.title} started, version {hello.version}",
                identifier=f"{hello.agent}/start/{hello.instance}",
                facts=one.facts(boot_id=hello.boot_id),
                done=partial(self._keep, hello.agent, one.told, one.number, hello.instance),
            )

    def _tell_join(self, one: _Attending) -> None:
        self._teller.tell(
            "Enforcer.Join",
            one.subject,
            f"{one.title} enrolled",
            identifier=f"{one.agent.id}/join",
            time=one.agent.enrolled,
            facts=one.facts(),
        )

    def _may(self, one: _Attending) -> bool:
        """One more telling fits into the agent's window. Otherwise it is counted."""
        now = self._clock()
        while one.stamps and one.stamps[0] <= now - _WINDOW:
            one.stamps.popleft()
        if len(one.stamps) < _MOST:
            one.stamps.append(now)
            return True
        one.missed += 1
        return False

    def _turn(self, one: _Attending, told: Told) -> None:
        one.told = told
        one.number += 1

    def _one(self, agent: str) -> _Attending | None:
        one = self._known.get(agent)
        if one is None:
            found = self._store.read(lambda connection: stored_agents.get(connection, agent))
            if found is None:
                return None
            one = self._known[agent] = _Attending(found, self._clock())
        return one

    def _keep(self, agent: str, told: Told, number: int, instance: str) -> None:
        """Not before the event is on disk: what a crash takes is told again, under the same id."""

        def write(connection: sqlite3.Connection) -> None:
            found = stored_agents.get(connection, agent)
            if found is not None:
                told_now = msgspec.structs.replace(found, told=told.value, tellings=number, instance=instance)
                stored_agents.put(connection, told_now)

        self._store.write(write, _unsaved)


def _unsaved(error: StoreError | None) -> None:
    if error is not None:
        _log.error("what was told of an agent could not be saved", error=str(error))
