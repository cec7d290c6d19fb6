"""The settings in force, changing those that may be changed while running, and the pause of all that is destructive."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get, patch, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from quell.api import configuring
from quell.api.etag import etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.configuration import ShownSetting, unknown
from quell.controller.live_settings import Pause, Wanted
from quell.model.audit import Actor


class PauseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    paused: bool
    reason: Annotated[str, Meta(max_length=1000)] = ""


def routes(services: Services) -> list[HTTPRouteHandler]:
    live = services.controller.live

    @get(
        "/v1/settings",
        summary="Every setting: what it is, means and risks, and where it comes from",
        opt=needs(Permission.READ),
    )
    async def settings(limit: Limit = 1000, cursor: Cursor = None) -> Response[Page[ShownSetting]]:
        found = page_of(sorted(live.shown(), key=lambda one: one.name), limit, cursor, lambda one: one.name)
        return Response(found, headers=etag(live.version))

    @get("/v1/settings/{name:str}", summary="One setting", opt=needs(Permission.READ))
    async def setting(name: FromPath[str]) -> Response[ShownSetting]:
        try:
            (found,) = live.shown([name])
        except KeyError:
            raise Refusal(404, unknown(name)) from None
        return Response(found, headers=etag(live.version))

    @patch(
        "/v1/settings",
        summary="Change settings while running, all of them or none; those set by file or environment stay",
        opt=needs(Permission.ADMIN),
    )
    async def change_settings(data: JSONBody[Wanted], request: Request[Any, Any, Any]) -> Response[list[ShownSetting]]:
        await change(data, request)
        return Response(live.shown([*data.set, *data.unset]), headers=etag(live.version))

    @get("/v1/pause", summary="Whether destructive actions are paused, by whom and why", opt=needs(Permission.READ))
    async def pause() -> Response[Pause]:
        return Response(live.pause, headers=etag(live.version))

    @put("/v1/pause", summary="Pause all destructive actions, or go on", opt=needs(Permission.OPERATE))
    async def set_pause(data: JSONBody[PauseRequest], request: Request[Any, Any, Any]) -> Response[Pause]:
        await change(Wanted(set={"safety.paused": data.paused}, reason=data.reason), request)
        return Response(live.pause, headers=etag(live.version))

    async def change(wanted: Wanted, request: Request[Any, Any, Any]) -> None:
        actor: Actor = request.scope["state"]["caller"].actor
        await configuring.change(services, wanted, actor, lambda: expect(request, live.version))

    return [settings, setting, change_settings, pause, set_pause]
