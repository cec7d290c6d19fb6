"""Events in: decide, write, acknowledge, and only then let the outbox go. SEMANTICS section 9.

What goes to agents is let go as soon as all that it follows from is in the order log (docs/adr/0033). All of it but the
writing of the journal runs on the event loop's thread. Decisions are applied to the state in the order in which they
enter the store's queue, so that the state's order is the journal's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from operator import attrgetter

import msgspec
import structlog

from quell import metrics
from quell.clock import Clock
from quell.controller.bodies import body
from quell.controller.dispatcher import outbox_item
from quell.controller.inventory import LiveInventory
from quell.controller.notices import flag_notice, notice
from quell.errors import QueueFull, StoreError
from quell.evaluate import conclude
from quell.matching.index import Index
from quell.model.action import SendWebhook, SuppressLog
from quell.model.answer import Answer
from quell.model.decision import Command, Decision, Flag, Status
from quell.model.event import Event
from quell.response.commands import commands
from quell.response.endpoints import subscribers
from quell.response.flags import flags, repeated
from quell.response.state import State
from quell.storage.records import Batch, Entry, Noted, OutboxItem
from quell.storage.store import Store

#: Given ids remembered so that a repetition seldom needs a look into the database.
_RECENT_IDS = 65_536

_log = structlog.get_logger(__name__)

Offer = Callable[[Sequence[OutboxItem]], None]

_id_given = attrgetter("id_given")
_raw = attrgetter("raw")


class Pipeline:
    def __init__(
        self,
        store: Store,
        index: Index,
        state: State,
        order: Offer,
        offers: Sequence[Offer],
        prepare: Callable[[Command], bool],
        clock: Clock,
        on_failure: Callable[[], None],
        inventory: LiveInventory,
    ) -> None:
        """order, offers: who takes outbox items once they are on disk; each leaves alone what is not its own. `order` has no
        time to lose: what goes to agents. prepare: does what can be done for a command before it is on disk, and says
        whether somebody waits for it. on_failure: a write did not succeed, so the state holds decisions that the journal
        does not. inventory: fills in what an event does not say of its workload.

        The store must run its callbacks on the event loop (Store.open's `call`).
        """
        self.state = state
        #: Nothing is decided: the state holds what the journal does not.
        self.suspended = False
        self._inventory = inventory
        self.use(index)
        self._store = store
        self._order = order
        self._offers = offers
        self._prepare = prepare
        #: Events of the batch that is being decided whose orders somebody waits for.
        self._awaited: set[str] = set()
        self._clock = clock
        self._on_failure = on_failure
        #: Given ids, and for those not yet on disk the future that says when they are.
        self._recent: OrderedDict[str, asyncio.Future[None] | None] = OrderedDict()

    def use(self, index: Index) -> None:
        """Decide by these documents from the next event on."""
        self.index = index
        self._rules = {f"rule/{rule.id}": rule for rule in index.rules}
        self._inventory.use(index)

    def submit(self, events: Sequence[Event], text: bytes | None = None) -> asyncio.Future[None]:
        """Decide these events and queue them; the future is done when they are on disk. text: as in Batch.

        An event whose id came with it and is known already is left out: it was decided before, and if it is still on
        its way to the disk the future waits for that. QueueFull if too much waits; then nothing was done. The future
        raises StoreFull or StoreError.
        """
        sizes = list(map(len, map(_raw, events)))
        self.check(len(events), sum(sizes))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fresh, awaited = self._fresh(events, future)
        if len(fresh) < len(events):
            sizes, text = list(map(len, map(_raw, fresh))), None
        self._append(self._decided(fresh, sizes, text), future)
        return asyncio.ensure_future(_all_of((*awaited, future))) if awaited else future

    def _decided(self, events: Sequence[Event], sizes: Sequence[int], text: bytes | None) -> Batch:
        """As `quell.evaluate.evaluate` decides each of them, in order; most have an answer that the index gives at once."""
        index, state, now = self.index, self.state, self._clock()
        found = list(map(self._inventory.enrich, events))
        enriched = {n: each for n, each in enumerate(found) if each is not None} if any(found) else {}
        if enriched:
            events = [event if each is None else each.event for event, each in zip(events, found, strict=True)]
        matched = index.match_all(events, state, now)
        entries: dict[int, Entry] = {}
        for n, each in enumerate(matched):
            if isinstance(each, Answer):
                continue
            event = events[n]
            decision = conclude(event, each, index, state, now)
            if n in enriched:
                decision = msgspec.structs.replace(decision, added=enriched[n].added, conflicts=enriched[n].conflicts)
            if _is_bare(decision):
                entries[n] = Entry(event=event, decision=decision, own_id=not event.id_given)
            else:
                entries[n] = self._entry(event, decision, now)
        return Batch(
            events=events,
            answers=[each if isinstance(each, Answer) else None for each in matched],
            times=[now] * len(events),
            revisions=[index.revision] * len(events),
            added={n: each.added for n, each in enriched.items() if each.added is not None and n not in entries},
            conflicts={n: each.conflicts for n, each in enriched.items() if each.conflicts and n not in entries},
            entries=entries,
            sizes=sizes,
            text=text,
        )

    def submit_decided(self, event: Event, decision: Decision, noted: Sequence[Noted] = ()) -> asyncio.Future[None]:
        """As `submit`, of one event of Quell's own that is decided already: no rule is asked.

        noted: for the audit log, in the same transaction.
        """
        self.check(1, len(event.raw))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fresh, awaited = self._fresh([event], future)
        entries = [self._entry(each, decision, decision.time) for each in fresh]
        self._append(Batch.of(entries), future, noted)
        return asyncio.ensure_future(_all_of((*awaited, future))) if awaited else future

    def submit_unanswered(self, event: Event, flag: Flag | None) -> asyncio.Future[None]:
        """Journal an event of Quell's own that no rule may answer, with the flag that says so to people."""
        self.check(1, len(event.raw))
        now = self._clock()
        decision = Decision(event_id=event.id, time=now, revision=self.index.revision)
        raised = () if flag is None else (flag,)
        metrics.decided(event, decision, raised)
        entry = Entry(
            event=event, decision=decision, outbox=tuple(self._deliveries(event, decision, raised, now)), flags=raised
        )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._append(Batch.of([entry]), future)
        return future

    def offer(self, queued: Sequence[OutboxItem]) -> None:
        """Have these sent, which are on disk."""
        for offer in (self._order, *self._offers):
            offer(queued)

    def check(self, events: int, size: int) -> None:
        """Raises QueueFull if so many events of so many bytes would not be taken now."""
        if self.suspended:
            raise QueueFull("the state is being read back after a failed write", retry_after=1.0)
        self._store.check(events, size)

    def _append(self, batch: Batch, future: asyncio.Future[None], noted: Sequence[Noted] = ()) -> None:
        queued = [item for entry in batch.entries.values() for item in entry.outbox]
        given = _given(batch.events)
        awaited, self._awaited = self._awaited, set()
        ordering = [entry for entry in batch.entries.values() if entry.event.id in awaited] if awaited else []
        # What people do is in the audit log with it, or not done.
        kept = self._store.keep_orders(ordering) if ordering and not noted else None
        if kept is not None:
            self._order([item for item in queued if item.event_id in awaited])

        # It holds these and not the batch, which would else live until the commit.
        def done(error: StoreError | None) -> None:
            if kept is not None and error is None:
                self._store.orders_journaled(kept)
            self._written(future, queued, given, error, ordered=() if kept is None else awaited)

        # Whoever carries out the order needs the processors first; the log has it.
        self._store.append_batch(batch, done, noted, later=kept is not None)

    def _entry(self, event: Event, decision: Decision, now: float) -> Entry:
        """An event with what follows from its decision; the state learns of the decision here, and only here."""
        self.state.apply(decision)
        ordered = commands(decision, self.state, now)
        for command in ordered:
            # Before the rest: its target is looked at meanwhile.
            if self._prepare(command):
                self._awaited.add(event.id)
        raised = flags(decision, event)
        metrics.decided(event, decision, raised)
        return Entry(
            event=event,
            decision=decision,
            outbox=(*map(outbox_item, ordered), *self._deliveries(event, decision, raised, now)),
            flags=(*raised, *repeated(decision)),
            own_id=not event.id_given,
        )

    def _deliveries(self, event: Event, decision: Decision, raised: Sequence[Flag], now: float) -> list[OutboxItem]:
        """One delivery an endpoint for the event, and one for each flag that names or is subscribed to by it."""
        webhooks, rules = self.index.webhooks, self._rules
        items: dict[str, OutboxItem] = {}
        for record in decision.actions:
            if not isinstance(record.action, SendWebhook) or record.status is not Status.GRANTED:
                continue
            asking = [rules[ref] for ref in record.asked_by if ref in rules]
            for name in record.endpoints:
                identifier = f"{event.id}/webhook/{name}"
                if name in webhooks and identifier not in items:
                    content = body(webhooks[name].type, notice(event, decision, asking))
                    items[identifier] = _delivery(identifier, name, content, event.id, now)
        for flag in raised:
            for name in subscribers(flag, webhooks):
                content = body(webhooks[name].type, flag_notice(flag))
                identifier = f"{flag.id}/webhook/{name}"
                items[identifier] = _delivery(identifier, name, content, event.id, now)
        return list(items.values())

    def _fresh(
        self, events: Sequence[Event], future: asyncio.Future[None]
    ) -> tuple[Sequence[Event], set[asyncio.Future[None]]]:
        """Without those that were decided before, and the futures of those that are not yet on disk.

        future: of the events that remain. Detectors that give no ids pay nothing for this.
        """
        given = _given(events)
        if not given:
            return events, set()
        recent = self._recent
        unsure = [identifier for identifier in given if identifier not in recent]
        known = self._store.known_ids(unsure) if unsure else set()
        fresh: list[Event] = []
        awaited: set[asyncio.Future[None]] = set()
        for event in events:
            if event.id_given:
                if event.id in recent:
                    earlier = recent[event.id]
                    if earlier is not None and earlier is not future:
                        awaited.add(earlier)
                    continue
                if event.id in known:
                    continue
                recent[event.id] = future
            fresh.append(event)
        while len(recent) > _RECENT_IDS:
            recent.popitem(last=False)
        return fresh, awaited

    def _written(
        self,
        future: asyncio.Future[None],
        queued: Sequence[OutboxItem],
        given: Sequence[str],
        error: StoreError | None,
        *,
        ordered: Collection[str],
    ) -> None:
        """ordered: events whose orders went before."""
        if error is None:
            for identifier in given:
                if identifier in self._recent:
                    self._recent[identifier] = None
            if queued:
                if waiting := [item for item in queued if item.event_id not in ordered]:
                    self._order(waiting)
                for offer in self._offers:
                    offer(queued)
            if not future.done():
                future.set_result(None)
            return
        _log.error("events could not be written", error=str(error))
        for identifier in given:
            self._recent.pop(identifier, None)
        self._on_failure()
        if not future.done():
            future.set_exception(error)


def _given(events: Sequence[Event]) -> list[str]:
    """Ids that came with their events."""
    return [event.id for event in events if event.id_given] if any(map(_id_given, events)) else []


def _is_bare(decision: Decision) -> bool:
    """Nothing is to be sent, flagged or remembered: the event is only to be kept, as most are."""
    actions = decision.actions
    return not decision.changes and (not actions or (len(actions) == 1 and isinstance(actions[0].action, SuppressLog)))


async def _all_of(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        await future


def _delivery(identifier: str, endpoint: str, content: bytes, event_id: str, now: float) -> OutboxItem:
    return OutboxItem(id=identifier, channel=f"webhook:{endpoint}", body=content, created=now, event_id=event_id)
