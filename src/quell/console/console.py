"""The console's ASGI application: who is asking, which page, and what it answers; errors are pages as well."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import parse_qs, quote

import structlog

from quell.api import cookies
from quell.api.asgi import Receive, Scope, Send
from quell.api.auth import Caller
from quell.api.problem import Refusal, refusal, unforeseen
from quell.api.roles import Permission
from quell.api.services import Services
from quell.api.unpack import Disconnected
from quell.console import assets
from quell.console.entrance import ADDRESSES, Entrance, login_for, own_address
from quell.console.forms import read_form
from quell.console.live import Broadcast
from quell.console.page import ROOT, Call, Moved, Query, Route, View
from quell.console.registry import LIVE, PAGES
from quell.console.rendering import (
    THEMES,
    environment,
    keep_theme,
    keep_told,
    render,
    screen,
    send_html,
    send_moved,
)
from quell.errors import QuellError

#: Followed by the name of a page that is live.
_LIVE = f"{ROOT}/live/"
_THEME = f"{ROOT}/theme"

_log = structlog.get_logger(__name__)


class Console:
    """Answers /, /login and what is below it, /logout, and everything below /console."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._auth = services.auth
        environment().globals["registered"] = frozenset(page.name for page in PAGES)
        self._entrance = Entrance(services.accounts, PAGES)
        self._live = {name: Broadcast(name, make(services)) for name, make in LIVE.items()}

    @staticmethod
    def answers(path: str) -> bool:
        return path in ("/", ROOT, *ADDRESSES) or path.startswith(f"{ROOT}/")

    def close(self) -> None:
        """Ends the live pages, which would else keep the server from stopping."""
        for broadcast in self._live.values():
            broadcast.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except Disconnected:
            return
        except QuellError as error:
            await self._refuse(scope, send, refusal(error))
        except Exception as error:  # noqa: BLE001 - the last boundary: whoever looks gets a page, the log the rest
            _log.error("a page failed", method=scope["method"], path=scope["path"], exc_info=error)
            await self._refuse(scope, send, unforeseen())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        query = Query(_fields(scope))
        if path.startswith(assets.STATIC):
            _allow(scope, "GET", "HEAD")
            await assets.serve(scope, send)
        elif path in ADDRESSES:
            _allow(scope, *ADDRESSES[path])
            await self._entrance(scope, receive, send, query)
        elif path in ("/", ROOT, f"{ROOT}/"):
            _allow(scope, "GET", "HEAD")
            self._auth.require(scope, Permission.READ)
            await send_moved(send, PAGES[0].address, [])
        elif path.startswith(_LIVE):
            _allow(scope, "GET")
            await self._look(scope, receive, send, path.removeprefix(_LIVE))
        elif path == _THEME:
            _allow(scope, "POST")
            cookies.check_site(scope)
            form = await read_form(scope, receive, 4096)
            theme = form.one("theme")
            await send_moved(send, own_address(form.one("next")), [keep_theme(theme)] if theme in THEMES else [])
        else:
            await self._page(scope, receive, send, query)

    async def _page(self, scope: Scope, receive: Receive, send: Send, query: Query) -> None:
        browser = self._auth.browser(scope)
        caller, secret = browser or (self._auth.identify(scope), b"")
        self._services.limit.take(str(caller.actor))
        status = 0
        try:
            status = await self._answered(scope, receive, send, query, caller, secret)
        except QuellError as error:
            status = refusal(error).status
            raise
        finally:
            if status == 403:
                self._services.accounts.told.denied(caller.actor, caller.role.value, scope["method"], scope["path"])

    async def _answered(
        self, scope: Scope, receive: Receive, send: Send, query: Query, caller: Caller, secret: bytes
    ) -> int:
        """The page's status. Refusal."""
        caller.need(Permission.READ)
        name, route, parts = _route(scope)
        caller.need(route.needs)
        form = Query({})
        if route.method == "POST":
            form = await read_form(scope, receive)
            if secret:
                cookies.check_csrf(scope, secret, form.one("csrf").encode())
        shown = screen(scope, PAGES, page=name, caller=caller, secret=secret)
        call = Call(
            services=self._services,
            caller=caller,
            csrf=shown.csrf,
            scope=scope,
            path=parts,
            query=query,
            form=form,
        )
        answer = await route.handler(call)
        match answer:
            case View():
                html = render(answer.template, shown, answer.values)
                await send_html(send, answer.status, html, shown)
                return answer.status
            case Moved():
                told = [keep_told(answer.told, secret)] if answer.told and secret else []
                await send_moved(send, answer.to, told)
                return HTTPStatus.SEE_OTHER

    async def _look(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        """The stream of a live page. That it is open is no use of the session, which runs out as if nobody were there."""
        caller = self._auth.require(scope, Permission.READ)
        broadcast = self._live.get(name)
        if broadcast is None:
            raise Refusal(404, f"no page {name[:100]} is live")
        await broadcast.stream(receive, send, lambda: self._auth.stands(scope, caller))

    async def _refuse(self, scope: Scope, send: Send, refused: Refusal) -> None:
        """What stood in the way, as a page; who is not logged in is asked to."""
        is_page = not scope["path"].startswith((assets.STATIC, _LIVE)) and scope["path"] not in ADDRESSES
        if refused.status == 401 and is_page and scope["method"] in ("GET", "HEAD"):
            await send_moved(send, login_for(scope), [])
            return
        caller: Caller | None = None
        secret = b""
        if refused.status != 401 and (browser := self._auth.browser(scope)) is not None:
            caller, secret = browser
        shown = screen(scope, PAGES, caller=caller, secret=secret)
        values = {
            "title": HTTPStatus(refused.status).phrase,
            "status": refused.status,
            "detail": refused.detail,
            "problems": refused.problems,
        }
        await send_html(send, refused.status, render("refused.html", shown, values), shown, refused.headers)


def _fields(scope: Scope) -> dict[str, list[str]]:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=500)
    except ValueError as error:
        raise Refusal(400, "the address has too many parameters") from error


def _allow(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise Refusal(405, f"{scope['method']} is not allowed here", headers={"allow": ", ".join(methods)})


def _route(scope: Scope) -> tuple[str, Route, dict[str, str]]:
    """The page's name, the route, and the parts of the address. Refusal 404, 405."""
    path = scope["path"].removeprefix(ROOT)
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    allowed: set[str] = set()
    for page in PAGES:
        if path != f"/{page.name}" and not path.startswith(f"/{page.name}/"):
            continue
        for route in page.routes:
            parts = route.match(path)
            if parts is None:
                continue
            if route.method == method:
                return page.name, route, parts
            allowed.add(route.method)
    if allowed:
        raise Refusal(405, f"{scope['method']} is not allowed here", headers={"allow": ", ".join(sorted(allowed))})
    raise Refusal(404, f"there is no page at {quote(scope['path'][:200])}")
