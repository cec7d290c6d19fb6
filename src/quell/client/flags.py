from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from quell.client.download import Progress, export, quiet, save
from quell.client.session import Session
from quell.model.flag import FlagFilter, FlagShown
from quell.model.notification import SearchPage

_EXPORT = "/v1/flags/export"


class FlagsChanged(Struct, kw_only=True):
    """changed: those that it made a difference to. flags: all that were named, as they are now."""

    changed: list[str]
    flags: list[FlagShown]


class Flags:
    """Findings for people, newest first."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(
        self,
        wanted: FlagFilter | None = None,
        limit: int = 50,
        *,
        cursor: str | None = None,
        oldest_first: bool = False,
    ) -> SearchPage[FlagShown]:
        """One page. With oldest_first and the `resume` of a page before: what came since."""
        asked = {**_parameters(wanted, oldest_first=oldest_first), "limit": limit, "cursor": cursor}
        return self._session.ask(SearchPage[FlagShown], "GET", "/v1/flags", params=asked)

    def search(self, wanted: FlagFilter | None = None) -> Iterator[FlagShown]:
        """All, page after page as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.page(wanted, 500, cursor=cursor)
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def get(self, identifier: str) -> FlagShown:
        return self._session.ask(FlagShown, "GET", f"/v1/flags/{quote(identifier)}")

    def acknowledge(self, identifiers: Sequence[str], note: str = "") -> FlagsChanged:
        """All of them or, if one is not there, none. What somebody has acknowledged already stays theirs."""
        return self._change("acknowledge", identifiers, note)

    def unacknowledge(self, identifiers: Sequence[str], note: str = "") -> FlagsChanged:
        return self._change("unacknowledge", identifiers, note)

    def export(
        self, form: str, wanted: FlagFilter | None = None, *, oldest_first: bool = False, told: Progress = quiet
    ) -> Iterator[bytes]:
        """The file in parts. form: csv or ndjson."""
        asked = _parameters(wanted, oldest_first=oldest_first)
        return export(self._session, _EXPORT, {**asked, "format": form}, told)

    def save(
        self,
        path: Path,
        form: str,
        wanted: FlagFilter | None = None,
        *,
        oldest_first: bool = False,
        told: Progress = quiet,
    ) -> None:
        """As a new file of mode 0600, there once all of it has come. FileExistsError, OSError."""
        save(path, self.export(form, wanted, oldest_first=oldest_first, told=told))

    def _change(self, verb: str, identifiers: Sequence[str], note: str) -> FlagsChanged:
        asked = {"ids": list(identifiers), "note": note}
        return self._session.ask(FlagsChanged, "POST", f"/v1/flags/{verb}", json=asked)


def _parameters(wanted: FlagFilter | None, *, oldest_first: bool) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(wanted or FlagFilter())
    return {**told, "order": "oldest" if oldest_first else None}
