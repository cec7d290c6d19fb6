"""What a detector says happened. SEMANTICS section 1."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct

from quell.model.details import Details
from quell.model.subject import Subject


class Category(StrEnum):
    EVENT = "event"
    SECURITY_EVENT = "security-event"
    CVE_REPORT = "cve-report"
    COMPLIANCE = "compliance"
    ADMISSION_CONTROL = "admission-control"
    DEVIATION = "deviation"


class Kind(StrEnum):
    """The three kinds of security event."""

    INCIDENT = "incident"
    THREAT = "threat"
    VIOLATION = "violation"


class Level(StrEnum):
    EMERGENCY = "Emergency"
    ALERT = "Alert"
    CRITICAL = "Critical"
    ERROR = "Error"
    WARNING = "Warning"
    NOTICE = "Notice"
    INFO = "Info"
    DEBUG = "Debug"

    @property
    def rank(self) -> int:
        """Seven for Emergency down to nought for Debug."""
        return _RANK[self]


_RANK = {level: 7 - position for position, level in enumerate(Level)}


class Event(Struct, frozen=True, gc=False, kw_only=True):
    """One event. It keeps the detector's bytes; details are decoded only when a rule asks for them."""

    id: str
    #: True where the source gave the id, so that the same one again is a repeat; False where Quell made it.
    id_given: bool = False
    #: When it happened, by the detector's clock; None where the detector does not say.
    time: float | None
    #: When Quell took it in.
    received: float
    #: The detector: a key of quell.detectors.DETECTORS (falco, native, trivy, quell, ...).
    source: str
    category: Category
    #: The detector's own name for it, such as a Falco rule's name or a catalogue name.
    name: str
    #: The catalogue name, where a mapping is known (equal to name if the name is itself in the catalogue).
    catalogue_name: str | None = None
    level: Level
    kind: Kind | None = None
    subject: Subject
    raw: bytes
    #: Decodes the category's details from raw; None if the event has none.
    decode: Callable[[bytes], Details | None] | None = None

    def details(self) -> Details | None:
        return None if self.decode is None else self.decode(self.raw)
