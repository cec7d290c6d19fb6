"""Webhooks out: a line of deliveries for each endpoint, dead letters and their replay. SEMANTICS sections 7 and 9."""

from __future__ import annotations

import asyncio
import ipaddress
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from msgspec import Struct

from quell import metrics
from quell.controller.addresses import EVERYWHERE
from quell.controller.bodies import body
from quell.controller.connections import Proxy
from quell.controller.delivery import CHANNEL, Access, EndpointStatus, Line, Pace, State
from quell.controller.notices import flag_notice, notice
from quell.controller.own_events import own_event
from quell.controller.receivers import Receiver, Verdict
from quell.durations import parse_duration
from quell.errors import SettingError, StoreError
from quell.ids import uuid7
from quell.model.action import Severity
from quell.model.audit import Actor, AuditEntry
from quell.model.decision import Decision, Flag, FlagClass
from quell.model.rule import Source, Webhook
from quell.model.subject import Subject
from quell.response.endpoints import subscribers
from quell.settings import WebhookSettings
from quell.storage import audit, dead_letters, deliveries, flags, outbox
from quell.storage.deliveries import Standing
from quell.storage.records import OutboxItem
from quell.storage.store import Store

#: Dead letters that are replayed or discarded in one transaction.
_AT_ONCE = 500
#: Seconds between two flags about one endpoint.
_FLAG_EVERY = 3600.0

_log = structlog.get_logger(__name__)


class Tested(Struct, frozen=True, kw_only=True):
    """What came of a test of an endpoint."""

    #: The webhook-id that the receiver saw.
    id: str
    delivered: bool
    #: HTTP status; None: there was no answer.
    status: int | None
    #: Seconds.
    duration: float
    #: Why it was not delivered, in words; "": there is nothing to say.
    explanation: str


