"""Events that the agent itself sends, in the native format (docs/event-format.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from msgspec import Struct

from quell.ids import uuid7
from quell.model.event import Category, Kind, Level
from quell.model.subject import Subject

_encoder = msgspec.json.Encoder()
_NOTICE_SECONDS = 60.0
#: Of what people should know of the agent: what an attacker may be behind.
_INCIDENTS = frozenset({"Agent.Command.Refused"})

#: Takes an event's id and its native JSON.
Emit = Callable[[str, bytes], None]


class _Details(Struct, frozen=True):
    message: str


class _Native(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    time: float
    category: Category
    name: str
    level: Level
    kind: Kind | None = None
    subject: Subject
    details: _Details


def incident(name: str, time: float, subject: Subject, message: str) -> tuple[str, bytes]:
    """Id and native JSON of a suspicion; time is when it happened, epoch seconds."""
    return _encode(name, time, subject, message, Kind.INCIDENT)


def _encode(name: str, time: float, subject: Subject, message: str, kind: Kind | None = None) -> tuple[str, bytes]:
    identity = uuid7()
    event = _Native(
        id=identity,
        time=time,
        category=Category.EVENT if kind is None else Category.SECURITY_EVENT,
        name=name,
        level=Level.WARNING,
        kind=kind,
        subject=subject,
        details=_Details(message),
    )
    return identity, _encoder.encode(event)


class Notices:
    """What people should know of the agent itself, such as lost events: counted, said at most once a minute a name.

    Runs on the event loop's thread. No timer stands while nothing happens.
    """

    def __init__(self, machine: Subject, emit: Emit, clock: Callable[[], float]) -> None:
        self._machine = machine
        self._emit = emit
        self._clock = clock
        self._untold: dict[str, tuple[int, str]] = {}
        self._resting: set[str] = set()

    def note(self, name: str, message: str, count: int = 1) -> None:
        """Count one more, or more. The message is a sentence with one {count}; the latest is used."""
        before, _ = self._untold.get(name, (0, ""))
        self._untold[name] = (before + count, message)
        if name not in self._resting:
            self._tell(name)

    def _tell(self, name: str) -> None:
        if name not in self._untold:
            self._resting.discard(name)
            return
        count, message = self._untold.pop(name)
        self._resting.add(name)
        asyncio.get_running_loop().call_later(_NOTICE_SECONDS, self._tell, name)
        kind = Kind.INCIDENT if name in _INCIDENTS else None
        self._emit(*_encode(name, self._clock(), self._machine, message.format(count=count), kind))
