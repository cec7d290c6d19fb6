from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from quell.client.session import Session
from quell.model.notification import SearchPage
from quell.model.trace_view import TraceFilter, TraceShown, TraceSummary


class TracePolicy(Struct, frozen=True, kw_only=True):
    document: dict[str, Any]
    #: Ids of the open traces that it would hide and that none hides now.
    hides: list[str]


class Traces:
    """Red flags on one causal chain, those that began last first; without those that a policy hides, unless asked for."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(
        self,
        wanted: TraceFilter | None = None,
        limit: int = 50,
        *,
        cursor: str | None = None,
        oldest_first: bool = False,
        by_score: bool = False,
    ) -> SearchPage[TraceSummary]:
        told: dict[str, Any] = msgspec.to_builtins(wanted or TraceFilter())
        order = "score" if by_score else "oldest" if oldest_first else None
        asked = {**told, "order": order, "limit": limit, "cursor": cursor}
        return self._session.ask(SearchPage[TraceSummary], "GET", "/v1/traces", params=asked)

    def search(self, wanted: TraceFilter | None = None) -> Iterator[TraceSummary]:
        """All, page after page as they are asked for."""
        cursor: str | None = None
        while True:
            page = self.page(wanted, 500, cursor=cursor)
            yield from page.items
            cursor = page.next
            if cursor is None:
                return

    def get(self, identifier: str) -> TraceShown:
        return self._session.ask(TraceShown, "GET", f"/v1/traces/{quote(identifier, safe='')}")

    def policy(self, identifier: str, name: str | None = None) -> TracePolicy:
        """A policy that would hide it, and those like it. ApiError 409: none can."""
        path = f"/v1/traces/{quote(identifier, safe='')}/policy"
        return self._session.ask(TracePolicy, "GET", path, params={"name": name})

    def close(self, identifier: str, note: str = "") -> TraceShown:
        """What comes later on its chains opens another trace."""
        return self._change(identifier, "close", note)

    def reopen(self, identifier: str, note: str = "") -> TraceShown:
        """The trace that has it then: one that was opened on the same chain meanwhile is one with it."""
        return self._change(identifier, "reopen", note)

    def _change(self, identifier: str, verb: str, note: str) -> TraceShown:
        path = f"/v1/traces/{quote(identifier, safe='')}/{verb}"
        return self._session.ask(TraceShown, "POST", path, json={"note": note})
