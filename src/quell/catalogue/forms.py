"""What the text of a criterion's value means, read once for validator and matcher alike. SEMANTICS section 3."""

from __future__ import annotations

from msgspec import Struct

from quell.catalogue.table import Form
from quell.model.event import Level

KINDS = ("incident", "threat", "violation")
REPORTS = ("container", "host", "registry", "platform")

_LEVELS = {level.casefold(): level for level in Level}


class Threshold(Struct, frozen=True):
    """At least `minimum` vulnerabilities; days: only those published more than so many days ago."""

    minimum: int
    days: int | None = None


def threshold(form: Form, text: str) -> Threshold | None:
    """A count as it is written: >N, >=N or N, which is at least N for a count, more than N for a fixed-count.

    A fixed-count may end in /D. None: it is none of these, or would always hold.
    """
    digits, slash, days = text.partition("/")
    strict = form is Form.FIXED_COUNT
    if digits.startswith(">="):
        digits, strict = digits[2:], False
    elif digits.startswith(">"):
        digits, strict = digits[1:], True
    if not _is_number(digits) or (slash and (form is not Form.FIXED_COUNT or not _is_number(days) or int(days) == 0)):
        return None
    minimum = int(digits) + strict
    return Threshold(minimum, int(days) if slash else None) if minimum else None


def levels(text: str) -> tuple[Level, ...]:
    """The levels that a level criterion's value takes, highest first; none if it is no such value."""
    at_least = text.startswith(">=")
    level = _LEVELS.get((text[2:] if at_least else text).strip().casefold())
    if level is None:
        return ()
    return tuple(other for other in Level if other.rank >= level.rank) if at_least else (level,)


def is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
