"""What the control plane tells of itself: the catalogue's User.* and RESTful.* events, and the audit log of refusals.

The events take the path of any other, so rules and webhooks see them. What a stranger can cause without end is counted
and told at most twice a minute and key. What a password may have been typed into, such as an unknown user's name, is
never repeated.
"""

from __future__ import annotations

from typing import Protocol

import structlog
from msgspec import Struct

from quell.clock import Clock
from quell.controller.telling import Teller
from quell.errors import StoreError
from quell.model.audit import Actor, AuditEntry
from quell.model.subject import Subject
from quell.storage import audit
from quell.storage.store import Store
from quell.tally import Tally

#: Seconds over which refusals are counted together, and reads.
_REFUSALS, _READS = 60.0, 600.0
_DAY = 86_400.0
#: In place of a name that no user has.
NOBODY = "(unknown)"

_log = structlog.get_logger(__name__)


class Controller(Protocol):
    """What this needs of quell.controller.controller.Controller."""

    @property
    def store(self) -> Store: ...

    @property
    def teller(self) -> Teller: ...

    def tell_following(self, name: str, subject: Subject, message: str, delivery: str) -> None: ...


class Asked(Struct, frozen=True):
    """Who asked for what: what refusals and reads are counted by."""

    actor: Actor
    role: str
    what: str


class Failed(Struct, frozen=True):
    """Whose login was refused, and why where that is no secret: what refused logins are counted by."""

    actor: Actor
    reason: str = ""


#: Where there are too many to tell apart.
_OTHERS = Asked(Actor(kind="user", name=NOBODY), "", "")


class Told:
    """On the event loop's thread only."""

    def __init__(self, controller: Controller, now: Clock) -> None:
        self._controller = controller
        self._now = now
        self._failed: Tally[Failed] = Tally(_REFUSALS, others=Failed(_OTHERS.actor))
        self._denied: Tally[Asked] = Tally(_REFUSALS, others=_OTHERS)
        self._read: Tally[Asked] = Tally(_READS, others=_OTHERS)

    def event(self, name: str, user: str, message: str, *, identifier: str = "") -> None:
        """Queued at once, so that it stands before what is asked next. identifier: derived from what it tells of."""
        self._controller.teller.tell(name, Subject(user=user or None), message, identifier=identifier, time=self._now())

    def failed(self, name: str, address: str, reason: str = "") -> None:
        """A login that was refused. name "": of nobody known. reason: in our own words, with nothing of the caller's."""
        failed = Failed(Actor(kind="user", name=name or NOBODY, address=address), reason)
        if (first := self._failed.add(failed, self._now(), told=True)) is not None:
            self._tell_failed(first, 1)

    def doubtful(self, user: str) -> None:
        """Somebody logged in with a password that would not be accepted any more: told once a day, and not why."""
        day = int(self._now() // _DAY)
        message = f"the password of {user} would not be accepted any more: it should be changed"
        self.event("User.Password.Alert", user, message, identifier=f"user/{user}/password/{day}")

    def denied(self, actor: Actor, role: str, method: str, path: str) -> None:
        """Somebody known asked for what they may not do."""
        asked = Asked(actor, role, f"{method} {path}")
        if self._denied.add(Asked(actor, role, ""), self._now(), told=True) is not None:
            self._tell_denied(asked, 1)

    def wrote(self, actor: Actor, method: str, path: str, delivery: str = "") -> None:
        """delivery: the id of the webhook's delivery that asked; "": no webhook did."""
        message = f"{method} {path} by {actor}{_from(actor)}"
        self._controller.tell_following("RESTful.Write", Subject(user=_who(actor)), message, delivery)

    def read(self, actor: Actor) -> None:
        """Told when the window is over, with how often."""
        self._read.add(Asked(actor, "", ""), self._now(), told=False)

    def due(self) -> None:
        """Tell what was counted in windows that are over. Call it now and then."""
        now = self._now()
        for failed, count in self._failed.due(now):
            self._tell_failed(failed, count)
        for asked, count in self._denied.due(now):
            self._tell_denied(asked, count)
        for asked, count in self._read.due(now):
            actor = asked.actor
            self.event("RESTful.Read", _who(actor), f"{_times(count, 'read')} by {actor}{_from(actor)} in ten minutes")

    def _tell_failed(self, failed: Failed, count: int) -> None:
        actor = failed.actor
        who = "an unknown user" if actor.name == NOBODY else actor.name
        told, why = _times(count, "login"), f": {failed.reason}" if failed.reason else ""
        self.event("User.Login.Failed", actor.name, f"{told} as {who}{_from(actor)} refused{why}")
        entry = AuditEntry(actor=actor, verb="login-failed", kind="session", name=actor.name, note=f"{told}{why}")
        now = self._now()
        self._controller.store.write(lambda connection: audit.append(connection, entry, now), _unwritten)

    def _tell_denied(self, asked: Asked, count: int) -> None:
        actor = asked.actor
        what = f": {asked.what}" if asked.what else ""
        message = f"{_times(count, 'request')} of {actor} ({asked.role}){_from(actor)} refused{what}"
        self.event("User.Resource.Access.Denied", _who(actor), message)


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
