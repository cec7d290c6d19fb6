"""The agents' end of the line: a bare ASGI WebSocket at /v1/agents/link. DESIGN, the agent link; SEMANTICS 8 and 9.

An agent dials, proves the key it enrolled with, and from then on reports events of its own machine and the outcomes of
its commands. One link an agent: a newer one replaces the older.
"""

from __future__ import annotations

import asyncio
import os
import re
import types
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Generator, Sequence
from typing import Any, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quell import faults
from quell.api.asgi import Message, Receive, Scope, Send, peer
from quell.channel.envelope import check_proof
from quell.channel.messages import (
    HANDSHAKE_TIMEOUT,
    MAX_FRAME,
    SUBPROTOCOL,
    Announced,
    Challenge,
    EventAck,
    Evidence,
    EvidencePiece,
    FromAgent,
    FromController,
    Hello,
    Isolated,
    Leaving,
    Observations,
    Observed,
    Ordered,
    Proof,
    Refused,
    Rehearsed,
    Reported,
    Seen,
    Welcome,
    decode_from_agent,
    encode,
)
from quell.controller.dispatcher import Dispatcher
from quell.controller.evidence import EvidenceKeeper
from quell.controller.rehearsing import Rehearsals
from quell.detectors import DETECTORS
from quell.errors import EventError, LinkError, QueueFull, StoreError
from quell.ids import uuid7
from quell.model.event import Event
from quell.storage import agents
from quell.storage.records import Reject
from quell.storage.store import Store

#: Close codes (RFC 6455: 1008 policy, 1011 our fault; 4000 to 4999 are an application's own).
REFUSED, FAULT, REPLACED, TOO_SLOW = 1008, 1011, 4001, 4002

#: Events of one agent that wait to be decided; the link is not read while there are more.
_WAITING_EVENTS = 64
#: Evidence of one agent that waits to be written; the link is not read while there is more.
_WAITING_EVIDENCE = 8
#: Messages that wait to be sent to one agent; one that reads no faster is cut off, and dials again.
_WAITING_MESSAGES = 50_000
#: Seconds between two tries while the store cannot write.
_STORE_PAUSE = 1.0
_CHALLENGE_BYTES = 32
#: Characters kept of why an agent stops.
_REASON = 200
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_log = structlog.get_logger(__name__)


class Controller(Protocol):
    """What the link needs of quell.controller.controller.Controller."""

    @property
    def store(self) -> Store: ...

    @property
    def dispatcher(self) -> Dispatcher: ...

    @property
    def evidence(self) -> EvidenceKeeper: ...

    @property
    def rehearsals(self) -> Rehearsals: ...

    def ingest(self, events: Sequence[Event]) -> Awaitable[None]: ...

    async def reject(self, rejects: Sequence[Reject]) -> None: ...

    def agent_connected(self, hello: Hello) -> None: ...

    def agent_leaving(self, hello: Hello, reason: str) -> None: ...

    def agent_disconnected(self, agent_id: str, why: str) -> None: ...

    def sighted(self, hello: Hello, seen: Seen) -> None: ...

    def told_of_isolation(self, hello: Hello, isolated: Isolated) -> None: ...

    def observed(self, hello: Hello, told: Observations) -> int: ...


