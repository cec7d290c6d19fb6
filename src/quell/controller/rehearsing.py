"""Dry runs: what would be decided about an event now, and what each action would come to. SEMANTICS section 8.

The decision is the one that would be made, and is not applied: no budget is spent, no breaker trips, nothing is written.
Then whoever would carry an action out looks at its target with every check of its own: the agent on its machine, the
cluster's API by a dry run of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quell.channel.envelope import sign
from quell.channel.messages import Hello, Rehearse, Rehearsed
from quell.clock import Clock
from quell.controller.dispatcher import Dispatcher
from quell.controller.inventory import LiveInventory
from quell.controller.kubernetes.actions import ClusterActions
from quell.controller.pipeline import Pipeline
from quell.evaluate import evaluate
from quell.model.action import Action, AgentAction
from quell.model.decision import ActionRecord, Ask, Command, Decision, Outcome, OutcomeStatus, Reason, Status
from quell.model.event import Event
from quell.model.explanation import Explanation, facts
from quell.model.rehearsal import Rehearsal
from quell.response.commands import command
from quell.response.decide import decide
from quell.response.facts import KUBERNETES
from quell.response.targets import aim

#: Seconds that an agent may take to look.
PATIENCE = 10.0
#: Refused by what changes by itself or by a person: what would become of it otherwise is worth to be known.
_PASSING = (Reason.AUDIT, Reason.COOLDOWN, Reason.LIMIT, Reason.BUDGET, Reason.BREAKER, Reason.PAUSED)

_log = structlog.get_logger(__name__)


class Rehearsals:
    """On the event loop's thread only."""

    def __init__(
        self,
        pipeline: Pipeline,
        dispatcher: Dispatcher,
        clusters: ClusterActions,
        inventory: LiveInventory,
        key: Ed25519PrivateKey,
        hello: Callable[[str], Hello | None],
        clock: Clock,
        *,
        patience: float = PATIENCE,
    ) -> None:
        """hello: what the agent of an id said when it linked last."""
        self._pipeline = pipeline
        self._dispatcher = dispatcher
        self._clusters = clusters
        self._inventory = inventory
        self._key = key
        self._hello = hello
        self._clock = clock
        self._patience = patience
        #: By the command's id: the agent that was asked, and who waits.
        self._asked: dict[str, tuple[str, asyncio.Future[Rehearsed]]] = {}

    async def of(self, event: Event, actions: Sequence[Action] | None, by: str) -> Explanation:
        """What would be decided about an event that came now, and what would come of it.

        actions: as if `by`, such as user/ann, asked for them, and no rule was; None: by the rules in force. EventError.
        """
        now, index, state = self._clock(), self._pipeline.index, self._pipeline.state
        container = event.subject.container
        # What nobody knows is not to be learned from an event that never was.
        known = container is None or self._inventory.find(container.id) is not None
        enriched = self._inventory.enrich(event) if known else None
        event = event if enriched is None else enriched.event
        if actions is None:
            decision = evaluate(event, index, state, now)
        else:
            asks = [Ask(action=action, by=by, owner=by) for action in actions]
            decision = decide(
                event,
                event.details,
                (),
                asks,
                webhooks=index.webhooks,
                state=state,
                now=now,
                revision=index.revision,
            )
        if enriched is not None:
            decision = msgspec.structs.replace(decision, added=enriched.added, conflicts=enriched.conflicts)
        return Explanation(event=facts(event), decision=decision, rehearsals=await self.rehearse(event, decision))

    async def rehearse(self, event: Event, decision: Decision) -> tuple[Rehearsal, ...]:
        """What would become of the actions of a decision that is not applied, in their order."""
        found = await asyncio.gather(*(self._one(event, record) for record in decision.actions))
        return tuple(each for each in found if each is not None)

    def answered(self, agent: str, rehearsed: Rehearsed) -> None:
        """An agent has looked. What nobody waits for any more, or asked another agent, is passed over."""
        asked, waiting = self._asked.get(rehearsed.outcome.id, ("", None))
        if waiting is None or asked != agent:
            _log.warning("an agent told of a dry run that nobody asked it for", agent=agent)
        elif not waiting.done():
            waiting.set_result(rehearsed)

    async def _one(self, event: Event, record: ActionRecord) -> Rehearsal | None:
        """None: nobody has to do anything, or there is nothing to be looked at."""
        action, target = record.action, record.target
        if not isinstance(action, AgentAction) or target is None:
            return None
        if record.status is Status.REFUSED and record.reason not in _PASSING:
            return None
        if record.status is Status.GRANTED and not record.agent:
            return None  # it is isolated already
        state = self._pipeline.state
        agent = aim(action, event, event.details, state).agent
        by = record.agent or ("" if agent is None else agent.id)
        if not by:
            return None
        asked = command(f"dry-run/{uuid4()}", by, action, target, state=state, now=self._clock(), event_id=event.id)
        if by.startswith(KUBERNETES):
            return _told(record, by, Rehearsed(outcome=await self._clusters.rehearse(asked)))
        return _told(record, by, await self._ask(asked))

    async def _ask(self, asked: Command) -> Rehearsed:
        link, hello = self._dispatcher.link_of(asked.agent), self._hello(asked.agent)
        if link is None or hello is None:
            return self._unseen(asked, f"agent {asked.agent} is not connected")
        if not hello.rehearses:
            return self._unseen(asked, f"agent {asked.agent} is of a version without dry runs: {hello.version}")
        waiting: asyncio.Future[Rehearsed] = asyncio.get_running_loop().create_future()
        self._asked[asked.id] = asked.agent, waiting
        try:
            link.send(Rehearse(envelope=sign(asked, self._key, rehearsal=True)))
            async with asyncio.timeout(self._patience):
                return await waiting
        except TimeoutError:
            return self._unseen(asked, f"agent {asked.agent} did not say within {self._patience:g} s")
        finally:
            del self._asked[asked.id]

    def _unseen(self, asked: Command, why: str) -> Rehearsed:
        said = f"nobody looked at the target: {why}"
        return Rehearsed(
            outcome=Outcome(
                id=asked.id,
                status=OutcomeStatus.EXPIRED,
                reason=Reason.EXPIRED,
                explanation=said,
                time=self._clock(),
            )
        )


def _told(record: ActionRecord, by: str, rehearsed: Rehearsed) -> Rehearsal:
    outcome = rehearsed.outcome
    return Rehearsal(
        id=record.id,
        by=by,
        would=outcome.status,
        reason=outcome.reason,
        explanation=outcome.explanation,
        duration=outcome.duration,
        facts=outcome.facts,
        deeds=rehearsed.deeds,
    )
