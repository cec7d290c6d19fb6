"""Commands out to the agents, outcomes back into the store. SEMANTICS sections 8 (signed) and 9.

A command waits in the outbox as msgpack, unsigned; it is signed in memory, at the latest when it is first sent, and
that envelope is repeated.
Expiry and nonce are in the command and Ed25519 is deterministic, so a repetition after a restart is the same bytes,
yet a copy of the database holds nothing that an agent would obey.

A command is sent at once, in the order of the decisions, again when its agent comes back and every few seconds, until
an outcome is recorded or it expires. Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from quell.channel.envelope import sign
from quell.channel.messages import Announced, FromController, Ordered, OutcomeAck
from quell.controller.outcomes import Outcomes
from quell.errors import QuellError
from quell.model.action import AgentAction, KillPod
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason, StateChange
from quell.response.facts import KUBERNETES
from quell.storage import outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store

_CHANNEL = "agent:"
#: Commands given up as expired whose true outcome may still come, kept in memory; older ones are read from the journal.
_GIVEN_UP = 10_000
#: Envelopes of commands that are not yet on disk; those of commands that never came there are forgotten with the rest.
_SIGNED = 1_000

#: Commands waiting for an agent above which the next are not announced: it has enough to do.
_ANNOUNCED = 8

_log = structlog.get_logger(__name__)
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


class Link(Protocol):
    """A connected agent."""

    def send(self, message: FromController) -> None:
        """Queue a message in order. Never blocks, never raises; what a broken link swallows is sent again later."""


class Timing(Struct, frozen=True, kw_only=True):
    """Seconds."""

    #: Between the first two sendings of a command on a link that stays up; doubled each time.
    repeat: float = 2.0
    #: After its expiry, how long the outcome of a command that may have reached its agent is waited for.
    grace: float = 10.0
    #: Between two looks at what is due, while anything waits.
    step: float = 0.25


class _Pending:
    """A command without a recorded outcome."""

    __slots__ = ("command", "doubtful", "due", "envelope", "late", "recording", "wait")

    def __init__(self, command: Command, envelope: bytes | None = None, *, doubtful: bool, wait: float) -> None:
        self.command = command
        self.envelope = envelope
        #: It may have reached the agent: sent by this process, or perhaps by one before it.
        self.doubtful = doubtful
        self.due = 0.0
        self.wait = wait
        #: An outcome is on its way to the disk.
        self.recording = False
        #: What the agent reported while that outcome was `expired`.
        self.late: Outcome | None = None


def outbox_item(command: Command) -> OutboxItem:
    """A command as it waits in the outbox: for its agent, or for a cluster's API (quell.controller.kubernetes)."""
    return OutboxItem(
        id=command.id,
        channel=command.agent if command.agent.startswith(KUBERNETES) else _CHANNEL + command.agent,
        body=_encoder.encode(command),
        created=command.issued,
        expires=command.expires,
        event_id=command.event_id,
    )


