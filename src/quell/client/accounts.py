from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import Session, given


class IssuedToken(Struct, frozen=True, kw_only=True):
    """An API token; this is the only time it is shown."""

    token: str
    role: str = ""
    name: str = ""
    expires: float | None = None


class Accounts:
    """Who may use the controller."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create_token(self, role: str, name: str, ttl: float | None = None) -> IssuedToken:
        """Ttl in seconds; None: until withdrawn."""
        return self._session.ask(IssuedToken, "POST", "/v1/tokens", json=given(role=role, name=name, ttl=ttl))

    def tokens(self) -> list[dict[str, Any]]:
        """Who has a token, and which may do what; never the tokens themselves."""
        return self._session.items(dict[str, Any], "/v1/tokens")

    def delete_token(self, name: str) -> None:
        self._session.do("DELETE", f"/v1/tokens/{quote(name, safe='')}")

    def login_link(self) -> str:
        """An address that logs a browser in, once."""
        answer = self._session.ask(dict[str, str], "POST", "/v1/login-links")
        return self._session.url + answer["path"]
