from __future__ import annotations

from typing import Any
from urllib.parse import quote

from quell.client.session import Session


class Approvals:
    """Actions that wait for a person, and breakers."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pending(self) -> list[dict[str, Any]]:
        """The oldest first."""
        return self._session.items(dict[str, Any], "/v1/approvals")

    def one(self, identifier: str) -> dict[str, Any]:
        """ApiError 404: nothing waits under this id."""
        return self._session.ask(dict[str, Any], "GET", f"/v1/approvals/{quote(identifier, safe='/')}")

    def approve(self, identifier: str, note: str = "") -> dict[str, Any]:
        """ApiError 409: something stands against it now, and it goes on waiting."""
        return self._judge(identifier, "approve", note)

    def deny(self, identifier: str, note: str = "") -> dict[str, Any]:
        return self._judge(identifier, "deny", note)

    def breakers(self) -> list[dict[str, Any]]:
        """Those that stand open, by key."""
        return self._session.items(dict[str, Any], "/v1/breakers")

    def reset(self, key: str, note: str = "") -> dict[str, Any]:
        """The rule acts again. ApiError 404: no such breaker stands open."""
        return self._session.ask(dict[str, Any], "POST", "/v1/breakers/reset", json={"key": key, "note": note})

    def _judge(self, identifier: str, verdict: str, note: str) -> dict[str, Any]:
        asked = {"id": identifier, "verdict": verdict, "note": note}
        return self._session.ask(dict[str, Any], "POST", "/v1/approvals", json=asked)
