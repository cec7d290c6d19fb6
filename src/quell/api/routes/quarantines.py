"""What is cut off from the network."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from quell.api.etag import digest, etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @get("/v1/quarantines", summary="What is cut off from the network, and by whom", opt=needs(Permission.READ))
    async def quarantines(limit: Limit = 1000, cursor: Cursor = None) -> Page[dict[str, Any]]:
        return page_of(controller.quarantines(), limit, cursor, lambda held: str(held["key"]))

    def held(key: str) -> dict[str, Any]:
        for one in controller.quarantines():
            if one["key"] == key:
                return one
        raise Refusal(404, f"nothing is in quarantine under {key}")

    @get("/v1/quarantines/{key:path}", summary="One quarantine", opt=needs(Permission.READ))
    async def quarantine(key: FromPath[str]) -> Response[dict[str, Any]]:
        one = held(key.removeprefix("/"))
        return Response(one, headers=etag(digest(one)))

    @delete(
        "/v1/quarantines/{key:path}",
        status_code=204,
        summary="End a quarantine, whoever holds it",
        opt=needs(Permission.OPERATE),
    )
    async def release(key: FromPath[str], request: Request[Any, Any, Any]) -> None:
        key = key.removeprefix("/")
        expect(request, digest(held(key)))
        await controller.release(key, request.scope["state"]["caller"].actor)

    return [quarantines, quarantine, release]
