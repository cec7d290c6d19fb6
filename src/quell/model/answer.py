"""What events that are alike are answered with, whatever else is going on: the record is the same but for id and time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct

from quell.model.action import SuppressLog
from quell.model.decision import ActionRecord, Ask, Decision, Match, NearMiss, Status
from quell.model.subject import Subject

_SUPPRESS = SuppressLog()


class Answer(Struct, frozen=True, eq=False, omit_defaults=True):
    """The part of a decision that says nothing of its event alone. Each is an object of its own, equal to itself only, so
    that what is made of it can be found again quickly.
    """

    matches: tuple[Match, ...] = ()
    actions: tuple[ActionRecord, ...] = ()
    suppressed: bool = False

    def decision(
        self,
        event_id: str,
        time: float,
        revision: int,
        *,
        near_misses: tuple[NearMiss, ...] = (),
        added: Subject | None = None,
        conflicts: tuple[str, ...] = (),
    ) -> Decision:
        return Decision(
            event_id=event_id,
            time=time,
            revision=revision,
            matches=self.matches,
            near_misses=near_misses,
            actions=self.actions,
            suppressed=self.suppressed,
            added=added,
            conflicts=conflicts,
        )


#: Nothing matched.
NOTHING = Answer()


def settled(source: str, matches: tuple[Match, ...], asks: Sequence[Ask]) -> Answer | None:
    """The answer if suppress-log alone is asked for, as most rules of a noisy detector do: nothing can stand against it and
    nothing follows from it. None: what is asked for has to be decided (quell.response.decide).
    """
    if len(asks) == 1 and isinstance(asks[0].action, SuppressLog) and not asks[0].audit and source != "quell":
        return Answer(matches, suppression((asks[0].by,)), suppressed=True)
    return None


@lru_cache(maxsize=8192)
def suppression(asked_by: tuple[str, ...]) -> tuple[ActionRecord, ...]:
    """The granted record of suppress-log. Nothing follows from it, so it has no id and is the same for every event."""
    return (ActionRecord(id="", action=_SUPPRESS, asked_by=asked_by, status=Status.GRANTED),)
