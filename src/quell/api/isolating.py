"""Cutting something off from the network and letting it go, as people ask for it: over REST and in the console."""

from __future__ import annotations

from quell.api.problem import Refusal
from quell.api.services import Services
from quell.controller.isolation import LetGoAll, Listed, Selection, Wanted
from quell.model.audit import Actor
from quell.model.explanation import Explanation


def held(services: Services, key: str) -> Listed:
    """Refusal 404."""
    one = services.controller.isolation.one(key)
    if one is None:
        raise Refusal(404, f"nothing is in quarantine under {key[:300]}")
    return one


async def isolate(services: Services, wanted: Wanted, actor: Actor, *, dry_run: bool = False) -> Explanation:
    """What is decided about it. Refusal 422: it names nothing, or too much. QueueFull, StoreError."""
    try:
        return await services.controller.isolation.request(wanted, actor, dry_run=dry_run)
    except ValueError as error:
        raise Refusal(422, str(error)) from error


async def let_go(
    services: Services, one: Listed, holder: str | None, actor: Actor, *, dry_run: bool = False
) -> LetGoAll:
    """holder: None: all of them. Refusal 404: that one does not hold it. QueueFull, StoreError."""
    if holder is not None and holder not in one.holders:
        raise Refusal(404, f"{holder} does not hold {one.key}; it is held by {', '.join(one.holders) or 'nobody'}")
    return await services.controller.isolation.release(
        Selection(key=one.key, holder=holder), actor, f"released by {actor}", dry_run=dry_run
    )