class Webhooks:
    def __init__(
        self,
        store: Store,
        endpoints: Mapping[str, Webhook],
        settings: WebhookSettings,
        clock: Callable[[], float],
        *,
        pace: Pace | None = None,
    ) -> None:
        """Endpoints by name: give them here, for what waits at start() for an endpoint that is not there is given up.

        pace: how to retry, in place of the settings'. SettingError for a malformed setting.
        """
        self._store = store
        self._endpoints = dict(endpoints)
        self._clock = clock
        self._pace = pace or _pace(settings)
        self._access = _access(settings)
        self._lines: dict[str, Line] = {}
        #: When each endpoint was flagged last.
        self._flagged: dict[str, float] = {}
        self._running = False

    def start(self) -> None:
        """Take up what waits in the outbox. Called on the event loop."""
        self._running = True
        for name in self._endpoints:
            self._line(name)
        for channel in self._store.read(outbox.counts):
            if channel.startswith(CHANNEL):
                self._line(channel.removeprefix(CHANNEL)).take_up()

    async def stop(self) -> None:
        """Send nothing more; what waits stays in the outbox."""
        self._running = False
        lines = list(self._lines.values())
        self._lines.clear()
        await asyncio.gather(*(line.stop() for line in lines))

    def set_endpoints(self, endpoints: Mapping[str, Webhook]) -> None:
        """The endpoints from now on. What waits for one that is gone becomes dead letters."""
        before, self._endpoints = self._endpoints, dict(endpoints)
        if not self._running:
            return
        for name in [name for name, line in self._lines.items() if line.is_over]:
            self._lines.pop(name).cancel()
        for name in {*before, *self._endpoints}:
            if not _same(before.get(name), self._endpoints.get(name)):
                self._line(name).set_endpoint(self._endpoints.get(name))

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Deliveries whose transaction has been committed; items of other channels are left alone."""
        if not self._running:
            return
        by_name: dict[str, list[OutboxItem]] = {}
        for item in items:
            if item.channel.startswith(CHANNEL):
                by_name.setdefault(item.channel.removeprefix(CHANNEL), []).append(item)
        for name, some in by_name.items():
            self._line(name).offer(some)

    # ---- what people do

    def unavailable(self, name: str) -> str:
        """Why whatever is sent to this endpoint now would be given up at once; "": it would not."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            return f"there is no endpoint {name}"
        return "" if endpoint.enable else f"endpoint {name} is disabled: enable it first"

    async def replay(self, identifier: str, by: Actor) -> bool:
        """Deliver a dead letter after all, under the same id. False: there is none. StoreError."""
        now = self._clock()
        entry = AuditEntry(actor=by, verb="replay", kind="dead-letter", name=identifier)

        def replay(connection: sqlite3.Connection) -> OutboxItem | None:
            item = dead_letters.replay(connection, identifier, now)
            if item is not None:
                audit.append(connection, entry, now)
            return item

        item = await asyncio.wrap_future(self._store.submit(replay))
        if item is None:
            return False
        self.offer([item])
        return True

    async def replay_all(self, name: str, by: Actor) -> int:
        """Deliver all dead letters of an endpoint after all, in the order they were given up in. How many; StoreError."""

        def some(connection: sqlite3.Connection) -> int:
            return dead_letters.replay_of(connection, name, self._clock(), _AT_ONCE)

        moved = await self._in_steps(some, AuditEntry(actor=by, verb="replay", kind="dead-letters", name=name))
        if moved and self._running:
            self._line(name).take_up()
        return moved

    async def discard(self, identifier: str, by: Actor) -> bool:
        """Forget a dead letter. False: there is none. StoreError."""
        now = self._clock()

        def discard(connection: sqlite3.Connection) -> bool:
            letter = dead_letters.discard(connection, identifier)
            if letter is not None:
                before = {"endpoint": letter.endpoint, "event": letter.item.event_id, "explanation": letter.explanation}
                entry = AuditEntry(actor=by, verb="discard", kind="dead-letter", name=identifier, before=before)
                audit.append(connection, entry, now)
            return letter is not None

        return await asyncio.wrap_future(self._store.submit(discard))

    async def discard_all(self, name: str, by: Actor) -> int:
        """Forget all dead letters of an endpoint. How many; StoreError."""

        def some(connection: sqlite3.Connection) -> int:
            return dead_letters.discard_of(connection, name, _AT_ONCE)

        return await self._in_steps(some, AuditEntry(actor=by, verb="discard", kind="dead-letters", name=name))

    async def _in_steps(self, some: Callable[[sqlite3.Connection], int], entry: AuditEntry) -> int:
        """some: does at most _AT_ONCE, so that events need not wait long for the writing thread; each step is noted."""

        def step(connection: sqlite3.Connection) -> int:
            count = some(connection)
            if count:
                noted = msgspec.structs.replace(entry, note=f"{count} of them")
                audit.append(connection, noted, self._clock())
            return count

        total, last = 0, _AT_ONCE
        while last == _AT_ONCE:
            last = await asyncio.wrap_future(self._store.submit(step))
            total += last
        return total

    async def test(self, name: str, by: Actor) -> Tested:
        """Send a test of the endpoint's type, signed as any other, at once and once, whether it is enabled or not.

        KeyError: there is no such endpoint. StoreError: it was sent, but not noted.
        """
        endpoint, now = self._endpoints[name], self._clock()
        event_id = f"test/{uuid7(now)}"
        event = own_event(event_id, "Webhook.Test", Subject(), f"a test of endpoint {name}, by {by}", now, now)
        content = body(endpoint.type, notice(event, Decision(event_id=event_id, time=now, revision=0)))
        identifier = f"{event_id}/webhook/{name}"
        receiver = self._receiver(endpoint)
        try:
            answer = await receiver.post(identifier, content, now)
        finally:
            await receiver.close()
        tested = Tested(
            id=identifier,
            delivered=answer.verdict is Verdict.DELIVERED,
            status=answer.status,
            duration=answer.duration,
            explanation=answer.explanation,
        )
        line = self._lines.get(name)
        if tested.delivered and line is not None and line.state is State.FAILING:
            line.hurry()
        entry = AuditEntry(actor=by, verb="test", kind="Webhook", name=name, after=msgspec.to_builtins(tested))
        await asyncio.wrap_future(self._store.submit(lambda connection: audit.append(connection, entry, now)))
        return tested

    # ---- how it goes

    def status(self) -> list[EndpointStatus]:
        """How it goes with each endpoint, by name; deleted ones too, while something waits or was given up for them."""
        waiting, buried = self._store.read(
            lambda connection: (outbox.counts(connection), dead_letters.counts(connection))
        )
        names = {*self._endpoints, *buried}
        names |= {channel.removeprefix(CHANNEL) for channel in waiting if channel.startswith(CHANNEL)}
        return [self._line(name).status(waiting.get(CHANNEL + name, 0), buried.get(name, 0)) for name in sorted(names)]

    def failing(self) -> dict[str, float]:
        """Seconds that each endpoint has been failing for, by name; 0: it is not."""
        now = self._clock()
        since = {name: line.failing_since for name, line in self._lines.items() if line.endpoint is not None}
        return {name: 0.0 if start is None else max(0.0, now - start) for name, start in since.items()}

    def _alarmed(self, line: Line, standing: Standing, *, lost: bool) -> None:
        """Raise an ops flag, at most one an hour and endpoint, over restarts too. It never goes to the endpoint itself."""
        now = self._clock()
        if now - self._flagged.get(line.name, -_FLAG_EVERY) < _FLAG_EVERY:
            return
        self._flagged[line.name] = now
        flag = _flag(line.name, standing, now, lost=lost)
        told = [name for name in subscribers(flag, self._endpoints) if name != line.name]
        items = [
            OutboxItem(
                id=f"{flag.id}/webhook/{name}",
                channel=CHANNEL + name,
                body=body(self._endpoints[name].type, flag_notice(flag)),
                created=now,
            )
            for name in told
        ]
        loop = asyncio.get_running_loop()
        raised: list[bool] = []

        def change(connection: sqlite3.Connection) -> None:
            raised[:] = [not flags.raised_since(connection, _flags_of(line.name), now - _FLAG_EVERY)]
            if raised[0]:
                flags.insert(connection, [flag])
                outbox.insert(connection, items)

        def done(error: StoreError | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(written, error)

        def written(error: StoreError | None) -> None:
            if error is not None:
                self._flagged.pop(line.name, None)  # the next attempt that fails tries it again
                _log.error("a flag about an endpoint cannot be written yet", endpoint=line.name, error=str(error))
            elif raised[0]:
                metrics.flagged(flag)
                self.offer(items)

        self._store.write(change, done)

    def _receiver(self, endpoint: Webhook) -> Receiver:
        return Receiver(endpoint, timeout=self._pace.timeout, allowed=self._access.networks, proxy=self._access.proxy)

    def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            standings = self._store.read(lambda connection: deliveries.standings(connection, [name]))
            line = Line(
                name,
                self._endpoints.get(name),
                store=self._store,
                clock=self._clock,
                pace=self._pace,
                access=self._access,
                alarm=self._alarmed,
                standing=standings[name],
            )
            self._lines[name] = line
        return line


def _flags_of(name: str) -> str:
    return f"endpoint/{name}/failing"


def _flag(name: str, standing: Standing, now: float, *, lost: bool) -> Flag:
    since = standing.failing_since or now
    last = "nothing was ever delivered" if standing.last_delivered is None else "nothing was delivered since"
    impact = (
        "Deliveries are given up: they are dead letters, which `quell webhooks replay` sends again."
        if lost
        else "What rules tell this endpoint waits, and is given up in the end."
    )
    return Flag(
        id=f"{_flags_of(name)}/{uuid7(now)}",
        flag_class=FlagClass.OPS,
        severity=Severity.HIGH,
        name=f"Webhook endpoint fails: {name}",
        description=f"{standing.failures} attempts failed in {now - since:.0f} s, {last}: {standing.last_error}",
        impact=impact,
        time=now,
        count=standing.failures,
    )


def _pace(settings: WebhookSettings) -> Pace:
    try:
        return Pace(
            timeout=parse_duration(settings.timeout),
            longest_wait=parse_duration(settings.longest_wait),
            give_up_after=parse_duration(settings.give_up_after),
            flag_after=parse_duration(settings.flag_after),
        )
    except ValueError as error:
        raise SettingError(f"webhooks: {error}") from error


def _access(settings: WebhookSettings) -> Access:
    try:
        networks = tuple(ipaddress.ip_network(text) for text in settings.allow_networks)
    except ValueError as error:
        raise SettingError(f"webhooks.allow_networks: {error}") from error
    try:
        proxy = Proxy.of(settings.proxy) if settings.proxy else None
    except ValueError as error:
        raise SettingError(f"webhooks.proxy: {error}") from error
    return Access(networks=EVERYWHERE if settings.allow_private else networks, proxy=proxy)


def _same(before: Webhook | None, after: Webhook | None) -> bool:
    """Where a document stands in its file changes nothing."""
    if before is None or after is None:
        return before is after
    nowhere = Source()
    return msgspec.structs.replace(before, source=nowhere) == msgspec.structs.replace(after, source=nowhere)
