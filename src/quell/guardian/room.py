"""How much is remembered between observations, by everything that compares them."""

from __future__ import annotations

from collections.abc import Callable

#: Answers that one Guard remembers, some 300 bytes each.
LIMIT = 100_000
#: What is about longer texts is found out each time instead of being remembered: characters.
LONGEST = 512


class Room:
    """Counted together; when there is no room left, everybody forgets everything."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._left = limit
        self._sharing: list[Callable[[], None]] = []

    def share(self, forget: Callable[[], None]) -> None:
        self._sharing.append(forget)

    def take(self) -> None:
        """Before one more answer is kept."""
        self._left -= 1
        if self._left < 0:
            for forget in self._sharing:
                forget()
            self._left = self._limit - 1
