"""Who is asking, and may they. DESIGN, trust.

A program shows a bearer token. A person opens a link with a code that works once and gets a session cookie, which is a
token as well, of this process only. Tokens are 256 random bits, so that their plain SHA-256 is enough to keep them by
and a lookup by that hash tells nothing by its time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time as clock
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from quell.api.asgi import Scope, header, peer
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role, those_who
from quell.model.audit import Actor
from quell.storage import tokens
from quell.storage.store import Store

COOKIE = "quell_session"


class Caller(Struct, frozen=True, kw_only=True):
    """Who is asking. kind: user or token."""

    name: str
    role: Role
    kind: str = "token"
    #: Epoch seconds; None: never.
    expires: float | None = None
    #: Where the request came from.
    address: str = ""

    @property
    def actor(self) -> Actor:
        return Actor(kind=self.kind, name=self.name, address=self.address)

    def need(self, permission: Permission) -> None:
        """Refusal 403 unless the role has it."""
        if not self.role.may(permission):
            raise Refusal(403, f"role {self.role} may not do this; it takes {' or '.join(those_who(permission))}")


#: Seconds for which a token that was found is not looked up again: a withdrawn one works that long at most elsewhere
#: than where it was withdrawn.
_TRUSTED = 5.0
#: Seconds between two notes of when a token was last used.
_TOUCH = 60.0
SESSION_SECONDS = 12 * 3600.0
_LOGIN_CODE = 15 * 60.0
_MAX_SESSIONS = 1000
#: Failures of one address within so many seconds, after which further ones are answered 429. What is right still works.
_FAILURES, _WINDOW = 20, 60.0
_ADDRESSES = 4096


class Auth:
    """Checks callers against the store. On the event loop's thread only."""

    def __init__(self, store: Store, *, now: Callable[[], float] = clock.time) -> None:
        self._store = store
        self._now = now
        #: Hash of a token to who has it and until when that is trusted without a look.
        self._found: dict[bytes, tuple[Caller, float]] = {}
        self._touched: dict[str, float] = {}
        self._sessions: OrderedDict[bytes, Caller] = OrderedDict()
        self._codes: dict[bytes, float] = {}
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def require(self, scope: Scope, permission: Permission) -> Caller:
        """As `identify`, and Refusal 403 if the role may not do it."""
        caller = self.identify(scope)
        caller.need(permission)
        return caller

    def identify(self, scope: Scope) -> Caller:
        """The caller of an HTTP request. Refusal 401 if unknown, 429 after many failures.

        A session's cookie is taken for reading only, and from this very site only.
        """
        authorization = header(scope, b"authorization")
        if authorization is not None:
            caller = self._shown(authorization)
        else:
            caller = self._session(scope)
            if caller is None:
                raise _unknown("a token is needed")
        if caller is None:
            self.failed(peer(scope))
            raise _unknown("the token is unknown, expired or withdrawn")
        return caller

    def login_code(self, ttl: float = _LOGIN_CODE) -> str:
        """A code for one login within ttl seconds: {url}/login?code=..."""
        now = self._now()
        self._codes = {kept: until for kept, until in self._codes.items() if until > now}
        code = secrets.token_urlsafe(32)
        self._codes[_hash(code.encode())] = now + ttl
        return code

    def log_in(self, scope: Scope, code: str) -> str:
        """A session's secret for the code, which is used up. Refusal 401 or 429."""
        until = self._codes.pop(_hash(code.encode()), 0.0)
        if until <= self._now():
            self.failed(peer(scope))
            raise Refusal(401, "this login link was used before or has expired")
        secret = secrets.token_urlsafe(32)
        self._sessions[_hash(secret.encode())] = Caller(
            name="session", role=Role.VIEWER, expires=self._now() + SESSION_SECONDS
        )
        while len(self._sessions) > _MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return secret

    def forget(self) -> None:
        """Look every token up anew: one was withdrawn or replaced."""
        self._found.clear()

    def failed(self, address: str) -> None:
        """Count a proof that was none. Refusal 429 for one too many of this address within a minute."""
        now = self._now()
        count, since = self._failed.get(address, (0, now))
        if now - since >= _WINDOW:
            count, since = 0, now
        self._failed[address] = (count + 1, since)
        self._failed.move_to_end(address)
        while len(self._failed) > _ADDRESSES:
            self._failed.popitem(last=False)
        if count >= _FAILURES:
            raise Refusal(429, "too many failed attempts from this address", retry_after=since + _WINDOW - now)

    def _shown(self, authorization: bytes) -> Caller | None:
        """Whose token a header shows: as a bearer's, or as the password of HTTP's Basic scheme (RFC 7617).

        Basic is for detectors that can only put a user and a password into an address, as Falco's http_output; so a
        token shown that way may send events and nothing else.
        """
        scheme, _, shown = authorization.partition(b" ")
        match scheme.lower():
            case b"bearer":
                return self._holder(shown.strip())
            case b"basic":
                caller = self._holder(_password(shown.strip()))
                return caller if caller is not None and caller.role is Role.INGEST else None
            case _:
                return None

    def _holder(self, secret: bytes) -> Caller | None:
        digest = _hash(secret)
        now = self._now()
        known = self._found.get(digest)
        if known is not None and known[1] > now:
            caller = known[0]
        else:
            self._found.pop(digest, None)
            token = self._store.read(lambda connection: tokens.find(connection, secret.decode("latin-1"), now))
            if token is None:
                return None
            caller = Caller(name=token.name, role=Role(token.role), expires=token.expires)
            self._found[digest] = (caller, now + _TRUSTED)
            self._touch(token.name, now)
        return caller if caller.expires is None or caller.expires > now else None

    def _session(self, scope: Scope) -> Caller | None:
        if scope.get("method") not in ("GET", "HEAD"):
            return None
        for part in (header(scope, b"cookie") or b"").split(b";"):
            name, _, secret = part.strip().partition(b"=")
            if name == COOKIE.encode():
                caller = self._sessions.get(_hash(secret))
                if caller is not None and caller.expires is not None and caller.expires > self._now():
                    return caller
        return None

    def _touch(self, name: str, now: float) -> None:
        if now - self._touched.get(name, 0.0) >= _TOUCH:
            self._touched[name] = now
            self._store.write(lambda connection: tokens.touch(connection, name, now), lambda _error: None)


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _unknown(detail: str) -> Refusal:
    return Refusal(401, detail, headers={"www-authenticate": 'Bearer realm="quell"'})
