"""The controller as the API sees it: one object that owns the store, the state and the outgoing sides."""

from __future__ import annotations

import asyncio
import gc
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from quell import metrics
from quell.channel.messages import Hello, Isolated, Observations, Seen
from quell.configuration import Origin
from quell.controller.approvals import Approvals
from quell.controller.audit_keeper import AuditKeeper
from quell.controller.chains import Chains
from quell.controller.dispatcher import Dispatcher
from quell.controller.editing import Changed, Editing
from quell.controller.evidence import EvidenceKeeper
from quell.controller.flags import Flags
from quell.controller.guardian import Guardian
from quell.controller.happenings import Happenings
from quell.controller.inventory import LiveInventory, agent_source
from quell.controller.isolation import Isolation
from quell.controller.key_rotation import signing_key
from quell.controller.kubernetes.actions import ClusterActions
from quell.controller.kubernetes.credentials import Credentials
from quell.controller.kubernetes.killing import World
from quell.controller.live_settings import LiveSettings
from quell.controller.names_seen import NamesSeen
from quell.controller.outcomes import Outcomes
from quell.controller.own_events import own_event
from quell.controller.own_flags import keep, told_to
from quell.controller.past import as_decided
from quell.controller.pipeline import Pipeline
from quell.controller.rehearsing import Rehearsals
from quell.controller.rulebook import Application, Editor, Kept, Key, kind_of
from quell.controller.simulation import without_history
from quell.controller.syslog.receivers import Receivers
from quell.controller.telling import Teller
from quell.controller.traces import Tracing
from quell.controller.webhooks import Webhooks
from quell.documents.load import Documents
from quell.durations import parse_duration
from quell.errors import QueueFull, StoreError
from quell.evaluate import evaluate
from quell.matching.index import (
    Index,
    compile,  # noqa: A004 - the word of the design
)
from quell.model.action import word
from quell.model.decision import Command, Flag, Outcome, StateChange
from quell.model.event import Category, Event
from quell.model.explanation import Explanation, facts
from quell.model.observation import Observation
from quell.model.sighting import Sightings
from quell.model.subject import Subject
from quell.response import refusals
from quell.response.state import AgentFacts, Safety, State
from quell.setting import read_budget
from quell.settings import Settings
from quell.storage import agents as stored_agents
from quell.storage import flags as stored_flags
from quell.storage import rejects as stored_rejects
from quell.storage.records import Reject, Retention
from quell.storage.store import Store

#: Seconds between two looks at leases and at the size of what a restart would replay.
_TICK = 1.0
#: Bytes of state changes after which a snapshot is taken.
_REPLAY_BYTES = 4 << 20
#: Seconds for which the journal leaves the machine's processors to whoever carries out an order.
_LATER = 0.001

#: What an agent's hello says beside who it is.
_SAID = ("version", "boot_id", "boot_time", "capabilities", "limits", "host_netns")
#: The detector whose word an agent's observations are.
_SENSOR = "sensor"
#: What an agent must be able to do for its containers to count as secured.
_ISOLATES = "quarantine"

_log = structlog.get_logger(__name__)


