"""What reports of scanners have in common: severities, levels, moments, and the lists they come in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

import msgspec

from quell.catalogue.names import NAMES
from quell.detectors.form import ID
from quell.detectors.line import read
from quell.errors import EventError
from quell.ids import uuid7
from quell.model.details import ComplianceItem
from quell.model.event import Level

#: Scanners' words for a severity, as the model has them; UNKNOWN, NEGLIGIBLE and the like are Info.
_SEVERITIES = {"critical": "Critical", "high": "High", "medium": "Medium", "low": "Low"}
#: SEMANTICS section 1.
_LEVELS = {"Critical": Level.CRITICAL, "High": Level.ERROR, "Medium": Level.WARNING, "Low": Level.NOTICE}
_END_OF_TIME = 253402300800

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_array = msgspec.json.Decoder(list[msgspec.Raw])


def severity(word: str | None) -> str:
    return _SEVERITIES.get((word or "").lower(), "Info")


def level_of(severities: Iterable[str]) -> Level:
    """Of the worst of these severities, each as `severity` gives it; Info where there is none."""
    return max((_LEVELS.get(word, Level.INFO) for word in severities), key=lambda level: level.rank, default=Level.INFO)


def epoch(text: str | None) -> float | None:
    """Epoch seconds of an RFC 3339 moment; None where there is none that can be read, such as Go's year 1."""
    try:
        found = datetime.fromisoformat(text or "")
        seconds = None if found.tzinfo is None else found.timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if seconds is not None and 0 < seconds < _END_OF_TIME else None


def identity(own: str | None, line: bytes, given: str | None) -> tuple[str, bool]:
    """An event's id, and whether it is the source's.

    own: the report's id, if it has one; the event's is that with a digest of its bytes, so that a report sent again is a
    repetition, and one of which several events are made, or which is sent for several containers, is not. given: what the
    journal knows it by.
    """
    made = None
    if own:
        made = f"{own}.{hashlib.sha256(line).hexdigest()[:16]}"
        if ID.fullmatch(made) is None:
            made = None
    return given or made or uuid7(), made is not None


def violation(scope: str, items: Iterable[ComplianceItem], otherwise: str) -> tuple[str, str | None]:
    """Name and catalogue name of a compliance event.

    scope: Container, Host, Image, or "" for what is none of them. otherwise: the source's own word for such a report, which
    is the name of one in which nothing failed.
    """
    name = f"Compliance.{scope}.Violation"
    return (name, name) if name in NAMES and any(item.failed for item in items) else (otherwise, None)


def members(document: bytes) -> dict[str, msgspec.Raw]:
    """The members of an object, unread. EventError: it is no object."""
    return read(_object, document)


def elements(document: bytes | msgspec.Raw | None, place: str = "") -> list[msgspec.Raw]:
    """The elements of an array, unread; none where there is none, or null. EventError: it is no array.

    place: the member that the array is, for the error.
    """
    text = b"" if document is None else bytes(document)
    if not text or text == b"null":
        return []
    try:
        return read(_array, text)
    except EventError as error:
        if place and error.position is None:
            raise EventError(f"{error} - at `$.{place}`") from error
        raise


def is_array(document: bytes) -> bool:
    return document.lstrip()[:1] == b"["


def word(raw: msgspec.Raw | None) -> str:
    """A member that should be a text; "" if it is none."""
    if raw is None:
        return ""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    return found if isinstance(found, str) else ""


def within(place: str, error: EventError) -> EventError:
    """The error, saying in which part of a document it is; a byte offset into the part means nothing there."""
    return EventError(f"{place}: {error}")
