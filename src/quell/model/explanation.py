"""What the controller can tell about a past event: the one decision record and what came of it. SEMANTICS section 0.4."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from quell.model.decision import Decision, Flag, Outcome
from quell.model.event import Event
from quell.model.rehearsal import Rehearsal


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event, its decision record, the outcomes of its actions and the flags they made.

    `quell explain` prints it, the API sends it; nothing computes it a second way.
    """

    #: The event without its raw bytes: see facts().
    event: dict[str, Any]
    decision: Decision
    outcomes: tuple[Outcome, ...] = ()
    flags: tuple[Flag, ...] = ()
    #: Of a dry run: what each action would come to, as whoever would do it says.
    rehearsals: tuple[Rehearsal, ...] = ()


def facts(event: Event) -> dict[str, Any]:
    """The event as plain values: what it carries, its subject, and `details` of its category; absent parts left out."""
    told: dict[str, Any] = {
        "id": event.id,
        "time": event.time,
        "received": event.received,
        "source": event.source,
        "category": event.category.value,
        "kind": event.kind.value if event.kind else None,
        "name": event.name,
        "catalogue_name": event.catalogue_name,
        "level": event.level.value,
        "subject": msgspec.to_builtins(event.subject),
    }
    details = event.details()
    if details is not None:
        told["details"] = {key: value for key, value in msgspec.to_builtins(details).items() if key != "type"}
    return {key: value for key, value in told.items() if value is not None}