class Controller:
    def __init__(
        self,
        folder: Path,
        settings: Settings,
        store: Store,
        origins: Mapping[str, Origin] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Credentials: of the Kubernetes API that pods are to be ended through; None: there is none."""
        self.folder = folder
        self._own_namespace = None if credentials is None else credentials.namespace()
        self.store = store
        self.live = LiveSettings(store, settings, origins or {})
        self.live.subscribe(self._use)
        self._keeper = AuditKeeper(store, lambda: self.settings.audit_age)
        self.signing_key = signing_key(folder)
        self.state = _restored(store, self._safety())
        self.teller = Teller(self.ingest, time.time)
        self.chains = Chains(store, time.time)
        self.happenings = Happenings(store, self.teller, settings.own_events, time.time, lost=self._agent_lost)
        self.rulebook = Editing(
            store,
            time.time,
            held=self.holdings,
            use=self._decide_by,
            release=self._released_with,
            told=self.happenings.configuring.changed,
            refused=self.happenings.configuring.refused,
        )
        self.names = NamesSeen(store, time.time)
        self.flags = Flags(store, time.time)
        #: What each enrolled agent last said of itself, by id.
        self._agents = {agent.id: hello for agent in store.read(stored_agents.all_of) if (hello := _hello(agent))}
        self._linked: set[str] = set()
        quota = read_budget(settings.own_events.containers)
        self.inventory = LiveInventory(store, time.time, self._set_agents, self.teller, quota)
        self.inventory.events.begin(self.happenings.attendance.covering())
        self._tasks: set[asyncio.Task[None]] = set()
        self.dispatcher = Dispatcher(
            store,
            self.signing_key,
            time.time,
            self._reported,
            changes=self._settled,
            on_failure=self._write_failed,
        )
        self.cluster_actions = ClusterActions(
            store,
            credentials,
            Outcomes(
                store,
                time.time,
                changes=self._settled,
                on_recorded=self._reported,
                on_failure=self._write_failed,
            ),
            World(
                safety=lambda: self.state.safety,
                machines=self.inventory.machines_of,
                named=self.inventory.pod_named,
                respects_budgets=settings.kubernetes.disruption_budgets == "respect",
                gone_within=parse_duration(settings.kubernetes.gone_within),
            ),
            time.time,
        )
        documents = self.rulebook.documents
        self.webhooks = Webhooks(
            store, {webhook.name: webhook for webhook in documents.webhooks}, settings.webhooks, time.time
        )
        self.syslog = Receivers(
            store,
            {receiver.name: receiver for receiver in documents.syslogs},
            settings.syslog,
            time.time,
            host=socket.gethostname(),
            flag=self._flag,
        )
        self.traces = Tracing(store, settings.traces, time.time, documents.policies)
        self.pipeline = Pipeline(
            store,
            compile(documents, revision=self.rulebook.revision),
            self.state,
            self.dispatcher.offer,
            [self.cluster_actions.offer, self.webhooks.offer],
            self.dispatcher.prepare,
            time.time,
            self._write_failed,
            self.inventory,
        )
        self.guardian = Guardian(
            store, self.inventory, settings.guardian, time.time, submit=self.pipeline.submit, teller=self.teller
        )
        self.guardian.use(documents, self.pipeline.index)
        self.rehearsals = Rehearsals(
            self.pipeline,
            self.dispatcher,
            self.cluster_actions,
            self.inventory,
            self.signing_key,
            self._agents.get,
            time.time,
        )
        self.isolation = Isolation(
            store,
            self.pipeline,
            self.inventory,
            self.chains,
            time.time,
            self._submit_own,
            self.rehearsals.rehearse,
        )
        self.evidence = EvidenceKeeper(store, lambda: self.live.settings.safety.evidence_executable)
        self.approvals = Approvals(store, self.pipeline, time.time, self._write_failed)
        self._set_agents()
        _freeze()

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: Settings,
        origins: Mapping[str, Origin] | None = None,
        credentials: Credentials | None = None,
    ) -> Controller:
        """Opens or makes the state folder. Called on the running event loop. StoreError, LinkError (a bad key file).

        origins: where settings that are no defaults come from (quell.configuration). credentials: see __init__.
        """
        loop = asyncio.get_running_loop()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = settings.journal
        store = Store.open(
            folder / "quell.db",
            retention=Retention(
                max_bytes=journal.max_bytes,
                max_age=parse_duration(journal.max_age),
                evidence_bytes=journal.evidence_bytes,
            ),
            queue_bytes=settings.ingest.queue_bytes,
            call=loop.call_soon_threadsafe,
            soon=loop.call_soon,
            later=lambda write: loop.call_later(_LATER, write),
            key=signing_key(folder),
        )
        return cls(folder, settings, store, origins, credentials)

    @property
    def settings(self) -> Settings:
        """Those in force now."""
        return self.live.settings

    def _use(self, _settings: Settings) -> None:
        self.state.safety = self._safety()

    def _safety(self) -> Safety:
        """With the namespace that Quell itself runs in, whatever it is called (SEMANTICS section 8, protected)."""
        safety, own = self.live.safety, self._own_namespace
        if own is None or own in safety.protected_namespaces:
            return safety
        return msgspec.structs.replace(safety, protected_namespaces=(*safety.protected_namespaces, own))

    def start(self) -> None:
        self.dispatcher.start()
        self.cluster_actions.start()
        self.webhooks.start()
        self.happenings.start()
        self.syslog.start()
        self._spawn(self._tick())
        self._spawn(self._keeper.run())
        self._spawn(self.names.run())
        self._spawn(self.traces.run())

    def stopping(self) -> None:
        """Links that end from here on are ended by the controller."""
        self.happenings.attendance.close()

    async def stop(self) -> None:
        await self.happenings.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.dispatcher.stop()
        await asyncio.gather(self.cluster_actions.stop(), self.webhooks.stop(), self.syslog.stop())
        self.guardian.close()
        self.inventory.close()
        self.names.save()
        await asyncio.to_thread(self._keeper.tell)
        await asyncio.to_thread(self.store.close)

    # ---- events

    def ingest(self, events: Sequence[Event], text: bytes | None = None) -> Awaitable[None]:
        """Decides at once; to be awaited until the events and their decisions are on disk.

        text: what they came in. Raises QueueFull, the awaiting StoreFull and StoreError.
        """
        written = self.pipeline.submit(events, text)
        self.names.note(events)
        deviations = [event for event in events if event.category is Category.DEVIATION]
        for event in deviations:
            self.guardian.note(event, self.pipeline.index)
        return written

    def observed(self, hello: Hello, told: Observations) -> int:
        """What an agent saw of the workloads on its machine. How many are refused: they are of another machine."""
        own = [each for each in told.observations if _is_of(each.subject, hello)]
        self.guardian.take(agent_source(hello.agent), _SENSOR, own)
        if told.lost:
            # The agent says so in an event of its own.
            metrics.observations_lost("agents", told.lost)
        refused = len(told.observations) - len(own)
        if refused:
            metrics.observations_refused(refused)
            _log.warning("an agent told of what is not on its machine", agent=hello.agent, observations=refused)
        return refused

    def observe(self, observations: Sequence[Observation], *, origin: str, sender: str) -> None:
        """What others saw of workloads. origin: the detector whose word it is. sender: a token, such as token/ci.

        QueueFull: so many do not fit now; none was taken.
        """
        self.guardian.check(len(observations))
        self.guardian.take(sender, origin, observations)

    def tell_following(self, name: str, subject: Subject, message: str, delivery: str) -> None:
        """An event of Quell's own about a request. delivery: the id of the webhook's delivery that made it; "": none did."""
        identifier = self.chains.identifier(delivery)
        if not identifier or not self.chains.is_over(identifier):
            self.teller.tell(name, subject, message, identifier=identifier)
            return
        now = time.time()
        event = own_event(identifier, name, subject, message, now, now)
        if not self.store.known_ids([identifier]):
            self._spawn(self._end_chain(event, self.chains.flag(event)))

    async def _end_chain(self, event: Event, flag: Flag | None) -> None:
        try:
            await self.pipeline.submit_unanswered(event, flag)
        except (QueueFull, StoreError) as error:
            _log.error("the end of a chain of events could not be written", event=event.id, error=str(error))

    async def reject(self, rejects: Sequence[Reject]) -> None:
        await asyncio.wrap_future(self.store.submit(lambda connection: stored_rejects.insert(connection, rejects)))

    def explain(self, event_id: str, *, near_misses: bool = False) -> Explanation | None:
        """The record of a past event; None: unknown or no longer kept.

        near_misses: asked of the rules in force now, which the decision's revision may be older than.
        """
        stored = self.store.event(event_id)
        if stored is None:
            return None
        event = as_decided(stored)
        decision = stored.decision
        if near_misses:
            asked = evaluate(event, self.pipeline.index, self.state, decision.time, near_misses=True)
            decision = msgspec.structs.replace(decision, near_misses=asked.near_misses)
        return Explanation(
            event=facts(event),
            decision=decision,
            outcomes=tuple(self.store.outcomes(event_id)),
            flags=tuple(self.store.read(lambda connection: stored_flags.of_event(connection, event_id))),
        )

    # ---- documents

    def documents(self, kind: str | None = None, name: str | None = None, source: str | None = None) -> list[Kept]:
        """Those in force, by kind; rules as they stand, others by name. KeyError: no such kind."""
        wanted = kind_of(kind) if kind is not None else None
        return [
            kept
            for key, kept in self.rulebook.kept.items()
            if wanted in (None, key.kind) and name in (None, key.name) and source in (None, kept.source)
        ]

    async def apply(self, documents: Documents) -> Changed:
        """By Quell itself, and by no source. Editing.apply is what others go through."""
        return await self.rulebook.apply(Application(documents=documents), Editor())

    async def delete(self, kind: str, name: str) -> Changed:
        """By Quell itself. KeyError: there is none. DocumentConflict: something refers to it."""
        return await self.rulebook.delete(Key(kind_of(kind), name), Editor())

    def holdings(self) -> dict[str, list[str]]:
        """Holder -> keys of the quarantines that it holds."""
        found: dict[str, list[str]] = {}
        for key, held in sorted(self.state.quarantines.items()):
            for holder in held.holders:
                found.setdefault(holder, []).append(key)
        return found

    def _decide_by(self, documents: Documents, index: Index) -> None:
        self.pipeline.use(index)
        self.guardian.use(documents, index)
        self.webhooks.set_endpoints({webhook.name: webhook for webhook in documents.webhooks})
        self.syslog.set_receivers({receiver.name: receiver for receiver in documents.syslogs})
        self.traces.use(documents.policies)
        _freeze()

    def _flag(self, flag: Flag) -> None:
        """Raise a flag about Quell's own work, which no event led to."""
        items = told_to(flag, self.pipeline.index.webhooks)
        metrics.flagged(flag)

        def done(error: StoreError | None) -> None:
            if error is None:
                self.webhooks.offer(items)
            _told(error)

        self.store.write(lambda connection: keep(connection, flag, items), done)

    # ---- agents and quarantines

    def agent_connected(self, hello: Hello) -> None:
        """Its facts are kept: while its link is down, commands wait for it until they expire."""
        self._agents[hello.agent] = hello
        self._linked.add(hello.agent)
        self.happenings.attendance.connected(hello)
        self.inventory.linked(hello)
        if _ISOLATES in hello.capabilities:
            self.inventory.covered(hello.agent, self.happenings.attendance.number(hello.agent))
        else:
            self.inventory.events.uncovered(hello.agent)
        self._set_agents()
        self.store.write(lambda connection: _keep_hello(connection, hello, time.time()), _told)

    def agent_leaving(self, hello: Hello, reason: str) -> None:
        """It says that it stops."""
        self.happenings.attendance.leaving(hello.agent, reason)

    def agent_disconnected(self, agent: str, why: str = "") -> None:
        self._linked.discard(agent)
        self.happenings.attendance.disconnected(agent, why or "its link is down")
        self.inventory.lost(agent_source(agent))

    def sighted(self, hello: Hello, seen: Seen) -> None:
        """What runs on an agent's machine, as its runtimes say."""
        self.inventory.sighted(hello, seen)

    def told_of_isolation(self, hello: Hello, isolated: Isolated) -> None:
        """What an agent keeps isolated, as it says itself."""
        self.isolation.told(hello.agent, isolated)

    def take_sightings(self, sightings: Sightings) -> None:
        """What a cluster's Kubernetes says. ValueError: a source of no known kind."""
        self.state.set_clusters(self.cluster_actions.clusters())
        self.inventory.take(sightings)

    def agent_joined(self, agent: str) -> None:
        """It has enrolled."""
        self.happenings.attendance.joined(agent)

    def agent_withdrawn(self, agent: str, why: str = "it was withdrawn") -> None:
        """Its enrolment has ended: nothing is sent to it any more."""
        self.inventory.events.uncovered(agent)
        self.happenings.attendance.withdrawn(agent, why)
        self._linked.discard(agent)
        self._agents.pop(agent, None)
        self.inventory.forget(agent_source(agent))
        self._set_agents()

    def _agent_lost(self, agent: str) -> None:
        """It is away for so long that what it could isolate no longer can be."""
        self.inventory.events.uncovered(agent)

    def agents(self) -> list[dict[str, Any]]:
        """Every enrolled agent, by name: what it said of itself, and whether its link is up."""
        told = []
        for agent in self.store.read(stored_agents.all_of):
            hello = self._agents.get(agent.id)
            told.append(
                {
                    "id": agent.id,
                    "name": agent.name,
                    "node": agent.node,
                    "machine_id": agent.machine_id,
                    "enrolled": agent.enrolled,
                    "connected": agent.id in self._linked,
                    "version": "" if hello is None else hello.version,
                    "capabilities": [] if hello is None else sorted(hello.capabilities),
                    "limits": [] if hello is None else list(hello.limits),
                    "waiting": self.dispatcher.waiting(agent.id),
                }
            )
        return told

    def agent_count(self) -> tuple[int, int]:
        """How many agents are enrolled, and how many are linked. StoreError."""
        return self.store.read(stored_agents.count), len(self._linked)

    def without_history(self) -> State:
        """A state in which nothing has been done yet, with the agents and workloads there are."""
        return without_history(self.live.safety, self._agent_facts(), self.inventory.workloads)

    # ---- what comes back

    async def _released_with(self, holder: str, why: str) -> None:
        await self.isolation.released_with(holder, why)

    def _settled(self, command: Command, outcome: Outcome) -> Sequence[StateChange]:
        changes = self.isolation.settled(command, outcome)
        return (*changes, *self._refused(command, outcome)) if refusals.is_told(outcome) else changes

    def _refused(self, command: Command, outcome: Outcome) -> Sequence[StateChange]:
        """Tell people, before the outcome is written: a crash between the two makes the same flag again."""
        stored = self.store.event(command.event_id) if command.event_id else None
        if stored is None:
            return ()
        event, now = as_decided(stored), time.time()
        counted = refusals.counted(command, outcome, event, self.state, now)
        self.state.change(counted)
        for flag in refusals.flags(command, outcome, event, counted, now):
            self._flag(flag)
        return counted

    def _reported(self, command: Command, outcome: Outcome) -> None:
        _log.debug(
            "outcome",
            command=command.id,
            action=word(command.action),
            status=outcome.status.value,
            reason=None if outcome.reason is None else outcome.reason.value,
        )

    def _submit_own(self, submit: Callable[[], asyncio.Future[None]], event_id: str) -> None:
        """Queued at once, so that it stands before what is queued next, and again until it is on disk."""
        try:
            written: asyncio.Future[None] | None = submit()
        except (QueueFull, StoreError):
            written = None
        self._spawn(self._until_written(submit, written, event_id))

    async def _until_written(
        self, submit: Callable[[], asyncio.Future[None]], written: asyncio.Future[None] | None, event_id: str
    ) -> None:
        while True:
            try:
                await (submit() if written is None else written)
                return
            except (QueueFull, StoreError) as error:
                _log.error("an event of Quell's own cannot be written yet", id=event_id, error=str(error))
            written = None
            await asyncio.sleep(_TICK)

    def _write_failed(self) -> None:
        """The state holds what the journal does not: decide nothing until it is read back."""
        if not self.pipeline.suspended:
            self.pipeline.suspended = True
            self._spawn(self._restore_state())

    async def _restore_state(self) -> None:
        while True:
            try:
                # All that was queued before has succeeded or failed once this has.
                self.pipeline.offer(await asyncio.wrap_future(self.store.journal_orders()))
                if self.store.statistics().queued_entries:
                    continue
                self.state = self.pipeline.state = _restored(self.store, self._safety())
            except StoreError as error:
                _log.error("the store cannot be used; nothing is decided meanwhile", error=str(error))
                await asyncio.sleep(_TICK)
            else:
                break
        self._set_agents()
        self.pipeline.suspended = False

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self.inventory.tick()
            self.happenings.tick()
            self.guardian.tick()
            if self.pipeline.suspended:
                continue
            try:
                await self.isolation.tick()
                await self.approvals.tick()
            except (QueueFull, StoreError) as error:
                _log.error("what has run out could not be ended yet", error=str(error))
            if self.store.statistics().replay_bytes > _REPLAY_BYTES:
                self._snapshot()

    def _snapshot(self) -> None:
        self.store.snapshot(self.state.snapshot(), _told)

    def _set_agents(self) -> None:
        """What the state knows from outside: the agents, clusters' APIs, and the inventory's workloads."""
        self.state.set_clusters(self.cluster_actions.clusters())
        self.state.workloads = self.inventory.workloads
        self.state.set_agents(self._agent_facts())

    def _agent_facts(self) -> list[AgentFacts]:
        return [
            _agent_facts(hello, kubernetes=self.inventory.is_kubernetes(hello.node)) for hello in self._agents.values()
        ]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_of(subject: Subject, hello: Hello) -> bool:
    """Whether it says that it is on the agent's own machine, and nothing else."""
    named = ((subject.node, hello.node), (subject.machine_id, hello.machine_id))
    return any(said is not None for said, _ in named) and all(said in (None, own) for said, own in named)


def _told(error: StoreError | None) -> None:
    """For writes that are made again by themselves."""
    if error is not None:
        _log.error("what the controller knows could not be saved", error=str(error))


def _keep_hello(connection: sqlite3.Connection, hello: Hello, now: float) -> None:
    agent = stored_agents.get(connection, hello.agent)
    if agent is not None:
        said = {name: getattr(hello, name) for name in _SAID}
        stored_agents.put(connection, msgspec.structs.replace(agent, seen=now, **said))


def _hello(agent: stored_agents.Agent) -> Hello | None:
    """What it said when it was last linked; None: it never was."""
    if agent.seen is None or agent.boot_time is None:
        return None
    said = {name: getattr(agent, name) for name in _SAID}
    return Hello(agent=agent.id, node=agent.node, machine_id=agent.machine_id, **said)


def _agent_facts(hello: Hello, *, kubernetes: bool) -> AgentFacts:
    return AgentFacts(
        id=hello.agent,
        node=hello.node,
        machine_id=hello.machine_id,
        boot_id=hello.boot_id,
        boot_time=hello.boot_time,
        capabilities=frozenset(hello.capabilities),
        host_netns=hello.host_netns,
        kubernetes=kubernetes,
    )


def _restored(store: Store, safety: Safety) -> State:
    """The state that the journal gives: the last snapshot and every change after it, in their order."""
    snapshot, changes = store.restore()
    state = State(safety) if snapshot is None else State.restore(snapshot, safety)
    for change in changes:
        state.change(change.changes)
    return state


def _freeze() -> None:
    """Take the index out of the collector's sight: walking 100,000 rules stops everything for 177 ms."""
    gc.collect()
    gc.freeze()
