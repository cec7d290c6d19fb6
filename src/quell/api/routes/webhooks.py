"""Deliveries of webhooks, and those that were given up."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from quell.api.pages import Cursor, Limit, Page, number, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.storage import dead_letters, deliveries
from quell.storage.deliveries import Delivery


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller, store = services.controller, services.controller.store

    @get("/v1/webhooks/deliveries", summary="The latest attempts to deliver", opt=needs(Permission.READ))
    async def delivered(limit: Limit = 50, cursor: Cursor = None) -> Page[Delivery]:
        before = number(cursor)
        found = await asyncio.to_thread(store.read, lambda connection: deliveries.paged(connection, limit + 1, before))
        kept = page(found, limit, lambda each: str(each[0]))
        return Page(items=[delivery for _, delivery in kept.items], next=kept.next)

    @get("/v1/webhooks/dead-letters", summary="Deliveries that were given up", opt=needs(Permission.READ))
    async def dead(limit: Limit = 50, cursor: Cursor = None) -> Page[dict[str, Any]]:
        before = number(cursor)
        found = await asyncio.to_thread(
            store.read, lambda connection: dead_letters.paged(connection, limit + 1, before)
        )
        kept = page(found, limit, lambda each: str(each[0]))
        told = [
            {
                "id": letter.item.id,
                "endpoint": letter.item.channel.partition(":")[2],
                "time": letter.time,
                "attempts": letter.item.attempts,
                "explanation": letter.explanation,
                "event_id": letter.item.event_id,
            }
            for _, letter in kept.items
        ]
        return Page(items=told, next=kept.next)

    # The id of a delivery has slashes, and a path's own variable part can only be its last.
    @post(
        "/v1/webhooks/dead-letters/{rest:path}",
        status_code=202,
        summary="Send a dead letter again: <id>/replay",
        opt=needs(Permission.OPERATE),
    )
    async def replay(rest: FromPath[str], request: Request[Any, Any, Any]) -> None:
        identifier, slash, verb = rest.removeprefix("/").rpartition("/")
        if not slash or verb != "replay":
            raise Refusal(404, "expected /v1/webhooks/dead-letters/<id>/replay")
        if not await controller.webhooks.replay(identifier, request.scope["state"]["caller"].actor):
            raise Refusal(404, f"no dead letter {identifier}")

    return [delivered, dead, replay]
