"""The commands that follow from a decision, for the controller to sign and store. SEMANTICS sections 8 and 9."""

from __future__ import annotations

import hashlib

from quell.model.action import AgentAction, Quarantine
from quell.model.decision import ActionRecord, Command, Decision, Status
from quell.model.evidence import EvidenceBounds
from quell.model.subject import NetworkTarget, Target
from quell.response.facts import admitted
from quell.response.state import State


def commands(decision: Decision, state: State, now: float) -> list[Command]:
    """One for each granted agent action that still needs its agent. state: after the decision was applied to it.

    Several rules' quarantines of one namespace become one isolation: the strictest and longest that any holder asked for.
    """
    return [
        command(
            record.id,
            record.agent,
            _effective(record, state, now),
            record.target,
            state=state,
            now=now,
            event_id=decision.event_id,
            asked_by=record.asked_by,
            evidence=record.evidence,
        )
        for record in decision.actions
        if record.status is Status.GRANTED and record.agent and record.target is not None
    ]


def command(
    identifier: str,
    agent: str,
    action: AgentAction,
    target: Target,
    *,
    state: State,
    now: float,
    event_id: str = "",
    asked_by: tuple[str, ...] = (),
    evidence: bool = False,
) -> Command:
    """The nonce is derived: the same command made twice is the same bytes. evidence: it is gathered first."""
    bounds = EvidenceBounds(wait=state.safety.evidence_wait, executable=state.safety.evidence_executable)
    expires = now + state.safety.command_ttl
    nonce = hashlib.blake2b(f"{identifier}\0{agent}\0{now!r}".encode(), digest_size=16).hexdigest()
    return Command(
        id=identifier,
        agent=agent,
        action=action,
        target=target,
        issued=now,
        expires=expires,
        nonce=nonce,
        event_id=event_id,
        asked_by=asked_by,
        evidence=bounds if evidence else None,
    )


def _effective(record: ActionRecord, state: State, now: float) -> AgentAction:
    action = record.action
    if isinstance(action, Quarantine) and isinstance(record.target, NetworkTarget):
        held = state.quarantines.get(record.target.key)
        if held is not None and held.holders:
            lease = held.lease
            ttl = None if lease is None else max(lease - now, 0.0)
            return Quarantine(ttl=ttl, strict=held.strict, investigator=admitted(held.investigators))
    if isinstance(action, AgentAction):
        return action
    raise TypeError(f"{type(action).__name__} is no action of an agent")
