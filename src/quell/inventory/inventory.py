"""The joined model: takes what sources say and keeps every workload's facts up to date, joining again only what changed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import msgspec

from quell.inventory.join import UNNAMED, Sources, is_kubernetes, join, join_pod
from quell.inventory.statements import (
    CONTAINER,
    IMAGE,
    KINDS,
    LIMITS,
    NAMESPACE,
    NODE,
    POD,
    SERVICE,
    Key,
    Rank,
    Statements,
    is_sound,
    key_of,
    kind_of,
    lean,
    rank_of,
)
from quell.model.sighting import ContainerSeen, NodeSeen, PodSeen, ServiceSeen, Sighting, Sightings
from quell.response.facts import Workload

K = TypeVar("K")

#: Seconds for which a workload that is gone is still known, so that events on their way find it: the age until which an
#: event may still lead to a quarantine.
GONE_KEPT = 600.0
#: Seconds after which the word of a source counts no more that was lost (agent not linked, nothing said since a restart).
SILENCE = 3600.0
#: Seconds for which a container that only an event told of is known.
TAUGHT_KEPT = 3600.0
#: Workloads that are gone and still known, at most; the first to go are forgotten first.
MAX_GONE = 20_000
#: Digits of a container's id by which runtimes and detectors shorten it.
SHORT = 12


class Changed(NamedTuple):
    """workloads: ids of those that are new, other than before, gone or forgotten. nodes: something was said of a node."""

    workloads: frozenset[str] = frozenset()
    nodes: bool = False


class Inventory:
    """workloads: by full id, those that are there and, for GONE_KEPT, those that are gone. To be read only."""

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        self._statements = Statements()
        self._clusters: dict[str, str] = {}
        #: By namespace: keys of the Services in it.
        self._services: dict[str, dict[str, None]] = {}
        self._sources = Sources(self._statements, self._clusters, self._services)
        #: First SHORT digits to full ids.
        self._short: dict[str, tuple[str, ...]] = {}
        #: By pod, namespace, node, and image id where the image's name is not told: container ids.
        self._related: dict[tuple[str, str], set[str]] = {}
        #: By source and pod: containers that the source says are in it.
        self._inside: dict[str, dict[str, tuple[str, ...]]] = {}
        #: By namespace and name: uids, of pods that ended lately too.
        self._pods: dict[tuple[str, str], tuple[str, ...]] = {}
        self._ended: deque[tuple[float, str, str, str]] = deque()
        self._gone: deque[tuple[float, str]] = deque()
        self._taught: deque[tuple[float, Key]] = deque()
        #: Since when nothing is heard from a source whose word still counts.
        self._silent: dict[str, float] = {}
        self._unsaved: dict[Key, None] = {}

    # ---- what sources say

    def take(self, told: Sightings, now: float) -> Changed:
        """ValueError: a source of no known kind. now: epoch seconds."""
        rank = rank_of(told.source)
        self._silent.pop(told.source, None)
        if rank is Rank.KUBERNETES:
            self._clusters[told.source] = told.source.partition("/")[2]
        change = _Change()
        if told.complete:
            here = {(kind_of(sighting), key_of(sighting)) for sighting in told.seen}
            nested = {
                each.id for sighting in told.seen if isinstance(sighting, PodSeen) for each in sighting.containers
            }
            for kind in told.kinds:
                self._drop_others(told.source, kind, here | {(CONTAINER, each) for each in nested}, change)
        for gone in told.gone:
            if gone.kind in KINDS:
                self._take_back(told.source, gone.kind, gone.key, change)
        for sighting in told.seen:
            if is_sound(sighting):
                self._say(told.source, rank, sighting, now, change)
            else:
                self._statements.refused += 1
        return self._settle(change, now)

    def restore(self, said: Iterable[tuple[tuple[str, str, str], Sighting]], now: float) -> None:
        """What was drained before a restart. Every source counts as silent until it speaks again."""
        change = _Change()
        for (source, _, _), sighting in said:
            if source not in self._silent:
                self._silent[source] = now
                if rank_of(source) is Rank.KUBERNETES:
                    self._clusters[source] = source.partition("/")[2]
            self._word(source, rank_of(source), sighting, now, change)
        self._settle(change, now)
        self._unsaved.clear()

    def silent(self, source: str, now: float) -> None:
        """Nothing is heard from the source any more; what it said counts for SILENCE unless it speaks again."""
        if source in self._statements.sources():
            self._silent.setdefault(source, now)

    def forget(self, source: str, now: float) -> Changed:
        """The source is no more, nor what it said."""
        self._silent.pop(source, None)
        change = _Change()
        for kind, key in list(self._statements.all_of(source)):
            self._take_back(source, kind, key, change)
        return self._settle(change, now)

    def expire(self, now: float) -> Changed:
        """What counts no more at this moment: silent sources, containers only events told of, workloads long gone."""
        change = _Change()
        for source, since in list(self._silent.items()):
            if since <= now - SILENCE:
                del self._silent[source]
                for kind, key in list(self._statements.all_of(source)):
                    self._take_back(source, kind, key, change)
        while self._taught and self._taught[0][0] <= now - TAUGHT_KEPT:
            self._take_back(*self._taught.popleft()[1], change)
        changed = self._settle(change, now)
        while self._ended and (self._ended[0][0] <= now - GONE_KEPT or len(self._ended) > MAX_GONE):
            self._forget_pod(*self._ended.popleft()[1:])
        forgotten = []
        while self._gone and (self._gone[0][0] <= now - GONE_KEPT or len(self._gone) > MAX_GONE):
            since, identifier = self._gone.popleft()
            known = self.workloads.get(identifier)
            if known is not None and known.gone == since:
                self._forget(known)
                forgotten.append(identifier)
        return Changed(changed.workloads.union(forgotten), changed.nodes)

    def drain(self, limit: int) -> tuple[dict[Key, Sighting], list[Key]]:
        """Up to so many words that changed since they were drained last: those that stand, and those taken back."""
        stand: dict[Key, Sighting] = {}
        taken_back: list[Key] = []
        for key in list(self._unsaved)[:limit]:
            del self._unsaved[key]
            word = self._statements.word(*key)
            if word is None:
                taken_back.append(key)
            else:
                stand[key] = word
        return stand, taken_back

    def save_again(self, keys: Iterable[Key]) -> None:
        """What was drained of these could not be saved."""
        self._unsaved.update(dict.fromkeys(keys))

    # ---- what is known

    def find(self, identifier: str) -> Workload | None:
        """The workload of a full id, or of one of at least SHORT digits that only it begins with."""
        known = self.workloads.get(identifier)
        if known is not None or len(identifier) < SHORT:
            return known
        found = [each for each in self._short.get(identifier[:SHORT], ()) if each.startswith(identifier)]
        return self.workloads[found[0]] if len(found) == 1 else None

    def pod(self, uid: str | None, namespace: str | None, name: str | None) -> Workload | None:
        """A pod by its uid, or by its name where only one has had it of late. id is the pod's uid."""
        if uid is None:
            named = self._pods.get((namespace, name), ()) if namespace and name else ()
            if len(named) != 1:
                return None
            uid = named[0]
        return join_pod(uid, self._sources)

    def nodes(self) -> dict[str, tuple[tuple[str, NodeSeen], ...]]:
        """By name: what each source says of the host, the most believed first."""
        found: dict[str, tuple[tuple[str, NodeSeen], ...]] = {}
        for name in self._statements.keys(NODE):
            said = self._statements.about(NODE, name)
            found[name] = tuple((each.source, each.sighting) for each in said if isinstance(each.sighting, NodeSeen))
        return found

    def cluster_of_node(self, node: str) -> str | None:
        """None: it is in none, in several, or in one without a name."""
        cluster = self._sources.cluster_of_node(node)
        return None if cluster == UNNAMED else cluster

    def machine_of_node(self, node: str) -> str | None:
        """The machine id that the most believed source gives."""
        said = [each.sighting for each in self._statements.about(NODE, node)]
        return next((seen.machine_id for seen in said if isinstance(seen, NodeSeen) and seen.machine_id), None)

    def machines_of_node(self, node: str) -> frozenset[str]:
        """Every machine id that a source gives."""
        said = [each.sighting for each in self._statements.about(NODE, node)]
        return frozenset(seen.machine_id for seen in said if isinstance(seen, NodeSeen) and seen.machine_id)

    def is_kubernetes(self, node: str) -> bool:
        return is_kubernetes(node, self._statements)

    def told(self, source: str, kind: str) -> list[str]:
        """Keys of the things of a kind that a source speaks of."""
        return list(self._statements.of(source, kind))

    @property
    def refused(self) -> int:
        """Sightings left out because a source said too much, or named nothing."""
        return self._statements.refused

    # ---- keeping it joined

    def _say(self, source: str, rank: Rank, sighting: Sighting, now: float, change: _Change) -> None:
        if not isinstance(sighting, PodSeen):
            self._word(source, rank, sighting, now, change)
            return
        inside = [
            msgspec.structs.replace(
                each,
                pod_uid=sighting.uid,
                pod_name=sighting.name,
                namespace=sighting.namespace,
                node=each.node or sighting.node,
            )
            for each in sighting.containers
        ]
        # An agent may tell of pods and of their containers apart.
        if inside or rank is Rank.KUBERNETES:
            here = {each.id for each in inside}
            for identifier in self._inside.get(source, {}).get(sighting.uid, ()):
                if identifier not in here:
                    self._take_back(source, CONTAINER, identifier, change)
        for each in inside:
            if is_sound(each):
                self._word(source, rank, each, now, change)
        self._word(source, rank, msgspec.structs.replace(sighting, containers=()), now, change)

    def _word(self, source: str, rank: Rank, sighting: Sighting, now: float, change: _Change) -> None:
        sighting = lean(sighting)
        while rank is Rank.EVENT and len(self._taught) >= LIMITS[Rank.EVENT]:
            self._take_back(*self._taught.popleft()[1], change)
        kind, key = kind_of(sighting), key_of(sighting)
        before = self._statements.word(source, kind, key)
        if not self._statements.put(source, rank, sighting):
            return
        if rank is Rank.EVENT:
            self._taught.append((now, Key(source, kind, key)))
        else:
            self._unsaved[Key(source, kind, key)] = None
        if isinstance(sighting, ServiceSeen) and sighting.namespace:
            self._services.setdefault(sighting.namespace, {})[key] = None
        elif isinstance(sighting, PodSeen):
            named = (sighting.namespace, sighting.name)
            if key not in self._pods.get(named, ()):
                self._pods[named] = (*self._pods.get(named, ()), key)
        elif isinstance(sighting, ContainerSeen):
            self._move(source, key, before, sighting)
            if rank is not Rank.EVENT and len(key) > SHORT:
                self._supersede(key[:SHORT], change)
        change.touch(kind, key)

    def _supersede(self, short: str, change: _Change) -> None:
        """The full id is known now: what events told under the short one is the same container."""
        for said in self._statements.about(CONTAINER, short):
            if said.rank is Rank.EVENT:
                self._take_back(said.source, CONTAINER, short, change)

    def _take_back(self, source: str, kind: str, key: str, change: _Change) -> None:
        word = self._statements.drop(source, kind, key)
        if word is None:
            return
        if rank_of(source) is not Rank.EVENT:
            self._unsaved[Key(source, kind, key)] = None
        if isinstance(word, PodSeen):
            for identifier in self._inside.get(source, {}).get(key, ()):
                self._take_back(source, CONTAINER, identifier, change)
            if not self._statements.about(POD, key):
                change.ended_pods.append((word.namespace, word.name, key))
        elif isinstance(word, ContainerSeen):
            self._move(source, key, word, None)
        elif isinstance(word, ServiceSeen) and not self._statements.about(SERVICE, key):
            self._services.get(word.namespace, {}).pop(key, None)
            if not self._services.get(word.namespace, True):
                del self._services[word.namespace]
        change.touch(kind, key)

    def _move(self, source: str, identifier: str, before: Sighting | None, after: ContainerSeen | None) -> None:
        """Keep up which containers a source says are in which pod."""
        left = before.pod_uid if isinstance(before, ContainerSeen) else None
        joined = None if after is None else after.pod_uid
        if left == joined:
            return
        pods = self._inside.setdefault(source, {})
        if left is not None:
            _leave(pods, left, identifier)
        if joined is not None:
            pods[joined] = (*pods.get(joined, ()), identifier)
        if not pods:
            del self._inside[source]

    def _drop_others(self, source: str, kind: str, here: set[tuple[str, str]], change: _Change) -> None:
        for key in [key for key in self._statements.of(source, kind) if (kind, key) not in here]:
            self._take_back(source, kind, key, change)

    def _settle(self, change: _Change, now: float) -> Changed:
        """Join again what the change reaches."""
        reached = set(change.containers)
        for kind, key in change.others:
            reached |= self._reached(kind, key)
        changed = {identifier for identifier in reached if self._rejoin(identifier, now)}
        self._ended.extend((now, *ended) for ended in change.ended_pods)
        return Changed(frozenset(changed), change.nodes)

    def _reached(self, kind: str, key: str) -> set[str]:
        if kind == SERVICE:
            return self._related.get((NAMESPACE, key.partition("/")[0]), set())
        return self._related.get((kind, key), set())

    def _rejoin(self, identifier: str, now: float) -> bool:
        before = self.workloads.get(identifier)
        after = join(identifier, self._sources)
        if after is None:
            if before is None or before.gone is not None:
                return False
            if before.taught_by:
                self._forget(before)
                return True
            after = msgspec.structs.replace(before, gone=now, sources=())
            self._gone.append((now, identifier))
        if after == before:
            return False
        if before is None:
            self._short[identifier[:SHORT]] = (*self._short.get(identifier[:SHORT], ()), identifier)
            self._relate(after)
        elif _relations(before) != _relations(after):
            self._unrelate(before)
            self._relate(after)
        self.workloads[identifier] = after
        return True

    def _forget(self, known: Workload) -> None:
        del self.workloads[known.id]
        self._unrelate(known)
        _leave(self._short, known.id[:SHORT], known.id)

    def _forget_pod(self, namespace: str, name: str, uid: str) -> None:
        if not self._statements.about(POD, uid):
            _leave(self._pods, (namespace, name), uid)

    def _relate(self, known: Workload) -> None:
        for relation in _relations(known):
            self._related.setdefault(relation, set()).add(known.id)

    def _unrelate(self, known: Workload) -> None:
        for relation in _relations(known):
            ids = self._related[relation]
            ids.discard(known.id)
            if not ids:
                del self._related[relation]


class _Change:
    """What one message touched, before anything is joined again."""

    __slots__ = ("containers", "ended_pods", "nodes", "others")

    def __init__(self) -> None:
        self.containers: dict[str, None] = {}
        self.others: dict[tuple[str, str], None] = {}
        self.ended_pods: list[tuple[str, str, str]] = []
        self.nodes = False

    def touch(self, kind: str, key: str) -> None:
        if kind == CONTAINER:
            self.containers[key] = None
            return
        self.nodes = self.nodes or kind == NODE
        self.others[kind, key] = None


def _leave(index: dict[K, tuple[str, ...]], key: K, identifier: str) -> None:
    left = tuple(each for each in index.get(key, ()) if each != identifier)
    if left:
        index[key] = left
    else:
        index.pop(key, None)


def _relations(known: Workload) -> list[tuple[str, str]]:
    """Under what a change elsewhere finds it."""
    named = ((POD, known.pod_uid), (NAMESPACE, known.namespace), (NODE, known.node), (IMAGE, known.image_id))
    return [(kind, key) for kind, key in named if key]
