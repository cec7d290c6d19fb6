"""Searching the journal: newest or oldest first, as far as a time allows, and on from there.

Three sieves, each far cheaper than the next: what the summary of a row says; whether bytes stand in the unpacked row,
then in the event, without which nothing wanted can be there; the event itself, decoded. Only the last decides.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

from msgspec import Struct

from quell.model.answer import Answer
from quell.model.decision import Decision
from quell.storage import answers, summary
from quell.storage.group import Columns, Group, Plain, unpack
from quell.storage.records import Stored
from quell.storage.summary import Bounds, Row, Trait

T = TypeVar("T")

#: Summaries read at once.
_ROWS = 256
#: Events of a row looked at between two looks at the clock.
_EVENTS = 32
#: After so many seconds of work, so many are left to others: a busy thread keeps the event loop from the interpreter lock.
_TURN = 0.005
_PAUSE = 0.0001
#: Raw bytes of what was found after which a search has enough, so that a page of long reports stays small.
_MAX_BYTES = 8 << 20
_LAST = (1 << 62) - 1
_BODY = "SELECT codec, own, ids, body FROM journal WHERE seq = ?"

_GAP = re.compile(r"(\d{1,18})\.(\d{1,6})")
#: Characters that no encoder of JSON has a reason to escape.
_RUN = re.compile(rb"[0-9A-Za-z _.-]+")
#: One of them that is escaped nevertheless.
_ESCAPED = re.compile(rb"\\u00(?:2[0de]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f)", re.IGNORECASE)


class Gap(Struct, frozen=True, order=True):
    """A place between two events: before the event at place n of row seq. Rows and places never change."""

    seq: int
    n: int

    def __str__(self) -> str:
        return f"{self.seq}.{self.n}"


BEGINNING = Gap(0, 0)
END = Gap(_LAST, 0)


def gap(text: str) -> Gap | None:
    """What str(Gap) wrote; None: something else."""
    found = _GAP.fullmatch(text)
    return None if found is None or not text.isascii() else Gap(int(found[1]), int(found[2]))


def end(connection: sqlite3.Connection) -> Gap:
    """Where the journal ends now."""
    return Gap(summary.end(connection), 0)


class Needle(Struct, frozen=True, kw_only=True):
    """Bytes, of which one must stand in an event's raw bytes, else it cannot be wanted."""

    any_of: tuple[bytes, ...]
    #: They are in lower case, and those they are looked for in are made so.
    folded: bool = False
    #: What the inventory added to the event may hold them instead.
    added: bool = False


class Query(Struct, Generic[T], frozen=True, kw_only=True):
    """What is wanted. Each part but `test` only leaves out what `test` would."""

    bounds: Bounds
    #: Whether an event with this trait may be wanted.
    trait: Callable[[Trait], bool] = lambda _: True
    #: Of a row: any of these is among the rules that matched.
    rules: frozenset[str] = frozenset()
    needles: tuple[Needle, ...] = ()
    #: Sources whose events say everything in their own raw bytes, where only JSON's escapes may hide it.
    verbatim: frozenset[str] = frozenset()
    #: Of events with a decision that is not empty.
    decision: Callable[[Decision | Answer], bool] | None = None
    #: The whole question: what becomes of an event; None: it is not wanted.
    test: Callable[[Stored], T | None]


class Found(Struct, Generic[T], frozen=True, kw_only=True):
    items: list[T]
    #: Where to go on; None: the end was reached.
    next: Gap | None
    #: When the event was received at which the search stopped; None: it looked at everything.
    until: float | None
    #: Where the journal ended, or where an oldest first search did: what comes later stands behind it.
    resume: Gap


def anchor(text: str) -> bytes:
    """The longest part of a text that stands in any JSON of it as it is; b"" if there is none."""
    return max(_RUN.findall(text.encode(errors="surrogatepass")), key=len, default=b"")


def needle(texts: Iterable[str], *, folded: bool = False, added: bool = False) -> Needle | None:
    """For texts of which one must be there; None: bytes do not tell."""
    anchors = {anchor(text).lower() if folded else anchor(text) for text in texts}
    return Needle(any_of=tuple(sorted(anchors)), folded=folded, added=added) if b"" not in anchors else None


