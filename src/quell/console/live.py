"""Pages that stay current, by server-sent events: what is new is drawn once a second for all who look, and the bytes are
shared, so that a viewer more costs a write. docs/adr/0027.

A page that is live has parts (elements with data-part); a message has the HTML of each part that is to be replaced. Parts
are the same for everybody who may read: what only some may see or do belongs into the page, not into a part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog

from quell.api.asgi import Receive, Send
from quell.console.page import Parts

#: Seconds between two messages, and for how many viewers: for more there is one less often, so that they cost no more.
_TICK, _VIEWERS = 1.0, 50
#: Seconds between two looks at whether a viewer may still look; a comment is sent with each.
_LOOK = 15.0
#: A browser asks again after so many milliseconds when the stream ends.
_RETRY = 2000

_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]

_log = structlog.get_logger(__name__)


class Broadcast:
    """One page's messages, made while somebody looks. On the event loop's thread."""

    def __init__(self, name: str, parts: Parts) -> None:
        self._name = name
        self._parts = parts
        self._version = 0
        #: What is new in this version, and all parts: for who missed the one before.
        self._news = self._whole = b""
        self._viewers = 0
        #: Set once a tick, and another takes its place: a viewer costs a wake-up and a write, no timer of their own.
        self._ticked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def stream(self, receive: Receive, send: Send, may_look: Callable[[], bool]) -> None:
        """Until the viewer leaves, may look no more, or the controller stops. A viewer that is slow misses messages."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _write(send, f"retry: {_RETRY}\n\n".encode())
        leaving = asyncio.ensure_future(_left(receive))
        seen = self._enter()
        try:
            looked = time.monotonic()
            while not leaving.done() and not self._closed:
                due = time.monotonic() - looked >= _LOOK
                if due:
                    if not await asyncio.to_thread(may_look):
                        break
                    looked = time.monotonic()
                if self._version != seen:
                    message = self._news if self._version == seen + 1 else self._whole
                    seen = self._version
                    await _write(send, message)
                elif due:
                    await _write(send, b":\n\n")
                await self._ticked.wait()
        finally:
            leaving.cancel()
            self._leave()
        await send({"type": "http.response.body", "body": b""})

    def close(self) -> None:
        """Every stream ends."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._wake()

    def _enter(self) -> int:
        """The version that counts as seen: what was drawn for those before, if nobody looks any more."""
        self._viewers += 1
        if self._task is not None:
            return -1 if self._whole else self._version
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._version

    def _leave(self) -> None:
        self._viewers -= 1

    def _wake(self) -> None:
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    async def _run(self) -> None:
        """While there are viewers."""
        before: dict[str, str] = {}
        try:
            while self._viewers:
                try:
                    parts = dict(await self._parts())
                except Exception as error:  # noqa: BLE001 - the last boundary: the next second may go well
                    _log.error("a live page could not be drawn", page=self._name, exc_info=error)
                else:
                    fresh = {name: html for name, html in parts.items() if before.get(name) != html}
                    if fresh:
                        before = parts
                        self._news, self._whole = _message(fresh), _message(parts)
                        self._version += 1
                self._wake()
                await asyncio.sleep(_TICK * max(1.0, self._viewers / _VIEWERS))
        finally:
            self._task = None


def _message(parts: dict[str, str]) -> bytes:
    return b"data: " + msgspec.json.encode(parts) + b"\n\n"


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(send: Send, content: bytes) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": True})
