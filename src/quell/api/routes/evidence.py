"""What was gathered before kills: for operators, since environments and command lines may hold more than was hidden."""

from __future__ import annotations

import asyncio
import re

from litestar import get
from litestar.datastructures import ResponseHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Struct

from quell.api.pages import Cursor, Limit, Page, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.model.evidence import EvidenceSummary, StoredEvidence

MEDIA_TYPE = "application/octet-stream"
_HASH = re.compile(r"[0-9a-f]{64}")


class EvidenceOfEvent(Struct, frozen=True, kw_only=True):
    """event: its id. items: one for each kill of its decision that evidence was gathered before, in the order it came."""

    event: str
    items: list[StoredEvidence]


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller
    evidence = controller.evidence

    @get("/v1/evidence", summary="What was gathered before kills, the newest first", opt=needs(Permission.OPERATE))
    async def list_evidence(limit: Limit = 50, cursor: Cursor = None) -> Page[EvidenceSummary]:
        found = await asyncio.to_thread(evidence.recent, limit + 1, cursor)
        return page(found, limit, lambda each: each.id)

    @get(
        "/v1/evidence/{event_id:path}",
        summary="What was gathered before the kills that an event led to",
        description="The processes as they were right before: facts of /proc, command line and environment with secrets "
        "hidden, open files, sockets, the tree around it, the executable's hash. `copies` are those executables of which "
        "GET /v1/executables/{sha256} has the content.",
        opt=needs(Permission.OPERATE),
    )
    async def event_evidence(event_id: FromPath[str]) -> EvidenceOfEvent:
        event = event_id.removeprefix("/")
        items = await asyncio.to_thread(evidence.of_event, event)
        if not items and await asyncio.to_thread(controller.store.event, event) is None:
            raise Refusal(404, f"no event {event[:300]}: it never came, or is no longer kept")
        return EvidenceOfEvent(event=event, items=items)

    @get(
        "/v1/executables/{sha256:str}",
        summary="The copy of an executable that was killed: it may be malware",
        media_type=MEDIA_TYPE,
        response_headers=[ResponseHeader(name="content-length", description="Bytes.", documentation_only=True)],
        responses={200: ResponseSpec(bytes, generate_examples=False, media_type=MEDIA_TYPE)},
        opt=needs(Permission.OPERATE),
    )
    async def executable(sha256: FromPath[str]) -> Stream:
        size = await asyncio.to_thread(evidence.copy_size, sha256) if _HASH.fullmatch(sha256) else None
        if size is None:
            raise Refusal(404, f"there is no copy of an executable with the SHA-256 {sha256[:64]}")
        headers = {
            "content-length": str(size),
            "content-disposition": f'attachment; filename="{sha256}"',
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
        }
        return Stream(evidence.copy(sha256), media_type=MEDIA_TYPE, headers=headers)

    return [list_evidence, event_evidence, executable]
