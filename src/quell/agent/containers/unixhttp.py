"""GET over a Unix socket, HTTP/1.1: the little of it that a local API needs. One connection a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import httptools

from quell.errors import QuellError

_PIECE = 64 << 10
_SECONDS = 10.0


class HttpError(QuellError):
    """An answer that is no HTTP, or too long."""


class _Answer:
    """httptools calls these as it reads."""

    def __init__(self) -> None:
        self.headed = False
        self.ended = False
        self.body: list[bytes] = []

    def on_headers_complete(self) -> None:
        self.headed = True

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.ended = True

    def take(self) -> bytes:
        body, self.body = b"".join(self.body), []
        return body


async def get(socket: str, path: str, *, most: int) -> tuple[int, bytes]:
    """Status and body, of at most so many bytes. Raises OSError (TimeoutError too) and HttpError."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(_SECONDS), contextlib.aclosing(stream(socket, path)) as pieces:
        status = 0
        async for status, piece in pieces:  # noqa: B007 - the last one's is the answer's
            size += len(piece)
            if size > most:
                raise HttpError(f"{path}: the answer is longer than {most} bytes")
            parts.append(piece)
    return status, b"".join(parts)


async def stream(socket: str, path: str) -> AsyncGenerator[tuple[int, bytes], None]:
    """Status and a piece of the body, the first (empty) as soon as there is an answer; ends with it.

    Raises OSError and HttpError. Waits without limit between two pieces.
    """
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: quell-agent\r\n\r\n".encode())
        await writer.drain()
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        headed = False
        while not answer.ended:
            piece = await reader.read(_PIECE)
            if not piece:
                raise HttpError(f"{path}: the answer broke off")
            try:
                parser.feed_data(piece)
            except httptools.HttpParserError as error:
                raise HttpError(f"{path}: not an HTTP answer: {error}") from error
            body = answer.take()
            if answer.headed and (body or not headed):
                headed = True
                yield parser.get_status_code(), body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
