"""The notifications: events, security events and risk reports, searched for, and as files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from quell.api.pages import Cursor, Limit
from quell.api.roles import Permission, needs
from quell.api.search import FILTERS, Asked, Before, Order, Searching
from quell.api.services import Services
from quell.controller import notifications
from quell.controller.notification_file import head, lines
from quell.controller.notifications import Hit
from quell.controller.table_file import FileFormat
from quell.model.notification import Notification, NotificationList, SearchPage
from quell.storage.search import Gap, Query

#: Entries of an export read and sent at once, and the seconds after which fewer are sent.
_PART = 500
_PART_SECONDS = 0.25
#: At most so many entries will come: for whoever shows how far an export is.
AT_MOST = "quell-at-most"

Form = Annotated[FileFormat, QueryParameter(description="csv: a table; ndjson: a JSON object a line.")]


def routes(services: Services) -> list[HTTPRouteHandler]:
    searching = services.searching

    @get(
        "/v1/notifications/{which:str}",
        summary="Entries of a list: events, security-events, risk-reports, or all",
        dependencies=FILTERS,
        opt=needs(Permission.READ),
    )
    async def list_notifications(
        which: FromPath[NotificationList],
        wanted: Asked,
        order: Order = "newest",
        before: Before = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> SearchPage[Notification]:
        query = searching.query(wanted.filter, which)
        return await searching.page(
            query, notifications.told, limit=limit, cursor=cursor, before=before, oldest_first=order == "oldest"
        )

    @get(
        "/v1/notifications/{which:str}/export",
        summary="Everything that a search finds, as a file",
        dependencies=FILTERS,
        responses={200: ResponseSpec(bytes, generate_examples=False, media_type=FileFormat.CSV.media_type)},
        opt=needs(Permission.READ) | {"media_types": [form.media_type for form in FileFormat]},
    )
    async def export_notifications(
        which: FromPath[NotificationList],
        wanted: Asked,
        format: Form = FileFormat.NDJSON,  # noqa: A002 - the word of the query
        order: Order = "newest",
    ) -> Stream:
        query = searching.query(wanted.filter, which)
        most = await searching.read(lambda connection: notifications.most(connection, query))
        name = time.strftime(f"quell-{which.value}-%Y%m%dT%H%M%SZ.{format.value}", time.gmtime())
        headers = {
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
            AT_MOST: str(most),
        }
        parts = _parts(searching, query, format, oldest_first=order == "oldest")
        return Stream(parts, media_type=format.media_type, headers=headers)

    return [list_notifications, export_notifications]


async def _parts(
    searching: Searching, query: Query[Hit], form: FileFormat, *, oldest_first: bool
) -> AsyncIterator[bytes]:
    """As much as there was when it began; one part is in memory."""
    yield head(form)
    at: Gap | None = None
    stop: Gap | None = None

    def part(connection: sqlite3.Connection) -> tuple[bytes, Gap | None]:
        nonlocal stop
        stop = stop or notifications.end(connection)
        found = notifications.find(
            connection, query, limit=_PART, at=at, stop=stop, oldest_first=oldest_first, seconds=_PART_SECONDS
        )
        return lines(notifications.told(connection, found.items), form), found.next

    while True:
        content, at = await searching.read(part)
        if content:
            yield content
        if at is None:
            return
