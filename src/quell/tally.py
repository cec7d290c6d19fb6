"""Counting what repeats, so that it is told at most twice a window: at once, and how often more when it ends. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

#: Keys of one window; those beyond are counted together.
_KEYS = 1000


class Tally(Generic[Key]):
    def __init__(self, window: float, *, others: Key) -> None:
        """window: seconds. others: the key under which those are counted that are too many to tell apart."""
        self._window = window
        self._others = others
        #: Since when, and how often it came that nobody was told of.
        self._open: dict[Key, tuple[float, int]] = {}

    def add(self, key: Key, now: float, *, told: bool) -> Key | None:
        """Count one. The key to tell of at once if this opens its window; None: it is told with the others, later.

        told: whether that first one is told at once; otherwise it is counted as well.
        """
        if key not in self._open and len(self._open) >= _KEYS:
            key = self._others
        if key in self._open:
            since, count = self._open[key]
            self._open[key] = (since, count + 1)
            return None
        self._open[key] = (now, 0 if told else 1)
        return key if told else None

    def due(self, now: float) -> list[tuple[Key, int]]:
        """Ends the windows that are over: each key with what was counted in it, if anything was."""
        over = [(key, count) for key, (since, count) in self._open.items() if now - since >= self._window]
        for key, _ in over:
            del self._open[key]
        return [(key, count) for key, count in over if count]
