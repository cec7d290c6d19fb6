"""What goes on at a glance."""

from __future__ import annotations

import asyncio
from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.overview import Overview, Span

_Span = Annotated[Span, QueryParameter(description="How far back.")]


def routes(services: Services) -> list[HTTPRouteHandler]:
    @get(
        "/v1/overview",
        summary="Events and outcomes over time, the busiest rules, and what waits for somebody",
        opt=needs(Permission.READ),
    )
    async def overview(span: _Span = Span.HOUR) -> Overview:
        return await asyncio.to_thread(services.overviews.overview, span)

    return [overview]
