"""Login and logout, by password, by link and by a provider. They need no session, so they are no pages of the registry."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from quell.api import cookies
from quell.api.accounts import Accounts, oidc
from quell.api.accounts.passwords import is_same
from quell.api.asgi import Receive, Scope, Send, header, peer
from quell.api.problem import Refusal
from quell.console.forms import read_form
from quell.console.page import ROOT, Page, Query
from quell.console.rendering import Screen, render, screen, send_html, send_moved

LOGIN, LOGOUT = "/login", "/logout"
#: Each with its methods. A look at what would be answered must not use a login up, so those of a provider have no HEAD.
ADDRESSES = {LOGIN: ("GET", "HEAD", "POST"), LOGOUT: ("POST",), **dict.fromkeys(oidc.PATHS, ("GET",))}
#: Bytes of their forms.
_FORM = 16 << 10


class Entrance:
    """Answers ADDRESSES."""

    def __init__(self, accounts: Accounts, pages: tuple[Page, ...]) -> None:
        self._accounts = accounts
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send, query: Query) -> None:
        shown = screen(scope, self._pages)
        if scope["path"] in oidc.PATHS:
            try:
                await self._by_provider(scope, send, query)
            except Refusal as refused:
                if self._accounts.oidc is None:
                    raise
                values = self._values(code="", following=own_address(query.one("next")), problem=refused.detail)
                html = render("login.html", shown, values)
                await send_html(send, refused.status, html, shown, refused.headers)
            return
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
        following = own_address(query.one("next"))
        values = self._values(code=code, following=following, left=query.one("left"))
        # A look at what would be answered uses no link up: mail programs and proxies look.
        if code and scope["method"] == "GET" and not logins.is_first(code):
            opened = await logins.by_link(code, address=peer(scope), program=_program(scope))
            await self._enter(scope, send, opened.secret, following)
            return
        template = "first.html" if code and logins.is_first(code) else "login.html"
        await send_html(send, 200, render(template, shown, values), shown)

    async def _log_in(self, scope: Scope, send: Send, shown: Screen, form: Query) -> None:
        cookies.check_site(scope)
        logins = self._accounts.logins
        name, password, code = (form.one(word) for word in ("name", "password", "code"))
        following = own_address(form.one("next"))
        came: dict[str, Any] = {"address": peer(scope), "program": _program(scope)}
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
            values = self._values(code=code, following=following, name=name, problem=refused.detail)
            html = render("first.html" if code else "login.html", shown, values)
            await send_html(send, refused.status, html, shown, refused.headers)
            return
        await self._enter(scope, send, opened.secret, following)

    async def _log_out(self, scope: Scope, send: Send, form: Query) -> None:
        browser = self._accounts.auth.browser(scope)
        to, headers = LOGIN, []
        if browser is not None:
            caller, secret = browser
            cookies.check_csrf(scope, secret, form.one("csrf").encode())
            await self._accounts.logins.end(caller, caller.session)
            headers = [cookies.to_drop(scope)]
            if self._accounts.oidc is not None and await self._accounts.oidc.is_of(caller):
                to = f"{LOGIN}?left=1"
        await send_moved(send, to, headers)

    async def _by_provider(self, scope: Scope, send: Send, query: Query) -> None:
        openid = self._accounts.oidc
        if openid is None:
            raise Refusal(404, "people do not log in with a provider here: oidc.issuer is empty")
        match scope["path"]:
            case oidc.BEGIN:
                begun = await openid.begin(scope, own_address(query.one("next")))
                await send_moved(send, begun.address, [begun.cookie])
            case oidc.CALLBACK:
                finished = await openid.finish(scope)
                session = cookies.to_keep(scope, finished.opened.secret, self._accounts.session_lifetime)
                await send_moved(send, own_address(finished.following), [session, finished.cookie])
            case _:
                await send_moved(send, await openid.logout_address(), [])

    def _values(
        self, *, code: str, following: str, name: str = "", problem: str = "", left: str = ""
    ) -> dict[str, Any]:
        """What the forms show. left: they have just logged out, and may still be logged in at the provider."""
        openid = self._accounts.oidc
        return {
            "code": code,
            "name": name,
            "problem": problem,
            "next": following,
            "provider": "" if openid is None else openid.label,
            "provider_address": f"{oidc.BEGIN}?{urlencode({'next': following})}",
            "provider_logout": oidc.END if left and openid is not None else "",
            "passwords": self._accounts.password_login,
        }

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
