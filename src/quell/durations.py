"""Durations as people write them: 500ms, 30s, 5m, 2h, 1d, or a plain number of seconds."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


def parse_duration(text: str | float) -> float:
    """Seconds. ValueError says what was expected and found."""
    match = _FORM.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f'expected a duration such as 30s, 5m, 2h or 1d, got "{text}"')
    return float(match[1]) * _UNITS[match[2] or "s"]


def format_duration(seconds: float) -> str:
    """The shortest exact form: 90 is 90s, 3600 is 1h."""
    for unit in ("d", "h", "m"):
        count = seconds / _UNITS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{Decimal(repr(seconds)).normalize():f}s"
