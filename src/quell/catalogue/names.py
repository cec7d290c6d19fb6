"""Every event name that Quell knows, with category, kind, level and meaning. SEMANTICS section 1, "Catalogue".

The names are data (data/names.json): those of the mission document, those only the reference system has, and our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib import resources
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import Struct

from quell.model.event import Category, Kind, Level

#: Stands in a name for any one word, such as the maker's product.
WILDCARD = "{product-name}"


class CatalogueName(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event name. Its level is the one an event has if its detector gives none."""

    name: str
    category: Category
    #: For a name of category event: the kind it has for security-event rules (see also_category).
    kind: Kind | None = None
    level: Level
    description: str
    #: Other spellings of the same name.
    aliases: tuple[str, ...] = ()
    #: The mission document, only the reference system, or Quell's own.
    origin: Literal["mission", "reference", "quell"] = "mission"
    #: Names that a rule with this name matches as well.
    covers: tuple[str, ...] = ()
    #: Categories whose rules match an event of this name, besides its own.
    also_category: tuple[Category, ...] = ()
    #: A deviation may carry it, and then meets security-event rules by it.
    deviation: bool = False
    #: The name stands for a family made at run time, such as DLP.<sensor>.<rule>: the glob of its members.
    pattern: str = ""
    #: Who makes such events besides the detectors (quell.detectors.produces says which of these do): quell, or nobody.
    producers: tuple[Literal["quell"], ...] = ()
    #: Where nobody makes them yet: what is to come that will.
    later: str = ""


def _load() -> dict[str, CatalogueName]:
    data = resources.files("quell.catalogue").joinpath("data/names.json").read_bytes()
    return {entry.name: entry for entry in msgspec.json.decode(data, type=list[CatalogueName])}


NAMES: Mapping[str, CatalogueName] = MappingProxyType(_load())

_CANONICAL = {spelling.casefold(): entry.name for entry in NAMES.values() for spelling in (entry.name, *entry.aliases)}
#: (text before the wildcard, text after it, canonical name), in lower case.
_WILD = tuple((*spelling.split(WILDCARD), name) for spelling, name in _CANONICAL.items() if WILDCARD in spelling)
_FAMILIES = tuple(entry for entry in NAMES.values() if entry.pattern)


def resolve(text: str) -> str | None:
    """The canonical name that text is a spelling of, whatever its case; None if the catalogue has no such name."""
    folded = text.casefold()
    name = _CANONICAL.get(folded)
    if name is None:
        for before, after, wild in _WILD:
            if len(folded) > len(before) + len(after) and folded.startswith(before) and folded.endswith(after):
                return wild
    return name


def family(text: str) -> CatalogueName | None:
    """The family of names made at run time that text belongs to: DLP, WAF, benchmark numbers, custom checks."""
    folded = text.casefold()
    return next((entry for entry in _FAMILIES if fnmatchcase(folded, entry.pattern.casefold())), None)


def covers(rule_name: str, event_name: str) -> bool:
    """Whether a rule with the one canonical name matches an event with the other."""
    if rule_name == event_name:
        return True
    entry = NAMES.get(rule_name)
    return entry is not None and event_name in entry.covers
