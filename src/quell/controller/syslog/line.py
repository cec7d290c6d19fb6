"""The task of one receiver: reads the journal, sends, keeps its place. At least once, in order. SEMANTICS section 9.

What has been written to a stream may not have arrived. It counts as arrived when the other side's kernel has acknowledged
it and some seconds have passed, in which a receiver that lives has read it; the place that is kept on disk is never beyond
that. When a stream breaks, it begins again there, so that receivers may get some messages twice, with the same ids.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum

import msgspec
import structlog
from msgspec import Struct

from quell import metrics
from quell.clock import Clock
from quell.controller.past import as_decided
from quell.controller.syslog.datagrams import Datagrams
from quell.controller.syslog.envelope import framed, message
from quell.controller.syslog.streams import Stream
from quell.controller.syslog.told import Told, of_event, of_flag, of_test, takes_event, takes_flag
from quell.controller.syslog.wire import Access, Broken, Ended, Stalled, Wire
from quell.errors import StoreError
from quell.ids import uuid7
from quell.model.decision import Flag
from quell.model.syslog import MessageFormat, Syslog, SyslogFilter, Transport
from quell.storage import key_values, tail
from quell.storage.records import Stored
from quell.storage.store import Store
from quell.storage.tail import Lag, Position

_KEY = "syslog/"
#: Events read at once: some milliseconds of work in a thread of its own.
_BATCH = 256
#: Events formed without a pause: about a millisecond.
_YIELD = 16
#: Seconds that a message must be acknowledged before it counts as read.
_SETTLE = 5.0
#: Bytes that a receiver which stopped reading may have acknowledged without reading them: the most that Linux lets a
#: socket hold (the default of net.ipv4.tcp_rmem).
_HELD_BACK = 6 << 20
#: Seconds between two writes of the place.
_SAVE = 1.0
#: Seconds before the second attempt to connect, doubled each time, less up to half of it at random; the most.
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
#: Seconds a stop waits for what is under way.
_STOP = 2.0
#: Seconds in which a receiver that does not want a connection says so, after a test.
_SECOND_THOUGHTS = 0.3

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Position).decode
_log = structlog.get_logger(__name__)


class State(StrEnum):
    DISABLED = "disabled"
    CONNECTING = "connecting"
    FAILING = "failing"
    #: Connected, and nothing waits.
    IDLE = "idle"
    SENDING = "sending"


class ReceiverStatus(Struct, frozen=True, kw_only=True):
    """How it goes with a receiver, for people."""

    name: str
    address: str
    format: MessageFormat
    state: State
    #: What it has not had yet: events and flags of the journal, those that its filter leaves out included.
    lag_events: int
    #: Age of the oldest of them, in seconds.
    lag_seconds: float
    #: Messages since the controller started.
    sent: int
    #: Connections that failed or broke since the controller started.
    failures: int
    #: Events and flags that retention deleted before they could be sent, since the controller started.
    lost: int
    last_error: str
    last_sent: float | None
    #: When the next attempt to connect is due; None: none is needed.
    next_attempt: float | None


class _Sent(Struct, frozen=True):
    """A batch that was written: where it began, and where in the stream it ended."""

    before: Position
    after: Position
    end: int


class _Prepared(Struct, frozen=True):
    """A batch in its form."""

    frames: Sequence[bytes]
    batch: tail.Batch
    #: Those that no message could be made of, and why the last.
    failed: int = 0
    error: str = ""


def key(name: str) -> str:
    """Under which the store keeps a receiver's place."""
    return f"{_KEY}{name}"


def kept(connection: sqlite3.Connection) -> dict[str, Position]:
    """The places of all receivers, by name."""
    rows = connection.execute("SELECT key, value FROM key_values WHERE key >= ? AND key < ?", (_KEY, "syslog0"))
    return {name.removeprefix(_KEY): _decode(value) for name, value in rows}


def encoded(position: Position) -> bytes:
    return _encode(position)


