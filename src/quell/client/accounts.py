from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import Session


class IssuedToken(Struct, frozen=True, kw_only=True):
    """An API token; this is the only time it is shown."""

    token: str
    role: str = ""
    name: str = ""
    expires: float | None = None
    #: Until when the secret before a rotation works.
    old_until: float | None = None


class User(Struct, frozen=True, kw_only=True):
    name: str
    role: str
    created: float
    password_changed: float | None
    last_login: float | None = None
    disabled: bool = False
    version: int = 1
    locked_until: float | None = None
    #: local, or oidc: from the provider of logins, without a password.
    source: str = "local"
    locked: bool = False


class Login(Struct, frozen=True, kw_only=True):
    """A session. token: what later calls show instead of a password; it lasts until expires, unless it is not used."""

    id: str
    user: str
    role: str
    expires: float
    token: str


class OpenSession(Struct, frozen=True, kw_only=True):
    id: str
    user: str | None = None
    token: str | None = None
    #: A browser's.
    cookie: bool = False
    created: float
    last_used: float
    address: str = ""
    program: str = ""


class Accounts:
    """Who may use the controller."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # ---- tokens

    def create_token(
        self,
        role: str,
        name: str,
        ttl: float | None = None,
        *,
        permissions: Sequence[str] | None = None,
        detectors: Sequence[str] = (),
        clusters: Sequence[str] = (),
        nodes: Sequence[str] = (),
        replace: bool = False,
    ) -> IssuedToken:
        """Ttl in seconds; None: until withdrawn. permissions: of the role's, None: all. The rest binds role ingest."""
        body: dict[str, Any] = {"role": role, "name": name, "replace": replace}
        body |= {"detectors": list(detectors), "clusters": list(clusters), "nodes": list(nodes)}
        body |= {} if ttl is None else {"ttl": ttl}
        body |= {} if permissions is None else {"permissions": list(permissions)}
        return self._session.ask(IssuedToken, "POST", "/v1/tokens", json=body)

    def rotate_token(self, name: str, grace: float = 0.0) -> IssuedToken:
        """A new secret; the one before works for grace seconds more."""
        return self._session.ask(IssuedToken, "POST", f"/v1/tokens/{_quoted(name)}/rotate", json={"grace": grace})

    def tokens(self) -> list[dict[str, Any]]:
        """Who has a token, and which may do what; never the tokens themselves."""
        return self._session.items(dict[str, Any], "/v1/tokens")

    def delete_token(self, name: str) -> None:
        self._session.do("DELETE", f"/v1/tokens/{_quoted(name)}")

    # ---- users

    def users(self) -> list[User]:
        return self._session.items(User, "/v1/users")

    def create_user(self, name: str, role: str, password: str) -> User:
        return self._session.ask(User, "POST", "/v1/users", json={"name": name, "role": role, "password": password})

    def change_user(self, name: str, *, role: str | None = None, disabled: bool | None = None) -> User:
        """What is None stays. Ends the user's sessions."""
        changes = {word: value for word, value in (("role", role), ("disabled", disabled)) if value is not None}
        return self._session.ask(User, "PATCH", f"/v1/users/{_quoted(name)}", json=changes)

    def delete_user(self, name: str) -> list[str]:
        """The names of the user's tokens that go on working, because they only send events."""
        answer = self._session.ask(dict[str, list[str]], "DELETE", f"/v1/users/{_quoted(name)}")
        return answer["remaining_tokens"]

    def set_password(self, name: str, password: str, old_password: str | None = None) -> None:
        """old_password: for one's own. Ends the user's sessions."""
        body = {"password": password} | ({} if old_password is None else {"old_password": old_password})
        self._session.do("PUT", f"/v1/users/{_quoted(name)}/password", json=body)

    def unlock_user(self, name: str) -> None:
        self._session.do("POST", f"/v1/users/{_quoted(name)}/unlock")

    # ---- sessions

    def log_in(self, name: str, password: str) -> Login:
        return self._session.ask(Login, "POST", "/v1/sessions", json={"name": name, "password": password})

    def log_out(self) -> None:
        """End the session whose token this client shows."""
        self.end_session("current")

    def sessions(self, user: str | None = None) -> list[OpenSession]:
        """One's own, or as an admin a user's; newest first."""
        return self._session.items(OpenSession, "/v1/sessions", user=user)

    def end_session(self, identifier: str) -> None:
        self._session.do("DELETE", f"/v1/sessions/{_quoted(identifier)}")

    def myself(self) -> dict[str, Any]:
        """Who is asking, and what they may do."""
        return self._session.ask(dict[str, Any], "GET", "/v1/sessions/current")

    def login_link(self) -> str:
        """An address that logs a browser in, once."""
        answer = self._session.ask(dict[str, str], "POST", "/v1/login-links")
        return self._session.url + answer["path"]


def _quoted(name: str) -> str:
    return quote(name, safe="")
