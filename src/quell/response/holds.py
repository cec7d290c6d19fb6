"""Actions that wait for a person: how a hold begins, and what approving, denying or forgetting it brings. SEMANTICS 8.

The command of an approved action has the id of the record that was held, so that its outcome stands with the event that
asked for it.
"""

from __future__ import annotations

from typing import NamedTuple

from quell.model.action import AgentAction, Quarantine, word
from quell.model.decision import (
    ActionHeld,
    ActionRecord,
    Ask,
    BudgetSpent,
    CommandExpected,
    HoldEnd,
    HoldEnded,
    Outcome,
    OutcomeStatus,
    QuarantineHeld,
    Reason,
    ReplicaDisturbed,
    StateChange,
    Status,
)
from quell.model.event import Event
from quell.model.subject import NetworkTarget, Subject
from quell.response.lease import lease_of
from quell.response.safety import budget_keys, cooldown_key
from quell.response.state import State
from quell.response.targets import Refusal, owner_of, replica_of, target_key

#: So many actions may wait; more are refused, since nobody could look at them all.
MOST_HELD = 1000


class Approved(NamedTuple):
    """What an approval brings: the record of the action, granted, and the changes that go with it."""

    record: ActionRecord
    changes: tuple[StateChange, ...]


def hold(
    record: ActionRecord,
    action: AgentAction,
    asks: tuple[Ask, ...],
    subject: Subject,
    target: str,
    agent: str,
    event: Event,
    state: State,
    now: float,
) -> ActionHeld | None:
    """A held record as it waits. None: the same waits already. target: the key of the record's."""
    key = f"{word(action)}/{target}"
    if key in state.waiting or record.target is None or record.reason is None:
        return None
    return ActionHeld(
        id=record.id,
        key=key,
        event_id=event.id,
        action=action,
        target=record.target,
        agent=agent,
        asks=asks,
        reason=record.reason,
        explanation=record.explanation,
        subject=subject,
        at=now,
        until=now + state.safety.approval_ttl,
    )


def approve(held: ActionHeld, state: State, now: float, *, by: str, note: str = "") -> Approved | Refusal:
    """A person has it done. A refusal: what stands against it now; it goes on waiting. Pure.

    The person's word counts in the place of approval and budget; everything else still has to hold, and the agent proves
    the target as ever.
    """
    refusal = _against(held, state, now)
    if refusal is not None:
        return refusal
    owners = tuple(dict.fromkeys(ask.owner for ask in held.asks))
    record = ActionRecord(
        id=held.id,
        action=held.action,
        target=held.target,
        asked_by=(*dict.fromkeys(ask.by for ask in held.asks), by),
        status=Status.GRANTED,
        explanation=f"approved by {by}" + (f": {note}" if note else ""),
        agent=held.agent,
        evidence=any(ask.evidence for ask in held.asks),
    )
    changes: list[StateChange] = [HoldEnded(id=held.id, how=HoldEnd.APPROVED)]
    key = target_key(held.target)
    cooldowns = tuple((cooldown_key(ask, key), ask.cooldown) for ask in held.asks if ask.cooldown is not None)
    quarantine, strict, admits = "", False, False
    if isinstance(held.action, Quarantine) and isinstance(held.target, NetworkTarget):
        quarantine, strict = held.target.key, held.action.strict
        until = None if held.action.ttl is None else now + held.action.ttl
        changes += [
            QuarantineHeld(
                target=held.target,
                holder=owner,
                until=until,
                strict=strict,
                investigator=held.action.investigator,
                agent=held.agent,
                at=now,
                cause=held.event_id,
            )
            for owner in owners
        ]
        before = lease_of(state, quarantine)
        strict = strict and (before is None or not before.strict)
        admits = before is not None and before.admits_others(dict.fromkeys(owners, held.action.investigator))
    if cooldowns or quarantine:
        changes.append(
            CommandExpected(id=held.id, cooldowns=cooldowns, quarantine=quarantine, strict=strict, admits=admits)
        )
    changes.append(BudgetSpent(keys=tuple(budget_keys(list(owners), held.subject.namespace)), at=now))
    if held.subject.is_workload:
        changes.append(ReplicaDisturbed(owner=owner_of(held.subject), replica=replica_of(held.subject), at=now))
    return Approved(record, tuple(changes))


def deny(held: ActionHeld, now: float, *, by: str, note: str = "") -> tuple[Outcome, HoldEnded]:
    """A person will not have it done."""
    said = f"denied by {by}" + (f": {note}" if note else "")
    return _outcome(held, OutcomeStatus.REFUSED, Reason.APPROVAL_DENIED, said, now), HoldEnded(
        id=held.id, how=HoldEnd.DENIED
    )


def forget(held: ActionHeld, now: float) -> tuple[Outcome, HoldEnded]:
    """Nobody decided in time."""
    said = f"nobody approved it within {held.until - held.at:.0f} s"
    return _outcome(held, OutcomeStatus.EXPIRED, Reason.EXPIRED, said, now), HoldEnded(id=held.id, how=HoldEnd.EXPIRED)


def _against(held: ActionHeld, state: State, now: float) -> Refusal | None:
    if now >= held.until:
        return Refusal(Reason.EXPIRED, "its time is over")
    if state.safety.paused:
        return Refusal(Reason.PAUSED, "all destructive actions are paused")
    namespace = held.subject.namespace
    if namespace is not None and namespace in state.safety.protected_namespaces:
        return Refusal(Reason.PROTECTED, f"namespace {namespace} is protected")
    agent = state.agent(held.agent)
    if agent is None:
        return Refusal(Reason.NO_AGENT, f"agent {held.agent} is not known any more")
    if word(held.action) not in agent.capabilities:
        return Refusal(Reason.UNSUPPORTED, f"agent {agent.id} cannot do {word(held.action)}")
    return None


def _outcome(held: ActionHeld, status: OutcomeStatus, reason: Reason, said: str, now: float) -> Outcome:
    return Outcome(id=held.id, status=status, reason=reason, explanation=said, time=now)
