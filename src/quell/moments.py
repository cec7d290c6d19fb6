"""Moments as people write them: a time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from quell.durations import parse_duration

_AGO = re.compile(r"\d+(?:\.\d+)?(?:ms|s|m|h|d)")
_SECONDS = re.compile(r"\d{1,11}(?:\.\d{1,9})?")


def parse_moment(text: str, now: float) -> float:
    """Epoch seconds of a time in RFC 3339 (UTC if it says nothing else), of so long ago (2h), or of epoch seconds.

    ValueError says what was expected and found.
    """
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    if _AGO.fullmatch(text):
        return now - parse_duration(text)
    try:
        when = datetime.fromisoformat(text.upper() if text.endswith("z") else text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f'expected a time such as 2026-11-22T15:40:00Z, so long ago as 2h, or epoch seconds, got "{text[:80]}"'
        ) from error
