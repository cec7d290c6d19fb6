"""What a page is made of: where it is, who may see it, and what answers. A page is a module of quell.console.pages.

A handler takes a Call and gives a View (a template and its values), a Moved (to another address), or raises a Refusal.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlencode

from msgspec import Struct

from quell.api.asgi import Scope
from quell.api.auth import Caller
from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.services import Services

#: Under which all pages are.
ROOT = "/console"

_PART = re.compile(r"\{(\w+)(:path)?\}")


class Query:
    """What stands in an address behind the question mark, or in a form: each name with its values."""

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        self._values = values

    def one(self, name: str, default: str = "") -> str:
        """The first value."""
        found = self._values.get(name)
        return found[0] if found else default

    def all(self, name: str) -> list[str]:
        """Every value that is not empty."""
        return [value for value in self._values.get(name, ()) if value]

    def number(self, name: str, default: int, *, least: int = 1, most: int = 1000) -> int:
        """Refusal 400."""
        written = self.one(name) or str(default)
        if not written.isascii() or not written.isdigit() or len(written) > 9 or not least <= int(written) <= most:
            raise Refusal(400, f"{name}: expected {least} to {most}, got {written[:40]}")
        return int(written)

    def changed(self, **changes: str | list[str] | None) -> str:
        """The same with other values, as it stands in an address with its "?"; None or []: without that name."""
        values = {name: given for name, given in self._values.items() if any(given)} | {
            name: [] if value is None else [value] if isinstance(value, str) else value
            for name, value in changes.items()
        }
        return "?" + urlencode([(name, value) for name, given in values.items() for value in given if value])

    def sent(self, name: str) -> bool:
        """Whether it is there, with a value or an empty one."""
        return name in self._values

    def __contains__(self, name: str) -> bool:
        return bool(self.all(name))

    def __iter__(self) -> Any:
        return iter(self._values.items())


class Call(Struct, frozen=True, kw_only=True):
    """A request of somebody who may make it. csrf: what a form sends back; "": it is no browser's session."""

    services: Services
    caller: Caller
    csrf: str
    scope: Scope
    #: Decoded, from the braces of the route.
    path: Mapping[str, str]
    query: Query
    #: What was filled in; empty for a GET.
    form: Query

    def may(self, permission: Permission) -> bool:
        return self.caller.may(permission)


class View(Struct, frozen=True, kw_only=True):
    """A template of quell/console/templates, and what it is filled with. Every template knows more: rendering.Screen."""

    template: str
    values: Mapping[str, Any] = {}
    status: int = 200


class Moved(Struct, frozen=True, kw_only=True):
    """To another page, after something was changed (303). told: what was done, shown once on that page."""

    to: str
    told: str = ""


Handler = Callable[[Call], Awaitable[View | Moved]]


class Route(Struct, frozen=True, kw_only=True):
    """path: below ROOT, such as "/agents/{id}"; {id} is one part, {id:path} takes slashes too. needs: else 403."""

    path: str
    handler: Handler
    method: str = "GET"
    needs: Permission = Permission.READ

    def match(self, path: str) -> dict[str, str] | None:
        """The parts in braces. path: below ROOT, still percent-encoded parts decoded by the server."""
        found = re.fullmatch(_pattern(self.path), path)
        return None if found is None else found.groupdict()


def _pattern(path: str) -> str:
    """Of the path's parts, the ones in braces as groups."""
    parts = _PART.split(path)
    # split gives text, name, ":path" or None, text, ...
    pattern = re.escape(parts[0])
    for name, whole, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        pattern += f"(?P<{name}>{'.+' if whole else '[^/]+'})" + re.escape(text)
    return pattern


class Section(StrEnum):
    """What pages stand under in the navigation, in this order."""

    WATCH = "Watch"
    RESPOND = "Respond"
    FLEET = "Fleet"
    ADMINISTER = "Administer"


#: Of a live page: the HTML of each part, made once a second for all who look. quell.console.live.
Parts = Callable[[], Awaitable[Mapping[str, str]]]


class Page(Struct, frozen=True, kw_only=True):
    """A line of the registry. name: of the module, the first part of its addresses, and its template's."""

    name: str
    title: str
    section: Section
    routes: tuple[Route, ...]
    #: Who sees it in the navigation.
    needs: Permission = Permission.READ
    #: Behind "g": the letter that leads to it.
    key: str = ""
    #: A name of icons.html.
    icon: str = ""

    @property
    def address(self) -> str:
        return f"{ROOT}/{self.name}"


def address(*parts: str, **query: str) -> str:
    """Where a page is, with each part escaped, such as ("notifications", "event", id)."""
    path = "/".join([ROOT, *(quote(part, safe="") for part in parts)])
    return f"{path}?{urlencode(query)}" if query else path
