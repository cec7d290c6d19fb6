"""The audit log: who did what, whether it is as it was written, and all of it as a file."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream

from quell.api.pages import Cursor, Limit, Page, number, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.channel.keys import public_text
from quell.model.audit import AuditEntry, AuditRecord, Base, Head, Verification
from quell.storage import audit, audit_export
from quell.storage.audit import Filter
from quell.storage.store import Store

MEDIA_TYPE = "application/x-ndjson"
#: Entries of an export read and sent at once.
_PART = 1000
#: Seconds that a check leaves to others after each thousand entries.
_PAUSE = 0.001

Moment = Annotated[float | None, QueryParameter(ge=0, le=1e11, description="Epoch seconds.")]
After = Annotated[int, QueryParameter(ge=0, description="Go on after this entry: `last` of the part before.")]
AfterHash = Annotated[
    str | None, QueryParameter(pattern="^[0-9a-f]{64}$", description="Of that entry: `hash` of the part before.")
]
Parts = Annotated[int | None, QueryParameter(ge=1, description="At most so many entries; absent: all.")]


def routes(services: Services) -> list[HTTPRouteHandler]:
    store, key = services.controller.store, services.controller.signing_key.public_key()

    @get("/v1/audit", summary="Who did what, newest first; addresses for admins only", opt=needs(Permission.READ))
    async def audit_entries(
        request: Request[Any, Any, Any],
        limit: Limit = 50,
        cursor: Cursor = None,
        since: Moment = None,
        until: Moment = None,
        actor: FromQuery[str | None] = None,
        verb: FromQuery[str | None] = None,
        kind: FromQuery[str | None] = None,
        name: FromQuery[str | None] = None,
    ) -> Page[AuditRecord]:
        wanted = Filter(since=since, until=until, actor=actor, verb=verb, kind=kind, name=name)
        before = number(cursor)
        found = await asyncio.to_thread(
            store.read, lambda connection: audit.recent(connection, limit + 1, before, wanted)
        )
        if not request.scope["state"]["caller"].may(Permission.ADMIN):
            found = [_without_address(record) for record in found]
        return page(found, limit, lambda record: str(record.n))

    @get(
        "/v1/audit/head", summary="Where the log ends, signed; to be written down elsewhere", opt=needs(Permission.READ)
    )
    async def audit_head() -> Head:
        head = (await asyncio.to_thread(store.read, audit.ends)).head
        if head is None:
            raise Refusal(404, "the audit log is empty")
        return head

    @get(
        "/v1/audit/verification",
        summary="Whether the log is as it was written; in parts, if limit, after and after_hash say so",
        opt=needs(Permission.ADMIN),
    )
    async def audit_verification(after: After = 0, after_hash: AfterHash = None, limit: Parts = None) -> Verification:
        if bool(after) is not (after_hash is not None):
            raise Refusal(400, "after and after_hash go together: both are of the end of the part before")
        start = None if after_hash is None else Base(n=after, hash=after_hash)
        return await asyncio.to_thread(
            store.read,
            lambda connection: audit.verify(connection, key, start=start, limit=limit, rest=lambda: time.sleep(_PAUSE)),
        )

    @get(
        "/v1/audit/export",
        summary="The whole log, a line an entry, for `quell audit verify --file`",
        media_type=MEDIA_TYPE,
        responses={200: ResponseSpec(bytes, generate_examples=False, media_type=MEDIA_TYPE)},
        opt=needs(Permission.ADMIN),
    )
    async def audit_whole(request: Request[Any, Any, Any]) -> Stream:
        now = time.time()
        entry = AuditEntry(actor=request.scope["state"]["caller"].actor, verb="export", kind="audit", name="log")
        await asyncio.wrap_future(store.submit(lambda connection: audit.append(connection, entry, now)))
        ends = await asyncio.to_thread(store.read, audit.ends)
        first = audit_export.opening(ends, public_text(key))
        name = time.strftime("quell-audit-%Y%m%dT%H%M%SZ.ndjson", time.gmtime(now))
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        return Stream(_lines(store, first, ends.base.n, ends.last), media_type=MEDIA_TYPE, headers=headers)

    return [audit_entries, audit_head, audit_verification, audit_whole]


async def _lines(store: Store, first: bytes, after: int, upto: int) -> AsyncIterator[bytes]:
    yield first
    while after < upto:
        end = min(after + _PART, upto)
        yield await asyncio.to_thread(store.read, partial(_part, after=after, upto=end))
        after = end


def _part(connection: sqlite3.Connection, *, after: int, upto: int) -> bytes:
    return audit_export.lines(connection, after, upto)


def _without_address(record: AuditRecord) -> AuditRecord:
    actor = msgspec.structs.replace(record.entry.actor, address="")
    return msgspec.structs.replace(record, entry=msgspec.structs.replace(record.entry, actor=actor))
