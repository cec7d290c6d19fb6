"""What people are told when an action that was granted was not carried out after all. SEMANTICS section 8, refusals. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from quell.model.action import Severity, word
from quell.model.decision import Command, Flag, FlagClass, Outcome, OutcomeStatus, Reason, RefusalCounted
from quell.model.event import Event
from quell.response.state import REFUSAL_PERIOD, State
from quell.response.targets import owner_of

#: A target that is gone is no refusal: there was nothing left to do.
_TOLD = (OutcomeStatus.REFUSED, OutcomeStatus.FAILED, OutcomeStatus.EXPIRED)


def is_told(outcome: Outcome) -> bool:
    return outcome.status in _TOLD


def counted(command: Command, outcome: Outcome, event: Event, state: State, now: float) -> tuple[RefusalCounted, ...]:
    """One for each rule or policy that asked; flagged: the first in an hour. event: what the command came from."""
    reason = outcome.reason or Reason.FAILED
    found = []
    for owner in dict.fromkeys("/".join(ref.split("/")[:2]) for ref in command.asked_by):
        key = f"{owner}/{reason}/{owner_of(event.subject)}"
        last = state.refusals.get(key)
        flagged = last is None or now - last[0] >= REFUSAL_PERIOD
        count = 1 + last[1] if flagged and last is not None else 1
        found.append(
            RefusalCounted(key=key, at=now, record=command.id, owner=owner, reason=reason, flagged=flagged, count=count)
        )
    return tuple(found)


def flags(
    command: Command, outcome: Outcome, event: Event, changes: Iterable[RefusalCounted], now: float
) -> list[Flag]:
    """Quell's own safety speaks: never suppressed. The same outcome again makes the same ids."""
    return [
        Flag(
            id=f"{command.id}/{change.reason}/{change.owner}",
            flag_class=FlagClass.OPS,
            severity=Severity.MEDIUM,
            name=f"Response {outcome.status}: {change.reason}",
            description=f"{word(command.action)} for {event.catalogue_name or event.name}: {outcome.explanation}",
            impact="An action that a rule asks for was not carried out.",
            subject=event.subject,
            asked_by=command.asked_by,
            event_id=command.event_id,
            time=now,
            count=change.count,
        )
        for change in changes
        if change.flagged
    ]