class AgentLinks:
    """The ASGI application, and the links that are up."""

    def __init__(
        self,
        controller: Controller,
        *,
        clock: Callable[[], float],
        welcome: Callable[[], Welcome] = Welcome,
    ) -> None:
        """welcome: what each agent is told at the start of its link."""
        self._controller = controller
        self._clock = clock
        self._welcome = welcome
        self._links: dict[str, _Link] = {}
        #: Of the authority that agents shall trust, for their join tokens; "": there is none to tell.
        self.fingerprint = ""
        #: Links and events that were refused, by reason.
        self.refused: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from the handshake to its end."""
        await receive()  # websocket.connect
        if SUBPROTOCOL not in scope.get("subprotocols", ()):
            self.refused["subprotocol"] += 1
            await send({"type": "websocket.close", "code": REFUSED, "reason": f"expected subprotocol {SUBPROTOCOL}"})
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        try:
            hello = await self._handshake(receive, send)
        except LinkError as error:
            self.refused["handshake"] += 1
            _log.warning("an agent's link was refused", peer=peer(scope), reason=str(error))
            await _refuse(send, str(error))
            return
        except _Gone:
            return
        link = _Link(hello, receive, send, controller=self._controller, clock=self._clock, refused=self.refused)
        await self._serve(link, peer(scope))

    def close(self, agent: str, reason: str) -> None:
        """End an agent's link, if it has one: its enrolment was withdrawn, for instance."""
        if (link := self._links.get(agent)) is not None:
            link.end(REFUSED, reason)

    def tell(self, message: FromController, nodes: Collection[str] | None = None) -> None:
        """Send a message to every agent whose link is up; nodes: only to those of these machines."""
        for link in self._links.values():
            if nodes is None or link.hello.node in nodes:
                link.send(message)

    def connected(self) -> list[str]:
        """Ids of the agents whose link is up."""
        return list(self._links)

    async def _handshake(self, receive: Receive, send: Send) -> Hello:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                hello = await _read(receive)
                if not isinstance(hello, Hello):
                    raise LinkError("expected Hello first")
                nonce = os.urandom(_CHALLENGE_BYTES)
                await send(_frame(Challenge(nonce=nonce)))
                proof = await _read(receive)
                if not isinstance(proof, Proof):
                    raise LinkError("expected Proof after the challenge")
        except TimeoutError as error:
            raise LinkError(f"no complete handshake within {HANDSHAKE_TIMEOUT:g} s") from error
        enrolled = self._controller.store.read(lambda connection: agents.get(connection, hello.agent))
        if enrolled is None:
            raise LinkError(f"agent {hello.agent!r} is not enrolled")
        check_proof(proof.signature, nonce, hello.agent, Ed25519PublicKey.from_public_bytes(enrolled.public_key))
        # Else one stolen key could draw another machine's commands to itself.
        if (hello.node, hello.machine_id) != (enrolled.node, enrolled.machine_id):
            raise LinkError(
                f"agent {hello.agent} enrolled as node {enrolled.node}, machine {enrolled.machine_id}, "
                f"and now says {hello.node}, {hello.machine_id}: enrol it anew"
            )
        return hello

    async def _serve(self, link: _Link, address: str) -> None:
        agent = link.hello.agent
        if (older := self._links.get(agent)) is not None:
            older.end(REPLACED, "replaced by a newer link of the same agent")
        self._links[agent] = link
        link.send(self._welcome())
        self._controller.agent_connected(link.hello)
        self._controller.dispatcher.connected(agent, link)
        _log.info("agent connected", agent=agent, node=link.hello.node, peer=address, limits=link.hello.limits)
        why = "the controller ended it"
        try:
            why = await link.run()
        finally:
            self._controller.dispatcher.disconnected(agent, link)
            if self._links.get(agent) is link:
                del self._links[agent]
                self._controller.agent_disconnected(agent, why)
        _log.info("agent disconnected", agent=agent, node=link.hello.node, reason=why)


class _Gone(Exception):
    """The other end closed the connection."""


class _Begun:
    """A message that is being sent and found the connection full: it waits for this."""

    def __init__(self, sending: Coroutine[Any, Any, None], waits_for: object) -> None:
        self._sending = sending
        self._waits_for = waits_for

    @types.coroutine
    def rest(self) -> Generator[object, Any, None]:
        yield self._waits_for
        yield from self._sending


