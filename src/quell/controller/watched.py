"""The workloads that are seen at work: what is known of each, and which policies watch it. SEMANTICS section 5.

Looked up once and kept until the inventory or the documents say something else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import msgspec

from quell.clock import Clock
from quell.controller.inventory import LiveInventory
from quell.controller.observations import Item
from quell.guardian.chain import chain_of
from quell.guardian.guard import Guard, Watch
from quell.inventory.inventory import SHORT
from quell.model.observation import Observation, Seen
from quell.model.subject import Subject
from quell.response.facts import Workload

#: Workloads that are remembered, and of all together what they were seen to do.
WORKLOADS, REPEATS = 20_000, 100_000
#: Seconds for which the same, seen again of the same workload, is nothing new: nothing of it deviated.
SAME = 60.0
#: Seconds that what a container does waits until its image is known.
PATIENCE = 5.0
#: Containers of which something waits, and observations of each.
UNKNOWN, UNKNOWN_OBSERVATIONS = 1000, 64

_Key = tuple[object, ...]
#: All of an observation that policies look at, beside its workload.
Shape = tuple[object, ...]


class Watched:
    """One container or service."""

    __slots__ = ("expected", "first", "generation", "has_compared", "known", "subject", "watches")

    def __init__(
        self,
        subject: Subject,
        known: Workload | None,
        guard: Guard,
        generation: int,
        first: float,
    ) -> None:
        #: With all that is known, and without a process.
        self.subject = subject
        #: The inventory's; while it knows another one, this is out of date.
        self.known = known
        self.generation = generation
        self.watches: tuple[Watch, ...] = guard.watches(subject)
        #: When something was first seen of it, epoch seconds.
        self.first = first
        #: Something that it did was compared.
        self.has_compared = False
        #: What it did of which nothing deviated -> when it was last looked at, by the clock of who saw it.
        self.expected: dict[Shape, float] = {}


class Workloads:
    def __init__(self, inventory: LiveInventory, clock: Clock) -> None:
        self._inventory = inventory
        self._clock = clock
        self._guard = Guard((), ())
        self._watched: OrderedDict[_Key, Watched] = OrderedDict()
        #: By container id: since when, and what waits.
        self._unknown: OrderedDict[str, tuple[float, list[Item]]] = OrderedDict()
        #: Nodes with a workload that is watched by more policies than when something of it was compared last.
        self.widened: set[str] = set()
        self._repeats = 0

    def use(self, guard: Guard) -> None:
        self._guard = guard
        self._watched.clear()
        self._repeats = 0

    def of(self, subject: Subject, origin: str) -> Watched:
        """What does something, by what the one who saw it says of it. origin: the detector whose word that is."""
        key = _key(subject, origin)
        before = self._watched.get(key)
        known = None if subject.container is None else self._inventory.find(subject.container.id)
        generation = self._inventory.generation
        if before is not None and before.known is known and before.generation == generation:
            return before
        bare = subject if subject.process is None else msgspec.structs.replace(subject, process=None)
        whole = self._inventory.filled(bare, origin)
        # Asking may have taught the inventory of the container.
        known = None if subject.container is None else self._inventory.find(subject.container.id)
        first = self._clock() if before is None else before.first
        watched = Watched(whole, known, self._guard, generation, first)
        if before is not None and before.has_compared and _names(watched) - _names(before):
            self.widened.add(whole.node or "")
        self._watched[key] = watched
        if len(self._watched) > WORKLOADS:
            self._watched.popitem(last=False)
        return watched

    # ---- what repeats itself

    @staticmethod
    def is_repeat(watched: Watched, shape: Shape, time: float) -> bool:
        """Whether the same was expected of it less than a minute before."""
        before = watched.expected.get(shape)
        return before is not None and time - before < SAME

    def expect(self, watched: Watched, shape: Shape, time: float) -> None:
        """Nothing of this deviated."""
        if shape not in watched.expected:
            self._repeats += 1
            if self._repeats > REPEATS:
                for each in self._watched.values():
                    each.expected.clear()
                self._repeats = 1
        watched.expected[shape] = time

    # ---- containers of which nobody knows the image yet

    def holds(self, watched: Watched, item: Item) -> bool:
        """Whether it is kept until the inventory knows the container: its first processes are seen before it is."""
        held = self._hold(watched, item)
        watched.has_compared = watched.has_compared or not held
        return held

    def _hold(self, watched: Watched, item: Item) -> bool:
        container = watched.subject.container
        if container is None or watched.subject.image is not None or item.is_late:
            return False
        if self._clock() - watched.first > PATIENCE:
            return False
        if container.id not in self._unknown and len(self._unknown) >= UNKNOWN:
            return False
        _, waiting = self._unknown.setdefault(container.id, (self._clock(), []))
        if len(waiting) >= UNKNOWN_OBSERVATIONS:
            return False
        waiting.append(item)
        return True

    def known(self, identifiers: Collection[str]) -> list[Item]:
        """What waited for these containers, of which the inventory says something new."""
        if not self._unknown:
            return []
        found: list[Item] = []
        for identifier in identifiers:
            known = self._inventory.workloads.get(identifier)
            if known is None or known.image is None:
                continue
            for word in (identifier, identifier[:SHORT]):
                if word in self._unknown:
                    found += self._unknown.pop(word)[1]
        return found

    def late(self) -> list[Item]:
        """What has waited for too long."""
        found: list[Item] = []
        while self._unknown:
            identifier, (since, waiting) = next(iter(self._unknown.items()))
            if self._clock() - since <= PATIENCE:
                break
            del self._unknown[identifier]
            found += [item._replace(is_late=True) for item in waiting]
        return found


def shape_of(observation: Observation) -> Shape:
    """Two observations of one workload that have the same are compared alike, and the same is learned of them."""
    process, seen = observation.subject.process, observation.seen
    chain = None if process is None else chain_of(process, observation.inside)
    if seen is Seen.LISTENING:
        return seen, chain, observation.protocol, observation.port
    peer = observation.peer
    return (seen, chain) if peer is None else (seen, chain, peer)


def _names(watched: Watched) -> set[str]:
    return {watch.policy.name for watch in watched.watches}


def _key(subject: Subject, origin: str) -> _Key:
    """All that an observation says of a workload but labels, which its pod or container always has the same of."""
    container, pod = subject.container, subject.pod
    return (
        origin,
        subject.node,
        subject.machine_id,
        None if container is None else (container.id, container.name, container.image_id),
        None if pod is None else (pod.uid, pod.name),
        subject.namespace,
        subject.image,
        subject.service,
        subject.service_cgroup,
        subject.cluster,
        subject.source_name,
        subject.user,
    )
