"""The API's own description, and the version."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from quell import __version__
from quell.api.roles import Permission, needs
from quell.api.services import Services


def routes(_services: Services) -> list[HTTPRouteHandler]:
    @get(
        "/v1/openapi.json",
        summary="This description",
        media_type="application/vnd.oai.openapi+json",
        opt=needs(Permission.READ),
    )
    async def description(request: Request[Any, Any, Any]) -> dict[str, Any]:
        told: dict[str, Any] = request.app.state.description()
        return told

    @get("/v1/version", summary="The version of this controller", opt=needs(Permission.READ))
    async def version() -> dict[str, str]:
        return {"version": __version__}

    return [description, version]
