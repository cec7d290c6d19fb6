"""Exports: large answers that come in parts, and go to a file that is there once all of it has come."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from quell.client.session import Session, given, problem
from quell.errors import Unreachable

#: Seconds in which a part of an export comes.
_PATIENCE = 120.0
_AT_MOST = "quell-at-most"

#: Told bytes that came, lines among them, and how many there can be at most.
Progress = Callable[[int, int, int], object]


def quiet(_size: int, _lines: int, _most: int) -> None:
    """Tells nobody."""


def export(session: Session, path: str, asked: Mapping[str, Any], told: Progress) -> Iterator[bytes]:
    """The parts of an answer. ApiError, Unreachable."""
    http = session.http
    timeout = httpx.Timeout(30.0, read=_PATIENCE)
    size = lines = 0
    try:
        with http.stream("GET", path, params=given(**asked), timeout=timeout) as response:
            if response.is_error:
                response.read()
                raise problem(response)
            most = int(response.headers.get(_AT_MOST, 0))
            for part in response.iter_bytes():
                size += len(part)
                lines += part.count(b"\n")
                told(size, lines, most)
                yield part
    except httpx.TransportError as error:
        raise Unreachable(f"no whole export came from {http.base_url}: {error}") from error


def save(path: Path, parts: Iterable[bytes]) -> None:
    """As a new file of mode 0600. FileExistsError, OSError."""
    if path.exists():
        raise FileExistsError(17, "there is a file already", str(path))
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)  # unlike rename, it never replaces a file that has come meanwhile
    finally:
        fresh.unlink(missing_ok=True)
