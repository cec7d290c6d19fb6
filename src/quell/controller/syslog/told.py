"""What there is to tell a syslog receiver about an event or a flag, before it takes a form. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from quell.controller.notices import flag_notice, notice
from quell.model.action import word
from quell.model.decision import Decision, Flag, Status
from quell.model.event import Event, Level
from quell.model.subject import Subject
from quell.model.syslog import SyslogFilter
from quell.response.endpoints import LEVELS

#: MSGID of what is no event.
FLAG, TEST = "flag", "test"


class Told(Struct, frozen=True, kw_only=True):
    """One message. Times in epoch seconds."""

    id: str
    #: The event's category, or flag or test: MSGID.
    category: str
    kind: str = ""
    level: Level
    time: float
    received: float
    subject: Subject = Subject()
    name: str
    title: str
    #: What a webhook of type JSON says, by NeuVector's field names.
    log: dict[str, Any]
    #: NeuVector's word: event, incident, threat, violation, audit or flag.
    notification: str
    #: "rule/8" or "policy/NAME" -> its name.
    rules: dict[str, str] = {}
    #: Such as {"action": "agentKillProcess", "status": "granted"}.
    actions: tuple[dict[str, str], ...] = ()
    #: Of a flag: class, severity, impact, content.
    flag: dict[str, str] = {}
    #: Of a flag: the event it follows from.
    event_id: str = ""


def of_event(event: Event, decision: Decision) -> Told:
    said = notice(event, decision)
    return Told(
        id=event.id,
        category=event.category.value,
        kind="" if event.kind is None else event.kind.value,
        level=event.level,
        time=event.received if event.time is None else event.time,
        received=event.received,
        subject=event.subject,
        name=event.catalogue_name or event.name,
        title=said.title,
        log=said.log,
        notification=said.category,
        rules={match.ref: match.name for match in decision.matches},
        actions=tuple(_actions(decision)),
    )


def of_flag(flag: Flag) -> Told:
    said = flag_notice(flag)
    return Told(
        id=flag.id,
        category=FLAG,
        kind=flag.flag_class.value,
        level=said.level,
        time=flag.time,
        received=flag.time,
        subject=flag.subject,
        name=flag.name,
        title=said.title,
        log=said.log,
        notification=said.category,
        # Its rules ask by entry: policy/NAME/actions is policy/NAME.
        rules={"/".join(asker.split("/")[:2]): "" for asker in flag.asked_by},
        flag={
            "class": flag.flag_class.value,
            "severity": flag.severity.value,
            "impact": flag.impact,
            "content": flag.content,
        },
        event_id=flag.event_id,
    )


def of_test(receiver: str, identifier: str, by: str, now: float) -> Told:
    """What a person sends to see whether it arrives."""
    message = f"a test of syslog receiver {receiver}, asked for by {by}"
    return Told(
        id=identifier,
        category=TEST,
        level=Level.NOTICE,
        time=now,
        received=now,
        name="Syslog.Test",
        title="Syslog.Test",
        log={"name": "Syslog.Test", "level": Level.NOTICE.value, "message": message},
        notification=TEST,
    )


def takes_event(wanted: SyslogFilter, event: Event) -> bool:
    """Whether a receiver's filter lets an event through."""
    return (not wanted.categories or event.category in wanted.categories) and (
        wanted.level is None or event.level.rank >= wanted.level.rank
    )


def takes_flag(wanted: SyslogFilter, flag: Flag) -> bool:
    """As takes_event. The flag of a suppressed event is left out with it."""
    return (
        not flag.silent and wanted.flags and (wanted.level is None or LEVELS[flag.severity].rank >= wanted.level.rank)
    )


def _actions(decision: Decision) -> list[dict[str, str]]:
    found = []
    for record in decision.actions:
        said = {"action": word(record.action), "status": record.status.value}
        if record.reason is not None and record.status is not Status.GRANTED:
            said["reason"] = record.reason.value
        found.append(said)
    return found
