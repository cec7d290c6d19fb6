"""Errors of the API, all in one shape: RFC 9457, application/problem+json."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec

from quell.api.asgi import Send, respond
from quell.errors import (
    DocumentError,
    EventError,
    FilterError,
    NoSuchRule,
    Problem,
    QuellError,
    QueueFull,
    StoreError,
    StoreFull,
)

#: A step of a path: a name, or an index in brackets.
_STEP = re.compile(r"([^.\[\]]+)|\[([^\]]*)\]")

MEDIA_TYPE = "application/problem+json"

#: Seconds after which to try again when the disk is full: a person has to do something first.
_FULL_RETRY = 30.0
_BROKEN_RETRY = 5.0


class Refusal(QuellError):
    """A request that is answered with a problem. retry_after in seconds; more: further members of the body."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        problems: Sequence[Problem] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = problems
        self.headers = dict(headers or {})
        self.more = more or {}
        if retry_after is not None:
            self.headers["retry-after"] = str(max(1, ceil(retry_after)))

    def body(self) -> bytes:
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }
        if self.problems:
            told["problems"] = [_pointed(problem) for problem in self.problems]
        return msgspec.json.encode(told)

    async def send(self, send: Send) -> None:
        """Answer a bare ASGI request."""
        headers = [(b"content-type", MEDIA_TYPE.encode())]
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await respond(send, self.status, self.body(), headers)


def _pointed(problem: Problem) -> dict[str, Any]:
    """A problem, with its place as a JSON pointer (RFC 6901) as well."""
    told: dict[str, Any] = msgspec.to_builtins(problem)
    if problem.path:
        told["pointer"] = pointer(problem.path)
    return told


def pointer(path: str) -> str:
    """spec.criteria[0] and $.spec.criteria[0] as /spec/criteria/0. What is a pointer already stays."""
    if path.startswith("/"):
        return path
    steps = [index or name for name, index in _STEP.findall(path.removeprefix("$"))]
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def refusal(error: QuellError) -> Refusal:
    """What an error of the controller means to whoever asked."""
    match error:
        case Refusal():
            return error
        case DocumentError():
            count = len(error.problems)
            return Refusal(
                422,
                f"{count} problem{'s' if count != 1 else ''} in the documents; nothing of them was applied",
                problems=error.problems,
            )
        case FilterError():
            return Refusal(
                400,
                str(error),
                problems=[msgspec.structs.replace(one, path=f"query.{one.path}") for one in error.problems],
            )
        case NoSuchRule():
            return Refusal(404, str(error))
        case EventError():
            return Refusal(400, str(error), more={} if error.position is None else {"position": error.position})
        case QueueFull():
            return Refusal(429, f"too much waits to be written: {error}", retry_after=error.retry_after)
        case StoreFull():
            return Refusal(503, "the disk is full; nothing was taken", retry_after=_FULL_RETRY)
        case StoreError():
            return Refusal(503, f"the store cannot take a write: {error}", retry_after=_BROKEN_RETRY)
        case _:
            return unforeseen()


def unforeseen() -> Refusal:
    """What is answered where something failed that should not; the log has the rest."""
    return Refusal(500, "an error that Quell did not foresee; see its log")
