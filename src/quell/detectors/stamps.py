"""Moments that a tool writes as text."""

from __future__ import annotations

from datetime import UTC, datetime

#: Epoch seconds of the year 10000, which no date reaches.
_END = 253402300800


def epoch(text: str | None, *, utc: bool = False) -> float | None:
    """ISO 8601 as epoch seconds; None for what is none, or lies before 1970. utc: without a zone it is UTC, else none."""
    try:
        moment = datetime.fromisoformat(text or "")
        if moment.tzinfo is None:
            if not utc:
                return None
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < _END else None
