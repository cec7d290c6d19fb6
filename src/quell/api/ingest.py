"""Taking events in: POST /v1/events and POST /v1/events/<detector>, bare ASGI.

An event is acknowledged (202, with ids) only when it and its decision are on disk. What is no event is reported with
its number and reason and kept in the list of rejects; the good ones of the same request are taken. If none is good the
answer is 400 with the same list.

A detector of documents (quell.detectors.Divided) cuts each of them into events first, and takes as parameters of the
query what its documents do not say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from msgspec import Struct
from prometheus_client import Counter

from quell.api.asgi import Receive, Scope, Send, header, peer, respond
from quell.api.auth import Auth, Caller
from quell.api.batch import Batch, split
from quell.api.binding import Bound, OutOfBinding, check, implied
from quell.api.given import given
from quell.api.problem import Refusal, refusal, unforeseen
from quell.api.unpack import Disconnected, read_body, unpack
from quell.detectors import POSTED, Detector, Divided
from quell.detectors.context import NOTHING, Context, Part, Skipped
from quell.detectors.falco_observation import FALCO, MARK, read_alert
from quell.detectors.likeness import looks_like
from quell.errors import EventError, QuellError
from quell.ids import uuid7
from quell.model.event import Event
from quell.model.observation import Observation
from quell.settings import Ingest as Limits
from quell.storage.records import Reject

#: Path to detector: those that may be posted to. The others come over the agents' link or from Quell itself.
ROUTES: dict[str, Detector] = {
    "/v1/events" if name == "native" else f"/v1/events/{name}": detector for name, detector in POSTED.items()
}
#: Those of them whose documents are cut into events first.
DIVIDED = {path: detector for path, detector in ROUTES.items() if isinstance(detector, Divided)}
#: Parameters that a tool adds to its posts and that say nothing here: kube-apiserver, how long it waits for the answer.
_MEANINGLESS = {"/v1/events/k8s-audit": frozenset(("timeout",))}
#: Reasons for skipping that a receipt tells apart.
_MAX_REASONS = 100
#: Bytes of a reject that are kept in memory until it is written; the store keeps no more.
_KEPT_BYTES = 16 << 10
#: Bytes of a body above which documents are read in a thread, and how many bodies are at a time: each takes some times
#: its size in memory while it is read.
_LARGE = 1 << 18
_AT_ONCE = 2
#: Rejects of one request that are looked at for whose format they are in.
_GUESSED = 4
_HEADERS = [(b"content-type", b"application/json")]

TAKEN = Counter("quell_events_taken", "Events on disk with their decisions.", ["detector"])
REJECTED = Counter("quell_events_rejected", "Lines that were sent as events and are none.", ["detector"])
SKIPPED = Counter(
    "quell_events_skipped", "What was sent beside events and is none, such as logs of flows.", ["detector"]
)
REFUSED = Counter("quell_ingest_requests_refused", "Requests of which nothing was taken.", ["status"])
_TAKEN_BY = {detector.name: TAKEN.labels(detector.name) for detector in ROUTES.values()}

_log = structlog.get_logger(__name__)


class Controller(Protocol):
    """What taking events in needs of quell.controller.controller.Controller."""

    def ingest(self, events: Sequence[Event], text: bytes | None = None) -> Awaitable[None]: ...

    def observe(self, observations: Sequence[Observation], *, origin: str, sender: str) -> None: ...

    async def reject(self, rejects: Sequence[Reject]) -> None: ...


class Rejected(Struct, frozen=True, kw_only=True):
    """One element that is no event. line: its line, or its place in the array, from 1. position: byte offset in it."""

    line: int
    reason: str
    position: int | None = None


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer: ids of the events taken, in order, and what was not."""

    ids: list[str]
    rejected: list[Rejected]
    #: What was found in documents that is no event of Quell's and was left.
    notes: list[str] = []
    #: What was sent beside events and is none, such as logs of flows: how often, by reason.
    skipped: dict[str, int] = {}
    #: Of Falco: how many are observations, which are compared with policies and have no ids.
    observed: int = 0


class _Read(Struct):
    """What a request's body turned out to be."""

    events: list[Event] = []
    observations: list[Observation] = []
    rejects: list[Reject] = []
    notes: list[str] = []
    skipped: dict[str, int] = {}
    #: How many of the rejects are refused only because of whose token it is.
    foreign: int = 0

    def reject(self, scope: Scope, detector: Detector, number: int, error: EventError, raw: bytes) -> None:
        if isinstance(error, OutOfBinding):
            self.foreign += 1
        elif len(self.rejects) < _GUESSED:
            error = EventError(f"{error}{_hint(detector, raw)}", error.position)
        self.rejects.append(_reject(scope, detector, number, error, raw))


