"""All syslog receivers: a line for each that is enabled. SEMANTICS sections 3 and 9; docs/syslog.md."""

from __future__ import annotations

import asyncio
import ipaddress
import sqlite3
from collections.abc import Callable, Mapping

import structlog

from quell.clock import Clock
from quell.controller.addresses import EVERYWHERE
from quell.controller.syslog.line import Line, ReceiverStatus, State, encoded, kept, key, send_test
from quell.controller.syslog.settings import SyslogSettings
from quell.controller.syslog.wire import Access
from quell.durations import parse_duration
from quell.errors import SettingError, StoreError
from quell.model.action import Severity
from quell.model.audit import Actor, AuditEntry
from quell.model.decision import Flag, FlagClass
from quell.model.syslog import Syslog
from quell.storage import audit, key_values, tail
from quell.storage.store import Store
from quell.storage.tail import Position

#: Seconds between two looks whether anything was committed: a glance at a counter in memory.
_LOOK = 0.1
#: Seconds between two flags about what one receiver has lost.
_QUIET = 3600.0

_log = structlog.get_logger(__name__)


class Receivers:
    """On the loop's thread."""

    def __init__(
        self,
        store: Store,
        receivers: Mapping[str, Syslog],
        settings: SyslogSettings,
        clock: Clock,
        *,
        host: str,
        flag: Callable[[Flag], None],
    ) -> None:
        """host: the controller's name. flag: raises one. SettingError for a malformed setting."""
        self._store = store
        self._receivers = dict(receivers)
        self._clock = clock
        self._access = _access(settings)
        self._host = host
        self._flag = flag
        self._lines: dict[str, Line] = {}
        #: Cancelled, and not yet over.
        self._ending: set[asyncio.Task[None]] = set()
        #: Of each receiver: what was lost since the last flag, and when that was.
        self._lost: dict[str, tuple[int, float]] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take up where each stopped; one that has no place yet starts now. Called on the event loop."""
        places = self._store.read(kept)
        self._looking = asyncio.create_task(self._look())
        for name in places.keys() - {name for name, receiver in self._receivers.items() if receiver.enable}:
            self._forget(name)
        for receiver in self._receivers.values():
            if receiver.enable:
                self._begin(receiver, places.get(receiver.name))

    async def stop(self) -> None:
        """Send nothing more. What is under way has a moment to arrive; the places are kept."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        lines = list(self._lines.values())
        self._lines.clear()
        await asyncio.gather(*(line.stop() for line in lines), *self._ending)

    def set_receivers(self, receivers: Mapping[str, Syslog]) -> None:
        """The receivers from now on. A new or newly enabled one starts now, a changed one goes on at its place."""
        self._receivers = dict(receivers)
        if self._looking is None:
            return
        wanted = {name: receiver for name, receiver in receivers.items() if receiver.enable}
        for name in self._lines.keys() - wanted.keys():
            self._end(self._lines.pop(name))
            self._forget(name)
        for name, receiver in wanted.items():
            line = self._lines.get(name)
            if line is None:
                self._begin(receiver, None)
            elif line.receiver != receiver:
                line.set_receiver(receiver)

    def status(self) -> list[ReceiverStatus]:
        """By name. StoreError."""
        return [self._status(receiver) for _, receiver in sorted(self._receivers.items())]

    def receiver(self, name: str) -> Syslog:
        """KeyError."""
        return self._receivers[name]

    async def test(self, name: str, by: Actor) -> str:
        """Send a test message to a receiver, also to a disabled one; the id in it. KeyError; Broken: why it did not go."""
        receiver = self._receivers[name]
        now = self._clock()
        entry = AuditEntry(actor=by, verb="test", kind="Syslog", name=name)
        await asyncio.wrap_future(self._store.submit(lambda connection: audit.append(connection, entry, now)))
        return await send_test(receiver, self._access, host=self._host, by=str(by), now=now)

    def _status(self, receiver: Syslog) -> ReceiverStatus:
        line = self._lines.get(receiver.name)
        if line is not None:
            return line.status()
        return ReceiverStatus(
            name=receiver.name,
            address=receiver.address,
            format=receiver.format,
            state=State.DISABLED,
            lag_events=0,
            lag_seconds=0.0,
            sent=0,
            failures=0,
            lost=0,
            last_error="",
            last_sent=None,
            next_attempt=None,
        )

    def _begin(self, receiver: Syslog, place: Position | None) -> None:
        if place is None:
            try:
                place = self._store.read(tail.end)
            except StoreError as error:
                _log.error("where the journal ends cannot be read", receiver=receiver.name, error=str(error))
                place = Position()
            # It stands in the queue before every event that is taken in from now on: none of them can be on disk
            # without it.
            self._write(receiver.name, encoded(place))
        self._lines[receiver.name] = Line(
            receiver,
            place,
            store=self._store,
            clock=self._clock,
            access=self._access,
            host=self._host,
            lost=self._tell_lost,
        )

    def _end(self, line: Line) -> None:
        line.cancel()
        task = asyncio.create_task(line.ended())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _forget(self, name: str) -> None:
        self._lost.pop(name, None)
        self._write(name, None)

    def _write(self, name: str, place: bytes | None) -> None:
        def change(connection: sqlite3.Connection) -> None:
            if place is None:
                key_values.delete(connection, key(name))
            else:
                key_values.put(connection, key(name), place)

        def done(error: StoreError | None) -> None:
            if error is not None:
                _log.error("a syslog receiver's place could not be kept", receiver=name, error=str(error))

        self._store.write(change, done)

    def _tell_lost(self, name: str, count: int) -> None:
        """An ops flag, at most once an hour a receiver, with what came together since the last one."""
        now = self._clock()
        waiting, last = self._lost.get(name, (0, -_QUIET))
        count += waiting
        if now - last < _QUIET:
            self._lost[name] = (count, last)
            return
        self._lost[name] = (0, now)
        self._flag(
            Flag(
                id=f"syslog/{name}/lost/{int(now)}",
                flag_class=FlagClass.OPS,
                severity=Severity.HIGH,
                name="Syslog: messages lost",
                description=f"{count} events or flags will never reach syslog receiver {name}: it was away for longer "
                "than the journal keeps them.",
                impact="What that receiver has is incomplete; the journal is not, within the time it is kept for.",
                time=now,
                count=count,
            )
        )

    async def _look(self) -> None:
        """The writer is not asked to tell anybody: that would cost every commit."""
        commits = -1
        while True:
            if self._lines:
                seen = self._store.statistics().commits
                if seen != commits:
                    commits = seen
                    for line in self._lines.values():
                        line.wake()
            await asyncio.sleep(_LOOK)


def _access(settings: SyslogSettings) -> Access:
    try:
        networks = tuple(ipaddress.ip_network(text) for text in settings.allow_networks)
        timeout = parse_duration(settings.timeout)
    except ValueError as error:
        raise SettingError(f"syslog: {error}") from error
    return Access(networks=EVERYWHERE if settings.allow_private else networks, timeout=timeout)
