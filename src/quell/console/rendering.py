"""Templates into answers. Everything is escaped, a name that is not there is an error, and nothing stands inline."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import jinja2
from msgspec import Struct

from quell import __version__
from quell.api import cookies
from quell.api.asgi import Scope, Send, header, respond
from quell.api.auth import Caller
from quell.api.roles import Permission
from quell.console import charts, targets, words
from quell.console.assets import assets
from quell.console.page import ROOT, Page, Section, address
from quell.model import action

#: Of the pages: only our own scripts, styles and pictures, from this server, and nothing inline.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_THEME, _FLASH = b"quell_theme", b"quell_flash"
#: What a browser that says nothing else gets: as its system is.
THEMES = ("auto", "light", "dark")
_FLASH_SECONDS = 60


class Screen(Struct, frozen=True, kw_only=True):
    """What every template knows as `screen`."""

    #: Name of the page; "": none of the registry.
    page: str
    theme: str
    #: Where this is, to come back to after a change of theme.
    here: str
    pages: tuple[Page, ...]
    caller: Caller | None = None
    csrf: str = ""
    told: str = ""

    def may(self, permission: str) -> bool:
        """What the server would refuse need not be offered."""
        return self.caller is not None and self.caller.may(Permission(permission))

    def has(self, page: str) -> bool:
        """Whether there is such a page and they may see it: for links to it."""
        return any(each.name == page and self.may(each.needs) for each in self.pages)

    @property
    def sections(self) -> list[tuple[str, list[Page]]]:
        """The navigation."""
        told = [
            (section.value, [each for each in self.pages if each.section is section and self.may(each.needs)])
            for section in Section
        ]
        return [(name, pages) for name, pages in told if pages]

    @property
    def style(self) -> str:
        """The address of the page's own style sheet; "": it has none."""
        return _address(f"pages/{self.page}.css")

    @property
    def script(self) -> str:
        return _address(f"pages/{self.page}.js")


def screen(
    scope: Scope, pages: tuple[Page, ...], *, page: str = "", caller: Caller | None = None, secret: bytes = b""
) -> Screen:
    """secret: of the browser's session; b"": it is none."""
    theme = (_cookie(scope, _THEME) or b"auto").decode("latin-1")
    return Screen(
        page=page,
        theme=theme if theme in THEMES else "auto",
        here=_here(scope),
        pages=pages,
        caller=caller,
        csrf=cookies.csrf_of(secret) if secret else "",
        told=_told(scope, secret),
    )


def render(template: str, screen: Screen, values: Mapping[str, Any]) -> str:
    return environment().get_template(template).render(screen=screen, **values)


def fragment(template: str, **values: Any) -> str:
    """Of a part of a live page, which is the same for all."""
    return environment().get_template(template).render(**values)


async def send_html(
    send: Send, status: int, html: str, screen: Screen, headers: Mapping[str, str] | None = None
) -> None:
    extra = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    if screen.told:
        extra.append((b"set-cookie", _FLASH + b"=; Path=" + ROOT.encode() + b"; Max-Age=0"))
    await respond(
        send,
        status,
        html.encode(),
        [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-security-policy", POLICY),
            (b"x-content-type-options", b"nosniff"),
            # With no-referrer a form would be posted with the origin "null": the check for other sites needs the true one.
            (b"referrer-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
            *extra,
        ],
    )


async def send_moved(send: Send, to: str, headers: list[tuple[str, str]]) -> None:
    """303: the browser asks for that page, and going back or reloading repeats nothing."""
    told = [("location", to), ("referrer-policy", "same-origin"), ("cache-control", "no-store"), *headers]
    await respond(send, 303, b"", [(name.encode(), value.encode("latin-1")) for name, value in told])


def keep_told(told: str, secret: bytes) -> tuple[str, str]:
    """The header that has the next page say it. It is signed, so that no other site can have us say anything."""
    value = f"{_signed(told, secret)}.{quote(told[:300], safe='')}"
    return "set-cookie", f"{_FLASH.decode()}={value}; Path={ROOT}; Max-Age={_FLASH_SECONDS}; HttpOnly; SameSite=Lax"


def keep_theme(theme: str) -> tuple[str, str]:
    return "set-cookie", f"{_THEME.decode()}={theme}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax"


def _here(scope: Scope) -> str:
    """Where the browser may come back to: what answers a form need not answer otherwise, so there it is the form's page."""
    if scope["method"] not in ("GET", "HEAD"):
        asked = (header(scope, b"referer") or b"").decode("latin-1")
        return "/" + asked.partition("://")[2].partition("/")[2]
    return f"{scope['path']}?{scope.get('query_string', b'').decode('latin-1')}".removesuffix("?")


def _told(scope: Scope, secret: bytes) -> str:
    signature, _, told = (_cookie(scope, _FLASH) or b"").decode("latin-1").partition(".")
    told = unquote(told)
    if secret and told and hmac.compare_digest(signature.encode(), _signed(told, secret).encode()):
        return told
    return ""


def _signed(told: str, secret: bytes) -> str:
    return hmac.new(secret, b"quell flash " + told[:300].encode(), hashlib.sha256).hexdigest()[:32]


def _cookie(scope: Scope, wanted: bytes) -> bytes | None:
    for part in (header(scope, b"cookie") or b"").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name == wanted:
            return value
    return None


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("quell.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "about": words.about,
        "ago": words.ago,
        "breaks": words.breaks,
        "consequence": targets.consequence,
        "count": words.count,
        "doing": targets.doing,
        "iso": words.iso,
        "moment": words.moment,
        "plural": words.plural,
        "span": words.span,
        "target": targets.target,
        "word": action.word,
        "quoted": lambda text: quote(text, safe=""),
    }
    made.globals |= {
        "version": __version__,
        "root": ROOT,
        "address": address,
        "asset": _address,
        "share": charts.share,
        "themes": THEMES,
    }
    return made


def _address(name: str) -> str:
    found = assets().get(name)
    return "" if found is None else found.address