_encode = msgspec.json.Encoder().encode


class Ingest:
    """The ASGI application of the paths in ROUTES, POST only."""

    def __init__(self, controller: Controller, auth: Auth, limits: Limits) -> None:
        self._controller = controller
        self._auth = auth
        self._limits = limits
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._take(scope, receive)
        except Disconnected:
            return
        except QuellError as error:
            await _refuse(refusal(error), send)
            return
        except Exception:  # noqa: BLE001 - the edge: whatever went wrong, the sender gets an answer in the one shape
            _log.exception("a request failed", path=scope["path"])
            await _refuse(unforeseen(), send)
            return
        await respond(send, 202, body, _HEADERS)

    async def _take(self, scope: Scope, receive: Receive) -> bytes:
        path = scope["path"]
        detector, divided = ROUTES[path], DIVIDED.get(path)
        caller = self._auth.sender(scope)
        if caller.binding is not None:
            detector = Bound(detector, caller.binding, caller.name)
        query = scope["query_string"]
        context = NOTHING
        if divided is not None:
            context = given(query, divided.takes, _MEANINGLESS.get(path, frozenset())) if query else NOTHING
            if caller.binding is not None:
                context = implied(context, caller.binding, divided.takes)
        elif query:
            given(query, frozenset())
        content_type, encoding = header(scope, b"content-type"), header(scope, b"content-encoding")
        sent = await read_body(scope, receive, self._limits.max_body)
        text = sent if encoding is None else await unpack(sent, encoding, self._limits.max_unpacked)
        try:
            batch = split(
                text,
                None if content_type is None else content_type.decode("latin-1"),
                posted_files=divided is not None,
                whole=divided is not None and divided.is_report,
            )
        except Refusal as refused:
            if refused.status == 400:
                error = EventError(refused.detail, refused.more.get("position"))
                await self._keep([_reject(scope, detector, 0, error, text)])
            raise
        # From here to the store's queue nothing is awaited: ids made here stay in the order of the journal.
        if divided is None:
            found = _Read()
            if MARK in text and detector.name == FALCO:
                batch = self._watch(detector, batch, scope, caller, found)
            self._decode(detector, batch, scope, found)
        elif len(text) <= _LARGE:
            found = self._divide(detector, divided, batch, context, scope)
        else:
            async with self._places:
                found = await asyncio.to_thread(self._divide, detector, divided, batch, context, scope)
            found.events = [_renewed(event) for event in found.events]
        several, ids, observed = batch.several or len(found.rejects) > 1, [event.id for event in found.events], 0
        if found.observations:
            # Before any event is taken: if there is no room for them the whole request is refused.
            self._controller.observe(found.observations, origin=detector.name, sender=str(caller.actor))
            observed = len(found.observations)
        # Events cut out of a document are no lines of it.
        lines = text if divided is None else None
        written = self._controller.ingest(found.events, lines) if found.events else None
        # Until the commit nothing of the events is held here: thousands that wait would push each other out of the caches.
        found.events = []
        del batch, text, lines, sent
        if written is not None:
            await written
            _TAKEN_BY[detector.name].inc(len(ids))
        if found.rejects:
            await self._keep(found.rejects)
        if found.skipped:
            SKIPPED.labels(detector.name).inc(sum(found.skipped.values()))
        rejected = [Rejected(line=r.line, reason=r.reason, position=r.position) for r in found.rejects]
        if rejected and not ids and not observed and not found.skipped:
            raise _nothing_taken(several, rejected, found.notes, forbidden=found.foreign == len(rejected))
        return _encode(Receipt(ids=ids, rejected=rejected, notes=found.notes, skipped=found.skipped, observed=observed))

    def _watch(self, detector: Detector, batch: Batch, scope: Scope, caller: Caller, found: _Read) -> Batch:
        """The batch without what Falco saw of workloads, which is no event."""
        received, rest = time.time(), list(batch.elements)
        for number, line in batch.numbered():
            if len(line) > self._limits.max_event:
                continue  # refused below, whatever it is
            try:
                seen = read_alert(line, received=received)
                if isinstance(seen, Observation) and caller.binding is not None:
                    check(seen.subject, caller.binding, caller.name, "observation")
            except EventError as error:
                found.reject(scope, detector, number, error, line)
            else:
                if seen is None:
                    continue
                if isinstance(seen, Skipped):
                    found.skipped[seen.reason] = found.skipped.get(seen.reason, 0) + 1
                else:
                    found.observations.append(seen)
            rest[number - 1] = b""
        return Batch(rest, several=batch.several)

    def _decode(self, detector: Detector, batch: Batch, scope: Scope, found: _Read) -> None:
        """Each element is one event."""
        received = time.time()
        events = found.events
        largest, decode = self._limits.max_event, detector.decode
        for number, line in batch.numbered():
            try:
                if len(line) > largest:
                    raise EventError(f"the event has {len(line)} bytes, more than the {largest} that are taken")
                events.append(decode(line, id=None, received=received))
            except EventError as error:
                found.reject(scope, detector, number, error, line)

    def _divide(self, detector: Detector, divided: Divided, batch: Batch, context: Context, scope: Scope) -> _Read:
        """Each element is a document of several events."""
        received = time.time()
        found = _Read()
        largest = self._limits.max_report if divided.is_report else self._limits.max_event
        for number, document in batch.numbered():
            for part in self._parts(divided, document, context, largest):
                if isinstance(part, Skipped):
                    known = part.reason in found.skipped or len(found.skipped) < _MAX_REASONS
                    reason = part.reason if known else "other reasons"
                    found.skipped[reason] = found.skipped.get(reason, 0) + 1
                    continue
                if isinstance(part, str):
                    found.notes.append(f"element {number}: {part}" if batch.several else part)
                    continue
                try:
                    if isinstance(part, EventError):
                        raise part
                    found.events.append(detector.decode(part, id=None, received=received))
                except EventError as error:
                    found.reject(scope, detector, number, error, document if isinstance(part, EventError) else part)
        return found

    @staticmethod
    def _parts(divided: Divided, document: bytes, context: Context, largest: int) -> Iterator[Part]:
        if len(document) > largest:
            word = "report" if divided.is_report else "document"
            yield EventError(f"the {word} has {len(document)} bytes, more than the {largest} that are taken")
            return
        try:
            yield from divided.split(document, context)
        except EventError as error:
            yield error

    async def _keep(self, rejects: Sequence[Reject]) -> None:
        """For people to look at. The sender is told of them in any case."""
        REJECTED.labels(rejects[0].source).inc(len(rejects))
        try:
            await self._controller.reject(rejects)
        except QuellError as error:
            _log.error("rejects could not be kept", count=len(rejects), first=rejects[0].reason, error=str(error))


