"""Searching events over HTTP: the filters, and one search at a time in a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypeVar

from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter
from msgspec import Struct

from quell.api.problem import Refusal
from quell.controller import notifications
from quell.controller.controller import Controller
from quell.controller.notifications import Hit, Scope
from quell.errors import FilterError, Problem
from quell.model.notification import Filter, NotificationList, SearchPage
from quell.moments import parse_moment
from quell.storage import journal
from quell.storage.search import Found, Gap, Query, gap

#: Seconds that one page may search; what it did not reach the next page does.
PAGE_SECONDS = 0.5
#: Searches at once, each in a thread: more would keep the event loop from the processor.
_AT_ONCE = 2
#: Values of one filter, and characters of one.
_VALUES = 50
_LENGTH = 1024

Item = TypeVar("Item")
T = TypeVar("T")

Order = Annotated[Literal["newest", "oldest"], QueryParameter(description="Which come first.")]
Before = Annotated[
    str | None,
    QueryParameter(description="Only events that came before the one with this id.", max_length=_LENGTH),
]


def moment(description: str) -> QueryParameter:
    """A time of the query."""
    return QueryParameter(description=description, max_length=64)


def several(description: str) -> QueryParameter:
    """A filter that can be given several times."""
    return QueryParameter(description=f"{description} Several: any of them.", max_items=_VALUES)


def filters(
    since: Annotated[
        str | None, moment("Received then or later: RFC 3339, so long ago (2h, 7d), or epoch seconds.")
    ] = None,
    until: Annotated[str | None, moment("Received before then, written as since.")] = None,
    level: Annotated[Sequence[str], several("A level, or >= and a level.")] = (),
    name: Annotated[Sequence[str], several("The detector's or the catalogue's name; no case; globs.")] = (),
    category: Annotated[Sequence[str], several("A category, such as security-event.")] = (),
    kind: Annotated[Sequence[str], several("Of security events: incident, threat or violation.")] = (),
    group: Annotated[Sequence[str], several("Members of a group, as rules see them now.")] = (),
    workload: Annotated[
        Sequence[str],
        several(
            "The first digits (6 or more) of a container's id, or a container's or pod's name, or a service; globs."
        ),
    ] = (),
    namespace: Annotated[Sequence[str], several("A namespace; globs.")] = (),
    node: Annotated[Sequence[str], several("A host's name; globs.")] = (),
    image: Annotated[Sequence[str], several("An image; globs.")] = (),
    source: Annotated[Sequence[str], several("A detector, such as falco; quell is Quell itself.")] = (),
    rule: Annotated[Sequence[str], several("Id or name of a rule or policy that the event matched.")] = (),
    action: Annotated[Sequence[str], several("The word of an action that was asked for.")] = (),
    status: Annotated[Sequence[str], several("What was decided of that action: granted, refused or held.")] = (),
    text: Annotated[
        Sequence[str],
        QueryParameter(
            description='Words, all of which stand in the event or its message; "in quotes" with blanks. No case.',
            max_items=_VALUES,
        ),
    ] = (),
    *,
    decided: Annotated[bool, QueryParameter(description="Only those that a rule or policy matched.")] = False,
    include_suppressed: Annotated[
        bool | None, QueryParameter(description="Also those that a rule keeps out of notifications.")
    ] = None,
) -> Wanted:
    """What the query of a request asks for. FilterError, where a time is none."""
    given = {
        "level": level,
        "name": name,
        "category": category,
        "kind": kind,
        "group": group,
        "workload": workload,
        "namespace": namespace,
        "node": node,
        "image": image,
        "source": source,
        "rule": rule,
        "action": action,
        "status": status,
        "text": text,
    }
    first, last = checked(since, until, given)
    return Wanted(
        filter=Filter(
            since=first,
            until=last,
            **{word: tuple(values) for word, values in given.items()},
            decided=decided,
            include_suppressed=bool(include_suppressed),
        ),
        says_of_suppressed=include_suppressed is not None,
    )


def checked(
    since: str | None, until: str | None, values: Mapping[str, Sequence[str]]
) -> tuple[float | None, float | None]:
    """The two moments. FilterError, where one is none, or a value of a filter is empty or too long."""
    now, problems = time.time(), []
    moments: dict[str, float] = {}
    for word, written in (("since", since), ("until", until)):
        try:
            if written is not None:
                moments[word] = parse_moment(written, now)
        except ValueError as error:
            problems.append(Problem(file="", path=word, message=str(error), got=written or ""))
    for word, several in values.items():
        if any(len(value) > _LENGTH or not value for value in several):
            problems.append(Problem(file="", path=word, message=f"expected 1 to {_LENGTH} characters"))
    if problems:
        raise FilterError(problems)
    return moments.get("since"), moments.get("until")


class Wanted(Struct, frozen=True, kw_only=True):
    filter: Filter
    #: Whether the query says what is to become of suppressed events.
    says_of_suppressed: bool


Asked = NamedDependency[Wanted]
#: For a route that takes `wanted`: Asked.
FILTERS = {"wanted": Provide(filters, sync_to_thread=False)}


class Searching:
    """Searches of one controller's journal."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def query(self, wanted: Filter, which: NotificationList = NotificationList.ALL) -> Query[Hit]:
        """FilterError."""
        scope = Scope(index=self._controller.pipeline.index, world=self._controller.state)
        return notifications.compiled(wanted, scope, which)

    async def page(
        self,
        query: Query[Hit],
        shown: Callable[[sqlite3.Connection, list[Hit]], list[Item]],
        *,
        limit: int,
        cursor: str | None,
        before: str | None = None,
        oldest_first: bool = False,
        seconds: float = PAGE_SECONDS,
    ) -> SearchPage[Item]:
        """shown: what becomes of events that were found. seconds: it stops about then. Refusal 400, FilterError."""
        at = _gap(cursor, before)

        def search(connection: sqlite3.Connection) -> SearchPage[Item]:
            start = at
            if before is not None:
                placed = journal.place(connection, before)
                start = Gap(0, 0) if placed is None else Gap(*placed)
            found = notifications.find(
                connection, query, limit=limit, at=start, oldest_first=oldest_first, seconds=seconds
            )
            return _page(found, shown(connection, found.items))

        return await self.read(search)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In a thread, when it is this one's turn."""
        async with self._turns:
            return await asyncio.to_thread(self._controller.store.read, work)


def _gap(cursor: str | None, before: str | None) -> Gap | None:
    if cursor is None:
        return None
    if before is not None:
        raise Refusal(400, "cursor and before do not go together: both say where to begin")
    found = gap(cursor)
    if found is None:
        raise Refusal(400, f'no page has the cursor "{cursor[:40]}": expected the `next` of a page before')
    return found


def _page(found: Found[Hit], items: list[Item]) -> SearchPage[Item]:
    return SearchPage(
        items=items,
        next=None if found.next is None else str(found.next),
        complete=found.next is None,
        searched_until=found.until,
        resume=str(found.resume),
    )
