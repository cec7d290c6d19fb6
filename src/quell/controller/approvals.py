"""Actions that wait for a person, and breakers that a person resets. SEMANTICS section 8; docs/approvals.md.

An approval and a reset are events of Quell's own with a decision, so that a restart finds them in the journal. A denial
and a time that ran out are outcomes of the action that was asked for. All of it runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from quell.clock import Clock
from quell.controller import audit_trail
from quell.controller.own_events import own_event
from quell.controller.pipeline import Pipeline
from quell.errors import QuellError, StoreError
from quell.ids import uuid7
from quell.model.action import AgentAction, word
from quell.model.audit import QUELL, Actor
from quell.model.decision import ActionHeld, BreakerReset, BreakerTripped, Decision, HoldEnded, Outcome, Reason
from quell.model.explanation import Explanation, facts
from quell.model.subject import Subject, Target
from quell.response import holds
from quell.response.targets import Refusal, owner_of
from quell.storage.records import Noted
from quell.storage.store import Store

APPROVED = "Approval.Granted"
RESET = "Breaker.Reset"

_log = structlog.get_logger(__name__)


class Pending(Struct, frozen=True, kw_only=True):
    """An action that waits for a person."""

    #: Of the action's record: `quell explain` of the event shows it, and what became of it.
    id: str
    event: str
    #: The action's word, and the whole action with its parameters.
    action: str
    parameters: AgentAction
    target: Target
    agent: str
    #: Rules and policies that asked.
    asked_by: tuple[str, ...]
    #: approval: its rule asks for one; budget: it was one too many.
    reason: Reason
    explanation: str
    subject: Subject
    since: float
    until: float


class Breaker(Struct, frozen=True, kw_only=True):
    """A rule that does something no more to an owner's workloads of one image."""

    key: str
    by: str
    action: str
    owner: str
    image: str
    since: float
    #: The event at which it tripped.
    event: str


class Approvals:
    def __init__(self, store: Store, pipeline: Pipeline, clock: Clock, on_failure: Callable[[], None]) -> None:
        """on_failure: a write did not succeed, so the state holds what the journal does not."""
        self._store = store
        self._pipeline = pipeline
        self._clock = clock
        self._on_failure = on_failure

    # ---- shown

    def all(self) -> list[Pending]:
        """The oldest first."""
        held = self._pipeline.state.held.values()
        return [_pending(each) for each in sorted(held, key=lambda each: (each.at, each.id))]

    def one(self, identifier: str) -> Pending | None:
        held = self._pipeline.state.held.get(identifier)
        return None if held is None else _pending(held)

    def breakers(self) -> list[Breaker]:
        """By key."""
        return [_breaker(each) for _, each in sorted(self._pipeline.state.breakers.items())]

    # ---- decided

    async def approve(self, identifier: str, actor: Actor, note: str = "") -> Explanation | Refusal:
        """Have it done: the record of the approval, once it is on disk. A refusal: what stands against it now.

        KeyError: nothing waits under this id. QueueFull, StoreError.
        """
        now = self._clock()
        held = self._pipeline.state.held[identifier]
        approved = holds.approve(held, self._pipeline.state, now, by=str(actor), note=note)
        if isinstance(approved, Refusal):
            return approved
        said = f"{actor} approves {word(held.action)} for {_owner(held)}" + (f": {note}" if note else "")
        event = own_event(uuid7(now), APPROVED, held.subject, said, now, now, user=str(actor))
        decision = Decision(
            event_id=event.id,
            time=now,
            revision=self._pipeline.index.revision,
            actions=(approved.record,),
            changes=approved.changes,
        )
        noted = Noted(entry=audit_trail.of_hold(actor, "approve", held, note), time=now)
        await self._pipeline.submit_decided(event, decision, [noted])
        return Explanation(event=facts(event), decision=decision)

    async def deny(self, identifier: str, actor: Actor, note: str = "") -> Outcome:
        """Have it not done. KeyError: nothing waits under this id. StoreError."""
        held = self._pipeline.state.held[identifier]
        outcome, ended = holds.deny(held, self._clock(), by=str(actor), note=note)
        await self._settle(held, outcome, ended, actor, "deny", note)
        return outcome

    async def tick(self) -> None:
        """Once a second: what nobody decided about in time. StoreError."""
        now = self._clock()
        for held in [each for each in self._pipeline.state.held.values() if each.until <= now]:
            outcome, ended = holds.forget(held, now)
            await self._settle(held, outcome, ended, QUELL, "expire", "")

    async def reset(self, key: str, actor: Actor, note: str = "") -> Breaker:
        """The rule acts on this owner again. KeyError: no such breaker stands open. QueueFull, StoreError."""
        now = self._clock()
        tripped = self._pipeline.state.breakers[key]
        said = f"{actor} lets {tripped.by} do {tripped.action} to {tripped.owner} again" + (f": {note}" if note else "")
        event = own_event(uuid7(now), RESET, Subject(image=tripped.image or None), said, now, now, user=str(actor))
        decision = Decision(
            event_id=event.id, time=now, revision=self._pipeline.index.revision, changes=(BreakerReset(key=key),)
        )
        noted = Noted(entry=audit_trail.of_reset(actor, tripped, note), time=now)
        await self._pipeline.submit_decided(event, decision, [noted])
        return _breaker(tripped)

    async def _settle(
        self, held: ActionHeld, outcome: Outcome, ended: HoldEnded, actor: Actor, verb: str, note: str
    ) -> None:
        """The outcome and the end of the hold, in one transaction."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: StoreError | None) -> None:
            if error is not None:
                self._on_failure()
            if written.done():
                return
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        entry = audit_trail.of_hold(actor, verb, held, note)
        noted = Noted(entry=entry, time=outcome.time, outcome=(outcome.id, outcome.status.value))
        self._pipeline.state.change((ended,))
        try:
            self._store.record_outcomes([outcome], done, (ended,), [noted])
        except QuellError:
            self._on_failure()
            raise
        await written
        _log.info("a held action ended", action=word(held.action), id=held.id, how=ended.how.value)


def _owner(held: ActionHeld) -> str:
    return owner_of(held.subject)


def _pending(held: ActionHeld) -> Pending:
    return Pending(
        id=held.id,
        event=held.event_id,
        action=word(held.action),
        parameters=held.action,
        target=held.target,
        agent=held.agent,
        asked_by=tuple(dict.fromkeys(ask.by for ask in held.asks)),
        reason=held.reason,
        explanation=held.explanation,
        subject=held.subject,
        since=held.at,
        until=held.until,
    )


def _breaker(tripped: BreakerTripped) -> Breaker:
    told = msgspec.structs.asdict(tripped)
    return Breaker(since=told.pop("at"), event=told.pop("event_id"), **told)
