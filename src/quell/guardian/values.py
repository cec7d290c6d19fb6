"""A value against those that a policy lists: globs, case counts. SEMANTICS section 5."""

from __future__ import annotations

from collections.abc import Iterable

from quell.catalogue.forms import is_glob
from quell.matching.patterns import glob


class Listed:
    """Values and globs, of which one must fit."""

    __slots__ = ("_exact", "_patterns", "is_empty")

    def __init__(self, values: Iterable[str]) -> None:
        """ValueError: a glob cannot be read."""
        values = tuple(values)
        self._exact = frozenset(values)
        self._patterns = tuple(glob(value).matches for value in values if is_glob(value))
        self.is_empty = not values

    def takes(self, value: str) -> bool:
        return value in self._exact or any(matches(value) for matches in self._patterns)


def literal(value: str) -> str:
    """The glob that fits this value and no other."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in value)
