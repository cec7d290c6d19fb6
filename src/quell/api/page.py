"""The plain page: recent events with what was decided and done, and one event whole. No script, nothing from elsewhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, quote

import jinja2
import msgspec
from markupsafe import Markup
from msgspec import Struct

from quell import __version__
from quell.api import cookies
from quell.api.accounts import Accounts
from quell.api.accounts.passwords import is_same
from quell.api.asgi import Receive, Scope, Send, header, peer, respond
from quell.api.auth import Caller
from quell.api.problem import Refusal, refusal
from quell.api.roles import Permission
from quell.api.unpack import Disconnected, read_body
from quell.controller.controller import Controller
from quell.controller.past import as_decided
from quell.errors import QuellError
from quell.model import action
from quell.model.decision import Decision, Outcome
from quell.model.event import Event
from quell.model.explanation import Explanation
from quell.model.subject import Subject
from quell.storage.store import Store

#: Seconds between two loads of the list by a browser that shows it.
_REFRESH = 5
_ROWS = 50
#: Bytes of a form that was filled in.
_FORM = 16 << 10
#: What a page says of who looks at it, if that is not known.
_NOBODY = {"who": "", "csrf": ""}


class Line(Struct, frozen=True):
    """One event as the page shows it."""

    event: Event
    decision: Decision
    outcomes: list[Outcome]


class Page:
    """The ASGI application of /, /events/<id>, /login and /logout."""

    def __init__(self, controller: Controller, accounts: Accounts) -> None:
        self._controller = controller
        self._accounts = accounts

    @staticmethod
    def answers(path: str) -> bool:
        return path in ("/", "/login", "/logout") or path.startswith("/events/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        except Disconnected:
            return
        except QuellError as error:
            await _send_refusal(scope, send, refusal(error))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        allowed = {"/login": ("GET", "HEAD", "POST"), "/logout": ("POST",)}.get(path, ("GET", "HEAD"))
        if method not in allowed:
            raise Refusal(405, f"{method} is not allowed here", headers={"allow": ", ".join(allowed)})
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if method == "POST":
            fields = await _form(scope, receive)
            await (self._log_in if path == "/login" else self._log_out)(scope, send, fields)
            return
        if path == "/login":
            await self._login(scope, send, query.get("code", [""])[0])
            return
        caller = self._accounts.auth.require(scope, Permission.READ)
        shown = self._shown(scope, caller)
        if path == "/":
            html = await self._recent(shown, query.get("before", [None])[0])
        else:
            html = await asyncio.to_thread(self._event, shown, path.removeprefix("/events/"))
        await _send_html(send, 200, html)

    def _shown(self, scope: Scope, caller: Caller) -> dict[str, str]:
        """What every page says of who looks at it. csrf "": it is no browser's session that could be ended."""
        browser = self._accounts.auth.browser(scope)
        return {"who": caller.name, "csrf": "" if browser is None else cookies.csrf_of(browser[1])}

    async def _login(self, scope: Scope, send: Send, code: str) -> None:
        """The form; with a login link's code no form is needed, with that of the first start it asks for more."""
        logins = self._accounts.logins
        if not code:
            await _send_html(send, 200, _render("login.html", name="", problem="", **_NOBODY))
        elif logins.is_first(code):
            await _send_html(send, 200, _render("first.html", code=code, name="", problem="", **_NOBODY))
        else:
            opened = await logins.by_link(code, address=peer(scope), program=_program(scope))
            await self._enter(scope, send, opened.secret)

    async def _log_in(self, scope: Scope, send: Send, fields: dict[str, str]) -> None:
        cookies.check_site(scope)
        logins = self._accounts.logins
        name, password, code = (fields.get(word, "") for word in ("name", "password", "code"))
        came = {"address": peer(scope), "program": _program(scope)}
        try:
            if code:
                if not is_same(password, fields.get("again", "")):
                    raise Refusal(422, "the two passwords differ")
                opened = await logins.first_admin(code, name, password, **came)
            else:
                opened = await logins.log_in(name, password, cookie=True, **came)
        except Refusal as refused:
            if code and not logins.is_first(code):
                raise
            values = {"code": code} if code else {}
            html = _render(
                "first.html" if code else "login.html", name=name, problem=refused.detail, **values, **_NOBODY
            )
            await _send_html(send, refused.status, html, refused.headers)
            return
        await self._enter(scope, send, opened.secret)

    async def _log_out(self, scope: Scope, send: Send, fields: dict[str, str]) -> None:
        browser = self._accounts.auth.browser(scope)
        headers = {"location": "/login"}
        if browser is not None:
            caller, secret = browser
            cookies.check_csrf(scope, secret, fields.get("csrf", "").encode())
            await self._accounts.logins.end(caller, caller.session)
            headers |= [cookies.to_drop(scope)]
        await _redirect(send, headers)

    async def _enter(self, scope: Scope, send: Send, secret: str) -> None:
        headers = dict([cookies.to_keep(scope, secret, self._accounts.session_lifetime)])
        await _redirect(send, {"location": "/", **headers})

    async def _recent(self, shown: dict[str, str], before: str | None) -> str:
        lines = await asyncio.to_thread(_lines, self._controller.store, before)
        return _render("recent.html", lines=lines, before=before, refresh=_REFRESH, **shown)

    def _event(self, shown: dict[str, str], event_id: str) -> str:
        stored = self._controller.store.event(event_id)
        if stored is None:
            raise Refusal(404, f"no event {event_id}: it never came, or is no longer kept")
        explanation = self._controller.explain(event_id)
        if explanation is None:
            raise Refusal(404, f"event {event_id} is no longer kept")
        return _render(
            "event.html",
            line=Line(as_decided(stored), stored.decision, list(explanation.outcomes)),
            flags=explanation.flags,
            record=_pretty(explanation),
            raw=stored.raw.decode(errors="replace"),
            **shown,
        )


