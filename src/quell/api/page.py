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
from quell.api.asgi import Receive, Scope, Send, header, respond
from quell.api.auth import COOKIE, SESSION_SECONDS, Auth
from quell.api.problem import Refusal, refusal
from quell.api.roles import Permission
from quell.controller.controller import Controller
from quell.detectors import DETECTORS
from quell.errors import QuellError
from quell.model import action
from quell.model.decision import Decision, Outcome
from quell.model.event import Event
from quell.model.explanation import Explanation
from quell.model.subject import Subject
from quell.storage.store import Store, Stored

#: Seconds between two loads of the list by a browser that shows it.
_REFRESH = 5
_ROWS = 50


class Line(Struct, frozen=True):
    """One event as the page shows it."""

    event: Event
    decision: Decision
    outcomes: list[Outcome]


class Page:
    """The ASGI application of /, /events/<id> and /login."""

    def __init__(self, controller: Controller, auth: Auth) -> None:
        self._controller = controller
        self._auth = auth

    @staticmethod
    def answers(path: str) -> bool:
        return path in ("/", "/login") or path.startswith("/events/")

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Refusal(405, f"{scope['method']} is not allowed here", headers={"allow": "GET, HEAD"})
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if scope["path"] == "/login":
                await self._log_in(scope, send, query.get("code", [""])[0])
                return
            self._auth.require(scope, Permission.READ)
            if scope["path"] == "/":
                html = await self._recent(query.get("before", [None])[0])
            else:
                html = await asyncio.to_thread(self._event, scope["path"].removeprefix("/events/"))
        except QuellError as error:
            await _send_refusal(scope, send, refusal(error))
            return
        await _send_html(send, 200, html)

    async def _log_in(self, scope: Scope, send: Send, code: str) -> None:
        secret = self._auth.log_in(scope, code)
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={int(SESSION_SECONDS)}{secure}"
        await respond(
            send,
            303,
            b"",
            [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"referrer-policy", b"no-referrer")],
        )

    async def _recent(self, before: str | None) -> str:
        lines = await asyncio.to_thread(_lines, self._controller.store, before)
        return _render("recent.html", lines=lines, before=before, refresh=_REFRESH)

    def _event(self, event_id: str) -> str:
        stored = self._controller.store.event(event_id)
        if stored is None:
            raise Refusal(404, f"no event {event_id}: it never came, or is no longer kept")
        explanation = self._controller.explain(event_id)
        if explanation is None:
            raise Refusal(404, f"event {event_id} is no longer kept")
        return _render(
            "event.html",
            line=Line(_event_of(stored), stored.decision, list(explanation.outcomes)),
            flags=explanation.flags,
            record=_pretty(explanation),
            raw=stored.raw.decode(errors="replace"),
        )


def _lines(store: Store, before: str | None) -> list[Line]:
    return [
        Line(_event_of(stored), stored.decision, store.outcomes(stored.id) if stored.decision.actions else [])
        for stored in store.recent(_ROWS, before)
    ]


def _event_of(stored: Stored) -> Event:
    return DETECTORS[stored.source].decode(stored.raw, id=stored.id, received=stored.received)


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
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return environment, style, policy.encode()


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _render(name: str, **values: Any) -> str:
    environment, style, _ = _templates()
    # The style sheet is our own file, and its hash in the policy is that of the very text.
    return environment.get_template(name).render(style=Markup(style), version=__version__, **values)  # noqa: S704


async def _send_html(send: Send, status: int, html: str, headers: dict[str, str] | None = None) -> None:
    await respond(
        send,
        status,
        html.encode(),
        [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-security-policy", _templates()[2]),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
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
    )
    await _send_html(send, refused.status, html, refused.headers)
