"""Webhooks out: a line of deliveries for each endpoint, dead letters and their replay. SEMANTICS sections 7 and 9."""

from __future__ import annotations

import asyncio
import ipaddress
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import msgspec

from quell.controller.addresses import EVERYWHERE
from quell.controller.delivery import CHANNEL, Access, EndpointStatus, Line, Pace
from quell.durations import parse_duration
from quell.errors import SettingError
from quell.model.audit import Actor, AuditEntry
from quell.model.rule import Source, Webhook
from quell.settings import WebhookSettings
from quell.storage import audit, dead_letters, outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store


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

    def status(self) -> list[EndpointStatus]:
        """How it goes with each endpoint, by name, and with names that deliveries still wait for."""
        waiting = self._store.read(outbox.counts)
        return [line.status(waiting.get(CHANNEL + name, 0)) for name, line in sorted(self._lines.items())]

    def _line(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            line = Line(
                name,
                self._endpoints.get(name),
                store=self._store,
                clock=self._clock,
                pace=self._pace,
                access=self._access,
            )
            self._lines[name] = line
        return line


def _pace(settings: WebhookSettings) -> Pace:
    try:
        return Pace(timeout=parse_duration(settings.timeout), give_up_after=parse_duration(settings.give_up_after))
    except ValueError as error:
        raise SettingError(f"webhooks: {error}") from error


def _access(settings: WebhookSettings) -> Access:
    try:
        networks = tuple(ipaddress.ip_network(text) for text in settings.allow_networks)
    except ValueError as error:
        raise SettingError(f"webhooks.allow_networks: {error}") from error
    return Access(networks=EVERYWHERE if settings.allow_private else networks, proxy=settings.proxy)


def _same(before: Webhook | None, after: Webhook | None) -> bool:
    """Where a document stands in its file changes nothing."""
    if before is None or after is None:
        return before is after
    nowhere = Source()
    return msgspec.structs.replace(before, source=nowhere) == msgspec.structs.replace(after, source=nowhere)
