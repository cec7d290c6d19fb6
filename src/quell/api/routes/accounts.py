"""Tokens and logins."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role, needs
from quell.api.services import Services
from quell.storage import tokens

_MAX_TTL = 10 * 365 * 86_400.0


class TokenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    #: Seconds; None: until withdrawn.
    ttl: Annotated[float, Meta(gt=0, le=_MAX_TTL)] | None = None


class IssuedToken(Struct, frozen=True, kw_only=True):
    """The only time that it is shown."""

    token: str
    role: Role
    name: str
    expires: float | None


class LoginLink(Struct, frozen=True):
    """A path of this server that logs in once."""

    path: str


def routes(services: Services) -> list[HTTPRouteHandler]:
    auth, store = services.auth, services.controller.store

    @get("/v1/tokens", summary="Who has a token; never the tokens", opt=needs(Permission.ADMIN))
    async def list_tokens(limit: Limit = 1000, cursor: Cursor = None) -> Page[tokens.Token]:
        found = await asyncio.to_thread(store.read, tokens.all_of)
        return page_of(found, limit, cursor, lambda token: token.name)

    @post("/v1/tokens", summary="Make a token; one of the same name stops working", opt=needs(Permission.ADMIN))
    async def create_token(data: JSONBody[TokenRequest]) -> IssuedToken:
        secret, now = tokens.new_secret(), time.time()
        expires = None if data.ttl is None else now + data.ttl
        token = tokens.Token(name=data.name, role=data.role.value, created=now, expires=expires)
        await asyncio.wrap_future(store.submit(lambda connection: tokens.put(connection, secret, token)))
        auth.forget()
        return IssuedToken(token=secret, role=data.role, name=data.name, expires=expires)

    @delete("/v1/tokens/{name:path}", status_code=204, summary="Withdraw a token", opt=needs(Permission.ADMIN))
    async def delete_token(name: FromPath[str]) -> None:
        name = name.removeprefix("/")
        if not await asyncio.wrap_future(store.submit(lambda connection: tokens.delete(connection, name))):
            raise Refusal(404, f"no token {name}")
        auth.forget()

    @post("/v1/login-links", summary="A link that logs a browser in once", opt=needs(Permission.ADMIN))
    async def login_link() -> LoginLink:
        return LoginLink(path=f"/login?code={auth.login_code()}")

    return [list_tokens, create_token, delete_token, login_link]
