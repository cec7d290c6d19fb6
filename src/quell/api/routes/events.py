"""Events with their decisions, and what was sent as events and is none."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from quell.api.pages import Cursor, Limit, Page, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.search import FILTERS, Asked, Before, Order
from quell.api.services import Services
from quell.controller.notifications import Hit
from quell.model.explanation import Explanation, facts
from quell.model.notification import SearchPage


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller, store = services.controller, services.controller.store
    searching = services.searching

    @get(
        "/v1/events",
        summary="The events, each with its decision; suppressed ones too, unless include_suppressed=false",
        dependencies=FILTERS,
        opt=needs(Permission.READ),
    )
    async def events(
        wanted: Asked,
        order: Order = "newest",
        before: Before = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> SearchPage[dict[str, Any]]:
        asked = wanted.filter
        if not wanted.says_of_suppressed:
            asked = msgspec.structs.replace(asked, include_suppressed=True)
        return await searching.page(
            searching.query(asked), _rows, limit=limit, cursor=cursor, before=before, oldest_first=order == "oldest"
        )

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

    return [events, event, rejects]


def _rows(_connection: sqlite3.Connection, hits: list[Hit]) -> list[dict[str, Any]]:
    """What each event says, and `decision`."""
    return [facts(hit.event) | {"decision": msgspec.to_builtins(hit.decision)} for hit in hits]
