"""What each source said and has not taken back, by kind and key."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from quell.model.sighting import ContainerSeen, ImageSeen, NamespaceSeen, NodeSeen, PodSeen, ServiceSeen, Sighting

CONTAINER, POD, NAMESPACE, SERVICE, IMAGE, NODE = "container", "pod", "namespace", "service", "image", "node"
KINDS = (CONTAINER, POD, NAMESPACE, SERVICE, IMAGE, NODE)


class Rank(IntEnum):
    """How far a source is believed: events only about what nobody else says."""

    AGENT = 0
    KUBERNETES = 1
    EVENT = 2


#: Things that one source may speak of at a time; what is more is left out and counted.
LIMITS = {Rank.AGENT: 10_000, Rank.KUBERNETES: 200_000, Rank.EVENT: 10_000}
#: Of one thing: labels, and characters of a label's value or any other text. What is more is left out.
LABELS, TEXT = 256, 4096


class Key(NamedTuple):
    """One source's word about one thing. kind and key as in quell.model.sighting.Gone."""

    source: str
    kind: str
    key: str


class Said(Struct, frozen=True, gc=False):
    source: str
    rank: Rank
    sighting: Sighting


def rank_of(source: str) -> Rank:
    """ValueError: no such kind of source."""
    match source.partition("/")[0]:
        case "agent":
            return Rank.AGENT
        case "kubernetes":
            return Rank.KUBERNETES
        case "event":
            return Rank.EVENT
    raise ValueError(f'expected "agent/...", "kubernetes/..." or "event/...", got {source!r}')


def kind_of(sighting: Sighting) -> str:
    return str(sighting.__struct_config__.tag)


def key_of(sighting: Sighting) -> str:
    match sighting:
        case ContainerSeen(id=key) | ImageSeen(id=key) | PodSeen(uid=key):
            return key
        case NamespaceSeen(name=key) | NodeSeen(name=key):
            return key
        case ServiceSeen():
            return f"{sighting.namespace}/{sighting.name}"


class Statements:
    def __init__(self) -> None:
        self._said: dict[str, dict[str, tuple[Said, ...]]] = {kind: {} for kind in KINDS}
        self._of: dict[str, dict[str, dict[str, None]]] = {}
        #: Sightings left out because their source spoke of too many things.
        self.refused = 0

    def about(self, kind: str, key: str) -> tuple[Said, ...]:
        """All that is said, the most believed source first."""
        return self._said[kind].get(key, ())

    def keys(self, kind: str) -> Collection[str]:
        return self._said[kind].keys()

    def of(self, source: str, kind: str) -> Collection[str]:
        """Keys of what a source says, in the order in which it first did."""
        return self._of.get(source, {}).get(kind, {}).keys()

    def all_of(self, source: str) -> Iterator[tuple[str, str]]:
        """Kind and key of everything that a source says."""
        for kind, keys in self._of.get(source, {}).items():
            for key in keys:
                yield kind, key

    def sources(self) -> Collection[str]:
        return self._of.keys()

    def word(self, source: str, kind: str, key: str) -> Sighting | None:
        return next((said.sighting for said in self.about(kind, key) if said.source == source), None)

    def put(self, source: str, rank: Rank, sighting: Sighting) -> bool:
        """False: the source says it already, or says too much. The sighting must be lean()."""
        kind, key = kind_of(sighting), key_of(sighting)
        said = self._said[kind].get(key, ())
        for each in said:
            if each.source == source:
                if each.sighting == sighting:
                    return False
                break
        else:
            kinds = self._of.setdefault(source, {})
            if sum(map(len, kinds.values())) >= LIMITS[rank]:
                self.refused += 1
                return False
            kinds.setdefault(kind, {})[key] = None
        others = [each for each in said if each.source != source]
        ordered = sorted((*others, Said(source, rank, sighting)), key=lambda each: (each.rank, each.source))
        self._said[kind][key] = tuple(ordered)
        return True

    def drop(self, source: str, kind: str, key: str) -> Sighting | None:
        """What the source said of it until now; None: nothing."""
        kinds = self._of.get(source, {})
        if key not in kinds.get(kind, {}):
            return None
        word = self.word(source, kind, key)
        del kinds[kind][key]
        if not any(kinds.values()):
            del self._of[source]
        left = tuple(each for each in self._said[kind][key] if each.source != source)
        if left:
            self._said[kind][key] = left
        else:
            del self._said[kind][key]
        return word


def lean(sighting: Sighting) -> Sighting:
    """The same within the bounds, with texts shared: ten thousand pods repeat a few namespaces, images and labels."""
    kept = {
        name: value
        for name, value in msgspec.structs.asdict(sighting).items()
        if not isinstance(value, str) or len(value) <= TEXT
    }
    for name, value in kept.items():
        match value:
            case str() if name not in ("id", "uid"):
                kept[name] = sys.intern(value)
            case dict():
                kept[name] = _labels(value)
            case tuple() if name in ("names", "addresses"):
                kept[name] = tuple(text for text in value[:LABELS] if len(text) <= TEXT)
    return type(sighting)(**kept)


def is_sound(sighting: Sighting) -> bool:
    """Whether what names it could be the name of anything: not empty, nor longer than any that is real."""
    named = (sighting.name, sighting.namespace) if isinstance(sighting, PodSeen) else ()
    return all(0 < len(text) <= TEXT // 8 for text in (key_of(sighting), *named))


def _labels(labels: dict[str, str]) -> dict[str, str]:
    return {
        sys.intern(key): sys.intern(value)
        for key, value in list(labels.items())[:LABELS]
        if len(key) <= TEXT and len(value) <= TEXT
    }
