"""Events that Quell makes of what it did itself: a quarantine that holds, one that ended. SEMANTICS sections 4 and 9.

Their ids are derived from the command's, so that a repeated outcome makes no second event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from quell.detectors import DETECTORS
from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import Command, Outcome, OutcomeStatus
from quell.model.event import Event
from quell.model.subject import Container, NetworkTarget, Pod, Subject

SOURCE = "quell"
_SUFFIX = "/event"
#: Events that follow from events that follow from events: more than this is a loop of rules (SEMANTICS section 4).
MAX_CHAIN = 4


def makes_event(command: Command, outcome: Outcome) -> bool:
    """Whether this outcome makes an event, and is not the end of a chain."""
    done = outcome.status is OutcomeStatus.DONE and type(command.action) in _NAMES
    return done and not ends_chain(command.id)


def after_outcome(command: Command, outcome: Outcome, cause: Event | None, received: float) -> Event | None:
    """The event that an outcome makes; None for most, and at the end of a chain.

    cause: what the command answered, whose subject says more than the target; None if it is no longer kept.
    """
    if not makes_event(command, outcome):
        return None
    name = _NAMES[type(command.action)]
    target = command.target
    assert isinstance(target, NetworkTarget)  # noqa: S101 - these two actions have no other
    by = ", ".join(asker.replace("/", " ") for asker in command.asked_by) or "nobody known"
    verb = "quarantined" if isinstance(command.action, Quarantine) else "unquarantined"
    message = f"{target.key} {verb} ({by})"
    return own_event(f"{command.id}{_SUFFIX}", name, _subject(target, cause), message, outcome.time, received)


def ends_chain(cause: str) -> bool:
    """Whether what follows from a command or delivery of this id is not to be answered any more."""
    return cause.count(_SUFFIX) >= MAX_CHAIN


def following(cause: str) -> str:
    """The id of the event that follows from a command or delivery of this id."""
    return f"{cause}{_SUFFIX}"


def own_event(
    identifier: str,
    name: str,
    subject: Subject,
    message: str,
    time: float,
    received: float,
    facts: Mapping[str, str] | None = None,
) -> Event:
    """An event of Quell itself, in the native form, so that it takes the path of any other.

    facts: what the message says, for programs.
    """
    told: dict[str, Any] = {
        "id": identifier,
        "time": time,
        "category": "event",
        "name": name,
        "subject": subject,
        "details": {"message": message} | ({"facts": facts} if facts else {}),
    }
    return DETECTORS[SOURCE].decode(msgspec.json.encode(told), id=identifier, received=received)


def _subject(target: NetworkTarget, cause: Event | None) -> Subject:
    if cause is not None and cause.subject.node == target.node:
        container = cause.subject.container
        if container is None:
            return cause.subject
        # The native form has no place for these two; the inventory fills them in again.
        bare = msgspec.structs.replace(container, labels=None, sandbox=None)
        return msgspec.structs.replace(cause.subject, container=bare)
    return Subject(
        node=target.node,
        container=None if target.container_id is None else Container(id=target.container_id),
        pod=None if target.pod_uid is None else Pod(uid=target.pod_uid),
        process=target.process,
    )


_NAMES = {Quarantine: "Container.Quarantined", ReleaseQuarantine: "Container.Unquarantined"}
