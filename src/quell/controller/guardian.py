"""The guardian at work: what is seen of workloads is compared with policies as it comes, and deviations go out as events.

SEMANTICS section 5, ADR 0019. Everything on the event loop's thread: observations wait in a bounded queue and are looked
at in slices of some milliseconds, between which events go on being taken in and commands sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from time import perf_counter

import msgspec
import structlog

from quell import metrics
from quell.channel.messages import Observe
from quell.clock import Clock
from quell.controller.deviation_events import SOURCE, event_of, instance
from quell.controller.deviations import Deviations, Found
from quell.controller.guardian_settings import GuardianSettings
from quell.controller.inventory import LiveInventory
from quell.controller.learning import Learning
from quell.controller.observations import Item, Observations
from quell.controller.relevance import standings
from quell.controller.telling import Teller
from quell.controller.watched import Workloads, shape_of
from quell.controller.watching import acted_on, acts, compares_processes, compares_sockets, is_guardian
from quell.controller.workload_events import subject_of
from quell.documents.load import Documents
from quell.durations import parse_duration
from quell.errors import EventError, QueueFull, StoreError
from quell.guardian.guard import Guard, event_name
from quell.matching.index import Index
from quell.model.details import Deviation
from quell.model.event import Event
from quell.model.observation import Observation, Seen
from quell.model.policy import Policy, Ruleset
from quell.model.repeats import Standing
from quell.model.subject import Subject
from quell.storage import deviations as stored
from quell.storage.deviations import Wanted
from quell.storage.store import Store

#: Seconds of work at a time, and observations between two looks at the clock.
SLICE, _STRIDE = 0.002, 16
#: Events that could not be written yet.
WAITING = 10_000
#: Seconds between two events about what was lost.
_NOTICE = 60.0
#: Seconds after which there is room again in a queue that is full.
_FULL = 1.0
#: The queue of what waited for the inventory.
_HELD = "\n"

_log = structlog.get_logger(__name__)

Submit = Callable[[Sequence[Event]], "asyncio.Future[None]"]
#: What agents are to look at from now on; the nodes that it is for, None: all.
Ask = Callable[[Observe, Collection[str] | None], None]


class Guardian:
    def __init__(
        self,
        store: Store,
        inventory: LiveInventory,
        settings: GuardianSettings,
        clock: Clock,
        *,
        submit: Submit,
        teller: Teller,
    ) -> None:
        """submit: takes the events of deviations; done when they are on disk. teller: takes what is lost. StoreError."""
        self.deviations = Deviations(store, settings, clock)
        self.learning = Learning(store, settings, clock)
        self._store = store
        self._inventory = inventory
        self._settings = settings
        self._clock = clock
        self._submit = submit
        self._teller = teller
        #: Of the policies with rulesets, which containers as such are compared with.
        self._images = Guard((), ())
        self._workloads = Workloads(inventory, clock)
        self._policies: dict[str, Policy] = {}
        self._rulesets: dict[str, Ruleset] = {}
        self._acting: frozenset[str] = frozenset()
        self._acted_on: frozenset[str] = frozenset()
        self._queue = Observations(settings.queue)
        self._containers: dict[str, None] = {}
        self._unwritten: deque[Event] = deque(maxlen=WAITING)
        #: Policies that changed, whose deviations are to be looked at again.
        self._to_review: dict[str, Policy] = {}
        self._reviewing: asyncio.Task[None] | None = None
        self._is_awake = False
        self._loop = asyncio.get_running_loop()
        self._ask: Ask | None = None
        self._asks_all = False
        self._told_lost = 0.0
        inventory.subscribe(self._inventory_changed)

    # ---- what is compared with what

    def use(self, documents: Documents, index: Index) -> None:
        """Compare with these from the next observation on; what runs already is asked for again."""
        policies = {policy.name: policy for policy in documents.policies if is_guardian(policy)}
        rulesets = {ruleset.name: ruleset for ruleset in documents.rulesets}
        self._acted_on = acted_on(index.rules)
        self._acting = frozenset(policy.name for policy in policies.values() if acts(policy))
        if (policies, rulesets) == (self._policies, self._rulesets):
            return
        changed = [
            policy
            for policy in policies.values()
            if policy != self._policies.get(policy.name)
            or any(rulesets.get(name) != self._rulesets.get(name) for name in policy.rulesets)
        ]
        self._policies, self._rulesets = policies, rulesets
        self._workloads.use(Guard(tuple(policies.values()), documents.rulesets))
        self._images = Guard([policy for policy in policies.values() if policy.rulesets], documents.rulesets)
        self._containers.update(dict.fromkeys(self._inventory.workloads))
        self._asks_all = True
        self._wake()
        self._review([policy for policy in changed if policy.enabled and all(map(rulesets.get, policy.rulesets))])

    @property
    def wanted(self) -> Observe:
        """What agents are to look at."""
        how = self._settings.observe
        if how == "off":
            return Observe()
        policies = [policy for policy in self._policies.values() if policy.enabled]
        sockets = how == "on" or any(map(compares_sockets, policies))
        return Observe(
            executions=how == "on" or any(compares_processes(policy, self._rulesets) for policy in policies),
            sockets=parse_duration(self._settings.sockets) if sockets else None,
        )

    def subscribe(self, ask: Ask) -> None:
        """Call it when agents are to look again, or at something else."""
        self._ask = ask

    def doubts(self, policy: Policy) -> list[str]:
        """Why it finds less than it says."""
        if self._settings.observe == "off" and policy.enabled and is_guardian(policy):
            return ["guardian.observe is off: only deviations that others send are counted"]
        return []

    # ---- what is seen

    def take(self, sender: str, origin: str, observations: Iterable[Observation]) -> None:
        """To be compared soon. sender: who loses what does not fit. origin: the detector whose word it is."""
        self._queue.put(sender, [Item(observation, origin) for observation in observations])
        self._wake()

    def check(self, count: int) -> None:
        """QueueFull if so many more would not fit. An empty queue takes any number."""
        waiting = len(self._queue)
        if waiting and waiting + count > self._settings.queue:
            raise QueueFull(f"{waiting} observations wait to be compared", _FULL)

    @property
    def waiting(self) -> int:
        """Observations that are still to be compared."""
        return len(self._queue)

    @property
    def lost(self) -> int:
        """Observations that there was no room for, since it was last told how many."""
        return self._queue.lost.total()

    def note(self, event: Event, index: Index) -> None:
        """A deviation that came ready-made, as an event that is on its way to the journal."""
        details = event.details()
        if not isinstance(details, Deviation) or event.source == SOURCE:
            return
        policy = index.policy_of(details)
        found = Found(
            policy=details.policy if policy is None else policy.name,
            deviation=details,
            name=event.name,
            subject=event.subject,
            time=event.received if event.time is None else event.time,
            instance=event.id,
        )
        self.deviations.note(found, event.id)

    # ---- once a second, and the end

    def tick(self) -> None:
        self._queue.put(_HELD, self._workloads.late())
        self._ask_again()
        again, self._unwritten = self._unwritten, deque(maxlen=WAITING)
        if again:
            self._send(list(again))
        self._tell_lost()
        self.deviations.tick()
        self.learning.tick()
        self._wake()

    def close(self) -> None:
        """Look at what waits, and write what was counted and learned."""
        if self._reviewing is not None:
            self._reviewing.cancel()
        self._look_on(float("inf"))
        self.deviations.close()
        self.learning.close()

    def _ask_again(self) -> None:
        nodes, self._workloads.widened = self._workloads.widened, set()
        if self._ask is None or not (self._asks_all or nodes):
            return
        everywhere = self._asks_all or "" in nodes
        self._asks_all = False
        self._ask(self.wanted, None if everywhere else nodes)

    def _tell_lost(self) -> None:
        dropped = self._queue.lost
        if not dropped or self._clock() - self._told_lost < _NOTICE:
            return
        self._told_lost = self._clock()
        for node, count in sorted(dropped.items()):
            self._teller.tell(
                "Guardian.Observations.Lost",
                Subject(node=node or None),
                f"{count} observations{f' of {node}' if node else ''} were compared with no policy: too many came at once",
                facts={"observations": str(count)},
            )
        dropped.clear()

    # ---- what is allowed by now

    def _review(self, policies: Iterable[Policy]) -> None:
        """Look at what deviated from these policies before they changed."""
        self._to_review.update((policy.name, policy) for policy in policies if self.deviations.has(policy.name))
        if self._to_review and (self._reviewing is None or self._reviewing.done()):
            self._reviewing = asyncio.get_running_loop().create_task(self._go_on_reviewing())

    async def _go_on_reviewing(self) -> None:
        while self._to_review:
            name, policy = self._to_review.popitem()
            rulesets = [self._rulesets[word] for word in policy.rulesets if word in self._rulesets]
            try:
                await self.deviations.saved()
                changed = await asyncio.to_thread(_standings, self._store, policy, rulesets)
            except StoreError as error:
                _log.error("deviations could not be looked at again", policy=name, error=str(error))
                return
            for standing in Standing:
                keys = [(name, checksum) for checksum, each in changed.items() if each is standing]
                self.deviations.set_status(keys, standing)

    # ---- looking

    def _wake(self) -> None:
        if not self._is_awake and (self._queue or self._containers):
            self._is_awake = True
            # What the inventory was told of may have been told from outside the loop.
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._is_awake = False
        try:
            self._look_on(perf_counter() + SLICE)
        finally:
            # What cannot be compared is told by the loop's log, and the rest goes on.
            self._wake()

    def _look_on(self, until: float) -> None:
        """Until then, or until nothing waits."""
        events: list[Event] = []
        queue, containers = self._queue, self._containers
        looked = 0
        try:
            while queue or containers:
                looked += 1
                # Containers come in between, so that no flood of executions keeps them waiting.
                if queue and not (containers and looked % _STRIDE == 1):
                    self._compare(queue.pop(), events)
                else:
                    identifier = next(iter(containers))
                    del containers[identifier]
                    self._compare_container(identifier, events)
                if looked % _STRIDE == 0 and perf_counter() >= until:
                    break
        finally:
            metrics.observed(looked)
            if events:
                self._send(events)

    def _compare(self, item: Item, events: list[Event]) -> None:
        observation = item.observation
        workload = self._workloads.of(observation.subject, item.origin)
        shape = shape_of(observation)
        if self._workloads.is_repeat(workload, shape, observation.time) or self._workloads.holds(workload, item):
            return
        subject = msgspec.structs.replace(workload.subject, process=observation.subject.process)
        whole = msgspec.structs.replace(observation, subject=subject)
        is_expected = True
        for watch in workload.watches:
            deviation = watch.compare(whole)
            if deviation is not None:
                is_expected = False
                # What runs is found now, whenever it started.
                time = self._clock() if observation.seen is Seen.RUNNING else observation.time
                self._found(watch.policy, deviation, subject, time, whole, events)
        self.learning.take(whole)
        if is_expected:
            self._workloads.expect(workload, shape, observation.time)

    def _compare_container(self, identifier: str, events: list[Event]) -> None:
        known = self._inventory.workloads.get(identifier)
        if known is None or known.gone is not None or not known.running or known.contested or known.taught_by:
            return
        subject = subject_of(known)
        for watch in self._images.watches(subject):
            deviation = watch.compare_container(subject)
            if deviation is not None:
                self._found(watch.policy, deviation, subject, self._clock(), None, events)

    def _found(
        self,
        policy: Policy,
        deviation: Deviation,
        subject: Subject,
        time: float,
        observation: Observation | None,
        events: list[Event],
    ) -> None:
        name = event_name(deviation)
        found = Found(
            policy=policy.name,
            deviation=deviation,
            name=name,
            subject=subject,
            time=time,
            instance=instance(subject) or f"{time!r}",
            example=observation,
        )
        identifier = self.deviations.count(found, acts=policy.name in self._acting or name in self._acted_on)
        if identifier is None:
            return
        try:
            events.append(event_of(identifier, deviation, name, subject, time=time, received=self._clock()))
        except EventError as error:
            # An agent said what no event can, such as a process of a negative number.
            _log.error("a deviation could not become an event", policy=policy.name, error=str(error))

    def _send(self, events: list[Event]) -> None:
        try:
            written = self._submit(events)
        except (QueueFull, StoreError) as error:
            self._keep(events, error)
            return
        written.add_done_callback(lambda done: self._sent(events, done))

    def _sent(self, events: list[Event], done: asyncio.Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._keep(events, error)

    def _keep(self, events: list[Event], error: BaseException) -> None:
        """Their ids are derived: a second try is harmless."""
        _log.error("deviations could not be written yet", events=len(events), error=str(error))
        self._unwritten.extend(events)

    def _inventory_changed(self, identifiers: Collection[str]) -> None:
        self._queue.put(_HELD, self._workloads.known(identifiers))
        self._containers.update(dict.fromkeys(identifiers))
        self._wake()


def _standings(store: Store, policy: Policy, rulesets: Sequence[Ruleset]) -> dict[str, Standing]:
    """In a thread."""
    found = store.read(lambda connection: stored.find(connection, Wanted(policies=[policy.name])))
    return standings(policy, rulesets, [each for _, each in found])
