"""Logging in with OpenID Connect: from the button to the session. docs/adr/0028.

A login that was begun is kept nowhere but in a cookie of the browser that began it. The state, the nonce and PKCE's
verifier are made of that cookie with a key of this process, so that neither a link from elsewhere nor an answer that was
meant for another browser opens anything, and begun logins take no memory. RFC 9700, sections 2.1 and 4.7.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import structlog
from msgspec import Struct

from quell import metrics
from quell.api import cookies
from quell.api.accounts.logins import Logins, Opened
from quell.api.accounts.people import Person, folded, is_name
from quell.api.accounts.provider import NotProved, Provider, ProviderFailed
from quell.api.accounts.throttle import Throttle
from quell.api.accounts.told import Told
from quell.api.asgi import Scope, header, peer
from quell.api.auth import Caller
from quell.api.problem import Refusal
from quell.api.roles import Role
from quell.clock import Clock
from quell.errors import SettingError
from quell.oidc_settings import OidcSettings
from quell.storage import users
from quell.storage.store import Store

#: Where a login begins, where the provider sends browsers back to, and where its own session is ended.
BEGIN, CALLBACK, END = "/login/oidc", "/login/oidc/callback", "/login/oidc/logout"
PATHS = (BEGIN, CALLBACK, END)

_COOKIE = "quell_login"
#: Seconds that a login may take, from the button to the way back.
_WITHIN = 600
#: Failures of one address that cost no waiting.
_FREE = 20
#: Characters of an address to go on to.
_FOLLOWING = 1000

_log = structlog.get_logger(__name__)


class Begun(Struct, frozen=True):
    """Where the browser goes to log in, and the header that makes it remember."""

    address: str
    cookie: tuple[str, str]


class Finished(Struct, frozen=True):
    opened: Opened
    #: What was given to `begin`, to be checked again.
    following: str
    #: The header that makes the browser forget.
    cookie: tuple[str, str]


class OpenId:
    """Logins with the provider of the settings; on the event loop's thread only."""

    def __init__(
        self, settings: OidcSettings, store: Store, logins: Logins, told: Told, now: Clock, *, passwords: bool
    ) -> None:
        """passwords: whether people log in with one as well. SettingError for a file that cannot be read."""
        self._store = store
        self._settings = settings
        self._provider = Provider(settings, _secret(settings), now)
        self._logins = logins
        self._told = told
        self._now = now
        self._key = secrets.token_bytes(32)
        self._of_address = Throttle(_FREE)
        self._later = "Begin again later, or log in with a password" if passwords else "Begin again later"
        #: What the button says.
        self.label = settings.label

    async def begin(self, scope: Scope, following: str = "") -> Begun:
        """following: where to go on to after the login. Refusal 502: the provider cannot be asked."""
        kept = quote(following, safe="") if len(following) <= _FOLLOWING else ""
        value = f"{int(self._now())}.{secrets.token_urlsafe(32)}.{kept}"
        try:
            address = await self._provider.login_address(
                state=self._made("state", value), nonce=self._made("nonce", value), verifier=self._made("pkce", value)
            )
        except ProviderFailed as error:
            raise self._unavailable(error) from error
        return Begun(address, cookies.keep(scope, _COOKIE, value, _WITHIN))

    async def finish(self, scope: Scope) -> Finished:
        """The session for what the provider's answer, a request to CALLBACK, proves. Refusal 401, 403, 409, 422, 429, 502.

        One answer opens one session: the provider takes its code once, and the cookie goes with it.
        """
        address, now = peer(scope), self._now()
        wait = self._of_address.wait(address, now)
        if wait > 0:
            raise Refusal(429, "too many failed logins; wait before the next", retry_after=wait)
        self._of_address.charge(address, now)
        try:
            opened, following = await self._finish(scope)
        except ProviderFailed as error:
            self._of_address.refund(address)
            raise self._unavailable(error) from error
        except Refusal as refused:
            refused.headers |= [self.forget(scope)]
            raise
        self._of_address.refund(address)
        return Finished(opened, following, self.forget(scope))

    async def is_of(self, caller: Caller) -> bool:
        """Whether this is somebody whom a provider vouched for, who may want to log out there as well."""
        user = await asyncio.to_thread(self._store.read, lambda connection: users.get(connection, caller.name))
        return caller.kind == "user" and user is not None and user.source == users.OIDC

    async def logout_address(self) -> str:
        """Where the provider ends its own session. Refusal 404: it has no such address; 502."""
        try:
            address = await self._provider.logout_address()
        except ProviderFailed as error:
            raise self._unavailable(error) from error
        if not address:
            raise Refusal(404, "the provider says nothing of how to log out there")
        return address

    @staticmethod
    def forget(scope: Scope) -> tuple[str, str]:
        """The header that makes a browser forget a login that it began."""
        return cookies.drop(scope, _COOKIE)

    async def _finish(self, scope: Scope) -> tuple[Opened, str]:
        query = _query(scope)
        value = (cookies.value_of(scope, _COOKIE) or b"").decode("latin-1")
        if not value or not hmac.compare_digest(self._made("state", value).encode(), query.get("state", "").encode()):
            raise self._refused(scope, "its state is not this browser's", 401, _NOT_BEGUN)
        begun, _, rest = value.partition(".")
        if int(begun) + _WITHIN < self._now():
            raise self._refused(scope, "it took too long", 401, _NOT_BEGUN)
        discovery = await self._provider.discovery()
        issuer = query.get("iss")
        if (issuer is None and discovery.authorization_response_iss_parameter_supported) or (
            issuer is not None and issuer != self._settings.issuer
        ):
            raise self._refused(scope, "its answer is another provider's", 401, "this answer is another provider's")
        if "error" in query or not query.get("code"):
            raise self._refused(scope, "the provider refused it", 401, _told_by(query.get("error", "")))
        try:
            claims = await self._provider.claims(
                query["code"],
                nonce=self._made("nonce", value),
                verifier=self._made("pkce", value),
                wanted=(self._settings.name_claim, self._settings.groups_claim),
            )
        except NotProved as error:
            raise self._refused(scope, str(error), 401, f"{error}. Begin again") from error
        return await self._entered(scope, claims), unquote(rest.partition(".")[2])

    async def _entered(self, scope: Scope, claims: Mapping[str, Any]) -> Opened:
        settings = self._settings
        name = claims.get(settings.name_claim)
        person = Person(
            issuer=settings.issuer,
            subject=claims["sub"],
            name=folded(name) if isinstance(name, str) else "",
            role=role_of(groups_of(claims.get(settings.groups_claim)), settings),
        )
        program = (header(scope, b"user-agent") or b"").decode("latin-1")
        try:
            return await self._logins.by_provider(person, address=peer(scope), program=program)
        except Refusal as refused:
            raise self._refused(scope, refused.detail, refused.status, refused.detail, person.name) from refused

    def _unavailable(self, error: ProviderFailed) -> Refusal:
        return Refusal(502, f"{error}. {self._later}")

    def _refused(self, scope: Scope, reason: str, status: int, detail: str, name: str = "") -> Refusal:
        """Told and audited. reason: in our own words; name: as the provider says that they are called, if it is a name."""
        metrics.login_failed("oidc")
        self._told.failed(name if is_name(name) else "", peer(scope), reason)
        return Refusal(status, detail)

    def _made(self, purpose: str, value: str) -> str:
        """64 characters that nobody else can make of the cookie."""
        return hmac.new(self._key, f"{purpose} {value}".encode(), hashlib.sha256).hexdigest()


