"""Events with their decisions, what was sent as events and is none, and flags."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter

from quell.api.pages import Cursor, Limit, Page, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.past import as_decided
from quell.model.decision import Flag
from quell.model.explanation import Explanation, facts
from quell.storage.store import Stored

Decided = Annotated[bool, QueryParameter(description="Only those that a rule or policy matched.")]


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller, store = services.controller, services.controller.store

    @get("/v1/events", summary="The latest events, each with its decision", opt=needs(Permission.READ))
    async def events(limit: Limit = 50, cursor: Cursor = None, decided: Decided = False) -> Page[dict[str, Any]]:
        found = await asyncio.to_thread(store.recent, limit + 1, cursor, decided=decided)
        kept = page(found, limit, lambda stored: stored.id)
        return Page(items=await asyncio.to_thread(lambda: [row(stored) for stored in kept.items]), next=kept.next)

    @get(
        "/v1/events/{event_id:path}",
        summary="One event: what was decided, why, and what came of it",
        opt=needs(Permission.READ),
    )
    async def event(event_id: FromPath[str], near_misses: FromQuery[bool] = False) -> Explanation:
        explanation = controller.explain(event_id.removeprefix("/"), near_misses=near_misses)
        if explanation is None:
            raise Refusal(404, f"no event {event_id.removeprefix('/')}: it never came, or is no longer kept")
        return explanation

    @get("/v1/rejects", summary="What was sent as events and is none", opt=needs(Permission.READ))
    async def rejects(limit: Limit = 50, cursor: Cursor = None) -> Page[dict[str, Any]]:
        found = await asyncio.to_thread(store.rejects, limit + 1, cursor)
        kept = page(found, limit, lambda reject: reject.id)
        told = [msgspec.to_builtins(reject) | {"raw": reject.raw.decode(errors="replace")} for reject in kept.items]
        return Page(items=told, next=kept.next)

    @get("/v1/flags", summary="Findings for people", opt=needs(Permission.READ))
    async def flags(limit: Limit = 50, cursor: Cursor = None) -> Page[Flag]:
        return page(await asyncio.to_thread(store.flags, limit + 1, cursor), limit, lambda flag: flag.id)

    return [events, event, rejects, flags]


def row(stored: Stored) -> dict[str, Any]:
    """What an event says, and `decision`."""
    return facts(as_decided(stored)) | {"decision": msgspec.to_builtins(stored.decision)}
