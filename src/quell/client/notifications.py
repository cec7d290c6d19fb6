from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from quell.client.session import Session, given, problem
from quell.errors import Unreachable
from quell.model.notification import Filter, Notification, NotificationList, SearchPage

#: Seconds in which a part of an export comes.
_PATIENCE = 120.0
_AT_MOST = "quell-at-most"

#: Told bytes that came, lines among them, and how many there can be at most.
Progress = Callable[[int, int, int], object]


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
        told: Progress = lambda _size, _lines, _most: None,
    ) -> Iterator[bytes]:
        """The file in parts. form: csv or ndjson."""
        http = self._session.http
        asked = given(**parameters(wanted or Filter(), oldest_first=oldest_first), format=form)
        path, timeout = f"/v1/notifications/{which.value}/export", httpx.Timeout(30.0, read=_PATIENCE)
        size = lines = 0
        try:
            with http.stream("GET", path, params=asked, timeout=timeout) as response:
                if response.is_error:
                    response.read()
                    raise problem(response)
                most = int(response.headers.get(_AT_MOST, 0))
                for part in response.iter_bytes():
                    size += len(part)
                    lines += part.count(b"\n")
                    told(size, lines, most)
                    yield part
        except httpx.TransportError as error:
            raise Unreachable(f"no whole export came from {http.base_url}: {error}") from error

    def save(
        self,
        path: Path,
        which: NotificationList,
        form: str,
        wanted: Filter | None = None,
        *,
        oldest_first: bool = False,
        told: Progress = lambda _size, _lines, _most: None,
    ) -> None:
        """As a new file of mode 0600, there once all of it has come. FileExistsError, OSError."""
        if path.exists():
            raise FileExistsError(17, "there is a file already", str(path))
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for part in self.export(which, form, wanted, oldest_first=oldest_first, told=told):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.link(fresh, path)  # unlike rename, it never replaces a file that has come meanwhile
        finally:
            fresh.unlink(missing_ok=True)
