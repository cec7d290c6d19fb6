"""What a person decides about an action that waits, and about a breaker: asked for over REST and in the console."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.services import Services
from quell.controller.approvals import Breaker, Pending
from quell.model.audit import Actor
from quell.model.decision import Outcome
from quell.model.explanation import Explanation
from quell.response.targets import Refusal as Against

Verdict = Literal["approve", "deny"]


class Judged(Struct, frozen=True, kw_only=True):
    """Approved: the record of the approval, whose action has the id of the one that waited. Denied: its outcome."""

    id: str
    verdict: str
    record: Explanation | None = None
    outcome: Outcome | None = None


def waiting(services: Services, identifier: str) -> Pending:
    """Refusal 404."""
    found = services.controller.approvals.one(identifier)
    if found is None:
        raise _nothing(identifier)
    return found


async def judge(services: Services, identifier: str, verdict: Verdict, actor: Actor, note: str) -> Judged:
    """Refusal 404; 409: what stands against it now, and it goes on waiting. QueueFull, StoreError."""
    approvals = services.controller.approvals
    try:
        if verdict == "deny":
            return Judged(id=identifier, verdict=verdict, outcome=await approvals.deny(identifier, actor, note))
        answer = await approvals.approve(identifier, actor, note)
    except KeyError:
        raise _nothing(identifier) from None
    if isinstance(answer, Against):
        raise Refusal(409, f"it cannot be done now: {answer.reason}, {answer.explanation}")
    return Judged(id=identifier, verdict=verdict, record=answer)


async def reset(services: Services, key: str, actor: Actor, note: str) -> Breaker:
    """Refusal 404; QueueFull, StoreError."""
    try:
        return await services.controller.approvals.reset(key, actor, note)
    except KeyError:
        raise Refusal(404, f"no breaker stands open under {key[:300]}") from None


def _nothing(identifier: str) -> Refusal:
    return Refusal(
        404, f"nothing waits for a person under {identifier[:300]}: it was decided, ran out, or never waited"
    )