def groups_of(claim: object) -> frozenset[str]:
    """Of a claim that is a list of names, or one."""
    if isinstance(claim, str):
        return frozenset((claim,))
    return frozenset(one for one in claim if isinstance(one, str)) if isinstance(claim, list) else frozenset()


def role_of(groups: frozenset[str], settings: OidcSettings) -> Role | None:
    """The first role, in the order of what they may, that one of the groups has; else the default. None: keep out."""
    for role, having in (
        (Role.ADMIN, settings.admin_groups),
        (Role.OPERATOR, settings.operator_groups),
        (Role.AUTHOR, settings.author_groups),
        (Role.VIEWER, settings.viewer_groups),
    ):
        if not groups.isdisjoint(having):
            return role
    return None if settings.default_role == "none" else Role(settings.default_role)


_NOT_BEGUN = (
    "this login was not begun in this browser, took longer than ten minutes, or was finished before. Begin again"
)


def _told_by(error: str) -> str:
    """What an error that the provider sent back means."""
    match error:
        case "access_denied":
            return "the provider did not let you in, or you cancelled. Begin again"
        case "login_required" | "interaction_required" | "consent_required" | "account_selection_required":
            return "the provider wants you to log in there first. Begin again"
        case "temporarily_unavailable" | "server_error":
            return "the provider has a problem of its own. Begin again later"
        case _:
            return (
                "the provider refused Quell's request; client_id, scopes and public_url have to be as registered there"
            )


def _query(scope: Scope) -> dict[str, str]:
    """Each parameter's first value. Refusal 400."""
    try:
        found = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=32)
    except ValueError as error:
        raise Refusal(400, "the address has too many parameters") from error
    return {name: values[0] for name, values in found.items()}


def _secret(settings: OidcSettings) -> str:
    file = settings.client_secret_file
    if not file:
        return settings.client_secret
    try:
        return Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingError(f"oidc.client_secret_file: {file} cannot be read: {reason}") from error