class Search(Generic[T]):
    """One search, of at most `limit` events from a gap on, or fewer if those are large.

    newer: oldest first, of what is there now, or was at `stop`. seconds: it stops after about so long, but never without getting on.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        query: Query[T],
        *,
        limit: int,
        at: Gap | None = None,
        stop: Gap | None = None,
        newer: bool = False,
        seconds: float = float("inf"),
    ) -> None:
        self._connection = connection
        self._answer = partial(answers.get, connection)
        self._query = query
        self._limit = limit
        self._newer = newer
        self._rested = time.monotonic()
        self._deadline = self._rested + seconds
        self._at = at or (BEGINNING if newer else END)
        #: What is written meanwhile is none of this search's.
        self._stop = (stop or end(connection)).seq
        self._items: list[T] = []
        self._size = 0
        self._reached: float | None = None

    def run(self) -> Found[T]:
        rows = self._following()
        while rows:
            for row in rows:
                if self._may_hold(row) and not self._look_into(row):
                    return self._found(complete=False)
                self._at = Gap(row.seq + 1, 0) if self._newer else Gap(row.seq, 0)
                self._reached = row.received_max if self._newer else row.received_min
                if self._is_full():
                    return self._found(complete=not self._following(1))
                if time.monotonic() >= self._deadline:
                    return self._found(complete=False)
            rows = self._following() if len(rows) == _ROWS else []
        return self._found(complete=True)

    def _is_full(self) -> bool:
        return len(self._items) >= self._limit or self._size >= _MAX_BYTES

    def _found(self, *, complete: bool) -> Found[T]:
        resume = Gap(self._stop, 0)
        if self._newer and not complete:
            resume = self._at
        return Found(
            items=self._items,
            next=None if complete else self._at,
            until=None if complete else self._reached,
            resume=resume,
        )

    def _following(self, limit: int = _ROWS) -> list[Row]:
        """From the gap on; older ones begin with the row that the gap is in."""
        at = self._at.seq + (0 if self._newer or self._at.n == 0 else 1)
        return summary.following(self._connection, self._query.bounds, at, self._stop, limit, newer=self._newer)

    def _may_hold(self, row: Row) -> bool:
        query = self._query
        if query.rules and row.rules is not None and row.rules.isdisjoint(query.rules):
            return False
        if row.traits is None:
            return True
        counted = query.bounds.suppressed
        return any((shown or counted) and query.trait(trait) for trait, shown in row.traits.items())

    def _look_into(self, row: Row) -> bool:
        """False: it stopped in the middle. A row that retention took meanwhile holds nothing."""
        found = self._connection.execute(_BODY, (row.seq,)).fetchone()
        if found is None:
            return True
        codec, own, ids, body = found
        plain = unpack(codec, body)
        needles = self._needles(row)
        if row.traits is not None and not self._stands_in(plain, needles, row):
            return True
        looking = _Looking(Group(self._answer, row.seq, own, ids, plain), self._query, needles)
        first = self._at.n if self._at.seq == row.seq else None
        places: Sequence[int]
        if self._newer:
            places = range(first or 0, len(looking.group))
        else:
            places = range(len(looking.group) if first is None else min(first, len(looking.group)))[::-1]
        for count, place in enumerate(places, 1):
            item = looking.at(place)
            if item is not None:
                self._items.append(item)
                self._size += looking.size(place)
            if count < len(places) and (
                self._is_full() or (count % _EVENTS == 0 and time.monotonic() >= self._deadline)
            ):
                self._at = Gap(row.seq, place + 1 if self._newer else place)
                self._reached = looking.received(place)
                return False
        if time.monotonic() - self._rested >= _TURN:
            time.sleep(_PAUSE)
            self._rested = time.monotonic()
        return True

    def _needles(self, row: Row) -> tuple[Needle, ...]:
        """The query's, and one of the names that are wanted, where the row has others too."""
        query = self._query
        if row.traits is None:
            return query.needles
        wanted = {trait.name for trait in row.traits if query.trait(trait)}
        if wanted.issuperset([trait.name for trait in row.traits]):
            return query.needles
        named = needle(wanted)
        return query.needles if named is None else (*query.needles, named)

    def _stands_in(self, plain: Plain, needles: tuple[Needle, ...], row: Row) -> bool:
        """Whether the row may hold what all needles ask for. row.traits is not None."""
        query = self._query
        if not needles or not {trait.source for trait in row.traits or ()} <= query.verbatim:
            return True
        # What the inventory added stands among the columns, and all of a row of an older Quell.
        is_folded = any(each.folded for each in needles)
        lower = Plain(plain.columns.lower(), plain.texts.lower()) if is_folded else plain
        return all(any(_stands(each, part) for part in (lower if each.folded else plain)) for each in needles) or any(
            map(_is_escaped, plain)
        )


class _Looking(Generic[T]):
    """Into one row."""

    def __init__(self, group: Group, query: Query[T], needles: tuple[Needle, ...]) -> None:
        self.group = group
        self._query = query
        self._needles = needles

    def received(self, place: int) -> float:
        columns, n = self.group.places[place]
        return columns.received[n]

    def size(self, place: int) -> int:
        return len(self.group.raw(place))

    def at(self, place: int) -> T | None:
        query, bounds = self._query, self._query.bounds
        columns, n = self.group.places[place]
        if not bounds.since <= columns.received[n] < bounds.until:
            return None
        decision = self.group.said(place)
        if decision is None:
            if bounds.decided:
                return None
        elif (decision.suppressed and not bounds.suppressed) or (query.decision and not query.decision(decision)):
            return None
        if self._needles and columns.sources[n] in query.verbatim and not self._may_be(columns, place):
            return None
        return query.test(self.group.at(place))

    def _may_be(self, columns: Columns, place: int) -> bool:
        raw, n = self.group.raw(place), self.group.places[place][1]
        decision = columns.decisions.get(n)
        added = n in columns.added or (decision is not None and decision.added is not None)
        lower = b""
        for each in self._needles:
            if each.added and added:
                continue
            if each.folded:
                lower = lower or raw.lower()
            if not _stands(each, lower if each.folded else raw):
                return _is_escaped(raw)
        return True


def _stands(each: Needle, text: bytes) -> bool:
    return any(one in text for one in each.any_of)


def _is_escaped(text: bytes) -> bool:
    """A search for letters and digits may miss some of this JSON."""
    return b"\\" in text and b"\\u00" in text and _ESCAPED.search(text) is not None
