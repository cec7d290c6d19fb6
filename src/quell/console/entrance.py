"""Login and logout, by password and by link. They need no session, so they are no pages of the registry."""

from __future__ import annotations

from urllib.parse import urlencode

from quell.api import cookies
from quell.api.accounts import Accounts
from quell.api.accounts.passwords import is_same
from quell.api.asgi import Receive, Scope, Send, header, peer
from quell.api.problem import Refusal
from quell.console.forms import read_form
from quell.console.page import ROOT, Page, Query
from quell.console.rendering import Screen, render, screen, send_html, send_moved

LOGIN, LOGOUT = "/login", "/logout"
#: Bytes of their forms.
_FORM = 16 << 10


class Entrance:
    """The addresses /login and /logout."""

    def __init__(self, accounts: Accounts, pages: tuple[Page, ...]) -> None:
        self._accounts = accounts
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send, query: Query) -> None:
        shown = screen(scope, self._pages)
        if scope["method"] != "POST":
            await self._form(scope, send, shown, query)
            return
        form = await read_form(scope, receive, _FORM)
        if scope["path"] == LOGOUT:
            await self._log_out(scope, send, form)
        else:
            await self._log_in(scope, send, shown, form)

    async def _form(self, scope: Scope, send: Send, shown: Screen, query: Query) -> None:
        """With a login link's code no form is needed; with that of the first start it asks for more."""
        logins, code = self._accounts.logins, query.one("code")
        values = {"code": code, "name": "", "problem": "", "next": own_address(query.one("next"))}
        if code and not logins.is_first(code):
            opened = await logins.by_link(code, address=peer(scope), program=_program(scope))
            await self._enter(scope, send, opened.secret, values["next"])
            return
        await send_html(send, 200, render("first.html" if code else "login.html", shown, values), shown)

    async def _log_in(self, scope: Scope, send: Send, shown: Screen, form: Query) -> None:
        cookies.check_site(scope)
        logins = self._accounts.logins
        name, password, code = (form.one(word) for word in ("name", "password", "code"))
        following = own_address(form.one("next"))
        came = {"address": peer(scope), "program": _program(scope)}
        try:
            if code:
                if not is_same(password, form.one("again")):
                    raise Refusal(422, "the two passwords differ")
                opened = await logins.first_admin(code, name, password, **came)
            else:
                opened = await logins.log_in(name, password, cookie=True, **came)
        except Refusal as refused:
            if code and not logins.is_first(code):
                raise
            values = {"code": code, "name": name, "problem": refused.detail, "next": following}
            html = render("first.html" if code else "login.html", shown, values)
            await send_html(send, refused.status, html, shown, refused.headers)
            return
        await self._enter(scope, send, opened.secret, following)

    async def _log_out(self, scope: Scope, send: Send, form: Query) -> None:
        browser = self._accounts.auth.browser(scope)
        headers = []
        if browser is not None:
            caller, secret = browser
            cookies.check_csrf(scope, secret, form.one("csrf").encode())
            await self._accounts.logins.end(caller, caller.session)
            headers = [cookies.to_drop(scope)]
        await send_moved(send, LOGIN, headers)

    async def _enter(self, scope: Scope, send: Send, secret: str, following: str) -> None:
        await send_moved(send, following, [cookies.to_keep(scope, secret, self._accounts.session_lifetime)])


def login_for(scope: Scope) -> str:
    """The address of the form that leads back to what was asked for."""
    query = scope["query_string"].decode("latin-1")
    asked = scope["path"] + (f"?{query}" if query else "")
    return LOGIN if asked in ("/", ROOT) else f"{LOGIN}?{urlencode({'next': asked})}"


def own_address(asked: str) -> str:
    """Where to go on, if that is a page of the console; else the first page: nobody is led elsewhere by a link."""
    is_own = asked.startswith(f"{ROOT}/") and asked.isascii() and asked.isprintable() and "\\" not in asked
    return asked if is_own else ROOT


def _program(scope: Scope) -> str:
    return (header(scope, b"user-agent") or b"").decode("latin-1")
