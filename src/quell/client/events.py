from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.notifications import parameters
from quell.client.session import JSON, Session
from quell.model.explanation import Explanation
from quell.model.notification import Filter, SearchPage

#: Bytes above which a body is sent packed.
_PACKED = 1 << 20


class Rejected(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a batch that is no event; the others were taken."""

    line: int
    reason: str
    position: int | None = None


class Receipt(Struct, frozen=True, kw_only=True):
    """The events that are now on disk with their decisions, in the order sent."""

    ids: list[str]
    rejected: list[Rejected] = []
    #: What was found in documents that is no event of Quell's and was left.
    notes: list[str] = []
    #: What was sent beside events and is none, such as logs of flows: how often, by reason.
    skipped: dict[str, int] = {}


class Events:
    """Events, their decisions, and what came of them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def send(self, events: bytes, *, detector: str = "native", context: Mapping[str, str] | None = None) -> Receipt:
        """One JSON event, an array, or a line each; returns when they and their decisions are on disk.

        context: what a detector's documents do not say themselves, such as node and container (docs/trivy.md). A large body
        is sent packed.
        """
        path = "/v1/events" if detector == "native" else f"/v1/events/{quote(detector)}"
        headers = JSON
        if len(events) > _PACKED:
            events, headers = gzip.compress(events, compresslevel=1), {**JSON, "Content-Encoding": "gzip"}
        return self._session.ask(Receipt, "POST", path, params=dict(context or {}), content=events, headers=headers)

    def recent(self, limit: int = 50, before: str | None = None, *, decided: bool = False) -> list[dict[str, Any]]:
        """before: only those older than this one's id. decided: only those that a rule or policy matched."""
        return self._session.items(dict[str, Any], "/v1/events", limit, before=before, decided=decided or None)

    def page(
        self,
        wanted: Filter,
        limit: int = 50,
        *,
        cursor: str | None = None,
        before: str | None = None,
        oldest_first: bool = False,
    ) -> SearchPage[dict[str, Any]]:
        """One page of a search of all events, suppressed ones too, each with its decision."""
        given = parameters(wanted, limit=limit, cursor=cursor, before=before, oldest_first=oldest_first)
        return self._session.ask(SearchPage[dict[str, Any]], "GET", "/v1/events", params=given)

    def explanation(self, event_id: str, *, near_misses: bool = False) -> Explanation:
        return self._session.ask(
            Explanation,
            "GET",
            f"/v1/events/{quote(event_id, safe='')}",
            params={"near_misses": near_misses or None},
        )

    def dry_run(
        self,
        *,
        event_id: str | None = None,
        event: Mapping[str, Any] | None = None,
        now: bool = False,
        actions: Sequence[Any] | None = None,
    ) -> Explanation:
        """What would be done about an event that was taken, or about one in Quell's own form that is not taken.

        now: as if it had happened now. actions: as if the caller asked for these, and no rule did.
        """
        given = {"event_id": event_id, "event": event, "now": now, "actions": actions}
        body = {name: value for name, value in given.items() if value is not None}
        return self._session.ask(Explanation, "POST", "/v1/dry-runs", json=body)

    def rejects(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/rejects", limit)
