"""Logging in and out over the API, and the sessions that last."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, cast

from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct

from quell.api import cookies
from quell.api.accounts.passwords import LONGEST
from quell.api.accounts.people import folded
from quell.api.asgi import Scope, peer
from quell.api.pages import Cursor, Limit, Page, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.routes.accounts import caller_of
from quell.api.services import Services
from quell.storage import users
from quell.storage.sessions import Session

#: Where a login is posted; it needs no token, since its body is the proof.
PATH = "/v1/sessions"


class LoginRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    password: Annotated[str, Meta(max_length=LONGEST)]
    #: Give the session to a browser, in a cookie that scripts cannot read, instead of as a token.
    cookie: bool = False


class LoggedIn(Struct, frozen=True, kw_only=True):
    id: str
    user: str
    role: str
    #: Epoch seconds; earlier if it is not used.
    expires: float
    #: To be shown as a bearer's token; absent if it is in the cookie.
    token: str | None = None
    #: With a cookie: for the header X-Quell-CSRF of every request that changes something.
    csrf: str | None = None


class Myself(Struct, frozen=True, kw_only=True):
    """Who is asking, and what they may do."""

    name: str
    #: user or token.
    kind: str
    role: str
    permissions: list[str]
    expires: float | None
    #: Id of the session; absent for an API token.
    session: str | None
    #: For the header X-Quell-CSRF; absent unless the session came in a cookie.
    csrf: str | None


def routes(services: Services) -> list[HTTPRouteHandler]:
    accounts, store = services.accounts, services.controller.store
    logins, auth = accounts.logins, accounts.auth

    @post(PATH, summary="Log in with name and password", opt=needs(Permission.OPEN, secret=True))
    async def log_in(data: JSONBody[LoginRequest], request: Request[Any, Any, Any]) -> Response[LoggedIn]:
        scope = cast("Scope", request.scope)
        if data.cookie:
            cookies.check_site(scope)
        opened = await logins.log_in(
            data.name,
            data.password,
            cookie=data.cookie,
            address=peer(scope),
            program=request.headers.get("user-agent", ""),
        )
        session = opened.session
        user = await asyncio.to_thread(store.read, lambda connection: users.get(connection, session.user or ""))
        answer = LoggedIn(
            id=session.id,
            user=session.user or "",
            role="" if user is None else user.role,
            expires=session.created + accounts.session_lifetime,
            token=None if data.cookie else opened.secret,
            csrf=cookies.csrf_of(opened.secret.encode()) if data.cookie else None,
        )
        headers = {"cache-control": "no-store"}
        if data.cookie:
            headers |= [cookies.to_keep(scope, opened.secret, accounts.session_lifetime)]
        return Response(answer, status_code=201, headers=headers)

    @get(PATH, summary="One's own sessions, or as an admin a user's", opt=needs(Permission.READ))
    async def list_sessions(
        request: Request[Any, Any, Any],
        user: FromQuery[str | None] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Page[Session]:
        caller = caller_of(request)
        wanted = folded(user) if user is not None else caller.name if caller.kind == "user" else None
        if user is not None and (caller.kind, caller.name) != ("user", wanted):
            caller.need(Permission.ADMIN)
        found = await logins.of(user=wanted, token=caller.name if wanted is None else None)
        return page([one for one in found if cursor is None or one.id < cursor], limit, lambda one: one.id)

    @get("/v1/sessions/current", summary="Who is asking, and what they may do", opt=needs(Permission.READ))
    async def current_session(request: Request[Any, Any, Any]) -> Response[Myself]:
        caller = caller_of(request)
        shows_token = "authorization" in request.headers
        browser = None if shows_token else auth.browser(cast("Scope", request.scope))
        told = Myself(
            name=caller.name,
            kind=caller.kind,
            role=caller.role.value,
            permissions=sorted(right.value for right in caller.rights),
            expires=caller.expires,
            session=caller.session or None,
            csrf=None if browser is None else cookies.csrf_of(browser[1]),
        )
        return Response(told, headers={"cache-control": "no-store"})

    async def end(identifier: str, request: Request[Any, Any, Any]) -> Response[None]:
        caller, scope = caller_of(request), cast("Scope", request.scope)
        await logins.end(caller, identifier)
        drops = identifier == caller.session and "authorization" not in request.headers
        return Response(None, status_code=204, headers=dict([cookies.to_drop(scope)] if drops else []))

    @delete("/v1/sessions/current", status_code=204, summary="Log out", opt=needs(Permission.READ, version=False))
    async def log_out(request: Request[Any, Any, Any]) -> Response[None]:
        identifier = caller_of(request).session
        if not identifier:
            raise Refusal(404, "an API token has no session; withdraw the token instead")
        return await end(identifier, request)

    @delete(
        "/v1/sessions/{session_id:str}",
        status_code=204,
        summary="End a session of one's own, or as an admin anybody's",
        opt=needs(Permission.READ, version=False),
    )
    async def end_session(session_id: FromPath[str], request: Request[Any, Any, Any]) -> Response[None]:
        return await end(session_id, request)

    return [log_in, list_sessions, current_session, log_out, end_session]
