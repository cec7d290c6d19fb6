"""Text that an attacker may have chosen, made safe to stand in one line, and cut where it is too long. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode

#: What stands where something was cut off.
CUT = "\u2026"
#: Characters of a value, tried one after the other until a message fits.
_LENGTHS = (4096, 2048, 1024, 512, 256, 128, 64, 32, 24)
#: What is of no use in part.
_WHOLE = frozenset(("id", "event_id", "externalId", "flexString1", "category", "cat"))
#: A list may have one entry for so many characters that a value may have.
_ENTRY = 16


def visible(text: str) -> str:
    """With everything escaped that is no visible character or space: nothing moves a cursor, ends a line or hides."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def json_visible(text: str) -> str:
    """As `visible`, for a text that is JSON: what is escaped stands within its strings, so it means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def quoted(text: str) -> str:
    """A JSON string in one line of visible characters."""
    return json_visible(_encode(text).decode())


def cut(text: str, longest: int) -> str:
    """At most so many characters, the last one CUT if any are gone."""
    return text if len(text) <= longest else text[: longest - 1] + CUT


def fitted(fields: Mapping[str, Any], render: Callable[[Mapping[str, Any]], bytes], room: int, mark: str = "") -> bytes:
    """The fields rendered into at most `room` bytes, whole: first long values are cut, then the last fields left out.

    mark: a field that is set to true if anything is missing; "": none.
    """
    body = render(fields)
    if len(body) <= room:
        return body
    marked: dict[str, Any] = {mark: True} if mark else {}
    short: dict[str, Any] = {}
    for longest in _LENGTHS:
        short = {name: value if name in _WHOLE else _shortened(value, longest) for name, value in fields.items()}
        body = render(marked | short)
        if len(body) <= room:
            return body
    while short and len(body) > room:
        short.popitem()
        body = render(marked | short)
    return body


def _shortened(value: Any, longest: int) -> Any:
    match value:
        case str():
            return cut(value, longest)
        case list() | tuple():
            return [_shortened(entry, longest) for entry in value[: max(1, longest // _ENTRY)]]
        case dict():
            return {name: _shortened(entry, longest) for name, entry in value.items()}
        case _:
            return value
