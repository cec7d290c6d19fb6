"""A value against those that a policy lists: globs, case counts. SEMANTICS section 5."""

from __future__ import annotations

from collections.abc import Iterable

from quell.catalogue.forms import is_glob
from quell.matching.patterns import glob

_NOTHING: frozenset[str] = frozenset()


class Listed:
    """Values and globs, of which one must fit."""

    __slots__ = ("_exact", "_only", "_patterns", "is_empty")

    def __init__(self, values: Iterable[str]) -> None:
        """ValueError: a glob cannot be read."""
        values = tuple(values)
        #: Most often there is one.
        self._only = values[0] if len(values) == 1 else None
        self._exact = frozenset(values) if len(values) > 1 else _NOTHING
        self._patterns = tuple(glob(value).matches for value in values if is_glob(value))
        self.is_empty = not values

    def takes(self, value: str) -> bool:
        if value == self._only or value in self._exact:
            return True
        return bool(self._patterns) and any(matches(value) for matches in self._patterns)


def literal(value: str) -> str:
    """The glob that fits this value and no other."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in value)
