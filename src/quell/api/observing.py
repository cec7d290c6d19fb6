"""Taking observations in: POST /v1/observations, bare ASGI, for what watches workloads beside the agents.

They are not journaled: 202 says that they are to be compared, and how many of them. What is no observation is reported
with its number and reason; the good ones of the same request are taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from quell.api.asgi import Receive, Scope, Send, header, respond
from quell.api.auth import Auth, Caller
from quell.api.batch import split
from quell.api.binding import OutOfBinding, check
from quell.api.given import given
from quell.api.ingest import Rejected
from quell.api.problem import Refusal, refusal, unforeseen
from quell.api.unpack import Disconnected, read_body, unpack
from quell.detectors.observation import read_observation
from quell.errors import EventError, QuellError
from quell.model.observation import Observation
from quell.settings import Ingest as Limits

PATH = "/v1/observations"
#: The detector whose word they are: a token that is bound to detectors must be bound to this one too.
_ORIGIN = "native"
#: Observations that are read in one go; some milliseconds' work.
_TURN = 200
_HEADERS = [(b"content-type", b"application/json")]

_log = structlog.get_logger(__name__)


class Controller(Protocol):
    """What taking observations in needs of quell.controller.controller.Controller."""

    def observe(self, observations: Sequence[Observation], *, origin: str, sender: str) -> None: ...


class Taken(Struct, frozen=True, kw_only=True):
    """The answer: how many are to be compared, and what was no observation."""

    taken: int
    rejected: list[Rejected]


_encode = msgspec.json.Encoder().encode


class Observing:
    """The ASGI application of PATH, POST only."""

    def __init__(self, controller: Controller, auth: Auth, limits: Limits) -> None:
        self._controller = controller
        self._auth = auth
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._take(scope, receive)
        except Disconnected:
            return
        except QuellError as error:
            await refusal(error).send(send)
            return
        except Exception:  # noqa: BLE001 - the edge: whatever went wrong, the sender gets an answer in the one shape
            _log.exception("a request failed", path=scope["path"])
            await unforeseen().send(send)
            return
        await respond(send, 202, body, _HEADERS)

    async def _take(self, scope: Scope, receive: Receive) -> bytes:
        caller = self._auth.sender(scope)
        binding = caller.binding
        if binding is not None and binding.detectors and _ORIGIN not in binding.detectors:
            raise Refusal(
                403,
                f"token {caller.name} may send as {', '.join(binding.detectors)}; observations are sent as {_ORIGIN}",
            )
        if scope["query_string"]:
            given(scope["query_string"], frozenset())
        content_type, encoding = header(scope, b"content-type"), header(scope, b"content-encoding")
        sent = await read_body(scope, receive, self._limits.max_body)
        text = sent if encoding is None else await unpack(sent, encoding, self._limits.max_unpacked)
        batch = split(text, None if content_type is None else content_type.decode("latin-1"))
        found: list[Observation] = []
        rejected: list[Rejected] = []
        foreign = 0
        for number, line in batch.numbered():
            if number % _TURN == 0:
                await asyncio.sleep(0)
            try:
                found.append(self._read(line, caller))
            except EventError as error:
                foreign += isinstance(error, OutOfBinding)
                rejected.append(Rejected(line=number, reason=str(error), position=error.position))
        if rejected and not found:
            raise _nothing_taken(rejected, several=batch.several, forbidden=foreign == len(rejected))
        self._controller.observe(found, origin=_ORIGIN, sender=str(caller.actor))
        return _encode(Taken(taken=len(found), rejected=rejected))

    def _read(self, line: bytes, caller: Caller) -> Observation:
        if len(line) > self._limits.max_event:
            raise EventError(f"it has {len(line)} bytes, more than the {self._limits.max_event} that are taken")
        observation = read_observation(line)
        if caller.binding is not None:
            check(observation.subject, caller.binding, caller.name, "observation")
        return observation


def _nothing_taken(rejected: list[Rejected], *, several: bool, forbidden: bool) -> Refusal:
    """forbidden: all of them were refused because of whose token it is."""
    first = rejected[0]
    reason = first.reason
    if several:
        what = "may be sent with this token" if forbidden else "is an observation"
        reason = f"none of {len(rejected)} elements {what}; the first, element {first.line}: {first.reason}"
    return Refusal(403 if forbidden else 400, reason, more={"taken": 0, "rejected": rejected})
