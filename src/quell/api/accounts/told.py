"""What the control plane tells of itself: the catalogue's User.* and RESTful.* events, and the audit log of refusals.

The events take the path of any other, so rules and webhooks see them. What a stranger can cause without end is counted
and told at most twice a minute and key. What a password may have been typed into, such as an unknown user's name, is
never repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Protocol

import structlog
from msgspec import Struct

from quell.api.accounts.tally import Tally
from quell.clock import Clock
from quell.controller.own_events import own_event
from quell.errors import QueueFull, StoreError
from quell.ids import uuid7
from quell.model.audit import Actor, AuditEntry
from quell.model.event import Event
from quell.model.subject import Subject
from quell.storage import audit
from quell.storage.store import Store

#: Seconds over which refusals are counted together, and reads.
_REFUSALS, _READS = 60.0, 600.0
#: Events that wait for the journal to take them again.
_WAITING = 1000
#: In place of a name that no user has.
NOBODY = "(unknown)"

_log = structlog.get_logger(__name__)


class Controller(Protocol):
    """What this needs of quell.controller.controller.Controller."""

    @property
    def store(self) -> Store: ...

    def ingest(self, events: Sequence[Event]) -> Awaitable[None]: ...


class Asked(Struct, frozen=True):
    """Who asked for what: what refusals and reads are counted by."""

    actor: Actor
    role: str
    what: str


#: Where there are too many to tell apart.
_OTHERS = Asked(Actor(kind="user", name=NOBODY), "", "")


class Told:
    """On the event loop's thread only."""

    def __init__(self, controller: Controller, now: Clock) -> None:
        self._controller = controller
        self._now = now
        self._failed: Tally[Actor] = Tally(_REFUSALS, others=_OTHERS.actor)
        self._denied: Tally[Asked] = Tally(_REFUSALS, others=_OTHERS)
        self._read: Tally[Asked] = Tally(_READS, others=_OTHERS)
        self._waiting: deque[Event] = deque(maxlen=_WAITING)
        self._writing: set[asyncio.Future[None]] = set()

    def event(self, name: str, user: str, message: str, *, identifier: str = "") -> None:
        """Queued at once, so that it stands before what is asked next. identifier: derived from what it tells of."""
        now = self._now()
        self._ingest(own_event(identifier or uuid7(), name, Subject(user=user or None), message, now, now))

    def failed(self, name: str, address: str) -> None:
        """A login that was refused. name "": of nobody known."""
        actor = Actor(kind="user", name=name or NOBODY, address=address)
        if (first := self._failed.add(actor, self._now(), told=True)) is not None:
            self._tell_failed(first, 1)

    def denied(self, actor: Actor, role: str, method: str, path: str) -> None:
        """Somebody known asked for what they may not do."""
        asked = Asked(actor, role, f"{method} {path}")
        if self._denied.add(Asked(actor, role, ""), self._now(), told=True) is not None:
            self._tell_denied(asked, 1)

    def wrote(self, actor: Actor, method: str, path: str) -> None:
        self.event("RESTful.Write", _who(actor), f"{method} {path} by {actor}{_from(actor)}")

    def read(self, actor: Actor) -> None:
        """Told when the window is over, with how often."""
        self._read.add(Asked(actor, "", ""), self._now(), told=False)

    def due(self) -> None:
        """Tell what was counted in windows that are over, and again what could not be written. Call it now and then."""
        now = self._now()
        for actor, count in self._failed.due(now):
            self._tell_failed(actor, count)
        for asked, count in self._denied.due(now):
            self._tell_denied(asked, count)
        for asked, count in self._read.due(now):
            actor = asked.actor
            self.event("RESTful.Read", _who(actor), f"{_times(count, 'read')} by {actor}{_from(actor)} in ten minutes")
        for event in [self._waiting.popleft() for _ in range(len(self._waiting))]:
            self._ingest(event)

    def _tell_failed(self, actor: Actor, count: int) -> None:
        who = "an unknown user" if actor.name == NOBODY else actor.name
        told = _times(count, "login")
        self.event("User.Login.Failed", actor.name, f"{told} as {who}{_from(actor)} refused")
        entry = AuditEntry(actor=actor, verb="login-failed", kind="session", name=actor.name, note=told)
        now = self._now()
        self._controller.store.write(lambda connection: audit.append(connection, entry, now), _unwritten)

    def _tell_denied(self, asked: Asked, count: int) -> None:
        actor = asked.actor
        what = f": {asked.what}" if asked.what else ""
        message = f"{_times(count, 'request')} of {actor} ({asked.role}){_from(actor)} refused{what}"
        self.event("User.Resource.Access.Denied", _who(actor), message)

    def _ingest(self, event: Event) -> None:
        try:
            written = asyncio.ensure_future(self._controller.ingest([event]))
        except (QueueFull, StoreError):
            self._waiting.append(event)
            return

        def done(future: asyncio.Future[None]) -> None:
            self._writing.discard(future)
            if not future.cancelled() and (error := future.exception()) is not None:
                _log.error("an event of Quell's own could not be written yet", event=event.name, error=str(error))
                self._waiting.append(event)

        self._writing.add(written)
        written.add_done_callback(done)


def _unwritten(error: StoreError | None) -> None:
    if error is not None:
        _log.error("the audit log could not be written", error=str(error))


def _who(actor: Actor) -> str:
    """What an event names as its user: people by their names, all else by kind as well."""
    return actor.name if actor.kind == "user" else str(actor)


def _from(actor: Actor) -> str:
    return f" from {actor.address}" if actor.address else ""


def _times(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"
