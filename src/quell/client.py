"""The controller's REST API as Python calls; the command line and programs of users go through it.

Every call raises Unreachable if the controller does not answer and ApiError if it answers with a problem (RFC 9457).
Times are epoch seconds; lists come newest first. The controller describes the API itself at /v1/openapi.json.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from quell.errors import ApiError, Problem, Unreachable
from quell.model.decision import Flag
from quell.model.explanation import Explanation

Answer = TypeVar("Answer")

_JSON = {"Content-Type": "application/json"}
_YAML = {"Content-Type": "application/yaml"}


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What applying or deleting did to one document."""

    kind: str
    name: str
    #: created, configured, unchanged or deleted.
    verb: str
    id: int | None = None
    warnings: list[str] = []


class Rejected(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a batch that is no event; the others were taken."""

    line: int
    reason: str
    position: int | None = None


class Receipt(Struct, frozen=True, kw_only=True):
    """The events that are now on disk with their decisions, in the order sent."""

    ids: list[str]
    rejected: list[Rejected] = []


class JoinToken(Struct, frozen=True, kw_only=True):
    token: str
    expires: float


class IssuedToken(Struct, frozen=True, kw_only=True):
    """An API token; this is the only time it is shown."""

    token: str
    role: str = ""
    name: str = ""
    expires: float | None = None


class Client:
    """A session with one controller. timeout: seconds for each request."""

    def __init__(self, url: str, token: str, *, timeout: float = 30.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Documents

    def apply(self, text: bytes, *, dry_run: bool = False) -> list[Change]:
        """Apply YAML documents, all or none; ApiError.problems lists everything wrong with them."""
        parameters = {"dry_run": "true"} if dry_run else {}
        return self._ask(list[Change], "POST", "/v1/documents", content=text, headers=_YAML, params=parameters)

    def documents(self, kind: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/documents", params=_given(kind=kind, name=name))

    def delete(self, kind: str, name: str, *, unquarantine: bool = False, force: bool = False) -> list[Change]:
        """unquarantine: end what its quarantines hold as well. force: delete the rules that refer to it too."""
        parameters = _given(unquarantine=unquarantine or None, force=force or None)
        return self._ask(
            list[Change], "DELETE", f"/v1/documents/{quote(kind)}/{quote(name, safe='')}", params=parameters
        )

    # Events

    def send(self, events: bytes, *, detector: str = "native") -> Receipt:
        """One JSON event, an array, or a line each; returns when they and their decisions are on disk."""
        path = "/v1/events" if detector == "native" else f"/v1/events/{quote(detector)}"
        return self._ask(Receipt, "POST", path, content=events, headers=_JSON)

    def events(self, limit: int = 50, before: str | None = None) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/events", params=_given(limit=limit, before=before))

    def explanation(self, event_id: str, *, near_misses: bool = False) -> Explanation:
        parameters = _given(near_misses=near_misses or None)
        return self._ask(Explanation, "GET", f"/v1/events/{quote(event_id, safe='')}", params=parameters)

    def rejects(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/rejects", params={"limit": limit})

    def flags(self, limit: int = 50) -> list[Flag]:
        return self._ask(list[Flag], "GET", "/v1/flags", params={"limit": limit})

    # Agents and quarantines

    def agents(self) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/agents")

    def join_token(self, ttl: float) -> JoinToken:
        """A token with which one agent may enrol within ttl seconds."""
        return self._ask(JoinToken, "POST", "/v1/agents/join-tokens", json={"ttl": ttl})

    def quarantines(self) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/quarantines")

    def release(self, key: str) -> None:
        self._do("DELETE", f"/v1/quarantines/{quote(key, safe='')}")

    # Webhooks

    def deliveries(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/webhooks/deliveries", params={"limit": limit})

    def dead_letters(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._ask(list[dict[str, Any]], "GET", "/v1/webhooks/dead-letters", params={"limit": limit})

    def replay(self, delivery_id: str) -> None:
        self._do("POST", f"/v1/webhooks/dead-letters/{quote(delivery_id, safe='')}/replay")

    # Access and state

    def create_token(self, role: str, name: str, ttl: float | None = None) -> IssuedToken:
        """role: admin, viewer or ingest. ttl in seconds; None: until revoked."""
        return self._ask(IssuedToken, "POST", "/v1/tokens", json=_given(role=role, name=name, ttl=ttl))

    def tokens(self) -> list[dict[str, Any]]:
        """Who has a token, and which may do what; never the tokens themselves."""
        return self._ask(list[dict[str, Any]], "GET", "/v1/tokens")

    def delete_token(self, name: str) -> None:
        self._do("DELETE", f"/v1/tokens/{quote(name, safe='')}")

    def login_link(self) -> str:
        """An address that logs a browser in, once."""
        answer = self._ask(dict[str, str], "POST", "/v1/login-links")
        return str(self._http.base_url).rstrip("/") + answer["path"]

    def version(self) -> str:
        answer = self._ask(dict[str, Any], "GET", "/v1/version")
        return str(answer.get("version", ""))

    def _ask(self, answer: type[Answer], method: str, path: str, **request: Any) -> Answer:
        response = self._do(method, path, **request)
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.MsgspecError as error:
            raise ApiError(response.status_code, "not an answer of a Quell controller", str(error)) from error

    def _do(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise Unreachable(f"no controller answers at {self._http.base_url}: {error}") from error
        if response.is_error:
            raise _problem(response)
        return response


class _ProblemBody(Struct):
    title: str = ""
    detail: str = ""
    problems: list[Problem] = []


def _problem(response: httpx.Response) -> ApiError:
    try:
        body = msgspec.json.decode(response.content, type=_ProblemBody)
    except msgspec.MsgspecError:
        body = _ProblemBody(detail=response.text[:200])
    return ApiError(response.status_code, body.title or response.reason_phrase, body.detail, body.problems)


def _given(**parameters: Any) -> dict[str, Any]:
    return {name: "true" if value is True else value for name, value in parameters.items() if value is not None}
