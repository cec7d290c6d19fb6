"""Where rules stand among each other: for people and for ids, never for decisions. SEMANTICS section 3, "Ids".

A rule keeps its place as a number, its position, with room between two of them: a rule that is inserted or moved gets a
number in between, and only where there is none left are all numbered anew. docs/adr has why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from quell.errors import NoSuchRule

#: Between two neighbours that were placed one after the other: 24 insertions at one and the same place find room.
GAP = 1 << 24
#: Positions stay within what a column holds, with room to spare.
LIMIT = 1 << 61


class Placed(NamedTuple):
    """Positions of newcomers, in their order, and the new ones of all that stood there before; None: they stay."""

    newcomers: tuple[int, ...]
    others: tuple[int, ...] | None = None


def index_of(ids: Sequence[int], after: int | None) -> int:
    """Before which of `ids`, which stand in their order, `after` means.

    None: last. 0: first. An id: directly below that rule. Minus an id: directly above it. NoSuchRule.
    """
    if after is None:
        return len(ids)
    if after == 0:
        return 0
    try:
        index = ids.index(abs(after))
    except ValueError:
        raise NoSuchRule(abs(after)) from None
    return index + 1 if after > 0 else index


def place(positions: Sequence[int], index: int, count: int) -> Placed:
    """Where `count` newcomers stand before the index-th of `positions`, which rise."""
    low = positions[index - 1] if index > 0 else None
    high = positions[index] if index < len(positions) else None
    if high is None:
        start, step = 0 if low is None else low, GAP
    elif low is None:
        start, step = high - GAP * (count + 1), GAP
    else:
        start, step = low, (high - low) // (count + 1)
    found = tuple(start + step * (number + 1) for number in range(count))
    if step > 0 and all(-LIMIT < position < LIMIT for position in found):
        return Placed(found)
    anew = [GAP * (number + 1) for number in range(len(positions) + count)]
    return Placed(tuple(anew[index : index + count]), (*anew[:index], *anew[index + count :]))
