"""Globs and regular expressions as users write them, in RE2: linear time, so no pattern can hang the engine.

A glob's `*` is any text (slashes too), `?` one character, `[a-z]` and `[!a-z]` one of or none of a set; a bracket that
does not close is an ordinary character.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import re2

#: Answers kept for each pattern; a detector's values repeat.
MEMO = 512


class Pattern:
    """A compiled pattern that remembers its last answers."""

    __slots__ = ("matches", "text")

    def __init__(self, text: str, expression: str) -> None:
        """ValueError: RE2 cannot read the expression."""
        self.text = text
        try:
            find = re2.compile(expression, _OPTIONS).search
        except re2.error as error:
            reason = error.args[0]
            said = reason.decode() if isinstance(reason, bytes) else str(reason)
            raise ValueError(f"{text!r} is no pattern: {said}") from error

        @lru_cache(maxsize=MEMO)
        def matches(value: str) -> bool:
            return find(value) is not None

        self.matches: Callable[[str], bool] = matches


def glob(text: str, *, case: bool = True) -> Pattern:
    """The whole value must fit. case False: upper and lower case are one."""
    return Pattern(text, rf"(?{'s' if case else 'si'})\A(?:{_expression(text)})\z")


def wildcard(text: str) -> Pattern:
    """A glob of a group's criterion: only `*` and `?` mean more than themselves (SEMANTICS section 2)."""
    return Pattern(text, rf"(?s)\A(?:{_expression(text.replace('[', '[[]'))})\z")


def regex(text: str) -> Pattern:
    """Unanchored: any part of the value may fit."""
    return Pattern(text, text)


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
