"""The connection to the controller: dialled here, kept up, dialled again. quell.channel.messages has the order of talk.

What is sent while there is no connection is dropped: whoever sends keeps what matters until it is acknowledged, and
sends it again when told that the link is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from quell.agent.enrol import Address, Identity
from quell.channel.envelope import prove
from quell.channel.messages import (
    HANDSHAKE_TIMEOUT,
    MAX_FRAME,
    SUBPROTOCOL,
    Challenge,
    FromAgent,
    FromController,
    Hello,
    Leaving,
    Proof,
    Refused,
    Reported,
    Welcome,
    decode_from_controller,
    encode,
)
from quell.errors import LinkError
from quell.faults import point

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_PING_SECONDS = 15.0
_LEAVE_SECONDS = 1.0
#: Messages that wait for a slow connection before it is given up and dialled anew.
_MOST_WAITING = 10_000

_T = TypeVar("_T", bound=FromController)
_log = structlog.get_logger(__name__)


class Link:
    """Everything here runs on the event loop's thread."""

    def __init__(
        self,
        address: Address,
        identity: Identity,
        hello: Callable[[], Hello],
        on_welcome: Callable[[Welcome], None],
        on_message: Callable[[FromController], None],
        *,
        on_end: Callable[[], None] = lambda: None,
        more: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        """on_end: the link that was up no longer is. more: a frame to send when nothing else waits; see rouse."""
        self._address = address
        self._identity = identity
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_message = on_message
        self._on_end = on_end
        self._more = more
        self._waiting: deque[FromAgent] = deque()
        self._wake = asyncio.Event()
        self._connection: ClientConnection | None = None

    @property
    def is_up(self) -> bool:
        """Whether what is sent now goes anywhere."""
        return self._connection is not None

    def send(self, message: FromAgent) -> None:
        """Queue a message, in order. Never blocks."""
        if self._connection is None:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._connection.transport.abort()
            return
        self._waiting.append(message)
        self._wake.set()

    def rouse(self) -> None:
        """There is more to send."""
        if self._connection is not None:
            self._wake.set()

    async def leave(self, reason: str) -> None:
        """Say that this end stops, if it can be said at once; the link is not of use afterwards."""
        if self._connection is not None:
            with contextlib.suppress(OSError, WebSocketException):  # a timeout is an OSError
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._connection.send(encode(Leaving(reason=reason)))

    async def run(self) -> None:
        """Until cancelled. Raises LinkError only for what no new attempt can mend, such as an unreadable CA file."""
        context = self._address.context()
        pause = _FIRST_PAUSE
        while True:
            linked = None
            try:
                async with connect(
                    self._address.link,
                    ssl=context,
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    compression=None,
                    max_size=MAX_FRAME,
                    open_timeout=HANDSHAKE_TIMEOUT,
                    close_timeout=1.0,
                    ping_interval=_PING_SECONDS,
                    ping_timeout=_PING_SECONDS,
                    user_agent_header=None,
                    proxy=None,
                ) as connection:
                    welcome = await self._introduce(connection)
                    linked = monotonic()
                    await self._talk(connection, welcome)
            except (OSError, WebSocketException, LinkError) as error:
                if linked is not None and monotonic() - linked > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                # A timeout is an OSError. Half of the pause is left to chance, so that agents do not come back at once.
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
                _log.warning(
                    "not linked", url=self._address.link, reason=str(error) or "no answer", again_in=round(wait, 2)
                )
                await asyncio.sleep(wait)
                pause = min(_LONGEST_PAUSE, pause * 2)

    async def _introduce(self, connection: ClientConnection) -> Welcome:
        agent = self._identity.agent
        await connection.send(encode(self._hello()))
        challenge = await _expect(connection, Challenge)
        await connection.send(encode(Proof(signature=prove(challenge.nonce, agent, self._identity.key))))
        return await _expect(connection, Welcome)

    async def _talk(self, connection: ClientConnection, welcome: Welcome) -> None:
        self._connection = connection
        writer = asyncio.create_task(self._write(connection))
        try:
            _log.info("linked", url=self._address.link, agent=self._identity.agent, paused=welcome.paused)
            self._on_welcome(welcome)
            async for frame in connection:
                message = decode_from_controller(frame)
                if isinstance(message, Refused):
                    raise LinkError(f"ended by the controller: {message.reason}")
                self._on_message(message)
        finally:
            self._connection = None
            self._waiting.clear()
            writer.cancel()
            self._on_end()
        raise LinkError("the controller closed the link")

    async def _write(self, connection: ClientConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while True:
                if not self._waiting:
                    frame = self._more()
                    if frame is None:
                        break
                    await connection.send(frame)
                    continue
                message = self._waiting.popleft()
                is_report = isinstance(message, Reported)
                if is_report:
                    point("agent.before-report")
                await connection.send(encode(message))
                if is_report:
                    point("agent.after-report")


async def _expect(connection: ClientConnection, form: type[_T]) -> _T:
    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
        message = decode_from_controller(await connection.recv())
    if isinstance(message, Refused):
        raise LinkError(f"refused by the controller: {message.reason}")
    if not isinstance(message, form):
        raise LinkError(f"expected {form.__name__}, got {type(message).__name__}")
    return message
