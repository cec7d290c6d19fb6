from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from quell.client.download import Progress, export, quiet, save
from quell.client.session import Session
from quell.model.notification import Filter, Notification, NotificationList, SearchPage


def parameters(
    wanted: Filter,
    *,
    limit: int | None = None,
    cursor: str | None = None,
    before: str | None = None,
    oldest_first: bool = False,
) -> dict[str, Any]:
    """A search as parameters of a query."""
    told: dict[str, Any] = msgspec.to_builtins(wanted)
    return {**told, "limit": limit, "cursor": cursor, "before": before, "order": "oldest" if oldest_first else None}


class Notifications:
    """Events, security events and risk reports: those that no rule suppresses, unless asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(
        self,
        which: NotificationList,
        wanted: Filter | None = None,
        limit: int = 50,
        *,
        cursor: str | None = None,
        before: str | None = None,
        oldest_first: bool = False,
    ) -> SearchPage[Notification]:
        """One page: as far as the controller came within half a second. before: only those older than this one's id.

        With oldest_first and the `resume` of a page before: what came since.
        """
        asked = parameters(wanted or Filter(), limit=limit, cursor=cursor, before=before, oldest_first=oldest_first)
        return self._session.ask(SearchPage[Notification], "GET", f"/v1/notifications/{which.value}", params=asked)

    def search(self, which: NotificationList, wanted: Filter | None = None) -> Iterator[Notification]:
        """All, newest first, page after page as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.page(which, wanted, 500, cursor=cursor)
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def export(
        self,
        which: NotificationList,
        form: str,
        wanted: Filter | None = None,
        *,
        oldest_first: bool = False,
        told: Progress = quiet,
    ) -> Iterator[bytes]:
        """The file in parts. form: csv or ndjson."""
        asked = parameters(wanted or Filter(), oldest_first=oldest_first)
        return export(self._session, f"/v1/notifications/{which.value}/export", {**asked, "format": form}, told)

    def save(
        self,
        path: Path,
        which: NotificationList,
        form: str,
        wanted: Filter | None = None,
        *,
        oldest_first: bool = False,
        told: Progress = quiet,
    ) -> None:
        """As a new file of mode 0600, there once all of it has come. FileExistsError, OSError."""
        save(path, self.export(which, form, wanted, oldest_first=oldest_first, told=told))
