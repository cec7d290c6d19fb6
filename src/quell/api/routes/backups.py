"""A backup of this controller, as it is now."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any, BinaryIO

from litestar import Request, get
from litestar.datastructures import ResponseHeader
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.response import Stream

from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.errors import StoreError
from quell.model.audit import AuditEntry
from quell.storage import audit, backup

MEDIA_TYPE = "application/zstd"
#: Bytes sent at once.
_PART = 256 << 10
#: Seconds after which to ask again while one is being made.
_RETRY = 5.0


def routes(services: Services) -> list[HTTPRouteHandler]:
    store, configuring = services.controller.store, services.controller.happenings.configuring
    making = asyncio.Lock()

    @get(
        "/v1/backup",
        summary="Everything the controller needs to be the same again, in one file that holds secrets",
        description=(
            "A tar in zstd, for `quell restore`. Every event acknowledged before the request is in it. Only one is made "
            "at a time: meanwhile the answer is 409."
        ),
        media_type=MEDIA_TYPE,
        response_headers=[ResponseHeader(name="content-length", description="Bytes.", documentation_only=True)],
        responses={200: ResponseSpec(bytes, generate_examples=False, media_type=MEDIA_TYPE)},
        opt=needs(Permission.ADMIN),
    )
    async def take(request: Request[Any, Any, Any]) -> Stream:
        if making.locked():
            raise Refusal(409, "a backup is being made; ask again when it is done", retry_after=_RETRY)
        async with making:
            now = time.time()
            name = time.strftime("quell-%Y%m%dT%H%M%SZ.tar.zst", time.gmtime(now))
            entry = AuditEntry(
                actor=request.scope["state"]["caller"].actor, verb="export", kind="backup", name=name, note="with keys"
            )
            await asyncio.wrap_future(store.submit(lambda connection: audit.append(connection, entry, now)))
            actor = request.scope["state"]["caller"].actor
            try:
                _, file = await asyncio.to_thread(backup.make, store.path, now)
            except StoreError as error:
                configuring.export_failed(actor, f"no backup could be made: {error}")
                raise
            configuring.exported(actor, "a backup", secrets=True)
        headers = {
            "content-length": str(os.fstat(file.fileno()).st_size),
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
        }
        return Stream(_parts(file), media_type=MEDIA_TYPE, headers=headers)

    return [take]


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while part := await asyncio.to_thread(file.read, _PART):
            yield part
    finally:
        # In a thread, for it frees the file's room on the disk; not awaited, for a client that has all hangs up at once,
        # and what is cancelled cannot wait.
        asyncio.get_running_loop().run_in_executor(None, file.close)
