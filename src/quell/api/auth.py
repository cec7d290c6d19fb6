"""Who is asking, and may they. DESIGN, trust.

A program shows a bearer token. A person logs in and has a session, whose secret a browser shows in a cookie and the
command line as a bearer token (quell.api.accounts.logins). Both are 256 random bits, so that their plain SHA-256 is
enough to keep them by and a lookup by that hash tells nothing by its time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import sqlite3
import time as clock
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from msgspec import Struct

from quell import metrics
from quell.api import cookies
from quell.api.asgi import Scope, header, peer
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role, those_who
from quell.model.audit import Actor
from quell.storage import sessions, tokens, users
from quell.storage.store import Store
from quell.storage.tokens import Binding


class Caller(Struct, frozen=True, kw_only=True):
    """Who is asking. kind: user or token."""

    name: str
    role: Role
    kind: str = "token"
    #: What of the role they may do; None: all of it.
    permissions: frozenset[Permission] | None = None
    #: Epoch seconds; None: never.
    expires: float | None = None
    #: Where the request came from.
    address: str = ""
    #: Id of the session it came in; "": it showed an API token.
    session: str = ""
    #: Whom tokens that this one makes belong to; "": itself.
    owner: str = ""
    #: What events it may send are about; None: anything.
    binding: Binding | None = None

    @property
    def actor(self) -> Actor:
        return Actor(kind=self.kind, name=self.name, address=self.address)

    @property
    def rights(self) -> frozenset[Permission]:
        return self.role.permissions if self.permissions is None else self.permissions

    def may(self, permission: Permission) -> bool:
        return permission is Permission.OPEN or permission in self.rights

    def need(self, permission: Permission) -> None:
        """Refusal 403 unless they have it."""
        if self.may(permission):
            return
        if self.role.may(permission):
            raise Refusal(403, f"this token was made without the permission {permission} of its role {self.role}")
        raise Refusal(403, f"role {self.role} may not do this; it takes {' or '.join(those_who(permission))}")

    def grant(self, rights: frozenset[Permission]) -> None:
        """Refusal 403 for giving somebody what they do not have themselves."""
        if more := sorted(rights - self.rights):
            raise Refusal(403, f"nobody gives more than they have: {', '.join(more)} is beyond {self.actor}")


#: Seconds for which who was found is not looked up again: a withdrawn token works that long at most elsewhere than
#: where it was withdrawn.
_TRUSTED = 5.0
#: Seconds between two notes of when a token or session was last used.
_TOUCH = 60.0
#: Tokens and sessions remembered; all are forgotten when there are more.
_REMEMBERED = 10_000
#: Failures of one address within so many seconds, after which further ones are answered 429. What is right still works.
_FAILURES, _WINDOW = 20, 60.0
_ADDRESSES = 4096


class Auth:
    """Checks callers against the store. On the event loop's thread only."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], float] = clock.time,
        lifetime: float = 12 * 3600.0,
        idle: float = 30 * 60.0,
    ) -> None:
        """lifetime: seconds that a session lasts. idle: seconds that it lasts unused, of which up to _TOUCH may lack."""
        self._store = store
        self._now = now
        self._lifetime = lifetime
        self._idle = idle
        #: Hash of a secret to who has it and until when that is trusted without a look.
        self._found: dict[bytes, tuple[Caller, float]] = {}
        self._touched: dict[str, float] = {}
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def require(self, scope: Scope, permission: Permission) -> Caller:
        """As `identify`, and Refusal 403 if the caller may not do it."""
        caller = self.identify(scope)
        caller.need(permission)
        return caller

    def identify(self, scope: Scope) -> Caller:
        """The caller of an HTTP request. Refusal 401 if unknown, 429 after many failures.

        A session's cookie changes nothing without its CSRF token: Refusal 401 without one, 403 with a wrong one.
        """
        return msgspec.structs.replace(self._identified(scope), address=peer(scope))

    def sender(self, scope: Scope) -> Caller:
        """As `require` for sending events, but without the address: thousands ask every second."""
        caller = self._identified(scope)
        if caller.role is not Role.INGEST:
            caller.need(Permission.INGEST)
        return caller

    def browser(self, scope: Scope) -> tuple[Caller, bytes] | None:
        """Who the cookie of a request belongs to, and the session's secret. Nothing must be changed for it alone."""
        secret = cookies.secret_of(scope)
        caller = None if secret is None else self._holder(secret, cookie=True)
        if caller is None or secret is None:
            return None
        return msgspec.structs.replace(caller, address=peer(scope)), secret

    def stands(self, scope: Scope, caller: Caller) -> bool:
        """Whether who was identified would still be, without that counting as a use of their session. Any thread."""
        now = self._now()
        if caller.expires is not None and caller.expires <= now:
            return False
        secret = cookies.secret_of(scope)
        if not caller.session or secret is None:
            # A token that was withdrawn ends what it has open at the latest when its connection does.
            return True
        shown = secret.decode("latin-1")
        return self._store.read(lambda found: self._session(found, shown, now, cookie=True)) is not None

    def forget(self) -> None:
        """Look everybody up anew: a token or session was withdrawn, a user changed."""
        self._found.clear()
        self._touched.clear()

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

    def _identified(self, scope: Scope) -> Caller:
        authorization = header(scope, b"authorization")
        if authorization is None:
            return self._by_cookie(scope)
        caller = self._shown(authorization)
        if caller is None:
            metrics.login_failed("token")
            self.failed(peer(scope))
            raise _unknown("the token is unknown, expired or withdrawn")
        return caller

    def _by_cookie(self, scope: Scope) -> Caller:
        found = self.browser(scope)
        if found is None:
            raise _unknown("a token is needed")
        caller, secret = found
        if scope["method"] not in cookies.SAFE:
            shown = header(scope, cookies.CSRF_HEADER)
            if shown is None:
                raise _unknown(f"a token is needed, or beside the cookie the header {cookies.CSRF_HEADER.decode()}")
            cookies.check_csrf(scope, secret, shown)
        return caller

    def _shown(self, authorization: bytes) -> Caller | None:
        """Whose token a header shows: as a bearer's, or as the password of HTTP's Basic scheme (RFC 7617).

        Basic is for detectors that can only put a user and a password into an address, as Falco's http_output; so a
        token shown that way may send events and nothing else.
        """
        scheme, _, shown = authorization.partition(b" ")
        match scheme.lower():
            case b"bearer":
                return self._holder(shown.strip(), cookie=False)
            case b"basic":
                caller = self._holder(_password(shown.strip()), cookie=False)
                return caller if caller is not None and caller.role is Role.INGEST else None
            case _:
                return None

    def _holder(self, secret: bytes, *, cookie: bool) -> Caller | None:
        digest = hashlib.sha256(b"cookie " + secret if cookie else secret).digest()
        now = self._now()
        known = self._found.get(digest)
        if known is not None and known[1] > now:
            caller = known[0]
        else:
            self._found.pop(digest, None)
            found = self._look(secret.decode("latin-1"), now, cookie=cookie)
            if found is None:
                return None
            if len(self._found) >= _REMEMBERED:
                self.forget()
            caller = found
            self._found[digest] = (caller, now + _TRUSTED)
        return caller if caller.expires is None or caller.expires > now else None

    def _look(self, secret: str, now: float, *, cookie: bool) -> Caller | None:
        if not secret.startswith(sessions.PREFIX):
            return None if cookie else self._token(secret, now)
        caller = self._store.read(lambda connection: self._session(connection, secret, now, cookie=cookie))
        if caller is not None:
            self._touch(caller.session, now, sessions.touch)
        return caller

    def _token(self, secret: str, now: float) -> Caller | None:
        def look(connection: sqlite3.Connection) -> tuple[tokens.Token, users.User | None] | None:
            token = tokens.find(connection, secret, now)
            return None if token is None else (token, users.get(connection, token.owner.removeprefix("user/")))

        found = self._store.read(look)
        if found is None:
            return None
        token, owner = found
        role = Role(token.role)
        rights = role.permissions if token.permissions is None else frozenset(map(Permission, token.permissions))
        # A token never does more than its owner may now. Tokens of detectors belong to the installation: events must
        # not stop coming because somebody changed desks.
        if role is not Role.INGEST and token.owner.startswith("user/"):
            if owner is None or owner.disabled:
                return None
            rights &= Role(owner.role).permissions
        self._touch(token.name, now, tokens.touch)
        return Caller(
            name=token.name,
            role=role,
            permissions=None if rights == role.permissions else rights,
            expires=token.expires,
            owner=token.owner,
            binding=token.binding,
        )

    def _session(self, connection: sqlite3.Connection, secret: str, now: float, *, cookie: bool) -> Caller | None:
        session = sessions.find(connection, secret, created_after=now - self._lifetime, used_after=now - self._idle)
        if session is None or session.cookie is not cookie:
            return None
        expires = session.created + self._lifetime
        if session.user is not None:
            user = users.get(connection, session.user)
            if user is None or user.disabled:
                return None
            return Caller(name=user.name, role=Role(user.role), kind="user", expires=expires, session=session.id)
        token = tokens.get(connection, session.token or "")
        if token is None or (token.expires is not None and token.expires <= now):
            return None
        return Caller(name=token.name, role=Role.VIEWER, expires=expires, session=session.id)

    def _touch(self, name: str, now: float, touch: Callable[[sqlite3.Connection, str, float], None]) -> None:
        if now - self._touched.get(name, 0.0) >= _TOUCH:
            self._touched[name] = now
            self._store.write(lambda connection: touch(connection, name, now), lambda _error: None)


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _unknown(detail: str) -> Refusal:
    return Refusal(401, detail, headers={"www-authenticate": 'Bearer realm="quell"'})
