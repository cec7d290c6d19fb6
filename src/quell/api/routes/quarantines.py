"""What is cut off from the network."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @get("/v1/quarantines", summary="What is cut off from the network, and by whom", opt=needs(Permission.READ))
    async def quarantines(limit: Limit = 1000, cursor: Cursor = None) -> Page[dict[str, Any]]:
        return page_of(controller.quarantines(), limit, cursor, lambda held: str(held["key"]))

    @delete(
        "/v1/quarantines/{key:path}",
        status_code=204,
        summary="End a quarantine, whoever holds it",
        opt=needs(Permission.OPERATE),
    )
    async def release(key: FromPath[str], request: Request[Any, Any, Any]) -> None:
        if not await controller.release(key.removeprefix("/"), request.scope["state"]["caller"].actor):
            raise Refusal(404, f"nothing is in quarantine under {key.removeprefix('/')}")

    return [quarantines, release]
