"""The flags that follow from a decision: those that rules ask for, and those about refusals. SEMANTICS sections 6 and 8."""

from __future__ import annotations

from quell.model.action import MakeOpsFlag, MakeRedFlag, Severity, word
from quell.model.decision import ActionRecord, Decision, Flag, FlagClass, Reason, RefusalCounted, Repetition, Status
from quell.model.event import Event


def flags(decision: Decision, event: Event) -> list[Flag]:
    """Pure: the same decision gives the same flags with the same ids, which are those of its records."""
    made = [_asked(record, record.action, decision, event) for record in decision.actions if _is_flag(record)]
    records = {record.id: record for record in decision.actions}
    counted = [change for change in decision.changes if isinstance(change, RefusalCounted) and change.flagged]
    return [flag for flag in made if flag is not None] + [
        _refused(records[change.record], change, decision, event) for change in counted
    ]


def repeated(decision: Decision) -> list[Repetition]:
    """What would have been flags, had they not been raised not long ago. SEMANTICS sections 5 and 8."""
    ids = [record.repeats for record in decision.actions if record.repeats]
    ids += [change.repeats for change in decision.changes if isinstance(change, RefusalCounted) and change.repeats]
    return [Repetition(flag=identifier, time=decision.time) for identifier in dict.fromkeys(ids)]


def _is_flag(record: ActionRecord) -> bool:
    return record.status is Status.GRANTED and isinstance(record.action, MakeRedFlag | MakeOpsFlag)


def _asked(record: ActionRecord, action: object, decision: Decision, event: Event) -> Flag | None:
    if not isinstance(action, MakeRedFlag | MakeOpsFlag):
        return None
    message = getattr(event.details(), "message", "")
    return Flag(
        id=record.id,
        flag_class=FlagClass.RED if isinstance(action, MakeRedFlag) else FlagClass.OPS,
        severity=action.severity,
        name=event.catalogue_name or event.name,
        description=message or event.name,
        impact=action.impact,
        content=action.content,
        subject=event.subject,
        asked_by=record.asked_by,
        event_id=event.id,
        time=decision.time,
        webhooks=() if decision.suppressed else action.webhooks,
        silent=decision.suppressed,
    )


def _refused(record: ActionRecord, change: RefusalCounted, decision: Decision, event: Event) -> Flag:
    """Quell's own safety speaks: never suppressed. A hold for a budget is a red flag, anything else the operators'."""
    held = change.reason is Reason.BUDGET
    return Flag(
        id=change.flag,
        flag_class=FlagClass.RED if held else FlagClass.OPS,
        severity=Severity.HIGH if held else Severity.MEDIUM,
        name=f"Response {'held' if held or change.reason is Reason.APPROVAL else 'refused'}: {change.reason}",
        description=f"{word(record.action)} for {event.catalogue_name or event.name}: {record.explanation}",
        impact="An action that a rule asks for was not carried out.",
        subject=event.subject,
        asked_by=record.asked_by,
        event_id=event.id,
        time=decision.time,
        count=change.count,
    )
