"""How it goes with syslog receivers, and a test of one. What they are is a document of kind Syslog."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import Struct

from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.syslog.line import ReceiverStatus
from quell.controller.syslog.wire import Broken
from quell.model.syslog import Transport


class SyslogTest(Struct, frozen=True):
    """What became of a test message."""

    #: In the message, to find it by where it arrived.
    id: str
    address: str
    #: False: nobody says that a datagram arrived.
    acknowledged: bool


def routes(services: Services) -> list[HTTPRouteHandler]:
    syslog = services.controller.syslog

    @get("/v1/syslog", summary="The syslog receivers, and how it goes with each", opt=needs(Permission.READ))
    async def syslog_receivers(limit: Limit = 1000, cursor: Cursor = None) -> Page[ReceiverStatus]:
        found = await asyncio.to_thread(syslog.status)
        return page_of(found, limit, cursor, lambda status: status.name)

    @post(
        "/v1/syslog/{name:str}/test",
        status_code=200,
        summary="Send one test message to a syslog receiver",
        description="Also to a disabled one, over a connection of its own. 502: it did not go, and why.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def test_syslog(name: FromPath[str], request: Request[Any, Any, Any]) -> SyslogTest:
        try:
            identifier = await syslog.test(name, request.scope["state"]["caller"].actor)
        except KeyError:
            raise Refusal(404, f"no syslog receiver {name}") from None
        except Broken as error:
            raise Refusal(502, f"the test message did not go to {name}: {error}") from error
        receiver = syslog.receiver(name)
        return SyslogTest(id=identifier, address=receiver.address, acknowledged=receiver.transport is not Transport.UDP)

    return [syslog_receivers, test_syslog]
