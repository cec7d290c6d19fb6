"""What a row of the journal holds, said so briefly that a search can pass it by without unpacking it.

A chunk's summary is made where the chunk is, with map and attrgetter, which run in C: it is part of what every stored
event costs. A summary may say more than the row holds (events that came twice are left out later), never less.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from operator import attrgetter, not_
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from quell.model.decision import Match
from quell.model.event import Category, Event, Level

#: More distinct traits or names of rules, or more bytes of them, than this, and the row does not say them.
MAX_TRAITS = 96
MAX_RULES = 256
MAX_BYTES = 16 << 10

#: Rows of Appender.rows, after what journal.INSERT takes of them; {rows} is the parameter.
INSERT = """
    INSERT INTO journal_summary
        (seq, received_min, received_max, events, decided, levels, categories, shown, traits, rules)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 5,
           value ->> 13, value ->> 14, value ->> 15, value ->> 16, value ->> 17
    FROM json_each({rows}) WHERE true
"""
#: In one direction, from a place on: the rows that may hold what is wanted, as far as SQLite can tell.
_NEXT = """
    SELECT seq, received_min, received_max, traits, rules FROM journal_summary
    WHERE seq {beyond} ?1 AND seq < ?8
      AND received_max >= ?2 AND received_min < ?3
      AND (?4 = 0 OR decided > 0)
      AND (levels IS NULL OR levels & ?5 != 0)
      AND (categories IS NULL OR iif(?6, categories, shown) & ?7 != 0)
    ORDER BY seq {order} LIMIT ?9
"""
_OLDER = _NEXT.format(beyond="<", order="DESC")
_NEWER = _NEXT.format(beyond=">=", order="ASC")
_COUNT = """
    SELECT coalesce(sum(events), 0) FROM journal_summary
    WHERE received_max >= ?1 AND received_min < ?2
      AND (?3 = 0 OR decided > 0)
      AND (levels IS NULL OR levels & ?4 != 0)
      AND (categories IS NULL OR iif(?5, categories, shown) & ?6 != 0)
