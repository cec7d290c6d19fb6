"""Globs and regular expressions as users write them, in RE2: linear time, so no pattern can hang the engine.

A glob's `*` is any text (slashes too), `?` one character, `[a-z]` and `[!a-z]` one of or none of a set; a bracket that
does not close is an ordinary character.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import re2

#: Answers kept for each pattern that RE2 is asked about; a detector's values repeat.
MEMO = 512

Matches = Callable[[str], bool]


class Pattern:
    """text as it was written; matches says whether a value fits."""

    __slots__ = ("matches", "text")

    def __init__(self, text: str, matches: Matches) -> None:
        self.text = text
        self.matches = matches


def glob(text: str) -> Pattern:
    """The whole value must fit, in the same case. ValueError: a set's range is the wrong way round."""
    if "?" in text or "[" in text:
        return Pattern(text, _searched(text, rf"(?s)\A(?:{_expression(text)})\z"))
    return Pattern(text, _starred(text))


def wildcard(text: str) -> Pattern:
    """A glob of a group's criterion: only `*` and `?` mean more than themselves (SEMANTICS section 2)."""
    return Pattern(text, glob(text.replace("[", "[[]")).matches)


def regex(text: str) -> Pattern:
    """Unanchored: any part of the value may fit. ValueError: RE2 cannot read it."""
    return Pattern(text, _searched(text, text))


def _searched(text: str, expression: str) -> Matches:
    try:
        find = re2.compile(expression, _OPTIONS).search
    except re2.error as error:
        reason = error.args[0]
        said = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"{text!r} is no pattern: {said}") from error

    @lru_cache(maxsize=MEMO)
    def matches(value: str) -> bool:
        return find(value) is not None

    return matches


def _starred(text: str) -> Matches:
    """Text with stars and nothing else: each part in turn at its first place, which is linear and needs no machine."""
    if "*" not in text:
        return text.__eq__
    first, *middle, last = text.split("*")
    least = len(first) + len(last)

    def matches(value: str) -> bool:
        if len(value) < least or not value.startswith(first) or not value.endswith(last):
            return False
        place, end = len(first), len(value) - len(last)
        for part in middle:
            place = value.find(part, place, end)
            if place < 0:
                return False
            place += len(part)
        return True

    return matches


def _expression(text: str) -> str:
    parts: list[str] = []
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*":
            parts.append(".*")
        elif character == "?":
            parts.append(".")
        elif character == "[" and (end := _closing(text, position)) is not None:
            parts.append(_set(text[position:end]))
            position = end + 1
        else:
            parts.append(re2.escape(character))
    return "".join(parts)


def _closing(text: str, start: int) -> int | None:
    """Where the set that begins at start ends; a bracket right at its start belongs to it."""
    first = start + (text[start : start + 1] == "!")
    end = text.find("]", first + 1)
    return end if end >= 0 else None


def _set(text: str) -> str:
    negated = text.startswith("!")
    body = text[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")
    return f"[{'^' if negated else ''}{body}]"


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20
    return options


_OPTIONS = _options()
