from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import Session


class JoinToken(Struct, frozen=True, kw_only=True):
    token: str
    expires: float


class Agents:
    """Agents, and what they have cut off from the network."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/agents")

    def join_token(self, ttl: float) -> JoinToken:
        """A token with which one agent may enrol within ttl seconds."""
        return self._session.ask(JoinToken, "POST", "/v1/agents/join-tokens", json={"ttl": ttl})

    def quarantines(self) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/quarantines")

    def release(self, key: str) -> None:
        self._session.do("DELETE", f"/v1/quarantines/{quote(key, safe='')}")
