from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import Session


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """How it goes with an endpoint. Times are epoch seconds."""

    name: str
    #: None: it was deleted.
    type: str | None = None
    default: bool = False
    flags: bool = False
    #: Scheme, host and port.
    address: str = ""
    #: idle, delivering, failing, disabled or deleted.
    state: str
    waiting: int = 0
    dead_letters: int = 0
    failures: int = 0
    failing_since: float | None = None
    last_error: str = ""
    last_delivered: float | None = None
    next_attempt: float | None = None


class Tested(Struct, frozen=True, kw_only=True):
    """What came of a test. status: of HTTP, None without an answer; duration: seconds."""

    id: str
    delivered: bool
    status: int | None = None
    duration: float = 0.0
    explanation: str = ""


class Webhooks:
    """Endpoints, what was delivered to them, and what was given up."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[EndpointStatus]:
        return self._session.items(EndpointStatus, "/v1/webhooks")

    def status(self, name: str) -> EndpointStatus:
        return self._session.ask(EndpointStatus, "GET", _path(name))

    def test(self, name: str) -> Tested:
        """Sends a test now. ApiError 404: there is no such endpoint."""
        return self._session.ask(Tested, "POST", f"{_path(name)}/test")

    def deliveries(
        self, limit: int = 50, *, endpoint: str | None = None, event: str | None = None, outcome: str | None = None
    ) -> list[dict[str, Any]]:
        """The latest attempts. outcome: delivered or failed."""
        return self._session.items(
            dict[str, Any], "/v1/webhooks/deliveries", limit, endpoint=endpoint, event=event, outcome=outcome
        )

    def dead_letters(self, limit: int = 50, *, endpoint: str | None = None) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/webhooks/dead-letters", limit, endpoint=endpoint)

    def dead_letter(self, delivery_id: str) -> dict[str, Any]:
        """With the body that it would send."""
        return self._session.ask(dict[str, Any], "GET", _letter(delivery_id))

    def replay(self, delivery_id: str) -> None:
        self._session.do("POST", f"{_letter(delivery_id)}/replay")

    def replay_all(self, endpoint: str) -> int:
        """Sends all dead letters of an endpoint again; returns how many."""
        return self._session.ask(_Moved, "POST", f"{_path(endpoint)}/replay").count

    def discard(self, delivery_id: str) -> None:
        """Forgets a dead letter for good."""
        self._session.do("DELETE", _letter(delivery_id))

    def discard_all(self, endpoint: str) -> int:
        return self._session.ask(_Moved, "POST", f"{_path(endpoint)}/discard").count


class _Moved(Struct):
    count: int


def _path(name: str) -> str:
    return f"/v1/webhooks/{quote(name, safe='')}"


def _letter(delivery_id: str) -> str:
    return f"/v1/webhooks/dead-letters/{quote(delivery_id, safe='')}"