async def _form(scope: Scope, receive: Receive) -> dict[str, str]:
    """The fields of a form that was filled in; of one given twice the first. Refusal 400, 413."""
    body = await read_body(scope, receive, _FORM)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=16)
    except ValueError as error:
        raise Refusal(400, "this is no form that was filled in") from error
    return {name: values[0] for name, values in fields.items()}


def _program(scope: Scope) -> str:
    return (header(scope, b"user-agent") or b"").decode("latin-1")


async def _redirect(send: Send, headers: dict[str, str]) -> None:
    told = {**headers, "referrer-policy": "same-origin", "cache-control": "no-store"}
    await respond(send, 303, b"", [(name.encode(), value.encode()) for name, value in told.items()])


def _lines(store: Store, before: str | None) -> list[Line]:
    return [
        Line(as_decided(stored), stored.decision, store.outcomes(stored.id) if stored.decision.actions else [])
        for stored in store.recent(_ROWS, before)
    ]


def _pretty(explanation: Explanation) -> str:
    return msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode()


def about(subject: Subject) -> str:
    """Whom an event is about, most telling first."""
    parts: list[str] = []
    if (process := subject.process) is not None:
        told = process.name or process.exe or process.cmdline or "process"
        parts.append(told if process.pid is None else f"{told} (pid {process.pid})")
    if (container := subject.container) is not None:
        parts.append(f"container {container.name or container.id[:12]}")
    if subject.image is not None:
        parts.append(subject.image)
    if subject.pod is not None and subject.pod.name is not None:
        parts.append("pod " + "/".join(word for word in (subject.namespace, subject.pod.name) if word))
    elif subject.namespace is not None:
        parts.append(f"namespace {subject.namespace}")
    if subject.group is not None:
        parts.append(f"group {subject.group}")
    if subject.process is None and subject.user is not None:
        parts.append(f"user {subject.user}")
    if subject.node is not None:
        parts.append(f"on {subject.node}")
    return ", ".join(parts)


def moment(seconds: float) -> str:
    """UTC, to the millisecond."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def span(seconds: float) -> str:
    """A duration as a person reads it."""
    return f"{seconds * 1000:.1f} ms" if abs(seconds) < 1 else f"{seconds:.1f} s"


@lru_cache(maxsize=1)
def _templates() -> tuple[jinja2.Environment, str, bytes]:
    """The templates, the style sheet, and the headers' policy that allows that style sheet and nothing else."""
    loader = jinja2.PackageLoader("quell.api")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"about": about, "moment": moment, "span": span, "word": action.word, "urlencode": _quoted}
    style = loader.get_source(environment, "style.css")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return environment, style, policy.encode()


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _render(template: str, /, **values: Any) -> str:
    environment, style, _ = _templates()
    # The style sheet is our own file, and its hash in the policy is that of the very text.
    return environment.get_template(template).render(style=Markup(style), version=__version__, **values)  # noqa: S704


async def _send_html(send: Send, status: int, html: str, headers: dict[str, str] | None = None) -> None:
    await respond(
        send,
        status,
        html.encode(),
        [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-security-policy", _templates()[2]),
            (b"x-content-type-options", b"nosniff"),
            # With no-referrer a form would be posted with the origin "null": the check for other sites needs the true one.
            (b"referrer-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
            *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
        ],
    )


async def _send_refusal(scope: Scope, send: Send, refused: Refusal) -> None:
    host = (header(scope, b"host") or b"").decode("latin-1")
    html = _render(
        "refused.html",
        title=HTTPStatus(refused.status).phrase,
        status=refused.status,
        detail=refused.detail,
        origin=f"{scope.get('scheme', 'http')}://{host}",
        **_NOBODY,
    )
    await _send_html(send, refused.status, html, refused.headers)
