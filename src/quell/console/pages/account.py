"""One's own account: the password, the sessions that last, and what the role may do."""

from __future__ import annotations

import asyncio

from quell.api.accounts.passwords import is_same
from quell.api.problem import Refusal
from quell.console.page import Call, Moved, Page, Route, Section, View
from quell.storage import users
from quell.storage.sessions import Session


async def show(call: Call) -> View:
    return await _show(call)


async def password(call: Call) -> View | Moved:
    """All sessions end with it, this one too."""
    caller, form = call.caller, call.form
    if caller.kind != "user":
        raise Refusal(403, "a token has no password")
    try:
        if not is_same(form.one("password"), form.one("again")):
            raise Refusal(422, "the two passwords differ")
        await call.services.accounts.people.set_password(
            caller, caller.name, form.one("password"), form.one("old_password"), expected=lambda _: None
        )
    except Refusal as error:
        return await _show(call, error)
    return Moved(to="/login")


async def end(call: Call) -> Moved:
    """One session of one's own; without its id, all others."""
    logins, wanted = call.services.accounts.logins, call.form.one("session")
    ended = 0
    for session in await _sessions(call):
        if session.id == wanted or (not wanted and session.id != call.caller.session):
            await logins.end(call.caller, session.id)
            ended += 1
    if wanted == call.caller.session:
        return Moved(to="/login")
    return Moved(to=PAGE.address, told=f"Sessions that were ended: {ended}.")


async def _show(call: Call, refused: Refusal | None = None) -> View:
    caller = call.caller
    name, store = caller.name, call.services.controller.store
    user = None if caller.kind != "user" else await asyncio.to_thread(store.read, lambda held: users.get(held, name))
    values = {
        "sessions": await _sessions(call),
        "current": caller.session,
        "rights": sorted(right.value for right in caller.rights),
        "has_password": user is not None and user.source == users.LOCAL,
        "least": call.services.controller.live.settings.accounts.password_min_length,
        "refused": "" if refused is None else refused.detail.removeprefix("old_password: "),
    }
    return View(template="pages/account.html", values=values, status=200 if refused is None else refused.status)


async def _sessions(call: Call) -> list[Session]:
    caller, logins = call.caller, call.services.accounts.logins
    return await logins.of(user=caller.name) if caller.kind == "user" else await logins.of(token=caller.name)


PAGE = Page(
    name="account",
    title="My account",
    section=Section.ADMINISTER,
    routes=(
        Route(path="/account", handler=show),
        Route(path="/account/password", handler=password, method="POST"),
        Route(path="/account/sessions", handler=end, method="POST"),
    ),
    key="m",
    icon="account",
)
