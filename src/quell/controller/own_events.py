"""Events that Quell makes of what it did itself: a quarantine that holds, one that ended. SEMANTICS sections 4 and 9.

Their ids are derived from the command's, so that a repeated outcome makes no second event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from quell.detectors import DETECTORS
from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import (
    Command,
    Decision,
    Outcome,
    OutcomeStatus,
    QuarantineHeld,
    QuarantineLetGo,
)
from quell.model.event import Event
from quell.model.subject import Container, NetworkTarget, Pod, Subject
from quell.response.facts import Phase, Quarantined
from quell.response.quarantine import LEASE, OWN, depth

SOURCE = "quell"
#: Events that follow from events that follow from events: more than this is a loop of rules (SEMANTICS section 4).
MAX_CHAIN = 4
QUARANTINED, UNQUARANTINED = "Container.Quarantined", "Container.Unquarantined"
_NAMES = {Quarantine: QUARANTINED, ReleaseQuarantine: UNQUARANTINED}


def makes_event(command: Command, outcome: Outcome, held: Quarantined | None) -> bool:
    """Whether this outcome makes an event. held: the quarantine before the outcome counts.

    One that only made a quarantine longer or stricter makes none, nor one that opened nothing because the namespace is
    held under another key.
    """
    if outcome.status is not OutcomeStatus.DONE:
        return False
    match command.action:
        case Quarantine():
            return held is None or not held.confirmed
        case ReleaseQuarantine():
            return not outcome.facts.get("still_held") or bool(outcome.facts.get("namespaces"))
        case _:
            return False


def after_outcome(
    command: Command,
    outcome: Outcome,
    held: Quarantined | None,
    *,
    cause: Event | None = None,
    decided: Decision | None = None,
    received: float,
) -> Event | None:
    """The event that an outcome makes; None for most.

    cause: what the quarantine began with, whose subject says more than the target; None if it is no longer kept.
    decided: the decision that the command came from, likewise.
    """
    if not makes_event(command, outcome, held):
        return None
    target = command.target
    assert isinstance(target, NetworkTarget)  # noqa: S101 - these two actions have no other
    subject = subject_of(target, cause)
    holders = _holders(command, held, decided)
    what = _named(subject, target)
    if isinstance(command.action, Quarantine):
        message = f"{what} quarantined by {_said(holders)}"
    else:
        message = f"{what} unquarantined by {_said(command.asked_by)}"
        others = [holder for holder in holders if holder not in command.asked_by]
        message += f", held before by {_said(others)}" if others else ""
    name = _NAMES[type(command.action)]
    return own_event(
        following(command.id), name, subject, message, outcome.time, received, **about(target.key, holders)
    )


def ends_chain(cause: str) -> bool:
    """Whether what follows from a command or delivery of this id is not to be answered any more."""
    return depth(cause) >= MAX_CHAIN


def following(cause: str) -> str:
    """The id of the event that follows from a command or delivery of this id."""
    return f"{cause}{OWN}"


def own_event(
    identifier: str,
    name: str,
    subject: Subject,
    message: str,
    time: float,
    received: float,
    facts: Mapping[str, str] | None = None,
    **details: Any,
) -> Event:
    """An event of Quell itself, in the native form, so that it takes the path of any other.

    facts: what the message says, for programs. details: other fields of quell.detectors.form.PlainForm.
    """
    told: dict[str, Any] = {
        "id": identifier,
        "time": time,
        "category": "event",
        "name": name,
        "subject": subject,
        "details": {"message": message} | ({"facts": facts} if facts else {}) | details,
    }
    return DETECTORS[SOURCE].decode(msgspec.json.encode(told), id=identifier, received=received)


def about(key: str, holders: Iterable[str]) -> dict[str, Any]:
    """The details that tell of a quarantine (quell.detectors.form.PlainForm): its holders, and the rules among them."""
    holders = list(holders)
    found = {each.removeprefix("rule/") for each in holders if each.startswith("rule/")}
    rules = sorted(int(each) for each in found if each.isdigit())
    return {"rules": rules, "holders": holders, "quarantine": key}


def _holders(command: Command, held: Quarantined | None, decided: Decision | None) -> list[str]:
    """Who holds it, or who held it until it was released."""
    changes = () if decided is None else decided.changes
    if isinstance(command.action, Quarantine):
        if held is not None and held.holders:
            return list(held.holders)
        told = [change.holder for change in changes if isinstance(change, QuarantineHeld)]
        return told or list(command.asked_by)
    if held is not None and held.phase is Phase.RELEASING:
        return list(held.former)
    key = command.target.key if isinstance(command.target, NetworkTarget) else ""
    return [change.holder for change in changes if isinstance(change, QuarantineLetGo) and change.key == key]


def _said(refs: Iterable[str]) -> str:
    """(rule 8), (policy shells), (user ann): as notifications show it. SEMANTICS section 4."""
    words = ["the end of its lease" if ref == LEASE else f"({' '.join(ref.split('/', 1))})" for ref in refs]
    return ", ".join(words) or "nobody known"


def _named(subject: Subject, target: NetworkTarget) -> str:
    if subject.pod is not None and subject.pod.name:
        return f"Pod {subject.namespace or '?'}/{subject.pod.name}"
    if subject.container is not None:
        name, short = subject.container.name, subject.container.id[:12]
        return f"Container {name} ({short})" if name else f"Container {short}"
    process = subject.process
    if process is not None and process.pid is not None:
        return f"The network of process {process.name or ''} ({process.pid})".replace("  ", " ")
    return target.key


def subject_of(target: NetworkTarget, cause: Event | None) -> Subject:
    """What an event about a quarantine is about. cause: what the quarantine began with, if that is still kept."""
    if cause is not None and _is_about(cause.subject, target):
        subject, container = cause.subject, cause.subject.container
        if subject.is_workload:
            # It is the workload that is isolated, not the process that gave the reason.
            subject = msgspec.structs.replace(subject, process=None)
        if container is None:
            return subject
        # The native form has no place for these two; the inventory fills them in again.
        bare = msgspec.structs.replace(container, labels=None, sandbox=None)
        return msgspec.structs.replace(subject, container=bare)
    return Subject(
        node=target.node,
        container=None if target.container_id is None else Container(id=target.container_id),
        pod=None if target.pod_uid is None else Pod(uid=target.pod_uid),
        process=target.process,
    )


def _is_about(subject: Subject, target: NetworkTarget) -> bool:
    """A violation may be told by the server, and its client be the one that is isolated."""
    if subject.node != target.node:
        return False
    return target.container_id is None or (
        subject.container is not None and subject.container.id == target.container_id
    )
