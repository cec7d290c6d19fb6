"""Identifiers: time-ordered UUIDs (RFC 9562, version 7), unique among threads, strictly rising where one makes them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count

#: The millisecond of the last one, the 26 random bits it has as text, and a counter that starts at a random place:
#: a new id in the same millisecond costs one step of the counter. Replaced as a whole, so that no lock is needed.
_last: tuple[int, str, Callable[[], int]] = (-1, "", count().__next__)


def uuid7(now: float | None = None) -> str:
    """A version 7 UUID of that moment (epoch seconds; None: now), or of the last one's if the clock went back."""
    last, prefix, step = _last
    milliseconds = int((time.time() if now is None else now) * 1000)
    if milliseconds > last:
        prefix, step = _start(milliseconds)
    return f"{prefix}{step():012x}"


def _start(milliseconds: int) -> tuple[str, Callable[[], int]]:
    global _last  # noqa: PLW0603 - the next one of this millisecond follows it
    bits = int.from_bytes(os.urandom(10), "big")
    prefix = (
        f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{bits & 0xFFF:03x}-{0x8000 | bits >> 12 & 0x3FFF:04x}-"
    )
    # 47 bits: the counter has as many steps left before its 48 are full.
    step = count(bits >> 33).__next__
    _last = (milliseconds, prefix, step)
    return prefix, step


def _forget() -> None:
    global _last  # noqa: PLW0603 - a forked child must not go on with its parent's counter
    _last = (-1, "", count().__next__)


os.register_at_fork(after_in_child=_forget)