class Line:
    """A receiver that is enabled. Everything but reading, forming and writing is on the loop's thread."""

    def __init__(
        self,
        receiver: Syslog,
        position: Position,
        *,
        store: Store,
        clock: Clock,
        access: Access,
        host: str,
        lost: Callable[[str, int], None],
    ) -> None:
        """host: the controller's name. lost: told how many messages a receiver will never get."""
        self.receiver = receiver
        self._store = store
        self._clock = clock
        self._access = access
        self._host = host
        self._pid = os.getpid()
        self._lost = lost
        self._wake = asyncio.Event()
        self._stopping = False
        #: The receiver was changed so that the connection is not to it any more.
        self._moved = False
        self._wire: Wire | None = None
        #: Where to read on, and up to where all has arrived.
        self._position = self._arrived = self._saved = position
        self._save_due = 0.0
        #: Bytes written to this connection, and what they were: those that may not have arrived, with the moment at which
        #: they were acknowledged, and those that may have, but not been read.
        self._written = 0
        self._unsure: deque[tuple[_Sent, float | None]] = deque()
        self._recent: deque[_Sent] = deque()
        self._opened = 0.0
        self._attempts = 0
        self._sent = self._failures = self._lost_count = 0
        self._last_error = ""
        self._last_sent: float | None = None
        self._next_attempt: float | None = None
        self._task = asyncio.create_task(self._run(), name=f"syslog {receiver.name}")

    def wake(self) -> None:
        """Something may have been committed."""
        self._wake.set()

    def set_receiver(self, receiver: Syslog) -> None:
        """From the next message on it is this. Its place stays; a failing one is tried at once: it may be the cure."""
        self._moved = self._moved or _way(receiver) != _way(self.receiver)
        self.receiver = receiver
        self._attempts = 0
        self._wake.set()

    async def stop(self) -> None:
        """Send nothing more, and keep the place."""
        self._stopping = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=_STOP)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with suppress(StoreError):
            await asyncio.wrap_future(self._store.submit(self._keeping(self._arrived)))

    def cancel(self) -> None:
        self._task.cancel()

    async def ended(self) -> None:
        """Once the task has, after cancel."""
        await asyncio.gather(self._task, return_exceptions=True)

    def status(self) -> ReceiverStatus:
        """StoreError."""
        position = self._position
        lag = self._store.read(lambda connection: tail.lag(connection, position))
        waiting = lag.events + lag.flags
        if self._wire is None:
            state = State.FAILING if self._attempts else State.CONNECTING
        else:
            state = State.SENDING if waiting else State.IDLE
        return ReceiverStatus(
            name=self.receiver.name,
            address=self.receiver.address,
            format=self.receiver.format,
            state=state,
            lag_events=waiting,
            lag_seconds=_age(lag, self._clock()),
            sent=self._sent,
            failures=self._failures,
            lost=self._lost_count,
            last_error=self._last_error,
            last_sent=self._last_sent,
            next_attempt=self._next_attempt,
        )

    # --- the task ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping:
            self._moved = False
            try:
                await self._count()
                await self._session()
            except Broken as error:
                self._broke(error)
            except StoreError as error:
                self._broke(Broken(f"the journal cannot be read: {error}"))
            except Exception as error:  # noqa: BLE001 - a fault of ours must show, and must not end what others rely on
                _log.exception("a syslog receiver's task failed", receiver=self.receiver.name)
                self._broke(Broken(f"{type(error).__name__}: {error}"))
            else:
                continue
            await self._pause()

    async def _count(self) -> None:
        """Before anything can be lost: a place that has not yet been counted is, and kept so. StoreError."""
        if self._position.events is None:
            position = self._position
            self._position = await asyncio.to_thread(self._store.read, lambda one: tail.counted(one, position))
            self._arrived = self._position
            self._save(self._arrived)

    async def _session(self) -> None:
        """One connection, from its start to its end. Broken, StoreError."""
        wire = await connected(self.receiver, self._access, self.wake)
        self._wire, self._written, self._opened = wire, 0, time.monotonic()
        try:
            while not (self._stopping or self._moved):
                self._wake.clear()
                if wire.failure is not None:
                    raise wire.failure
                receiver, position = self.receiver, self._position
                prepared = await asyncio.to_thread(self._prepare, receiver, position)
                await self._send(wire, position, prepared)
                if prepared.batch.exhausted:
                    await self._rest(wire)
                else:
                    self._settle(wire)
            await self._finish(wire)
        finally:
            self._wire = None
            await wire.close()

    def _prepare(self, receiver: Syslog, position: Position) -> _Prepared:
        """In another thread: reading, decoding and forming are most of the work. StoreError."""
        batch = self._store.read(lambda connection: tail.read(connection, position, _BATCH))
        frames: list[bytes] = []
        failed, error = 0, ""
        whole: tuple[Stored | Flag, ...] = (*batch.events, *batch.flags)
        for number, found in enumerate(whole):
            if number % _YIELD == 0:
                # The loop's thread may have the interpreter now, and not only when it insists after 5 ms. Where the
                # machine is busy this costs more: syslog waits rather than lets ingest wait.
                time.sleep(0)
            try:
                told = _told(receiver.filter, found)
                if told is not None:
                    frames.append(framed(message(told, receiver, host=self._host, pid=self._pid), receiver))
            except Exception as fault:  # noqa: BLE001 - one event that nothing can be made of must not hold up all others
                failed, error = failed + 1, f"{type(fault).__name__}: {fault}"
        return _Prepared(frames, batch, failed, error)

    async def _send(self, wire: Wire, before: Position, prepared: _Prepared) -> None:
        """Broken: the place is where the batch begins."""
        batch, name = prepared.batch, self.receiver.name
        if gone := batch.lost_events + batch.lost_flags:
            self._tell_lost(gone, "deleted by retention before they could be sent")
        if prepared.failed:
            _log.error("messages could not be made", receiver=name, count=prepared.failed, error=prepared.error)
            self._tell_lost(prepared.failed, "could not be made a message of")
        if prepared.frames:
            self._written += await wire.send(prepared.frames)
            self._sent += len(prepared.frames)
            self._last_sent = self._clock()
            metrics.syslog_sent(name, len(prepared.frames))
            if wire.complaint:
                self._failures += 1
                metrics.syslog_failed(name)
        self._position = batch.after
        if batch.after != before:
            self._unsure.append((_Sent(before, batch.after, self._written), None))

    def _tell_lost(self, count: int, why: str) -> None:
        self._lost_count += count
        metrics.syslog_lost(self.receiver.name, count)
        _log.error("a syslog receiver misses messages", receiver=self.receiver.name, count=count, why=why)
        self._lost(self.receiver.name, count)

    async def _rest(self, wire: Wire) -> None:
        """Until there may be something to do."""
        while not self._wake.is_set():
            self._settle(wire)
            calm = not self._unsure and self._saved == self._arrived
            with suppress(TimeoutError):
                async with asyncio.timeout(None if calm else _SAVE):
                    await self._wake.wait()

    def _settle(self, wire: Wire, *, at_once: bool = False) -> None:
        """Find out what has arrived, and keep the place. at_once: nothing more is sent over this wire."""
        now = time.monotonic()
        acknowledged = self._written - wire.in_flight()
        forgotten = isinstance(wire, Datagrams)
        for position, (sent, since) in enumerate(self._unsure):
            if sent.end > acknowledged:
                break
            if since is None:
                self._unsure[position] = (sent, now)
        while self._unsure:
            sent, since = self._unsure[0]
            if since is None or not (at_once or forgotten or now - since >= _SETTLE):
                break
            self._unsure.popleft()
            # One for all that were read and not sent.
            before = self._recent.pop().before if self._recent and self._recent[-1].end == sent.end else sent.before
            self._recent.append(_Sent(before, sent.after, sent.end))
            self._arrived = sent.after
            self._attempts, self._last_error = 0, wire.complaint
        while self._recent and self._recent[0].end < acknowledged - _HELD_BACK:
            self._recent.popleft()
        if self._arrived != self._saved and now >= self._save_due:
            self._save_due = now + _SAVE
            self._save(self._arrived)

    async def _finish(self, wire: Wire) -> None:
        """Before a wire is closed in order: what its other side's kernel has, it will read."""
        end = time.monotonic() + _STOP / 2
        while wire.in_flight() and wire.failure is None and time.monotonic() < end:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.02)
        self._settle(wire, at_once=wire.failure is None)
        self._go_back(stalled=False)

    def _go_back(self, *, stalled: bool) -> None:
        """To the first of what may not have arrived; where the receiver had stopped reading, of what it may not have read."""
        if stalled and self._recent:
            self._position = self._arrived = self._recent[0].before
        elif self._unsure:
            self._position = self._unsure[0][0].before
        self._unsure.clear()
        self._recent.clear()

    def _broke(self, error: Broken) -> None:
        if self._opened and time.monotonic() - self._opened >= _SETTLE:
            self._attempts = 0
        self._opened = 0.0
        self._go_back(stalled=isinstance(error, Stalled))
        self._failures += 1
        self._attempts += 1
        self._last_error = str(error)
        metrics.syslog_failed(self.receiver.name)
        _log.warning("a syslog receiver failed", receiver=self.receiver.name, attempt=self._attempts, error=str(error))

    async def _pause(self) -> None:
        """Before the next attempt, unless the receiver is changed meanwhile."""
        wait: float = min(_FIRST_WAIT * 2 ** min(self._attempts - 1, 20), _LONGEST_WAIT)
        wait *= 1 - random.random() / 2  # noqa: S311 - only so that many do not come back at once
        self._next_attempt = self._clock() + wait
        end = time.monotonic() + wait
        while self._attempts and not self._stopping and (left := end - time.monotonic()) > 0:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()
        self._next_attempt = None

    def _save(self, position: Position) -> None:
        self._saved = position

        def done(error: StoreError | None) -> None:
            if error is not None:
                _log.error("a syslog receiver's place could not be kept", receiver=self.receiver.name, error=str(error))

        with suppress(StoreError):  # it says so itself, and the next one is a second away
            self._store.write(self._keeping(position), done)

    def _keeping(self, position: Position) -> Callable[[sqlite3.Connection], None]:
        name = self.receiver.name
        return lambda connection: key_values.put(connection, key(name), _encode(position))


