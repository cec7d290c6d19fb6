"""The few ASGI types and steps that the bare routes need. asgi.readthedocs.io, HTTP version 3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]


class Pages(Protocol):
    """What answers people: the console, which stands above the API."""

    def answers(self, path: str) -> bool: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that name (lower case); None if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def peer(scope: Scope) -> str:
    """The address of whoever is at the other end of the connection."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})