"""

#: The bits and numbers of the file: a new one goes to the end.
LEVELS: Mapping[Level, int] = {level: 1 << level.rank for level in Level}
CATEGORIES: Mapping[Category, int] = {
    category: 1 << place
    for place, category in enumerate(
        (
            Category.EVENT,
            Category.SECURITY_EVENT,
            Category.CVE_REPORT,
            Category.COMPLIANCE,
            Category.ADMISSION_CONTROL,
            Category.DEVIATION,
        )
    )
}
ALL_LEVELS = sum(LEVELS.values())
ALL_CATEGORIES = sum(CATEGORIES.values())
_LEVEL_OF = {bit: level for level, bit in LEVELS.items()}
_CATEGORY_OF = {bit: category for category, bit in CATEGORIES.items()}


class Trait(NamedTuple):
    """What some events of a row have in common."""

    source: str
    category: Category
    level: Level
    name: str
    catalogue_name: str | None


class Summary(Struct, frozen=True):
    """Of a chunk. shown: traits of events that are not suppressed."""

    traits: frozenset[tuple[Any, ...]]
    shown: frozenset[tuple[Any, ...]]
    #: References and names of the rules and policies that matched, of decisions of their own.
    rules: frozenset[str]


class Row(NamedTuple):
    """Of a row. shown, traits and rules: None where the row does not say."""

    seq: int
    received_min: float
    received_max: float
    #: With each: whether some event that has it is not suppressed.
    traits: Mapping[Trait, bool] | None
    rules: frozenset[str] | None


class Bounds(Struct, frozen=True, kw_only=True):
    """What rows SQLite can leave out by itself. Times in epoch seconds; levels and categories are bits."""

    since: float = float("-inf")
    until: float = float("inf")
    levels: int = ALL_LEVELS
    categories: int = ALL_CATEGORIES
    #: Only rows with a decision that is not empty.
    decided: bool = False
    #: Events that are suppressed count too.
    suppressed: bool = False


_trait = attrgetter("source", "category", "level", "name", "catalogue_name")
_encode = msgspec.json.Encoder().encode
_traits = msgspec.json.Decoder(list[tuple[str, int, int, str, str | None, int]]).decode
_rules = msgspec.json.Decoder(frozenset[str]).decode
_NONE: frozenset[str] = frozenset()


def of_chunk(events: Sequence[Event], suppressed: Sequence[bool], found: Iterable[frozenset[str]]) -> Summary:
    """suppressed: of each event. found: `rules` of whatever matched."""
    traits = frozenset(map(_trait, events))
    shown = traits
    if any(suppressed):
        shown = frozenset(map(_trait, compress(events, map(not_, suppressed))))
    return Summary(traits, shown, _NONE.union(*found))


def rules(matches: Iterable[Match]) -> frozenset[str]:
    """References and names, as in Summary."""
    return frozenset(text for match in matches for text in (match.ref, match.name))


def columns(parts: Sequence[Summary], answered: frozenset[str] | None) -> list[object]:
    """Of a row made of these chunks: levels, categories, shown, traits and rules, as INSERT takes them.

    answered: the rules that its answers speak of; None: too many to say them.
    """
    traits, shown, rules = parts[0].traits, parts[0].shown, parts[0].rules
    for part in parts[1:]:
        traits, shown, rules = traits | part.traits, shown | part.shown, rules | part.rules
    return [
        *_traits_columns(traits, shown),
        None if answered is None else _rules_text(rules | answered),
    ]


def _bits(traits: Iterable[tuple[Any, ...]], place: int, bits: Mapping[Any, int]) -> int:
    found = 0
    for value in {trait[place] for trait in traits}:
        found |= bits[value]
    return found


@lru_cache(maxsize=256)
def _traits_columns(
    traits: frozenset[tuple[Any, ...]], shown: frozenset[tuple[Any, ...]]
) -> tuple[int, int, int, str | None]:
    """Of a row: levels, categories, shown and traits. Rows repeat each other."""
    return (
        _bits(traits, 2, LEVELS),
        _bits(traits, 1, CATEGORIES),
        _bits(shown, 1, CATEGORIES),
        _traits_text(traits, shown),
    )


def _traits_text(traits: frozenset[tuple[Any, ...]], shown: frozenset[tuple[Any, ...]]) -> str | None:
    if len(traits) > MAX_TRAITS:
        return None
    told = sorted(
        (source, CATEGORIES[category], LEVELS[level], name, known or "", trait in shown)
        for trait in traits
        for source, category, level, name, known in (trait,)
    )
    text = _encode([(*rest, known or None, int(is_shown)) for *rest, known, is_shown in told]).decode()
    return text if len(text) <= MAX_BYTES else None


def _rules_text(rules: frozenset[str]) -> str | None:
    if not rules:
        return "[]"
    text = _encode(sorted(rules)).decode() if len(rules) <= MAX_RULES else ""
    return text if text and len(text) <= MAX_BYTES else None


@lru_cache(maxsize=1024)
def _read_traits(text: str) -> Mapping[Trait, bool]:
    """Rows repeat each other."""
    return {
        Trait(source, _CATEGORY_OF[category], _LEVEL_OF[level], name, known): bool(shown)
        for source, category, level, name, known, shown in _traits(text)
    }


def following(
    connection: sqlite3.Connection, bounds: Bounds, at: int, stop: int, limit: int, *, newer: bool
) -> list[Row]:
    """Rows that may hold what is wanted: from `at` on upwards if newer, else below it downwards; none from `stop` on."""
    found = connection.execute(
        _NEWER if newer else _OLDER,
        (
            at,
            bounds.since,
            bounds.until,
            bounds.decided,
            bounds.levels,
            bounds.suppressed,
            bounds.categories,
            stop,
            limit,
        ),
    )
    return [
        Row(
            seq,
            first,
            last,
            None if traits is None else _read_traits(traits),
            None if rules is None else _rules(rules),
        )
        for seq, first, last, traits, rules in found
    ]


def events_within(connection: sqlite3.Connection, bounds: Bounds) -> int:
    """How many events the rows have that may hold what is wanted."""
    values = (
        bounds.since,
        bounds.until,
        bounds.decided,
        bounds.levels,
        bounds.suppressed,
        bounds.categories,
    )
    return int(connection.execute(_COUNT, values).fetchone()[0])


def end(connection: sqlite3.Connection) -> int:
    """The number that the next row will have, or a lower one that no row has had."""
    return int(connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM journal_summary").fetchone()[0])