async def connected(receiver: Syslog, access: Access, ended: Ended) -> Wire:
    """A way to the receiver. Broken."""
    if receiver.transport is Transport.UDP:
        return await Datagrams.open(receiver, access)
    return await Stream.open(receiver, access, ended)


async def send_test(receiver: Syslog, access: Access, *, host: str, by: str, now: float) -> str:
    """Send one message over a connection of its own; the id in it. Broken: it did not go, and why."""
    identifier = uuid7(now)
    body = message(of_test(receiver.name, identifier, by, now), receiver, host=host, pid=os.getpid())
    wire = await connected(receiver, access, _nobody)
    try:
        await wire.send([framed(body, receiver)])
        end = time.monotonic() + access.timeout
        while wire.in_flight() and wire.failure is None:
            if time.monotonic() > end:
                raise Stalled(f"the receiver took nothing for {access.timeout:g} s")
            await asyncio.sleep(0.01)
        # One that does not take the client's certificate says so only now.
        await asyncio.sleep(_SECOND_THOUGHTS)
        if wire.failure is not None:
            raise wire.failure
    finally:
        await wire.close()
    return identifier


def _told(wanted: SyslogFilter, found: Stored | Flag) -> Told | None:
    """None: it is not for this receiver."""
    if isinstance(found, Flag):
        return of_flag(found) if takes_flag(wanted, found) else None
    if found.decision.suppressed:
        return None
    event = as_decided(found)
    return of_event(event, found.decision) if takes_event(wanted, event) else None


def _way(receiver: Syslog) -> tuple[object, ...]:
    """What of a receiver decides whom a connection leads to, and how."""
    files = (receiver.ca_file, receiver.client_cert_file, receiver.client_key_file)
    return receiver.address, receiver.framing, receiver.verify_tls, receiver.allow_private, *files


def _age(lag: Lag, now: float) -> float:
    return 0.0 if lag.oldest is None else max(0.0, now - lag.oldest)


def _nobody() -> None:
    """Told of the end of a connection that somebody waits for."""