class _Link:
    """One agent's connection after its handshake."""

    def __init__(
        self,
        hello: Hello,
        receive: Receive,
        send: Send,
        *,
        controller: Controller,
        clock: Callable[[], float],
        refused: Counter[str],
    ) -> None:
        self.hello = hello
        self._receive = receive
        self._asgi_send = send
        self._controller = controller
        self._clock = clock
        self._refused = refused
        self._out: asyncio.Queue[FromController | _Begun] = asyncio.Queue()
        #: Whatever was to be sent is, and the connection takes more.
        self._is_idle = False
        self._observed: asyncio.Queue[Observed] = asyncio.Queue(_WAITING_EVENTS)
        self._evidence: asyncio.Queue[Evidence | EvidencePiece] = asyncio.Queue(_WAITING_EVIDENCE)
        self._ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def send(self, message: FromController) -> None:
        """Queue a message; see quell.controller.dispatcher.Link. An order is on its way at once if nothing waits before it."""
        if self._out.qsize() >= _WAITING_MESSAGES:
            self.end(TOO_SLOW, "the agent does not read what it is sent")
        elif self._is_idle and self._out.empty() and isinstance(message, Ordered | Announced):
            self._send_at_once(message)
        else:
            self._out.put_nowait(message)

    def _send_at_once(self, message: Ordered | Announced) -> None:
        """Without a task, which would have its turn later. One that finds the connection full is left to the task."""
        sending = self._sent(message)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        except (OSError, RuntimeError) as error:
            # The connection has ended, which whoever reads it is about to learn.
            _log.debug("an order could not be sent", agent=self.hello.agent, reason=str(error))
            return
        self._is_idle = False
        self._out.put_nowait(_Begun(sending, waits_for))

    def end(self, code: int, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result((code, reason))

    async def run(self) -> str:
        """Serve the link until it ends; why it did."""
        work = [asyncio.create_task(step()) for step in (self._reading, self._sending, self._taking, self._keeping)]
        try:
            waited: list[asyncio.Future[Any]] = [*work, self._ended]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            results = await asyncio.gather(*work, return_exceptions=True)
            self._is_idle = False
            self._controller.evidence.lost(self.hello.agent)
        faults_found = [error for error in results if isinstance(error, Exception)]
        if self._ended.done():
            code, reason = self._ended.result()
        elif any(isinstance(error, _Gone | OSError) for error in faults_found):
            return "the agent closed the connection"
        elif faults_found and isinstance(faults_found[0], LinkError):
            code, reason = REFUSED, str(faults_found[0])
            self._refused["frame"] += 1
        else:
            _log.error("an agent's link failed", agent=self.hello.agent, exc_info=faults_found[0])
            code, reason = FAULT, "the controller failed; see its log"
        await _refuse(self._asgi_send, reason, code)
        return reason

    async def _reading(self) -> None:
        while True:
            match await _read(self._receive):
                case Observed() as observed:
                    await self._observed.put(observed)
                case Reported(outcome=outcome):
                    self._controller.dispatcher.reported(self.hello.agent, outcome)
                case Rehearsed() as rehearsed:
                    self._controller.rehearsals.answered(self.hello.agent, rehearsed)
                case (Evidence() | EvidencePiece()) as evidence:
                    await self._evidence.put(evidence)
                case Seen() as seen:
                    self._controller.sighted(self.hello, seen)
                case Observations() as told:
                    self._refused["observation"] += self._controller.observed(self.hello, told)
                case Leaving(reason=reason):
                    self._controller.agent_leaving(self.hello, reason[:_REASON])
                case Isolated() as isolated:
                    self._controller.told_of_isolation(self.hello, isolated)
                case other:
                    raise LinkError(f"{type(other).__name__} after the handshake")

    async def _sending(self) -> None:
        while True:
            self._is_idle = self._out.empty()
            message = await self._out.get()
            self._is_idle = False
            if isinstance(message, _Begun):
                await message.rest()
            else:
                await self._sent(message)

    async def _sent(self, message: FromController) -> None:
        if isinstance(message, Ordered):
            faults.point("outbox.before-send")
        await self._asgi_send(_frame(message))
        if isinstance(message, Ordered):
            faults.point("outbox.after-send")

    async def _keeping(self) -> None:
        """One after the other: the next piece is asked for once the one before is on disk."""
        while True:
            came = await self._evidence.get()
            try:
                answer = await self._controller.evidence.take(self.hello, came)
            except StoreError as error:
                # It is not acknowledged, so it comes again with the next link.
                _log.error("evidence could not be written", agent=self.hello.agent, error=str(error))
                continue
            if answer is not None:
                self.send(answer)

    async def _taking(self) -> None:
        """Whatever has come while the last events were written is decided and written together."""
        while True:
            batch = [await self._observed.get()]
            while not self._observed.empty():
                batch.append(self._observed.get_nowait())
            await self._take(batch)

    async def _take(self, batch: Sequence[Observed]) -> None:
        events: list[Event] = []
        rejects: list[Reject] = []
        now = self._clock()
        for observed in batch:
            try:
                events.append(self._event(observed, now))
            except EventError as error:
                self._refused["event"] += 1
                rejects.append(self._reject(observed, error, now))
        while True:
            try:
                if rejects:
                    await self._controller.reject(rejects)
                    rejects = []
                if events:
                    await self._controller.ingest(events)
                break
            except QueueFull as error:
                await asyncio.sleep(error.retry_after)
            except StoreError as error:
                _log.error("an agent's events cannot be written yet", agent=self.hello.agent, error=str(error))
                await asyncio.sleep(_STORE_PAUSE)
        self.send(EventAck(ids=tuple(observed.id for observed in batch)))

    def _event(self, observed: Observed, now: float) -> Event:
        """The event an agent saw. EventError: it is none, or is about another machine than the agent's own."""
        if not _UUID.fullmatch(observed.id):
            # A chosen id could be that of an event to come, which would then be taken for a repetition.
            raise EventError(f"expected a UUID as the event's id, got {observed.id[:64]!r}")
        # Received is when the controller took it in: an agent's clock could make a stale event fresh.
        event = DETECTORS["sensor"].decode(observed.raw, id=observed.id, received=now)
        subject, hello = event.subject, self.hello
        if subject.node is None and subject.machine_id is None:
            raise EventError(f"the event names no machine; agent {hello.agent} may report about its own")
        for mine, named in ((hello.node, subject.node), (hello.machine_id, subject.machine_id)):
            if named is not None and named != mine:
                raise EventError(f"agent {hello.agent} is {mine} and may not report about {named}")
        return event

    def _reject(self, observed: Observed, error: EventError, now: float) -> Reject:
        _log.warning("an agent's event was refused", agent=self.hello.agent, reason=str(error))
        return Reject(
            id=uuid7(),
            time=now,
            source="sensor",
            reason=str(error),
            position=error.position,
            raw=observed.raw,
            peer=f"agent {self.hello.agent}",
        )


async def _read(receive: Receive) -> FromAgent:
    """The next message. LinkError for a frame that is none; _Gone when the connection has ended."""
    message = await receive()
    if message["type"] != "websocket.receive":
        raise _Gone
    frame = message.get("bytes")
    if frame is None:
        raise LinkError("expected a binary frame, got a text frame")
    if len(frame) > MAX_FRAME:
        raise LinkError(f"a frame of {len(frame)} bytes, at most {MAX_FRAME} are taken")
    return decode_from_agent(frame)


def _frame(message: FromController) -> Message:
    return {"type": "websocket.send", "bytes": encode(message)}


async def _refuse(send: Send, reason: str, code: int = REFUSED) -> None:
    """Say why, then close. A close frame has room for 123 bytes (RFC 6455 section 5.5)."""
    try:
        await send(_frame(Refused(reason=reason)))
        await send({"type": "websocket.close", "code": code, "reason": reason.encode()[:120].decode(errors="ignore")})
    except OSError:
        return
