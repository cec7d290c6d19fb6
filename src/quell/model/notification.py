"""What people are told of events: the three lists, what an entry of one says, and what can be searched for.

Mission document, "Notifications": Events, Security events and Risk reports. docs/notifications.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from quell.model.action import SendWebhook, word
from quell.model.decision import ActionRecord, Decision, Match, Outcome
from quell.model.details import ComplianceReport, CveReport, Details
from quell.model.event import Category, Event
from quell.model.subject import Subject

Item = TypeVar("Item")

#: Numbers of failed items that a line of a compliance report names.
_NAMED = 5
_SEVERITIES = ("critical", "high", "medium", "low", "info")
_RULE = "rule/"


class NotificationList(StrEnum):
    EVENTS = "events"
    SECURITY_EVENTS = "security-events"
    RISK_REPORTS = "risk-reports"
    ALL = "all"

    @property
    def categories(self) -> tuple[Category, ...]:
        return _CATEGORIES[self]


_CATEGORIES: Mapping[NotificationList, tuple[Category, ...]] = {
    NotificationList.EVENTS: (Category.EVENT,),
    NotificationList.SECURITY_EVENTS: (Category.SECURITY_EVENT, Category.DEVIATION),
    NotificationList.RISK_REPORTS: (Category.CVE_REPORT, Category.COMPLIANCE, Category.ADMISSION_CONTROL),
    NotificationList.ALL: tuple(Category),
}
_LIST_OF = {
    category: name for name, inside in _CATEGORIES.items() if name is not NotificationList.ALL for category in inside
}


class RuleNamed(Struct, frozen=True, kw_only=True):
    """A rule or policy that an event matched, as it was called then. id: None for a policy."""

    id: int | None
    ref: str
    name: str


class ActionTaken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, in short. outcome: "": there is none, or not yet; of several webhooks each other one once."""

    action: str
    status: str
    reason: str = ""
    outcome: str = ""


class Notification(Struct, frozen=True, kw_only=True):
    """An entry of a list. Times in epoch seconds; time: None where the detector does not say."""

    id: str
    time: float | None
    received: float
    list: NotificationList
    category: str
    kind: str | None
    level: str
    name: str
    catalogue_name: str | None
    source: str
    #: What the detector says of it in words, or the sum of a report.
    message: str
    subject: Subject
    details: dict[str, Any]
    #: All that matched.
    rules: tuple[RuleNamed, ...]
    actions: tuple[ActionTaken, ...]
    #: A rule keeps it out of notifications, syslog and webhooks.
    suppressed: bool


class Filter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is searched for. All that is given must hold; of several values of one filter, any.

    Times are of when Quell received an event, in epoch seconds, since included, until not.
    """

    since: float | None = None
    until: float | None = None
    #: A level, or >= and a level.
    level: tuple[str, ...] = ()
    #: Own and catalogue names, as the criterion `name` compares them.
    name: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    #: The beginning of a container's id, a container's or pod's name, or a service.
    workload: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    #: Id, reference or name of a rule or policy that matched.
    rule: tuple[str, ...] = ()
    #: Words of actions and of what became of them; of one and the same action.
    action: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    #: Words that must all be there; of one in double quotes, spaces too.
    text: tuple[str, ...] = ()
    #: Only events that something matched.
    decided: bool = False
    include_suppressed: bool = False


class SearchPage(Struct, Generic[Item], frozen=True, kw_only=True):
    """A page of what was found; it may have few items or none and still not be the last."""

    items: list[Item]
    #: The cursor of the page that follows; null: this is the last.
    next: str | None
    #: Whether everything was looked at.
    complete: bool
    #: Up to the event that was received then; null if it is complete. Epoch seconds.
    searched_until: float | None
    #: A cursor for order=oldest: behind it stands what comes later.
    resume: str


def notification(event: Event, decision: Decision, outcomes: Iterable[Outcome] = ()) -> Notification:
    """outcomes: of all that followed from the event."""
    details = event.details()
    told = list(outcomes)
    return Notification(
        id=event.id,
        time=event.time,
        received=event.received,
        list=_LIST_OF[event.category],
        category=event.category.value,
        kind=event.kind.value if event.kind else None,
        level=event.level.value,
        name=event.name,
        catalogue_name=event.catalogue_name,
        source=event.source,
        message=gist(details),
        subject=event.subject,
        details={key: value for key, value in msgspec.to_builtins(details).items() if key != "type"} if details else {},
        rules=tuple(map(_named, decision.matches)),
        actions=tuple([_taken(record, told) for record in decision.actions]),
        suppressed=decision.suppressed,
    )


def message_of(details: Details | None) -> str:
    """What the detector says in words; "" for most reports."""
    return "" if details is None else getattr(details, "message", "")


def gist(details: Details | None) -> str:
    """A line for people: what the detector says, or what a report comes to."""
    match details:
        case CveReport():
            return _vulnerabilities(details)
        case ComplianceReport():
            return _items(details)
        case _:
            return message_of(details)


def _vulnerabilities(report: CveReport) -> str:
    severities = [one.severity.casefold() for one in report.vulnerabilities]
    counted = [f"{severities.count(severity)} {severity}" for severity in _SEVERITIES if severity in severities]
    count = len(severities)
    told = f"{count} {'vulnerability' if count == 1 else 'vulnerabilities'}"
    return f"{told}: {', '.join(counted)}" if counted else told


def _items(report: ComplianceReport) -> str:
    failed = [item.number for item in report.items if item.failed]
    told = f"{len(failed)} of {len(report.items)} items failed"
    if not failed:
        return told
    more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    return f"{told}: {', '.join(failed[:_NAMED])}{more}"


def _named(match: Match) -> RuleNamed:
    number = match.ref.removeprefix(_RULE)
    is_rule = match.ref.startswith(_RULE) and number.isascii() and number.isdigit()
    return RuleNamed(id=int(number) if is_rule else None, ref=match.ref, name=match.name)


def _taken(record: ActionRecord, outcomes: Iterable[Outcome]) -> ActionTaken:
    """A command's outcome has the record's id, a delivery's that of its event, "webhook" and the endpoint's name."""
    ids = {record.id}
    if isinstance(record.action, SendWebhook):
        event_id = record.id.rpartition("/")[0]
        ids = {f"{event_id}/webhook/{endpoint}" for endpoint in record.endpoints}
    last = {outcome.id: outcome.status.value for outcome in outcomes if outcome.id in ids}
    return ActionTaken(
        action=word(record.action),
        status=record.status.value,
        reason=record.reason.value if record.reason else "",
        outcome=", ".join(dict.fromkeys(last.values())),
    )
