"""Quarantines as the controller has them: asked for and ended by people, ended by leases, and what agents say of them.

All of it runs on the event loop's thread. What follows from what is decided in quell.response.quarantine. SEMANTICS 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import msgspec
import structlog
from msgspec import Struct

from quell.channel.messages import Isolated
from quell.clock import Clock
from quell.controller import audit_trail
from quell.controller.chains import Chains
from quell.controller.inventory import LiveInventory
from quell.controller.own_events import (
    UNQUARANTINED,
    about,
    after_outcome,
    following,
    makes_event,
    own_event,
    subject_of,
)
from quell.controller.past import as_decided
from quell.controller.pipeline import Pipeline
from quell.ids import uuid7
from quell.model.action import Quarantine
from quell.model.audit import Actor
from quell.model.decision import (
    Command,
    Decision,
    Outcome,
    OutcomeStatus,
    QuarantineEnded,
    QuarantineHeld,
    QuarantineLetGo,
    StateChange,
)
from quell.model.event import Event
from quell.model.explanation import Explanation, facts
from quell.model.investigator import read_investigator
from quell.model.rehearsal import Rehearsal
from quell.model.subject import Container, NetworkTarget, Pod, Process, Subject
from quell.response.facts import Phase, Quarantined, Workload
from quell.response.flags import flags
from quell.response.quarantine import Release, depth, found, let_go, lost, request, run_out
from quell.response.state import State
from quell.response.targets import REQUEST
from quell.storage.records import Noted
from quell.storage.store import Store

RELEASE = "Quarantine.Release"
#: The agent found that there is nothing isolated any more.
ENDED = "Quarantine.Ended"
#: The agent found that somebody had opened or changed what isolates a namespace, and isolated it again.
TAMPERED = "Quarantine.Tampered"

_ENDS = {
    "gone": "its network namespace is gone",
    "lease": "its lease ran out",
    "released": "somebody opened it on the machine itself",
}

_log = structlog.get_logger(__name__)


class Wanted(Struct, frozen=True, kw_only=True):
    """What a person wants isolated: one of workload, pod and pid."""

    #: A container's id, or at least 12 digits of it.
    workload: str | None = None
    #: namespace/name, or a uid.
    pod: str | None = None
    #: Where it runs; needed with pid, elsewhere only if the inventory does not know.
    node: str | None = None
    pid: int | None = None
    start_ticks: int | None = None
    #: Seconds; None: until somebody releases it.
    ttl: float | None = None
    strict: bool = False
    #: Addresses that may reach it meanwhile.
    investigator: tuple[str, ...] = ()
    comment: str = ""


class Member(Struct, frozen=True, kw_only=True):
    """A container in an isolated namespace."""

    id: str
    name: str | None = None
    namespace: str | None = None
    pod: str | None = None
    image: str | None = None


class Listed(Struct, frozen=True, kw_only=True):
    """One quarantine as it is now."""

    key: str
    #: The pod, the container or the process, as people call it.
    name: str
    phase: Phase
    target: NetworkTarget
    #: Who holds it, and until when (epoch seconds; null: until let go).
    holders: dict[str, float | None]
    #: When the last holder's time is over; null: never by itself.
    until: float | None
    since: float
    #: The agent said that it is done.
    confirmed: bool
    strict: bool
    #: Addresses that may reach it, unless it is strict, by the holder who asks for it.
    investigators: dict[str, tuple[str, ...]]
    #: Id of the agent that does it.
    agent: str
    #: Id of the event that it began with: `quell explain` shows why.
    cause: str
    #: Those who held it before, and let go.
    former: tuple[str, ...]
    #: How often its release was ordered so far.
    tries: int
    #: All containers in the namespace that the inventory knows.
    workloads: tuple[Member, ...] = ()


class Selection(Struct, frozen=True, kw_only=True):
    """Which holders of which quarantines let go; what is given must all hold. Nothing given: everything."""

    key: str | None = None
    #: As in Listed.holders, such as rule/8, policy/NAME or user/NAME.
    holder: str | None = None
    #: Ids of containers, in full: those of a group.
    workloads: frozenset[str] | None = None


class LetGo(Struct, frozen=True, kw_only=True):
    """What letting go comes to for one quarantine."""

    key: str
    name: str
    node: str
    #: Who lets go.
    gone: tuple[str, ...]
    #: Who holds it still; nobody: it is released.
    holders: tuple[str, ...]


class LetGoAll(Struct, frozen=True, kw_only=True):
    """event: id of the event that it is in the journal as; "": nothing was to be done, or it was a dry run."""

    released: list[LetGo]
    kept: list[LetGo]
    event: str = ""


class Isolation:
    """Over the pipeline and its state."""

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        inventory: LiveInventory,
        chains: Chains,
        clock: Clock,
        submit: Callable[[Callable[[], asyncio.Future[None]], str], None],
        rehearse: Callable[[Event, Decision], Awaitable[tuple[Rehearsal, ...]]],
    ) -> None:
        """submit: submits an event of Quell's own, whose id is given, again until it is on disk. rehearse: what a decision
        that is not applied would come to.
        """
        self._store = store
        self._pipeline = pipeline
        self._inventory = inventory
        self._chains = chains
        self._clock = clock
        self._submit = submit
        self._rehearse = rehearse

    @property
    def _state(self) -> State:
        return self._pipeline.state

    # ---- shown

    def all(self) -> list[Listed]:
        """By key."""
        held = self._state.quarantines
        members = _members(held, self._inventory.workloads.values()) if held else {}
        return [_listed(key, each, members.get(key, ())) for key, each in sorted(held.items())]

    def one(self, key: str) -> Listed | None:
        held = self._state.quarantines.get(key)
        if held is None:
            return None
        return _listed(key, held, _members({key: held}, self._inventory.workloads.values()).get(key, ()))

    # ---- asked for

    async def request(self, wanted: Wanted, actor: Actor, *, dry_run: bool = False) -> Explanation:
        """What is decided about a person's wish, once it is on disk. ValueError: it names nothing, or too much.

        QueueFull, StoreError.
        """
        now = self._clock()
        told = f"{actor} asks for a quarantine" + (f": {wanted.comment}" if wanted.comment else "")
        event = own_event(uuid7(now), REQUEST, self._subject(wanted), told, now, now, user=str(actor))
        event, decision = self._decided(event, wanted, actor, now)
        if not dry_run:
            (record,) = decision.actions
            noted = Noted(entry=audit_trail.of_request(actor, record, wanted.comment), time=now)
            await self._pipeline.submit_decided(event, decision, [noted])
        made = () if dry_run else tuple(flags(decision, event))
        rehearsals = await self._rehearse(event, decision) if dry_run else ()
        return Explanation(event=facts(event), decision=decision, flags=made, rehearsals=rehearsals)

    def _decided(self, event: Event, wanted: Wanted, actor: Actor, now: float) -> tuple[Event, Decision]:
        container = event.subject.container
        # What nobody knows is not to be learned from what a person typed.
        known = container is None or self._inventory.find(container.id) is not None
        enriched = self._inventory.enrich(event) if known else None
        if enriched is not None:
            event = enriched.event
        index = self._pipeline.index
        decision = request(
            event,
            Quarantine(ttl=wanted.ttl, strict=wanted.strict, investigator=_addresses(wanted)),
            str(actor),
            state=self._state,
            webhooks=index.webhooks,
            now=now,
            revision=index.revision,
        )
        if enriched is not None:
            decision = msgspec.structs.replace(decision, added=enriched.added, conflicts=enriched.conflicts)
        return event, decision

    def _subject(self, wanted: Wanted) -> Subject:
        given = [name for name in ("workload", "pod", "pid") if getattr(wanted, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of workload, pod and pid, got {' and '.join(given) or 'none'}")
        if wanted.start_ticks is not None and wanted.pid is None:
            raise ValueError("start_ticks goes with pid")
        if wanted.workload is not None:
            known = self._inventory.find(wanted.workload)
            identifier = wanted.workload if known is None else known.id
            return Subject(node=wanted.node, container=Container(id=identifier))
        if wanted.pod is not None:
            namespace, _, name = wanted.pod.rpartition("/")
            if namespace:
                return Subject(node=wanted.node, namespace=namespace, pod=Pod(name=name))
            return Subject(node=wanted.node, pod=Pod(uid=wanted.pod))
        if wanted.node is None:
            raise ValueError("pid needs node: the machine that the process runs on")
        process = Process(pid=wanted.pid, start_ticks=wanted.start_ticks)
        first = self._first(wanted.node, wanted.pid) if wanted.start_ticks is None else None
        if first is not None:
            return Subject(node=wanted.node, container=Container(id=first.id))
        return Subject(node=wanted.node, process=process)

    def _first(self, node: str, pid: int | None) -> Workload | None:
        """The container whose first process this is."""
        for known in self._inventory.workloads.values():
            if known.pid == pid and known.node == node and known.running and known.gone is None:
                return known
        return None

    # ---- let go

    async def release(self, selected: Selection, actor: Actor, why: str, *, dry_run: bool = False) -> LetGoAll:
        """A person lets holders go. QueueFull, StoreError."""
        now = self._clock()
        identifier = uuid7(now)
        released = self._let_go(selected, str(actor), now, identifier)
        quarantines = self._state.quarantines
        names = {each.key: each.name for each in self.all()} if released.changes else {}
        told = _told(released, names, quarantines)
        if dry_run or not released.changes:
            return told
        noted = [
            Noted(entry=audit_trail.of_release(actor, each.key, quarantines[each.key], each.holders), time=now)
            for each in (*told.released, *told.kept)
        ]
        await self._submit_release(identifier, released, why, now, noted)
        return msgspec.structs.replace(told, event=identifier)

    def _let_go(self, selected: Selection, by: str, now: float, identifier: str) -> Release:
        among = None
        if selected.workloads is not None:
            wanted = selected.workloads
            members = _members(self._state.quarantines, self._inventory.workloads.values())

            def among(key: str, _: Quarantined) -> bool:
                return any(member.id in wanted for member in members.get(key, ()))

        return let_go(
            self._state, now, key=selected.key, holder=selected.holder, among=among, by=by, event_id=identifier
        )

    async def released_with(self, holder: str, why: str) -> None:
        """All that a holder has, because its document goes. QueueFull, StoreError."""
        now = self._clock()
        identifier = uuid7(now)
        await self._submit_release(identifier, let_go(self._state, now, holder=holder, event_id=identifier), why, now)

    async def tick(self) -> None:
        """Once a second: leases that are over, and what is to be ordered again. QueueFull, StoreError."""
        now = self._clock()
        identifier = uuid7(now)
        released = run_out(self._state, now, identifier)
        ran_out = any(isinstance(change, QuarantineLetGo) for change in released.changes)
        why = "its lease ran out" if ran_out else "what was ordered before has not been done"
        await self._submit_release(identifier, released, why, now)

    async def _submit_release(
        self, identifier: str, released: Release, why: str, now: float, noted: Sequence[Noted] = ()
    ) -> None:
        if not released.changes:
            return
        nodes = {record.target.node for record in released.records if isinstance(record.target, NetworkTarget)}
        subject = Subject(node=nodes.pop() if len(nodes) == 1 else None)
        event = own_event(identifier, RELEASE, subject, why, now, now)
        decision = self._decision(event, released.changes, now)
        decision = msgspec.structs.replace(decision, actions=released.records)
        await self._pipeline.submit_decided(event, decision, noted)

    def _decision(self, event: Event, changes: tuple[StateChange, ...], now: float) -> Decision:
        return Decision(event_id=event.id, time=now, revision=self._pipeline.index.revision, changes=changes)

    # ---- what comes back

    def settled(self, command: Command, outcome: Outcome) -> Sequence[StateChange]:
        """What follows from an outcome. The event it makes enters the queue first: a crash between the two leaves the
        outcome unacknowledged, so that it is reported again and makes the same event, which is then a repetition.
        """
        state, target = self._state, command.target
        if not isinstance(target, NetworkTarget):
            return state.outcome(outcome)
        held = state.quarantines.get(target.key)
        late = isinstance(command.action, Quarantine) and held is None and outcome.status is OutcomeStatus.DONE
        if not (late or makes_event(command, outcome, held)):
            return state.outcome(outcome)
        stored = self._store.event(command.event_id) if command.event_id else None
        decided = None if stored is None else stored.decision
        begun = stored
        if held is not None and held.cause not in ("", command.event_id):
            begun = self._store.event(held.cause)
        event = after_outcome(
            command,
            outcome,
            held,
            cause=None if begun is None else as_decided(begun),
            decided=decided,
            received=self._clock(),
        )
        if event is not None:
            self._make(event)
        changes = state.outcome(outcome)
        if late and decided is not None:
            holders = (change for change in decided.changes if isinstance(change, QuarantineHeld))
            adopted = found(state, command, holders)
            state.change(adopted)
            changes = (*changes, *adopted)
        return changes

    def told(self, agent: str, message: Isolated) -> None:
        """What an agent keeps isolated, and what of it has come to an end without a command."""
        if self._pipeline.suspended:
            return  # it says so again
        changes = lost(self._state, agent, message.closed, message.ended)
        now = self._clock()
        for change in changes:
            if isinstance(change, QuarantineEnded):
                self._ended(change, message.ended.get(change.key, ""), now)
        for key, count in message.tampered.items():
            held = self._state.quarantines.get(key)
            if held is not None and held.agent == agent:
                self._tampered(held, count, now)

    def _tampered(self, held: Quarantined, count: int, now: float) -> None:
        key, name = held.target.key, self._name(held)
        times = "" if count == 1 else f", {count} times since this was last told"
        said = f"{name}: somebody opened or changed its isolation on the machine{times}; it is isolated again"
        _log.warning("somebody tampered with a quarantine", quarantine=key, count=count)
        begun = self._store.event(held.cause) if held.cause else None
        subject = subject_of(held.target, None if begun is None else as_decided(begun))
        self._make(own_event(uuid7(now), TAMPERED, subject, said, now, now, **about(key, [*held.holders])))

    def _ended(self, change: QuarantineEnded, why: str, now: float) -> None:
        held = self._state.quarantines[change.key]
        name = self._name(held)
        said = _ENDS.get(why, "its agent does not keep it isolated any more")
        _log.info("a quarantine ended by itself", quarantine=change.key, why=said)
        begun = self._store.event(held.cause) if held.cause else None
        subject = subject_of(held.target, None if begun is None else as_decided(begun))
        holders = [*held.former, *held.holders]
        more = about(change.key, holders)
        # What a lease ends goes on with the chain of events that it began in.
        chain = depth(held.cause) if why == "lease" else 0
        identifier = uuid7(now) + (f"/chain-{chain}" if chain else "")
        event = own_event(identifier, ENDED, subject, f"{name} is not isolated any more: {said}", now, now, **more)
        decision = self._decision(event, (change,), now)
        self._submit(lambda: self._pipeline.submit_decided(event, decision), event.id)
        if why != "gone":
            self._make(
                own_event(
                    following(identifier), UNQUARANTINED, subject, f"{name} unquarantined: {said}", now, now, **more
                )
            )

    def _name(self, held: Quarantined) -> str:
        return _name(
            held, _members({held.target.key: held}, self._inventory.workloads.values()).get(held.target.key, ())
        )

    def _make(self, event: Event) -> None:
        """Queued at once, so that it stands before what is queued next."""
        pipeline, chains = self._pipeline, self._chains
        if not chains.is_over(event.id):
            self._submit(lambda: pipeline.submit([event]), event.id)
        elif not self._store.known_ids([event.id]):
            flag = chains.flag(event)
            self._submit(lambda: pipeline.submit_unanswered(event, flag), event.id)


def _addresses(wanted: Wanted) -> tuple[str, ...]:
    """Each once, in order. ValueError: they are none, or nobody could use them."""
    if wanted.strict and wanted.investigator:
        raise ValueError("strict closes everything: no investigator can reach it")
    return tuple(sorted(set(map(read_investigator, wanted.investigator))))


def _told(released: Release, names: dict[str, str], quarantines: dict[str, Quarantined]) -> LetGoAll:
    kept = {each.key: each for each in released.kept}
    free: list[LetGo] = []
    still: list[LetGo] = []
    for record in released.records:
        if not isinstance(record.target, NetworkTarget):
            continue
        key = record.target.key
        stays = kept.get(key)
        gone = tuple(sorted(quarantines[key].holders)) if stays is None else stays.gone
        one = LetGo(
            key=key,
            name=names.get(key, key),
            node=record.target.node,
            gone=gone,
            holders=() if stays is None else stays.holders,
        )
        (free if stays is None else still).append(one)
    return LetGoAll(released=free, kept=still)


def _listed(key: str, held: Quarantined, members: Sequence[Workload]) -> Listed:
    return Listed(
        key=key,
        name=_name(held, members),
        phase=held.phase,
        target=held.target,
        holders=dict(held.holders),
        until=held.lease if held.holders else None,
        since=held.since,
        confirmed=held.confirmed,
        strict=held.strict,
        investigators=dict(held.investigators),
        agent=held.agent,
        cause=held.cause,
        former=held.former,
        tries=held.tries,
        workloads=tuple(
            Member(id=each.id, name=each.name, namespace=each.namespace, pod=each.pod_name, image=each.image)
            for each in members
        ),
    )


def _name(held: Quarantined, members: Collection[Workload]) -> str:
    """The pod, else the container that was meant, else the process."""
    target = held.target
    meant = next((each for each in members if each.id == target.container_id), None) or next(iter(members), None)
    if meant is not None and meant.pod_name:
        return f"{meant.namespace}/{meant.pod_name}" if meant.namespace else meant.pod_name
    if meant is not None and meant.name:
        return meant.name
    if target.container_id is not None:
        return target.container_id[:12]
    process = target.process
    if target.pod_uid is None and process is not None and process.pid is not None:
        return f"{process.name or 'process'}[{process.pid}]"
    return target.key


def _members(quarantines: dict[str, Quarantined], workloads: Iterable[Workload]) -> dict[str, list[Workload]]:
    """The containers that share each isolated namespace, by its key and by id."""
    keys: dict[str, str] = {}
    for key, held in quarantines.items():
        for name in (key, held.target.container_id, held.target.pod_uid):
            if name:
                keys[name] = key
    found: dict[str, list[Workload]] = {}
    for known in workloads:
        for name in (known.pod_uid, known.sandbox, known.id):
            if name in keys:
                found.setdefault(keys[name], []).append(known)
                break
    return {key: sorted(some, key=lambda known: known.id) for key, some in found.items()}
