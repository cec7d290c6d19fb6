"""The inventory as the controller has it: fed by agents, Kubernetes and events, saved now and then, aged, asked.

All of it runs on the event loop's thread. A long message, as the first of a cluster, is taken in parts, between which
events go on being decided.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from quell.channel.messages import Hello, Seen
from quell.clock import Clock
from quell.controller.telling import Teller
from quell.controller.workload_events import WorkloadEvents
from quell.errors import StoreError
from quell.inventory.enrichment import Enriched, Enricher
from quell.inventory.inventory import Changed, Inventory
from quell.inventory.membership import Membership
from quell.inventory.statements import KINDS, key_of, kind_of, rank_of
from quell.matching.groups import EXTERNAL, NODES, RESERVED
from quell.matching.index import Index
from quell.model.event import Category, Event, Level
from quell.model.sighting import ContainerSeen, Gone, ImageSeen, NodeSeen, PodSeen, ServiceSeen, Sighting, Sightings
from quell.model.subject import Subject
from quell.response.facts import Workload
from quell.storage import inventory as stored
from quell.storage.store import Store

#: Sightings taken in one go; some milliseconds' work.
PART = 200
#: Workloads whose groups are asked again in one go, after the documents changed.
ASKED = 100
#: Containers learned from events in a second, at most: a flood of made up ones must not slow down what is decided.
LEARNED_A_SECOND = 500
#: Words saved in one go.
SAVED = 2000

_log = structlog.get_logger(__name__)


class NodeListed(Struct, frozen=True, kw_only=True):
    """A host, as all its sources say."""

    name: str
    cluster: str | None = None
    labels: dict[str, str] = {}
    machine_id: str | None = None
    boot_id: str | None = None
    addresses: tuple[str, ...] = ()
    kubernetes: bool = False
    os: str | None = None
    kernel: str | None = None
    #: Workloads that run there.
    workloads: int = 0
    sources: tuple[str, ...] = ()


class GroupListed(Struct, frozen=True, kw_only=True):
    name: str
    #: reserved, learned or defined.
    kind: str
    #: Workloads that are in it; of nodes, the hosts. None: it has no members that could be counted.
    members: int | None = None
    comment: str = ""
    #: Rules that apply to it, by name.
    rules: tuple[str, ...] = ()


class WorkloadListed(Workload, frozen=True, gc=False, kw_only=True, omit_defaults=False):
    """A container with the groups it is in."""

    groups: tuple[str, ...] = ()


class Member(Struct, frozen=True, kw_only=True):
    """A container, or (of the group nodes) a host: then id is its name."""

    id: str
    name: str | None = None
    namespace: str | None = None
    node: str | None = None
    image: str | None = None


class LiveInventory:
    """refused: sightings that were left out, by why: scope (of another machine), excess (too many, or no names)."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        nodes_changed: Callable[[], None],
        teller: Teller,
        quota: tuple[int, float] = (120, 60.0),
    ) -> None:
        """nodes_changed: told when something about a node did. teller: takes what became of containers and learned groups;
        quota: of the first, so many of one machine in so many seconds. StoreError.
        """
        self._store = store
        self._clock = clock
        self._nodes_changed = nodes_changed
        self._inventory = Inventory()
        self._inventory.restore(store.read(stored.all_of), clock())
        self._membership = Membership(self._inventory.workloads, store.read(stored.learned))
        #: As they are saved; None: nobody knows.
        self._left: dict[str, float] | None = dict(self._membership.left)
        self._index: Index | None = None
        self._enricher = Enricher(self._inventory, self._learn)
        #: See quell.inventory.enrichment. Every event passes it.
        self.enrich: Callable[[Event], Enriched | None] = self._enricher.enrich
        self._refused: Counter[str] = Counter()
        #: A second, and containers learned from events in it.
        self._learned = (0, 0)
        self._parts: deque[Sightings] = deque()
        self._work: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[Collection[str]], None]] = []
        #: Rises when something changed that is no part of any workload, such as a node's cluster.
        self.generation = 0
        self.workloads: Mapping[str, Workload] = self._inventory.workloads
        self.events = WorkloadEvents(store, teller, clock, quota, self.workloads)

    def filled(self, subject: Subject, source: str) -> Subject:
        """What is known of a subject that somebody saw, as for an event of that source."""
        event = Event(
            id="",
            time=None,
            received=self._clock(),
            source=source,
            category=Category.EVENT,
            name="",
            level=Level.DEBUG,
            subject=subject,
            raw=b"",
        )
        enriched = self.enrich(event)
        found = subject if enriched is None else enriched.event.subject
        if found.cluster is None and found.node is not None and not found.is_workload:
            return msgspec.structs.replace(found, cluster=self._inventory.cluster_of_node(found.node))
        return found

    def subscribe(self, listener: Callable[[Collection[str]], None]) -> None:
        """Call it with the ids of workloads that are other than before."""
        self._listeners.append(listener)

    @property
    def refused(self) -> Counter[str]:
        return self._refused + Counter(excess=self._inventory.refused)

    # ---- fed

    def use(self, index: Index) -> None:
        """Groups are those of these documents from now on; whose members they have is asked again bit by bit."""
        self._index = index
        self._membership.use(index.memberships, {rule.group for rule in index.rules if rule.group})
        self._go_on()

    def sighted(self, hello: Hello, seen: Seen) -> None:
        """What an agent says of its machine. What it says of another, or of a whole cluster, is left out."""
        own, foreign = [], 0
        for sighting in seen.seen:
            placed = _placed(sighting, hello)
            if placed is None:
                foreign += 1
            else:
                own.append(placed)
        if foreign:
            self._refused["scope"] += foreign
            _log.warning("an agent told of what is not on its machine", agent=hello.agent, sightings=foreign)
        source = agent_source(hello.agent)
        kinds = tuple(kind for kind in seen.kinds if kind in KINDS)
        self.take(Sightings(source=source, seen=tuple(own), gone=seen.gone, complete=seen.complete, kinds=kinds))

    def linked(self, hello: Hello) -> None:
        """Its node is known by the hello alone, beside what the agent told of it before."""
        told = dict(self._inventory.nodes().get(hello.node, ())).get(
            agent_source(hello.agent), NodeSeen(name=hello.node)
        )
        node = msgspec.structs.replace(told, machine_id=hello.machine_id or None, boot_id=hello.boot_id or None)
        self.take(Sightings(source=agent_source(hello.agent), seen=(node,)))

    def take(self, told: Sightings) -> None:
        """ValueError: a source of no known kind. What is short counts when this returns, if nothing waits before it."""
        rank_of(told.source)
        self.events.heard(told.source)
        if not self._parts and len(told.seen) <= PART:
            self._took(self._inventory.take(told, self._clock()))
            return
        self._parts.extend(self._split(told))
        self._go_on()

    def covered(self, agent: str, number: int) -> None:
        """An agent that can isolate is linked. number: see WorkloadEvents.covered."""
        self.events.covered(agent, number, self._inventory.told(agent_source(agent), "container"))

    def lost(self, source: str) -> None:
        """Nothing is heard of it any more; what it said counts for a while (quell.inventory.inventory.SILENCE)."""
        self._inventory.silent(source, self._clock())

    def forget(self, source: str) -> None:
        """The source is no more."""
        self._parts = deque(part for part in self._parts if part.source != source)
        self._took(self._inventory.forget(source, self._clock()), said=False)
        self.events.forgotten(source)

    def tick(self) -> None:
        """About once a second: forget what is over, save what is new."""
        now = self._clock()
        self._took(self._inventory.expire(now), said=False)
        self.events.groups_removed(self._membership.expire(now))
        if self._index is not None:
            self.events.groups_referred(self._membership.kept, self._index.revision)
        self.events.tick()
        self._save(SAVED)
        self._go_on()

    def close(self) -> None:
        """Save the rest."""
        if self._work is not None:
            self._work.cancel()
        while self._parts:
            self._took(self._inventory.take(self._parts.popleft(), self._clock()))
        while self._save(SAVED):
            pass

    def _split(self, told: Sightings) -> Iterable[Sightings]:
        """A message in parts, first what it takes back."""
        seen, gone = told.seen, told.gone
        if told.complete:
            here = {(kind_of(sighting), key_of(sighting)) for sighting in seen}
            here |= {("container", each.id) for pod in seen if isinstance(pod, PodSeen) for each in pod.containers}
            before = [(kind, key) for kind in told.kinds for key in self._inventory.told(told.source, kind)]
            gone += tuple(Gone(kind=kind, key=key) for kind, key in before if (kind, key) not in here)
        yield msgspec.structs.replace(told, seen=(), gone=gone, complete=False)
        for start in range(0, len(seen), PART):
            yield msgspec.structs.replace(told, seen=seen[start : start + PART], gone=(), complete=False)

    def _took(self, changed: Changed, *, said: bool = True) -> None:
        if changed.workloads:
            self._membership.changed(changed.workloads)
            self.events.changed(changed.workloads, said=said)
            for listener in self._listeners:
                listener(changed.workloads)
        if changed.nodes:
            self.generation += 1
            self._enricher.forget()
            self._nodes_changed()

    def _learn(self, event: Event) -> None:
        """A container that nobody speaks of: what the event itself says of it."""
        subject, container, pod = event.subject, event.subject.container, event.subject.pod
        second = int(self._clock())
        if container is None or self._learned == (second, LEARNED_A_SECOND):
            return
        self._learned = (second, self._learned[1] + 1 if self._learned[0] == second else 1)
        inside = ContainerSeen(
            id=container.id,
            name=container.name,
            image=subject.image,
            image_id=container.image_id,
            node=subject.node,
            namespace=subject.namespace,
            pod_name=None if pod is None else pod.name,
            pod_uid=None if pod is None else pod.uid,
            host_network=container.host_network,
        )
        seen: Sighting = inside
        if pod is not None and pod.uid and pod.name and subject.namespace and pod.labels is not None:
            seen = PodSeen(
                uid=pod.uid,
                name=pod.name,
                namespace=subject.namespace,
                node=subject.node,
                labels=pod.labels,
                containers=(inside,),
            )
        self._took(self._inventory.take(Sightings(source=f"event/{event.source}", seen=(seen,)), self._clock()))

    def _go_on(self) -> None:
        if not self.is_settled and (self._work is None or self._work.done()):
            self._work = asyncio.get_running_loop().create_task(self._go())

    async def _go(self) -> None:
        while self._parts:
            self._took(self._inventory.take(self._parts.popleft(), self._clock()))
            await asyncio.sleep(0)
        settled = False
        while not settled:
            settled = self._membership.settle(self._clock(), ASKED)
            await asyncio.sleep(0)

    def _save(self, limit: int) -> bool:
        """False: there was nothing to save."""
        stand, taken_back = self._inventory.drain(limit)
        left = dict(self._membership.left)
        if not stand and not taken_back and left == self._left:
            return False
        is_left_new, self._left = left != self._left, left

        def write(connection: sqlite3.Connection) -> None:
            stored.put(connection, stand.items())
            stored.delete(connection, taken_back)
            if is_left_new:
                stored.put_learned(connection, left)

        def done(error: StoreError | None) -> None:
            if error is not None:
                _log.error("what the inventory learned could not be saved yet", error=str(error))
                self._inventory.save_again((*stand, *taken_back))
                self._left = None

        self._store.write(write, done)
        return True

    # ---- asked

    @property
    def is_settled(self) -> bool:
        """Nothing that was told waits to be taken in, and no workload for its groups."""
        return not self._parts and not self._membership.waiting

    def is_kubernetes(self, node: str) -> bool:
        """Whether somebody says that this is a node of Kubernetes."""
        return self._inventory.is_kubernetes(node)

    def machines_of(self, node: str) -> frozenset[str]:
        """Ids of the machine that a node is, as agents and Kubernetes say."""
        return self._inventory.machines_of_node(node)

    def pod_named(self, uid: str) -> tuple[str, str] | None:
        """Namespace and name of a pod; None: nobody says what they are."""
        known = self._inventory.pod(uid, None, None)
        return None if known is None or not (known.namespace and known.pod_name) else (known.namespace, known.pod_name)

    def find(self, identifier: str) -> Workload | None:
        """By its id, or at least 12 digits of it."""
        return self._inventory.find(identifier)

    def listed(self, known: Workload) -> WorkloadListed:
        return WorkloadListed(**msgspec.structs.asdict(known), groups=self.groups_of(known.id))

    def member(self, identifier: str) -> Member:
        """Of what `members` gave."""
        known = self.workloads.get(identifier)
        if known is None:
            return Member(id=identifier, name=identifier)
        return Member(id=identifier, name=known.name, namespace=known.namespace, node=known.node, image=known.image)

    def groups_of(self, identifier: str) -> tuple[str, ...]:
        return self._membership.groups_of(identifier, self._clock())

    def nodes(self) -> list[NodeListed]:
        """By name."""
        running = Counter(known.node for known in self.workloads.values() if known.gone is None and known.running)
        said = self._inventory.nodes()
        names = {*said, *(name for name in running if name)}
        return [self._node(name, said.get(name, ()), running[name]) for name in sorted(names)]

    def _node(self, name: str, said: Sequence[tuple[str, NodeSeen]], workloads: int) -> NodeListed:
        told: dict[str, Any] = {}
        for _, seen in reversed(said):
            told |= {key: value for key, value in msgspec.structs.asdict(seen).items() if value}
        return NodeListed(
            **{**told, "name": name},
            cluster=self._inventory.cluster_of_node(name),
            workloads=workloads,
            sources=tuple(source for source, _ in said),
        )

    def groups(self) -> list[GroupListed]:
        """Reserved, learned and defined ones, by name."""
        rules: dict[str, list[str]] = {}
        for rule in self._index.rules if self._index else ():
            rules.setdefault(rule.group, []).append(rule.name)
        defined = {group.name: group for group in self._index.groups} if self._index else {}
        learned = [name for name in self._membership.learned(self._clock()) if name not in defined]
        listed = [
            *((name, "reserved", "") for name in RESERVED),
            *((name, "learned", "") for name in learned),
            *((name, "defined", group.comment) for name, group in defined.items()),
        ]
        return [
            GroupListed(
                name=name,
                kind=kind,
                members=self._count(name),
                comment=comment,
                rules=tuple(sorted(rules.get(name, ()))),
            )
            for name, kind, comment in sorted(listed)
        ]

    def members(self, group: str) -> list[str] | None:
        """Full ids of its workloads, or names of the hosts for the group nodes, in order; None: there is no such group."""
        if group == NODES:
            return [node.name for node in self.nodes()]
        if group == EXTERNAL:
            return []
        defined = self._index is not None and any(group == each.name for each in self._index.groups)
        if defined or group in RESERVED or group in self._membership.learned(self._clock()):
            return sorted(self._membership.members(group, self._clock()))
        return None

    def _count(self, group: str) -> int | None:
        if group == NODES:
            return len(self._inventory.nodes())
        return None if group == EXTERNAL else len(self._membership.members(group, self._clock()))


def agent_source(agent: str) -> str:
    return f"agent/{agent}"


def _placed(sighting: Sighting, hello: Hello) -> Sighting | None:
    """On the agent's own node; None: it is about something that is not the agent's to tell."""
    match sighting:
        case NodeSeen():
            if sighting.name != hello.node or sighting.machine_id not in (None, hello.machine_id):
                return None
            return msgspec.structs.replace(
                sighting, machine_id=hello.machine_id or None, boot_id=sighting.boot_id or hello.boot_id or None
            )
        case PodSeen():
            inside = [_placed(each, hello) for each in sighting.containers]
            if sighting.node not in (None, hello.node) or None in inside:
                return None
            containers = tuple(each for each in inside if isinstance(each, ContainerSeen))
            return msgspec.structs.replace(sighting, node=hello.node, containers=containers)
        case ContainerSeen() | ImageSeen() | ServiceSeen():
            is_of_cluster = isinstance(sighting, ServiceSeen) and sighting.namespace != ""
            if is_of_cluster or sighting.node not in (None, hello.node):
                return None
            return msgspec.structs.replace(sighting, node=hello.node)
        case _:
            return None
