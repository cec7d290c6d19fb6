"""Bodies of requests: read up to a limit, and unpacked up to another, so that a small body cannot fill the memory."""

from __future__ import annotations

import asyncio
import zlib

import zstandard

from quell.api.asgi import Receive, Scope, header
from quell.api.problem import Refusal

#: Bytes unpacked in one step.
_STEP = 1 << 18
#: A packed body above this is unpacked in a thread, so that the event loop goes on.
_LARGE = 1 << 18
_GZIP_WINDOW = 31
#: The window every decoder should take (RFC 8878 section 3.1.1.1.2); it is memory.
_ZSTD_WINDOW = 1 << 23
#: Bytes taken in one step, each of which may become 128 KiB.
_ZSTD_STEP = 1 << 8

ENCODINGS = ("gzip", "zstd")


class Disconnected(Exception):
    """The client went away before its request was complete."""


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body as sent. Refusal 413 above `limit` bytes, before more of it is taken in; Disconnected."""
    announced = header(scope, b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > limit:
        raise _too_large(f"the body has {int(announced)} bytes, more than the {limit} that are taken")
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(f"the body has more than {limit} bytes")
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        if size > limit:
            raise _too_large(f"the body has more than {limit} bytes")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    if size > limit:
        raise _too_large(f"the body has more than {limit} bytes")
    return b"".join(parts)


async def unpack(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """The body without its Content-Encoding. Refusal 413 above `limit` bytes, 400 if it is broken, 415 if unknown."""
    word = (encoding or b"identity").strip().lower().decode("latin-1")
    if word in ("identity", ""):
        return body
    unpacker = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}.get(word)
    if unpacker is None:
        raise Refusal(
            415,
            f"Content-Encoding {word} is not taken; send it plain or as one of {', '.join(ENCODINGS)}",
            headers={"accept-encoding": ", ".join(ENCODINGS)},
        )
    if len(body) > _LARGE:
        return await asyncio.to_thread(unpacker, body, limit)
    return unpacker(body, limit)


def _gunzip(body: bytes, limit: int) -> bytes:
    """RFC 1952: one member or several."""
    parts: list[bytes] = []
    size = 0
    rest = body
    try:
        while rest:
            member = zlib.decompressobj(_GZIP_WINDOW)
            while not member.eof:
                part = member.decompress(rest, _STEP)
                rest = member.unconsumed_tail
                size += len(part)
                if size > limit:
                    raise _unpacks_to_more(limit)
                if not part and not rest and not member.eof:
                    raise Refusal(400, "the gzip body ends too early", more={"position": len(body)})
                parts.append(part)
            rest = member.unused_data
    except zlib.error as error:
        raise Refusal(400, f"the body is not gzip: {error}") from error
    return b"".join(parts)


def _unzstd(body: bytes, limit: int) -> bytes:
    """RFC 8878: one frame or several."""
    parts: list[bytes] = []
    size = 0
    rest = memoryview(body)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    try:
        while rest:
            frame = decompressor.decompressobj()
            while not frame.eof:
                if not rest:
                    raise Refusal(400, "the zstd body ends too early", more={"position": len(body)})
                part = frame.decompress(rest[:_ZSTD_STEP])
                rest = rest[_ZSTD_STEP:]
                size += len(part)
                if size > limit:
                    raise _unpacks_to_more(limit)
                parts.append(part)
            rest = memoryview(body)[len(body) - len(rest) - len(frame.unused_data) :]
    except zstandard.ZstdError as error:
        raise Refusal(400, f"the body is not zstd: {error}") from error
    return b"".join(parts)


def _too_large(detail: str) -> Refusal:
    # What is still under way is not read, so the connection cannot be used again.
    return Refusal(413, f"{detail}; send smaller batches", headers={"connection": "close"})


def _unpacks_to_more(limit: int) -> Refusal:
    return Refusal(413, f"the body unpacks to more than {limit} bytes; send smaller batches")
