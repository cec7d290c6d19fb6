"""The agent as a whole: what comes over the link is carried out, what the sensor sees goes over the link.

Everything runs on one event loop but the commands, which block and have threads. While nothing happens nothing ticks but
a look at memory twice a minute; a timer stands for the next lease that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog
from msgspec import Struct

from quell import __version__, memory
from quell.agent import proc
from quell.agent.connector import Connector, ConnectorError
from quell.agent.containers.census import Census
from quell.agent.containers.runtimes import census
from quell.agent.enrol import Address, Identity, UnreachableError, enrol, enrolled
from quell.agent.events import Notices
from quell.agent.executor import Executor
from quell.agent.gathering import Gatherer
from quell.agent.kernel import Capabilities, Kernel
from quell.agent.ledger import RELEASED, Ledger
from quell.agent.link import Link
from quell.agent.linux.capabilities import may_look_at_others, socket_limits
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.observing import Observing
from quell.agent.outbox import Outbox
from quell.agent.parcels import Parcels
from quell.agent.pod import NotYet
from quell.agent.protected import Protected
from quell.agent.rehearsing import rehearse
from quell.agent.sensor import Sensor
from quell.agent.subjects import Subjects
from quell.agent.users import Users
from quell.agent.watchlist import WatchList
from quell.channel.envelope import verify
from quell.channel.messages import (
    Announced,
    EventAck,
    EvidenceAck,
    FromController,
    Hello,
    Isolated,
    Observe,
    Observed,
    Ordered,
    OutcomeAck,
    Pause,
    Rehearse,
    Reported,
    Welcome,
)
from quell.errors import LinkError, SettingError, StoreError
from quell.ids import uuid7
from quell.model.action import word
from quell.model.decision import Command, Outcome, OutcomeStatus
from quell.model.subject import NetworkTarget, Subject

#: Commands at the same time: a kill waits for its process to be gone, and others must not wait for that.
_HANDS = 8
#: Announced commands remembered; an older one is verified again when it is ordered.
_MOST_ANNOUNCED = 64
#: Seconds before a lease that could not be ended is tried again.
_TRY_AGAIN = 5.0
#: A lease is looked at this often at least, since the clock may be set.
_LOOK_AGAIN = 60.0
#: Seconds between two looks at memory, which take some tenths of a millisecond.
_MEMORY_SECONDS = 30.0
#: Percent, and seconds, until a controller says otherwise.
_PRESSURE = (90.0, 600.0)
#: What is isolated is looked at this often, or as seldom as keeps it below a hundredth of the time; the controller is
#: told of it this often at least.
_WATCH, _WATCH_SHARE, _TELL = 0.5, 100.0, 60.0
#: Seconds for which nobody but the loop waits for the end of a process that has its signal.
_ENDING_SECONDS = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Options(Struct, frozen=True, kw_only=True):
    """How an agent is started; see `quell agent --help`."""

    address: Address
    #: The folder of key, identity, ledger and what was not yet sent.
    state: Path
    #: None: the machine's host name, or the node it enrolled as.
    node: str | None = None
    join_token: str | None = None
    sensor: bool = True
    #: Tell which containers run here.
    containers: bool = True
    #: None: the list that comes with Quell.
    watch_list: Path | None = None
    #: More that must never be touched, a file as agent/data/protected.toml is; None: none.
    protected: Path | None = None
    #: Processes of this product beside the agent, such as a controller on the same machine.
    own_pids: tuple[int, ...] = ()


async def run(options: Options) -> None:
    """Until SIGTERM or SIGINT.

    Raises LinkError if the agent cannot enrol, StoreError if its folder is another agent's or cannot be written,
    SettingError and DocumentError for a list that is wrong.
    """
    stop = asyncio.Event()
    asked: list[signal.Signals] = []

    def asked_to(number: signal.Signals) -> None:
        asked.append(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to, number)
    watch_list = WatchList.load(options.watch_list) if options.sensor else None
    protected = Protected.load(options.protected, own=options.own_pids)
    for warning in protected.warnings:
        _log.warning(warning)
    prepare(options.state)
    ledger = Ledger(options.state / "ledger")
    with contextlib.closing(ledger):
        identity = await _until(stop, _identity(options))
        if identity is None:
            return
        users = Users()
        agent = Agent(
            options,
            identity,
            ledger=ledger,
            protected=protected,
            kernel=LinuxKernel(users),
            watch_list=watch_list,
            users=users,
        )
        try:
            await agent.start()
            await _until(stop, agent.link.run(), lambda: agent.link.leave(f"it was told to, by {asked[0].name}"))
        finally:
            agent.stop()
    _log.info("stopped")


def prepare(state: Path) -> None:
    """Make the folder, for its owner alone. Raises StoreError."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
    except OSError as error:
        raise StoreError(f"{state}: {error.strerror}") from error


