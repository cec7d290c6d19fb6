"""Versions of things in answers (ETag), and changes that are made only if the version still holds (If-Match). RFC 9110."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec
from litestar import Request

from quell.api.problem import Refusal

_encode = msgspec.json.Encoder(order="deterministic").encode
_LIST = re.compile(r'"[^"]*"(\s*,\s*"[^"]*")*')


def etag(version: object) -> dict[str, str]:
    """The header of an answer that shows a thing at this version."""
    return {"etag": f'"{version}"'}


def digest(shown: object) -> str:
    """The version of a thing that keeps no count of its changes, from what an answer shows of it."""
    return hashlib.sha256(_encode(shown)).hexdigest()[:16]


def expect(request: Request[Any, Any, Any], version: object) -> None:
    """Refusal 412 if the request has an If-Match that does not name this version, 400 if it is none.

    Without one, every version is right.
    """
    wanted = request.headers.get("if-match")
    if wanted is None or wanted.strip() == "*":
        return
    if not _LIST.fullmatch(wanted.strip()):
        raise Refusal(400, f'If-Match: expected * or the ETag of what was read, such as "7", got {wanted[:80]!r}')
    if f'"{version}"' not in [each.strip() for each in wanted.split(",")]:
        raise Refusal(
            412,
            f'it was changed in the meantime: it is at version "{version}", the change was for {wanted}; read it again',
            headers=etag(version),
        )