class Dispatcher:
    def __init__(
        self,
        store: Store,
        signing_key: Ed25519PrivateKey,
        clock: Callable[[], float],
        on_reported: Callable[[Command, Outcome], None],
        *,
        changes: Callable[[Command, Outcome], Sequence[StateChange]] = lambda _command, _outcome: (),
        on_failure: Callable[[], None] = lambda: None,
        timing: Timing = Timing(),  # noqa: B008 - frozen
    ) -> None:
        """on_reported is called once for each outcome, after it is on disk. changes tells, before, what follows from
        an outcome for the engine's state (a cooldown starts); it is written in the same transaction. on_failure: that
        transaction did not succeed.
        """
        self._store = store
        self._key = signing_key
        self._clock = clock
        self._outcomes = Outcomes(store, clock, changes=changes, on_recorded=on_reported, on_failure=on_failure)
        self._timing = timing
        self._pending: dict[str, dict[str, _Pending]] = {}
        self._links: dict[str, Link] = {}
        self._given_up: dict[str, Command] = {}
        self._signed: dict[str, tuple[Command, bytes]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Reports that were not accepted, by reason.
        self.refused: Counter[str] = Counter()

    def start(self) -> None:
        """Take up what waits in the outbox. Called once, on the event loop, before agents may connect."""
        self._loop = asyncio.get_running_loop()
        for channel in self._store.read(outbox.counts):
            if channel.startswith(_CHANNEL):
                self._take(self._store.outbox(channel), doubtful=True)
        self.look()

    def stop(self) -> None:
        """Send nothing more. What waits stays in the outbox."""
        self._outcomes.write()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._loop = None
        self._links.clear()

    def prepare(self, command: Command) -> bool:
        """Sign a command that is on its way to the disk and announce it, so that its agent looks at the target meanwhile.

        Whether its agent waits for the order, and has little else to do. What goes to a cluster's API is left alone: nobody
        signs it, and no agent may obey it.
        """
        if command.agent.startswith(KUBERNETES):
            return False
        if len(self._signed) >= _SIGNED:
            self._signed.clear()
        envelope = sign(command, self._key)
        self._signed[command.id] = command, envelope
        link = self._links.get(command.agent)
        if link is None or len(self._pending.get(command.agent, ())) >= _ANNOUNCED:
            return False
        link.send(Announced(envelope=envelope))
        return True

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Commands that are on disk with what they follow from; items of other channels are left alone."""
        self._take([item for item in items if item.channel.startswith(_CHANNEL)], doubtful=False)
        self._outcomes.ordered()

    def connected(self, agent: str, link: Link) -> None:
        """The agent has proved who it is: all that waits for it goes out now, in order."""
        self._links[agent] = link
        for pending in list(self._pending.get(agent, {}).values()):
            pending.wait = self._timing.repeat
            self._send(pending)

    def disconnected(self, agent: str, link: Link) -> None:
        """Only the link that is in use counts: a newer one may have replaced it."""
        if self._links.get(agent) is link:
            del self._links[agent]

    def link_of(self, agent: str) -> Link | None:
        """None: it is not connected."""
        return self._links.get(agent)

    def waiting(self, agent: str | None = None) -> int:
        """How many commands have no recorded outcome yet, of one agent or of all."""
        return sum(len(some) for name, some in self._pending.items() if agent in (None, name))

    def reported(self, agent: str, outcome: Outcome) -> None:
        """An agent says what became of a command. Recorded once, acknowledged each time, after it is on disk."""
        pending = self._pending.get(agent, {}).get(outcome.id)
        if pending is None:
            self._reported_late(agent, outcome)
        elif pending.recording:
            pending.late = outcome
        else:
            self._record(pending, outcome)

    def look(self) -> None:
        """Repeat what is due and give up what has expired. The timer calls it; so may a test with its own clock."""
        now = self._clock()
        for commands in list(self._pending.values()):
            for pending in list(commands.values()):
                if pending.recording:
                    continue
                grace = self._timing.grace + _lasts(pending.command.action) if pending.doubtful else 0.0
                if now >= pending.command.expires + grace:
                    self._expire(pending, now)
                elif now >= pending.due:
                    self._send(pending)
        self._arm()

    # --- out ---------------------------------------------------------------------------------------------------------

    def _take(self, items: Sequence[OutboxItem], *, doubtful: bool) -> None:
        for item in items:
            agent = item.channel.removeprefix(_CHANNEL)
            if item.id in self._pending.get(agent, {}):
                continue
            command, envelope = self._signed.pop(item.id, (None, None))
            try:
                command = command or _decoder.decode(item.body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._outcomes.unreadable(item, error)
                continue
            pending = _Pending(command, envelope, doubtful=doubtful, wait=self._timing.repeat)
            self._pending.setdefault(agent, {})[item.id] = pending
            self._send(pending)
        self._arm()

    def _send(self, pending: _Pending) -> None:
        command = pending.command
        link = self._links.get(command.agent)
        now = self._clock()
        if link is None or pending.recording or now >= command.expires:
            return
        if pending.envelope is None:
            pending.envelope = sign(command, self._key)
        pending.doubtful = True
        pending.due = now + pending.wait
        pending.wait *= 2
        link.send(Ordered(envelope=pending.envelope))

    def _expire(self, pending: _Pending, now: float) -> None:
        command = pending.command
        why = "it was sent, no outcome came back" if pending.doubtful else "its agent was not connected"
        outcome = Outcome(
            id=command.id,
            status=OutcomeStatus.EXPIRED,
            reason=Reason.EXPIRED,
            explanation=f"{command.agent}: {why} before the command expired",
            time=now,
            # With these a later report can be laid to its command, after a restart too.
            facts={"agent": command.agent, "event": command.event_id},
        )
        self._record(pending, outcome, given_up=True)

    # --- in ----------------------------------------------------------------------------------------------------------

    def _record(self, pending: _Pending, outcome: Outcome, *, given_up: bool = False) -> None:
        if self._loop is None:
            return
        pending.recording = True
        self._outcomes.record(pending.command, outcome, lambda error: self._recorded(pending, error, given_up=given_up))

    def _recorded(self, pending: _Pending, error: QuellError | None, *, given_up: bool) -> None:
        command = pending.command
        pending.recording = False
        if error is not None:
            # Not acknowledged: the repeated command makes the agent report again, an expiry comes up at the next look.
            _log.error("an outcome could not be recorded", command=command.id, agent=command.agent, error=str(error))
            if command.id not in self._given_up:
                return
        commands = self._pending.get(command.agent, {})
        commands.pop(command.id, None)
        if not commands:
            self._pending.pop(command.agent, None)
        if error is not None:
            return
        late, pending.late = pending.late, None
        if given_up:
            self._remember(command)
            if late is not None:
                self._reported_late(command.agent, late)
            return
        self._given_up.pop(command.id, None)
        self._acknowledge(command.agent, command.id)

    def _reported_late(self, agent: str, outcome: Outcome) -> None:
        """A report about a command that nothing waits for: a repetition, one that came after all, or nonsense."""
        if any(outcome.id in commands for name, commands in self._pending.items() if name != agent):
            self.refused["another agent's command"] += 1
            _log.warning("an agent reported on another agent's command", agent=agent, command=outcome.id)
            return
        recorded = [known for known in self._store.outcomes(outcome.id) if known.id == outcome.id]
        command = self._given_up.get(outcome.id) or self._restored(outcome.id, recorded)
        if command is not None and any(known.status is not OutcomeStatus.EXPIRED for known in recorded):
            command = None
        if command is not None and command.agent == agent:
            pending = _Pending(command, doubtful=True, wait=self._timing.repeat)
            self._pending.setdefault(agent, {})[command.id] = pending
            self._remember(command)
            self._record(pending, outcome)
            return
        if not recorded:
            self.refused["no such command"] += 1
            _log.warning("an agent reported on a command nobody gave", agent=agent, command=outcome.id)
        # Acknowledged all the same, so that the agent need not keep it: nothing here depends on it.
        self._acknowledge(agent, outcome.id)

    def _restored(self, identifier: str, recorded: Sequence[Outcome]) -> Command | None:
        """The command that an earlier process gave up as expired, from the journal; None if it was another's."""
        for known in recorded:
            agent, event_id = known.facts.get("agent"), known.facts.get("event")
            if known.status is not OutcomeStatus.EXPIRED or not isinstance(agent, str) or not isinstance(event_id, str):
                continue
            stored = self._store.event(event_id)
            for record in stored.decision.actions if stored is not None else ():
                if record.id == identifier and record.target is not None and isinstance(record.action, AgentAction):
                    return Command(
                        id=identifier,
                        agent=agent,
                        action=record.action,
                        target=record.target,
                        issued=known.time,
                        expires=known.time,
                        nonce="",
                        event_id=event_id,
                        asked_by=record.asked_by,
                    )
        return None

    def _remember(self, command: Command) -> None:
        self._given_up[command.id] = command
        if len(self._given_up) > _GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _acknowledge(self, agent: str, identifier: str) -> None:
        if (link := self._links.get(agent)) is not None:
            link.send(OutcomeAck(ids=(identifier,)))

    def _arm(self) -> None:
        if self._loop is not None and self._timer is None and self._pending:
            self._timer = self._loop.call_later(self._timing.step, self._woken)

    def _woken(self) -> None:
        self._timer = None
        self.look()


def _lasts(action: AgentAction) -> float:
    """Seconds that the action itself may take once it was begun."""
    return action.grace_period if isinstance(action, KillPod) else 0.0
