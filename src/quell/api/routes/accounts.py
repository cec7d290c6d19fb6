"""API tokens, and links that log a browser in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from quell.api.auth import Caller
from quell.api.etag import digest, etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role, needs
from quell.api.services import Services
from quell.storage import tokens
from quell.storage.tokens import Binding, Token

_MAX_TTL = 10 * 365 * 86_400.0
_MAX_GRACE = 30 * 86_400.0

#: Printable, without a slash: it is a part of a path.
_Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@+-]*$")]
_Word = Annotated[str, Meta(min_length=1, max_length=253)]
_Words = Annotated[list[_Word], Meta(max_length=1000)]


class TokenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role
    name: _Name
    #: Seconds; None: until withdrawn.
    ttl: Annotated[float, Meta(gt=0, le=_MAX_TTL)] | None = None
    #: What of the role it may do; None: all of it.
    permissions: list[Permission] | None = None
    #: What its events may be about, of role ingest only; clusters and nodes may be globs. None: anything.
    detectors: _Words = []
    clusters: _Words = []
    nodes: _Words = []
    #: Take the place of a token of the same name, whose secret then works no more.
    replace: bool = False


class Rotation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    #: Seconds for which the secret before works as well.
    grace: Annotated[float, Meta(ge=0, le=_MAX_GRACE)] = 0.0


class IssuedToken(Struct, frozen=True, kw_only=True):
    """The only time that it is shown."""

    token: str
    role: Role
    name: str
    expires: float | None
    #: Until when the secret before a rotation works.
    old_until: float | None = None


class LoginLink(Struct, frozen=True):
    """A path of this server that logs in once."""

    path: str


def routes(services: Services) -> list[HTTPRouteHandler]:
    accounts, store = services.accounts, services.controller.store

    @get("/v1/tokens", summary="Who has a token; never the tokens", opt=needs(Permission.ADMIN))
    async def list_tokens(limit: Limit = 1000, cursor: Cursor = None) -> Page[Token]:
        found = await asyncio.to_thread(store.read, tokens.all_of)
        return page_of(found, limit, cursor, lambda token: token.name)

    @get("/v1/tokens/{name:str}", summary="One token; never its secret", opt=needs(Permission.ADMIN))
    async def get_token(name: FromPath[str]) -> Response[Token]:
        token = await asyncio.to_thread(store.read, lambda connection: tokens.get(connection, name))
        if token is None:
            raise Refusal(404, f"no token {name}")
        return Response(token, headers=etag(_version(token)))

    @post(
        "/v1/tokens",
        summary="Make a token that may do no more than its maker",
        opt=needs(Permission.ADMIN, secret=True),
    )
    async def create_token(data: JSONBody[TokenRequest], request: Request[Any, Any, Any]) -> IssuedToken:
        secret, token = await accounts.tokens.create(
            caller_of(request),
            data.name,
            data.role,
            ttl=data.ttl,
            permissions=data.permissions,
            binding=Binding(detectors=tuple(data.detectors), clusters=tuple(data.clusters), nodes=tuple(data.nodes)),
            replace=data.replace,
        )
        return _issued(secret, token)

    @post(
        "/v1/tokens/{name:str}/rotate",
        summary="Give a token a new secret; the one before may work for a while",
        opt=needs(Permission.ADMIN, secret=True),
    )
    async def rotate_token(
        name: FromPath[str], data: JSONBody[Rotation], request: Request[Any, Any, Any]
    ) -> IssuedToken:
        return _issued(*await accounts.tokens.rotate(caller_of(request), name, data.grace, _expect(request)))

    @delete("/v1/tokens/{name:str}", status_code=204, summary="Withdraw a token", opt=needs(Permission.ADMIN))
    async def delete_token(name: FromPath[str], request: Request[Any, Any, Any]) -> None:
        await accounts.tokens.delete(caller_of(request).actor, name, _expect(request))

    @post(
        "/v1/login-links",
        summary="A link that logs a browser in once: as this user, or as a viewer if a token asks",
        opt=needs(Permission.ADMIN, secret=True),
    )
    async def login_link(request: Request[Any, Any, Any]) -> LoginLink:
        return LoginLink(path=f"/login?code={accounts.logins.link(caller_of(request))}")

    return [list_tokens, get_token, create_token, rotate_token, delete_token, login_link]


def _version(token: Token) -> str:
    """It stays while the token is only used."""
    return digest(msgspec.structs.replace(token, last_used=None))


def _expect(request: Request[Any, Any, Any]) -> Callable[[Token], None]:
    return lambda token: expect(request, _version(token))


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """Who is asking; the guard has looked at what they may do."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def _issued(secret: str, token: Token) -> IssuedToken:
    return IssuedToken(
        token=secret, role=Role(token.role), name=token.name, expires=token.expires, old_until=token.old_until
    )
