"""Users: who may log in, with which role; made, disabled, given another password, logged out, and deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from quell.api.accounts.passwords import is_same
from quell.api.accounts.people import folded
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.console.page import Call, Moved, Page, Route, Section, View, address
from quell.storage import tokens, users
from quell.storage.users import User

_ROWS = 100
#: Those that people have, with what they may do.
ROLES: Mapping[Role, str] = {
    Role.ADMIN: "everything, accounts and settings too",
    Role.OPERATOR: "documents, quarantine, approvals, pause",
    Role.AUTHOR: "documents; destructive rules stay disabled",
    Role.VIEWER: "look",
}


async def show(call: Call) -> View:
    text, role = call.query.one("text").casefold(), call.query.one("role")
    every = await asyncio.to_thread(call.services.controller.store.read, users.all_of)
    found = [user for user in every if text in user.name and (not role or role == user.role)]
    start = call.query.number("from", 0, least=0, most=10**6)
    values = {
        "users": found[start : start + _ROWS],
        "found": len(found),
        "everyone": len(every),
        "start": start,
        "rows": _ROWS,
        "query": call.query,
        "roles": [("", "Any"), *(each.value for each in ROLES)],
        "now": time.time(),
    }
    return View(template="pages/users.html", values=values)


async def one(call: Call) -> View:
    return await _one(call)


async def new_form(call: Call) -> View:
    return _new(call)


async def new(call: Call) -> View | Moved:
    form = call.form
    try:
        role = _role(form.one("role"))
        call.caller.grant(role.permissions)
        _same(call)
        user = await call.services.accounts.people.create(
            call.caller.actor, form.one("name"), role, form.one("password")
        )
    except Refusal as error:
        return _new(call, error)
    return Moved(to=address("users", "of", user.name), told=f"{user.name} can log in as {user.role}.")


async def change(call: Call) -> View | Moved:
    """Another role, or none: disabled or enabled."""
    form, name = call.form, folded(call.path["name"])
    role = _role(form.one("role")) if "role" in form else None
    disabled = form.one("disabled") == "true" if "disabled" in form else None
    before = await _user(call)
    try:
        if role is not None:
            call.caller.grant(role.permissions)
        user = await call.services.accounts.people.change(
            call.caller.actor, name, role=role, disabled=disabled, expected=_version(call)
        )
    except Refusal as error:
        return await _one(call, error)
    state = " and disabled" if user.disabled else ""
    ended = "their sessions were ended" if user.version != before.version else "as before, so nothing was changed"
    return Moved(to=address("users", "of", name), told=f"{name} is {user.role}{state}; {ended}.")


async def disable_form(call: Call) -> View:
    return View(template="pages/users_disable.html", values={"user": await _user(call)})


async def password(call: Call) -> View | Moved:
    name = folded(call.path["name"])
    try:
        _same(call)
        await call.services.accounts.people.set_password(
            call.caller, name, call.form.one("password"), None, expected=_version(call)
        )
    except Refusal as error:
        return await _one(call, error)
    return Moved(to=address("users", "of", name), told=f"{name} has a new password; their sessions were ended.")


async def unlock(call: Call) -> Moved:
    name = folded(call.path["name"])
    await call.services.accounts.people.unlock(call.caller.actor, name)
    return Moved(to=address("users", "of", name), told=f"{name} can log in again.")


async def log_out(call: Call) -> Moved:
    """One session, or all of them."""
    name, logins = folded(call.path["name"]), call.services.accounts.logins
    wanted = call.form.one("session")
    ended = 0
    for session in await logins.of(user=name):
        if wanted in ("", session.id):
            await logins.end(call.caller, session.id)
            ended += 1
    return Moved(to=address("users", "of", name), told=f"Sessions of {name} that were ended: {ended}.")


async def delete_form(call: Call) -> View:
    return await _delete(call)


async def delete(call: Call) -> View | Moved:
    name = folded(call.path["name"])
    try:
        remaining = await call.services.accounts.people.delete(call.caller.actor, name, lambda _: None)
    except Refusal as error:
        if error.status != 409:
            raise
        return await _delete(call, error)
    told = f"{name} was deleted."
    if remaining:
        told += f" Tokens of theirs that go on sending events: {', '.join(remaining)}."
    return Moved(to=PAGE.address, told=told)


async def _one(call: Call, refused: Refusal | None = None) -> View:
    user, name = await _user(call), folded(call.path["name"])
    store = call.services.controller.store
    owned = await asyncio.to_thread(store.read, lambda connection: tokens.owned_by(connection, f"user/{name}"))
    values = {
        "user": user,
        "is_self": (call.caller.kind, call.caller.name) == ("user", name),
        "locked": user.is_locked(time.time()),
        "sessions": await call.services.accounts.logins.of(user=name),
        "current": call.caller.session,
        "owned": owned,
        "roles": [(role.value, f"{role.value}: {may}") for role, may in ROLES.items()],
        "least": call.services.controller.live.settings.accounts.password_min_length,
        "refused": "" if refused is None else refused.detail,
    }
    return View(template="pages/users_one.html", values=values, status=200 if refused is None else refused.status)


def _new(call: Call, refused: Refusal | None = None) -> View:
    values = {
        "name": call.form.one("name"),
        "role": call.form.one("role", Role.VIEWER.value),
        "roles": [(role.value, f"{role.value}: {may}") for role, may in ROLES.items()],
        "least": call.services.controller.live.settings.accounts.password_min_length,
        "refused": "" if refused is None else refused.detail,
    }
    return View(template="pages/users_new.html", values=values, status=200 if refused is None else refused.status)


async def _delete(call: Call, refused: Refusal | None = None) -> View:
    user = await _user(call)
    store = call.services.controller.store
    owned = await asyncio.to_thread(store.read, lambda connection: tokens.owned_by(connection, f"user/{user.name}"))
    values = {
        "user": user,
        "gone": [token.name for token in owned if token.role != Role.INGEST],
        "stay": [token.name for token in owned if token.role == Role.INGEST],
        "refused": "" if refused is None else refused.detail,
    }
    return View(template="pages/users_delete.html", values=values, status=200 if refused is None else refused.status)


async def _user(call: Call) -> User:
    """Refusal 404."""
    name = folded(call.path["name"])
    user = await asyncio.to_thread(call.services.controller.store.read, lambda held: users.get(held, name))
    if user is None:
        raise Refusal(404, f"no user {name[:64]}")
    return user


def _role(written: str) -> Role:
    """Refusal 400."""
    for role in ROLES:
        if role.value == written:
            return role
    raise Refusal(400, f"role: expected one of {', '.join(ROLES)}, got {written[:40]}")


def _same(call: Call) -> None:
    """Refusal 422."""
    if not is_same(call.form.one("password"), call.form.one("again")):
        raise Refusal(422, "the two passwords differ")


def _version(call: Call) -> Callable[[User], None]:
    def check(user: User) -> None:
        given = call.form.one("version")
        if given and given != str(user.version):
            raise Refusal(412, f"{user.name} was changed since this form was opened; look at how they are now")

    return check


PAGE = Page(
    name="users",
    title="Users",
    section=Section.ADMINISTER,
    needs=Permission.ADMIN,
    routes=tuple(
        Route(path=path, handler=handler, method=method, needs=Permission.ADMIN)
        for path, handler, method in (
            ("/users", show, "GET"),
            ("/users/new", new_form, "GET"),
            ("/users/new", new, "POST"),
            ("/users/of/{name}", one, "GET"),
            ("/users/of/{name}", change, "POST"),
            ("/users/disable/{name}", disable_form, "GET"),
            ("/users/password/{name}", password, "POST"),
            ("/users/unlock/{name}", unlock, "POST"),
            ("/users/sessions/{name}", log_out, "POST"),
            ("/users/delete/{name}", delete_form, "GET"),
            ("/users/delete/{name}", delete, "POST"),
        )
    ),
    key="e",
    icon="users",
)
