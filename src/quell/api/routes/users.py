"""Users: people with a name, a role and a password."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from quell.api.accounts.passwords import LONGEST
from quell.api.accounts.people import NAME, folded
from quell.api.etag import etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role, needs
from quell.api.routes.accounts import caller_of
from quell.api.services import Services
from quell.storage import users
from quell.storage.users import User

_Name = Annotated[str, Meta(pattern=NAME)]
_Password = Annotated[str, Meta(max_length=LONGEST)]


class UserRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: _Name
    #: Not ingest.
    role: Role
    password: _Password


class UserChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is absent stays as it is."""

    role: Role | None = None
    disabled: bool | None = None


class PasswordChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    password: _Password
    #: The one in force, for one's own.
    old_password: _Password | None = None


class Deleted(Struct, frozen=True, kw_only=True):
    #: Tokens for sending events that the user made; they go on working.
    remaining_tokens: list[str]


class ToldUser(User, frozen=True, kw_only=True):
    #: Whether locked_until is still to come.
    locked: bool


def routes(services: Services) -> list[HTTPRouteHandler]:
    people, store = services.accounts.people, services.controller.store

    @get("/v1/users", summary="Who may log in, by name", opt=needs(Permission.ADMIN))
    async def list_users(limit: Limit = 1000, cursor: Cursor = None) -> Page[ToldUser]:
        found = await asyncio.to_thread(store.read, users.all_of)
        return page_of([_told(user) for user in found], limit, cursor, lambda user: user.name)

    @post("/v1/users", summary="Make a user", opt=needs(Permission.ADMIN))
    async def create_user(data: JSONBody[UserRequest], request: Request[Any, Any, Any]) -> Response[ToldUser]:
        caller = caller_of(request)
        caller.grant(_role(data.role).permissions)
        return _answer(await people.create(caller.actor, data.name, data.role, data.password), 201)

    @get("/v1/users/{name:str}", summary="One user", opt=needs(Permission.ADMIN))
    async def get_user(name: FromPath[str]) -> Response[ToldUser]:
        user = await asyncio.to_thread(store.read, lambda connection: users.get(connection, folded(name)))
        if user is None:
            raise Refusal(404, f"no user {name}")
        return _answer(user)

    @patch(
        "/v1/users/{name:str}",
        summary="Change a user's role, disable or enable; ends the user's sessions",
        opt=needs(Permission.ADMIN),
    )
    async def change_user(
        name: FromPath[str], data: JSONBody[UserChange], request: Request[Any, Any, Any]
    ) -> Response[ToldUser]:
        caller = caller_of(request)
        if data.role is not None:
            caller.grant(_role(data.role).permissions)
        return _answer(
            await people.change(
                caller.actor, folded(name), role=data.role, disabled=data.disabled, expected=_version(request)
            )
        )

    @delete(
        "/v1/users/{name:str}",
        status_code=200,
        summary="Delete a user with sessions and tokens, but for tokens that only send events",
        opt=needs(Permission.ADMIN),
    )
    async def delete_user(name: FromPath[str], request: Request[Any, Any, Any]) -> Deleted:
        actor = caller_of(request).actor
        return Deleted(remaining_tokens=await people.delete(actor, folded(name), _version(request)))

    @put(
        "/v1/users/{name:str}/password",
        status_code=204,
        summary="Change one's own password, or as an admin anybody's; ends the user's sessions",
        opt=needs(Permission.READ),
    )
    async def change_password(
        name: FromPath[str], data: JSONBody[PasswordChange], request: Request[Any, Any, Any]
    ) -> None:
        caller = caller_of(request)
        if (caller.kind, caller.name) != ("user", folded(name)):
            caller.need(Permission.ADMIN)
        await people.set_password(caller, folded(name), data.password, data.old_password, expected=_version(request))

    @post(
        "/v1/users/{name:str}/unlock",
        status_code=204,
        summary="Let a user log in again after too many failures",
        opt=needs(Permission.ADMIN),
    )
    async def unlock_user(name: FromPath[str], request: Request[Any, Any, Any]) -> None:
        await people.unlock(caller_of(request).actor, folded(name))

    return [list_users, create_user, get_user, change_user, delete_user, change_password, unlock_user]


def _role(role: Role) -> Role:
    """Refusal 400 for the role that people do not have."""
    if role is Role.INGEST:
        raise Refusal(400, f"role {role} is for tokens; expected one of {', '.join(set(Role) - {Role.INGEST})}")
    return role


def _version(request: Request[Any, Any, Any]) -> Callable[[User], None]:
    """Asked in the transaction of the change, so that nothing comes between."""
    return lambda user: expect(request, user.version)


def _told(user: User) -> ToldUser:
    return ToldUser(**msgspec.structs.asdict(user), locked=user.is_locked(time.time()))


def _answer(user: User, status: int = 200) -> Response[ToldUser]:
    return Response(_told(user), status_code=status, headers=etag(user.version))