class Agent:
    """Its parts, and what passes between them. Made, started and stopped on one event loop."""

    def __init__(
        self,
        options: Options,
        identity: Identity,
        *,
        ledger: Ledger,
        protected: Protected,
        kernel: Kernel,
        watch_list: WatchList | None,
        users: Users | None = None,
    ) -> None:
        self._identity = identity
        self._state = options.state
        self._ledger = ledger
        self._protected = protected
        self._pause_file = str(options.state / "pause")
        self._paused_by_controller = False
        machine_id = proc.machine_id()
        machine = Subject(node=identity.node, machine_id=machine_id or None)
        self._outbox = Outbox(options.state / "outbox", self._on_lost)
        self._parcels = Parcels(options.state / "evidence")
        self._notices = Notices(machine, self._emit, time.time)
        subjects = Subjects(machine, users)
        self._observing = Observing(subjects, self._notices, lambda: self.link.rouse())  # noqa: PLW0108 - there is no link yet
        self._may_observe = watch_list is not None
        self._sensor, limits = self._sense(watch_list, subjects)
        self._census, unseen = self._count(options)
        self._kernel = kernel
        self._kept = self._sensor.kept if self._sensor else lambda _pid: None
        capabilities = kernel.capabilities()
        self._hello = _hello(identity, machine_id, capabilities, limits + unseen)
        self._executor = Executor(
            kernel,
            ledger,
            protected,
            kept=self._kept,
            paused=self._is_paused,
            gatherer=self._gather(options.state / "evidence"),
        )
        self._hands = ThreadPoolExecutor(_HANDS, thread_name_prefix="command")
        self._rehearsing = ThreadPoolExecutor(1, thread_name_prefix="rehearsal")
        #: Verified commands that are not ordered yet, by their envelope.
        self._announced: OrderedDict[bytes, Command] = OrderedDict()
        self._lease_timer: asyncio.TimerHandle | None = None
        self._memory_timer: asyncio.TimerHandle | None = None
        self._memory_bounds: tuple[float, float] = _PRESSURE
        self._pressure = memory.Pressure(*_PRESSURE)
        self._watch_timer: asyncio.TimerHandle | None = None
        #: By its id, a command that was begun and waits for its end.
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        #: By the id of its command, a process that has its signal: its pidfd, and when it is no longer waited for here.
        self._ending: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        self._told = 0.0
        #: By key: how often somebody tampered with it since the controller was told, and when that was (monotonic).
        self._tampered: dict[str, int] = {}
        self._tampered_told: dict[str, float] = {}
        self._released_file = options.state / RELEASED
        self._loop = asyncio.get_running_loop()
        self.link = Link(
            options.address.trusting(options.state),
            identity,
            lambda: self._hello,
            self._on_welcome,
            self._on_message,
            on_end=lambda: self._observing.ask(None),
            more=lambda: self._observing.frame() or self._parcels.frame(),
        )

    async def start(self) -> None:
        """Finish what a crash interrupted, then watch. The link is run by the caller."""
        for limit in self._hello.limits:
            _log.warning("limited", what=limit)
        # Before the first execution is seen: what the agent keeps for good need not be walked by the collector again.
        gc.collect()
        gc.freeze()
        if self._sensor is not None:
            self._sensor.start()
        if self._census is not None:
            self._census.start()
        for outcome in await self._loop.run_in_executor(self._hands, self._executor.resume):
            _told("resumed", outcome)
        for command in self._ledger.unfinished():
            self._hands.submit(self._carry_out, command)
        self._plan_lease()
        self._look_at_memory()
        self._hands.submit(self._watch)

    def stop(self) -> None:
        """Running commands end first; what they came to is in the ledger."""
        if self._sensor is not None:
            self._sensor.stop()
        self._observing.stop()
        if self._census is not None:
            self._census.stop()
        for process, late in self._ending.values():
            late.cancel()
            self._loop.remove_reader(process)
        for timer in (self._lease_timer, self._watch_timer, self._memory_timer, *self._waiting.values()):
            if timer is not None:
                timer.cancel()
        self._rehearsing.shutdown(wait=False, cancel_futures=True)
        self._hands.shutdown(cancel_futures=True)
        self._outbox.close()

    def _sense(self, watch_list: WatchList | None, subjects: Subjects) -> tuple[Sensor | None, tuple[str, ...]]:
        if watch_list is None:
            return None, ("sensor: switched off",)
        try:
            connector = Connector()
        except ConnectorError as error:
            return None, (f"sensor: {error}", *socket_limits())
        sensor = Sensor(connector, watch_list, subjects, self._emit, self._notices, self._observing)
        if not may_look_at_others():
            limit = f"sensor: only executions of user {os.geteuid()} are looked at, for lack of CAP_SYS_PTRACE"
            return sensor, (limit, *socket_limits())
        return sensor, socket_limits()

    def _gather(self, folder: Path) -> Gatherer | None:
        loop = asyncio.get_running_loop()

        def ready(name: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended; the next start sends it
                loop.call_soon_threadsafe(self._gathered, name)

        try:
            return Gatherer(folder, on_ready=ready)
        except OSError as error:
            _log.error("no evidence is gathered: its folder cannot be made", folder=str(folder), error=error.strerror)
            return None

    def _gathered(self, name: str) -> None:
        self._parcels.add(name)
        self.link.rouse()

    def _count(self, options: Options) -> tuple[Census | None, tuple[str, ...]]:
        if not options.containers:
            return None, ("containers: switched off",)
        try:
            counted = census(self._identity.node, lambda message: self.link.send(message))  # noqa: PLW0108 - there is no link yet
        except OSError as error:
            return None, (f"containers: not seen: {error.strerror}",)
        return counted, counted.limits()

    def _emit(self, identity: str, raw: bytes) -> None:
        event = Observed(id=identity, raw=raw, received=time.time())
        self._outbox.put(event)
        self.link.send(event)

    def _on_lost(self, count: int) -> None:
        self._notices.note(
            "Agent.Events.Lost", "{count} events were given up: too many waited for the controller", count
        )

    def _on_welcome(self, welcome: Welcome) -> None:
        self._paused_by_controller = welcome.paused
        self._follow(welcome.keys)
        self._watch_memory_by(welcome)
        try:
            self._protected.extend(welcome.protected)
        except SettingError as error:
            _log.error("the controller's list of what is protected is wrong", error=str(error))
        for outcome in self._ledger.pending():
            self.link.send(Reported(outcome=outcome))
        for event in self._outbox.waiting():
            self.link.send(event)
        self._tell_isolated({})
        if self._census is not None:
            self._census.welcomed()
        self._parcels.welcomed()
        self.link.rouse()
        self._observe(welcome.observe)

    def _follow(self, statements: tuple[bytes, ...]) -> None:
        """Obey the key that follows the one that is pinned, if that one says so."""
        try:
            identity = self._identity.obeying(self._state, statements)
        except (LinkError, OSError) as error:
            _log.error("the controller's statement about its key was not accepted", reason=str(error))
            self._notices.note("Agent.Command.Refused", f"{{count}} statements were not accepted: {_plain(error)}")
            return
        if identity is not self._identity:
            self._identity = identity
            _log.warning("the controller's key has changed, as the one before says")

    def _on_message(self, message: FromController) -> None:
        match message:
            case Ordered(envelope=envelope):
                self._order(envelope)
            case Announced(envelope=envelope):
                self._announce(envelope)
            case OutcomeAck(ids=ids):
                self._hands.submit(self._acknowledge, ids)
            case EventAck(ids=ids):
                self._outbox.acknowledge(ids)
            case Rehearse(envelope=envelope):
                self._rehearse(envelope)
            case EvidenceAck() as ack:
                self._parcels.acknowledged(ack)
                self.link.rouse()
            case Pause(paused=paused):
                self._paused_by_controller = paused
            case Observe() as observe:
                self._observe(observe)
            case _:
                raise LinkError(f"unexpected {type(message).__name__}")

    def _observe(self, observe: Observe | None) -> None:
        self._observing.ask(observe if self._may_observe else None)

    def _announce(self, envelope: bytes) -> None:
        command = self._verified(envelope)
        if command is not None:
            self._announced[envelope] = command
            while len(self._announced) > _MOST_ANNOUNCED:
                self._announced.popitem(last=False)
            if not self._executor.prepare(command, wait=False):
                self._hands.submit(self._executor.prepare, command)

    def _order(self, envelope: bytes) -> None:
        # The very bytes that were verified need not be again; whether it has expired, the executor looks at in any case.
        command = self._announced.pop(envelope, None) or self._verified(envelope)
        if command is None or command.id in self._ending:
            return
        # Another thread would have to be woken first.
        struck = self._executor.strike(command)
        if struck is None:
            self._hands.submit(self._carry_out, command)
            return
        # Until the process has ended a thread could only wait for that, and would be in its way.
        late = self._loop.call_later(_ENDING_SECONDS, self._ended, command)
        self._ending[command.id] = struck, late
        self._loop.add_reader(struck, self._ended, command)

    def _ended(self, command: Command) -> None:
        """The process of a kill has ended, or takes its time to."""
        ending = self._ending.pop(command.id, None)
        if ending is None:
            return
        process, late = ending
        late.cancel()
        self._loop.remove_reader(process)
        self._hands.submit(self._carry_out, command)

    def _rehearse(self, envelope: bytes) -> None:
        command = self._verified(envelope, rehearsal=True)
        if command is not None:
            self._rehearsing.submit(self._rehearsed, command)

    def _rehearsed(self, command: Command) -> None:
        """In a thread of its own, so that no command waits for a dry run."""
        try:
            rehearsed = rehearse(
                command, self._kernel, self._ledger, self._protected, kept=self._kept, paused=self._is_paused
            )
        except Exception:  # noqa: BLE001 - the last frame of a thread: nobody else would learn of it
            _log.exception("a dry run failed in a way that was not foreseen", id=command.id)
            return
        self._loop.call_soon_threadsafe(self.link.send, rehearsed)

    def _verified(self, envelope: bytes, *, rehearsal: bool = False) -> Command | None:
        identity = self._identity
        try:
            command = verify(
                envelope, identity.controller_key, agent=identity.agent, now=time.time(), rehearsal=rehearsal
            )
            self._not_replayed(command)
        except LinkError as error:
            _log.error("a command was not accepted", reason=str(error))
            self._notices.note("Agent.Command.Refused", f"{{count}} commands were not accepted: {_plain(error)}")
            return None
        return command

    def _not_replayed(self, command: Command) -> None:
        """LinkError: the controller has acknowledged its outcome, and has no reason to order it again.

        Orders and acknowledgements come in the order in which the controller sent them. What became of it is said again
        all the same: a controller that was restored from a backup may have forgotten it.
        """
        if self._ledger.acknowledged(command.id):
            outcome = self._ledger.find(command.id)
            if outcome is not None:
                self.link.send(Reported(outcome=outcome))
            raise LinkError(f"replayed command {command.id}: it was done, and its outcome was acknowledged")

    def _carry_out(self, command: Command) -> None:
        """In a thread of its own."""
        try:
            outcome = self._executor.execute(command)
        except NotYet as waiting:
            self._loop.call_soon_threadsafe(self._wait, command, waiting.seconds)
            return
        except Exception:  # noqa: BLE001 - the last frame of a thread: nobody else would learn of it
            # The controller repeats the command, as no outcome is reported.
            _log.exception("a command failed in a way that was not foreseen", id=command.id)
            return
        self._loop.call_soon_threadsafe(self._carried_out, command, outcome)

    def _wait(self, command: Command, seconds: float) -> None:
        """Carry it out again then. It may come again meanwhile, and is not to be waited for twice."""
        before = self._waiting.pop(command.id, None)
        if before is not None:
            before.cancel()
        self._waiting[command.id] = self._loop.call_later(seconds, self._again, command)

    def _again(self, command: Command) -> None:
        del self._waiting[command.id]
        self._hands.submit(self._carry_out, command)

    def _carried_out(self, command: Command, outcome: Outcome) -> None:
        self.link.send(Reported(outcome=outcome))
        _told(word(command.action), outcome)
        if isinstance(command.target, NetworkTarget):
            self._plan_lease()
            self._plan_watch(_WATCH)

    def _acknowledge(self, ids: tuple[str, ...]) -> None:
        try:
            self._ledger.acknowledge(ids)
        except StoreError as error:
            _log.warning("an acknowledgement was not kept, so its outcomes will be sent again", error=str(error))

    def _watch_memory_by(self, welcome: Welcome) -> None:
        """By the controller's settings, if it has any: it says the same at each link."""
        threshold, pause = welcome.memory_threshold, welcome.memory_pause
        if threshold is not None and pause is not None and (threshold, pause) != self._memory_bounds:
            self._memory_bounds = (threshold, pause)
            self._pressure = memory.Pressure(threshold, pause)
            self._look_at_memory()

    def _look_at_memory(self) -> None:
        measure = memory.measure()
        told = "" if measure is None else self._pressure.look(measure, time.monotonic())
        if told:
            self._notices.note("Agent.Memory.Pressure", f"the agent: {told}")
        if self._memory_timer is not None:
            self._memory_timer.cancel()
        self._memory_timer = self._loop.call_later(_MEMORY_SECONDS, self._look_at_memory)

    def _is_paused(self) -> bool:
        if self._paused_by_controller:
            return True
        try:
            os.stat(self._pause_file)  # noqa: PTH116 - on the way to a kill
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _plan_lease(self, at_least: float = 0.0) -> None:
        """Wake when the next quarantine's lease ends, if any does."""
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None
        ends = [closed.until for closed in self._ledger.closed() if closed.until is not None]
        if ends:
            wait = max(at_least, min(_LOOK_AGAIN, min(ends) - time.time()))
            self._lease_timer = self._loop.call_later(wait, self._hands.submit, self._end_leases)

    def _end_leases(self) -> None:
        """In a thread. SEMANTICS section 4: the agent ends what ran out without being told."""
        failed, ended = False, {}
        for key in self._executor.expired(time.time()):
            try:
                self._executor.release(key)
            except (OSError, StoreError) as error:
                failed = True
                _log.error("a quarantine that ran out could not be ended", quarantine=key, error=str(error))
            else:
                _log.info("a quarantine ran out", quarantine=key)
                ended[key] = "lease"
        self._loop.call_soon_threadsafe(self._plan_lease, _TRY_AGAIN if failed else 0.0)
        if ended:
            self._loop.call_soon_threadsafe(self._tell_isolated, ended)

    def _plan_watch(self, wait: float) -> None:
        """Look at what is isolated again, if anything is and nobody is to look already."""
        if self._watch_timer is None and self._ledger.closed():
            self._watch_timer = self._loop.call_later(wait, self._hands.submit, self._watch)

    def _watch(self) -> None:
        """In a thread: what ended without a command, and what somebody opened behind our back."""
        # By the wall a look takes long where the machine is busy, and what is opened would stay open longer.
        started = time.thread_time()
        ended: dict[str, str] = {}
        reclosed: list[str] = []
        try:
            released = self._released_file.exists()
            ended, reclosed = self._executor.look(released=released)
            if released:
                self._released_file.unlink(missing_ok=True)
            for key, why in ended.items():
                _log.info("a quarantine ended by itself", quarantine=key, why=why)
            for key in reclosed:
                _log.warning("a quarantine that somebody had opened or changed was closed again", quarantine=key)
        except (OSError, StoreError) as error:
            _log.error("what is isolated could not be looked at", error=str(error))
        took = time.thread_time() - started
        self._loop.call_soon_threadsafe(self._watched, ended, reclosed, max(_WATCH, took * _WATCH_SHARE))

    def _watched(self, ended: dict[str, str], reclosed: list[str], wait: float) -> None:
        self._watch_timer = None
        for key in reclosed:
            self._tampered[key] = self._tampered.get(key, 0) + 1
        if ended or self._untold() or time.monotonic() - self._told >= _TELL:
            self._tell_isolated(ended)
        self._plan_watch(wait)

    def _untold(self) -> dict[str, int]:
        """With what somebody tampered; who does so all the time is told of once a minute."""
        since = time.monotonic() - _TELL
        return {key: count for key, count in self._tampered.items() if self._tampered_told.get(key, since) <= since}

    def _tell_isolated(self, ended: dict[str, str]) -> None:
        self._told = time.monotonic()
        closed, tampered = self._executor.closed(), self._untold() if self.link.is_up else {}
        for key in tampered:
            del self._tampered[key]
            self._tampered_told[key] = self._told
        self._tampered_told = {key: at for key, at in self._tampered_told.items() if key in closed}
        self.link.send(Isolated(closed=closed, ended=ended, tampered=tampered))


async def _identity(options: Options) -> Identity:
    """Who this agent is; at the first start, by joining, for as long as the controller cannot be reached."""
    pause = _FIRST_PAUSE
    while True:
        known = enrolled(options.state)
        if known is not None:
            if options.node not in (None, known.node):
                raise LinkError(
                    f"enrolled as node {known.node}, asked to be {options.node}: empty {options.state} to enrol anew"
                )
            return known
        if not options.join_token:
            raise LinkError(
                f"not enrolled ({options.state} has no agent.json) and no join token given: "
                "--join-token-file or QUELL_JOIN_TOKEN"
            )
        try:
            await asyncio.to_thread(
                enrol,
                options.state,
                options.address,
                token=options.join_token,
                node=options.node or os.uname().nodename,
                machine_id=proc.machine_id(),
            )
        except UnreachableError as error:
            _log.warning("not enrolled yet", reason=str(error), again_in=round(pause, 2))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, keeps no secret
            pause = min(_LONGEST_PAUSE, pause * 2)
        else:
            _log.info("enrolled")


async def _until(
    stop: asyncio.Event, work: Coroutine[None, None, _T], farewell: Callable[[], Awaitable[None]] | None = None
) -> _T | None:
    """The result of work, or None if it was told to stop first; then farewell comes before its end."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        return task.result()
    if farewell is not None:
        await farewell()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return None


def _hello(identity: Identity, machine_id: str, capabilities: Capabilities, limits: tuple[str, ...]) -> Hello:
    return Hello(
        agent=identity.agent,
        version=__version__,
        node=identity.node,
        machine_id=machine_id,
        boot_id=proc.boot_id(),
        boot_time=proc.boot_time(),
        capabilities=tuple(sorted(capabilities.words)),
        limits=(*capabilities.limits, *limits),
        host_netns=proc.host_netns(),
        instance=uuid7(),
        rehearses=True,
    )


def _told(action: str, outcome: Outcome) -> None:
    """The one line of log a command gets."""
    facts = {"reason": outcome.reason, "explanation": outcome.explanation, "pid": outcome.facts.get("pid")}
    level = "info" if outcome.status in {OutcomeStatus.DONE, OutcomeStatus.GONE} else "warning"
    getattr(_log, level)(
        action,
        id=outcome.id,
        status=str(outcome.status),
        ms=None if outcome.duration is None else round(outcome.duration * 1000, 2),
        **{key: value for key, value in facts.items() if value},
    )


def _plain(error: Exception) -> str:
    # The sentence goes through str.format, and an id in it may hold braces.
    return str(error).replace("{", "{{").replace("}", "}}")
