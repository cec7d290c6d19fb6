"""Versions of things in answers (ETag), and changes that are made only if the version still holds (If-Match). RFC 9110."""

from __future__ import annotations

from typing import Any

from litestar import Request

from quell.api.problem import Refusal


def etag(version: object) -> dict[str, str]:
    """The header of an answer that shows a thing at this version."""
    return {"etag": f'"{version}"'}


def expect(request: Request[Any, Any, Any], version: object) -> None:
    """Refusal 412 if the request has an If-Match that does not name this version. Without one, every version is right."""
    wanted = request.headers.get("if-match")
    if wanted is None or wanted.strip() == "*":
        return
    if f'"{version}"' not in [each.strip() for each in wanted.split(",")]:
        raise Refusal(
            412,
            f'it was changed in the meantime: it is at version "{version}", the change was for {wanted}; read it again',
            headers=etag(version),
        )
