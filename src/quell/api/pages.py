"""Lists in pages: at most `limit` items, and a cursor to go on with. Lists come newest first, or by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from litestar.params import QueryParameter
from msgspec import Struct

from quell.api.problem import Refusal

Item = TypeVar("Item")

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="At most so many items.")]
Cursor = Annotated[
    str | None, QueryParameter(description="Where the last page ended: its `next`. Absent: from the start.")
]


class Page(Struct, Generic[Item], frozen=True, kw_only=True):
    """items, and in `next` the cursor of the page that follows; null: this is the last."""

    items: list[Item]
    next: str | None = None


def number(cursor: str | None) -> int | None:
    """A cursor that is a number. Refusal 400."""
    if cursor is None:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise Refusal(400, f'no page has the cursor "{cursor[:40]}": expected the `next` of a page before')
    return int(cursor)


def page(found: Sequence[Item], limit: int, key: Callable[[Item], str]) -> Page[Item]:
    """found: up to limit + 1 items from the cursor on, the one too many telling that there is more. key: an item's cursor."""
    items = list(found[:limit])
    return Page(items=items, next=key(items[-1]) if len(found) > limit else None)


def page_of(everything: Sequence[Item], limit: int, cursor: str | None, key: Callable[[Item], str]) -> Page[Item]:
    """A page of a list that is in memory whole, in rising order of key."""
    return page([item for item in everything if cursor is None or key(item) > cursor][: limit + 1], limit, key)