async def _refuse(refused: Refusal, send: Send) -> None:
    REFUSED.labels(str(refused.status)).inc()
    await refused.send(send)


def _reject(scope: Scope, detector: Detector, line: int, error: EventError, raw: bytes) -> Reject:
    return Reject(
        id=uuid7(),
        time=time.time(),
        source=detector.name,
        line=line,
        reason=str(error),
        position=error.position,
        raw=raw[:_KEPT_BYTES],
        peer=peer(scope),
    )


def _hint(detector: Detector, document: bytes) -> str:
    likely = looks_like(document)
    if likely in (None, detector.name) or likely not in POSTED:
        return ""
    path = "/v1/events" if likely == "native" else f"/v1/events/{likely}"
    return f"; this looks like {likely}'s format: post it to {path}, or send it with --from {likely}"


def _renewed(event: Event) -> Event:
    """With an id made now, so that ids stay in the order of the journal."""
    return event if event.id_given else msgspec.structs.replace(event, id=uuid7())


def _nothing_taken(several: bool, rejected: list[Rejected], notes: list[str], *, forbidden: bool) -> Refusal:
    """forbidden: all of them were refused because of whose token it is."""
    status = 403 if forbidden else 400
    more: dict[str, Any] = {"ids": [], "rejected": rejected}
    if notes:
        more["notes"] = notes
    if several:
        what = "may be sent with this token" if forbidden else "is an event"
        first = f"; the first, element {rejected[0].line}: {rejected[0].reason}"
        return Refusal(status, f"none of {len(rejected)} elements {what}{first}", more=more)
    only = rejected[0]
    return Refusal(status, only.reason, more=more if only.position is None else {**more, "position": only.position})
