"""A deviation as it is kept: once a policy and checksum, however often it comes. SEMANTICS section 5, "they count up"."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.subject import Subject


class Standing(StrEnum):
    """What has become of it."""

    OPEN = "open"
    #: A person merged it into the policy or its ruleset.
    MERGED = "merged"
    #: The policy allows it by now.
    IRRELEVANT = "irrelevant"


class Repeated(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times in epoch seconds, by the clock of whoever saw it."""

    #: The policy's name, or what the source calls it where none such is known.
    policy: str
    #: Identifies it within the policy.
    checksum: str
    #: The name that its events have, such as Process.Profile.Violation.
    name: str
    deviation: Deviation
    status: Standing = Standing.OPEN
    first: float
    last: float
    #: How often it was found, a process instance once.
    count: int = 0
    #: How many of these became events,
    events: int = 0
    #: and how many more would have, had there not been too many at once.
    omitted: int = 0
    #: The last that became one; "": none.
    event_id: str = ""
    event_time: float = 0.0
    #: Of the last one.
    subject: Subject = Subject()
    #: What was seen when it was found first; None: the deviation came ready-made.
    example: Observation | None = None
