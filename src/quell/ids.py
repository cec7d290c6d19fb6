"""Identifiers: time-ordered UUIDs (RFC 9562, version 7), strictly rising within a process."""

from __future__ import annotations

import os
import time

_last = 0


def uuid7(now: float | None = None) -> str:
    """A version 7 UUID; 48 bits of milliseconds, then a counter in the random bits so that order is strict."""
    global _last  # noqa: PLW0603 - strict order within the process needs the last one given
    milliseconds = int((time.time() if now is None else now) * 1000)
    value = (milliseconds << 74) | (int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1))
    if value <= _last:
        value = _last + 1
    _last = value
    bits = ((value >> 74) << 80) | (0x7 << 76) | (((value >> 62) & 0xFFF) << 64) | (0b10 << 62) | (value & ((1 << 62) - 1))
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
