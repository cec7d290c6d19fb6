"""What the audit log says of actions: who asked, what was done to what, and what came of it.

A target is named without its command line, its working directory and labels: these hold what is nobody's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec

from quell.model.action import word
from quell.model.audit import QUELL, Actor, AuditEntry
from quell.model.decision import ActionHeld, ActionRecord, BreakerTripped, Command, Outcome
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target
from quell.response.facts import Quarantined

#: What is told of a process.
_OF_PROCESS = ("pid", "start_ticks", "start_time", "boot_id", "name", "exe", "uid")


def of_outcome(command: Command, outcome: Outcome) -> AuditEntry:
    """An action with its outcome."""
    told: dict[str, Any] = {
        "command": command.id,
        "event": command.event_id,
        "asked_by": command.asked_by,
        "agent": command.agent,
        "target": _told(command.target),
        "parameters": {name: value for name, value in msgspec.to_builtins(command.action).items() if name != "type"},
        "ordered": command.issued,
        "status": outcome.status.value,
        "reason": None if outcome.reason is None else outcome.reason.value,
        "explanation": outcome.explanation,
        "ended": outcome.time,
        "seconds": outcome.duration,
        "facts": outcome.facts,
    }
    return AuditEntry(
        actor=asker(command.asked_by),
        verb=word(command.action),
        kind="action",
        name=name_of(command.target),
        after={name: value for name, value in told.items() if value not in (None, "", {}, ())},
    )


def of_request(actor: Actor, record: ActionRecord, comment: str) -> AuditEntry:
    """A person asks for a quarantine; what came of the command is an entry of its own."""
    parameters = {name: value for name, value in msgspec.to_builtins(record.action).items() if name != "type"}
    told: dict[str, Any] = {
        "command": record.id,
        "target": None if record.target is None else _told(record.target),
        "parameters": parameters,
        "comment": comment,
        "status": record.status.value,
        "reason": None if record.reason is None else record.reason.value,
        "explanation": record.explanation,
    }
    return AuditEntry(
        actor=actor,
        verb="quarantine",
        kind="quarantine",
        name="" if record.target is None else name_of(record.target),
        after={name: value for name, value in told.items() if value not in (None, "", {})},
    )


def of_release(actor: Actor, key: str, held: Quarantined, holders: Sequence[str] = ()) -> AuditEntry:
    """A person lets holders of a quarantine go; what came of the command is an entry of its own. holders: who stay."""
    before = {"holders": dict(held.holders), "since": held.since, "target": _told(held.target)}
    after = {"holders": {holder: held.holders[holder] for holder in holders}} if holders else None
    return AuditEntry(actor=actor, verb="release", kind="quarantine", name=key, before=before, after=after)


def of_hold(actor: Actor, verb: str, held: ActionHeld, note: str) -> AuditEntry:
    """What was decided about an action that waited; what came of its command is an entry of its own."""
    told: dict[str, Any] = {
        "command": held.id,
        "event": held.event_id,
        "action": word(held.action),
        "asked_by": tuple(ask.by for ask in held.asks),
        "agent": held.agent,
        "target": _told(held.target),
        "reason": held.reason.value,
        "explanation": held.explanation,
        "since": held.at,
    }
    return AuditEntry(actor=actor, verb=verb, kind="approval", name=name_of(held.target), before=told, note=note)


def of_reset(actor: Actor, tripped: BreakerTripped, note: str) -> AuditEntry:
    """A person lets a rule act again."""
    return AuditEntry(
        actor=actor, verb="reset", kind="breaker", name=tripped.key, before=msgspec.to_builtins(tripped), note=note
    )


def asker(asked_by: Sequence[str]) -> Actor:
    """The person or token that asked; Quell itself where rules, policies or a lease did."""
    for one in asked_by:
        kind, _, name = one.partition("/")
        if kind in ("user", "token"):
            return Actor(kind=kind, name=name)
    return QUELL


def name_of(target: Target) -> str:
    """What the target is called in a list, such as node-1/nc[4711]."""
    match target:
        case ProcessTarget(node=node, process=process):
            return f"{node}/{process.name or process.exe or 'process'}[{process.pid}]"
        case NetworkTarget(key=key):
            return key
        case PodTarget():
            return "/".join(part for part in (target.namespace, target.name or target.uid) if part)
        case _:
            assert_never(target)


def _told(target: Target) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(target)
    process: Process | None = None if isinstance(target, PodTarget) else target.process
    if process is not None:
        values = {name: getattr(process, name) for name in _OF_PROCESS}
        told["process"] = {name: value for name, value in values.items() if value is not None}
    return told
