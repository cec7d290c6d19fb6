"""Commands: sent at once and in order, repeated as the same bytes, one recorded outcome each. A clock turned by hand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quell.channel.envelope import verify
from quell.channel.messages import FromController, Ordered, OutcomeAck
from quell.controller.dispatcher import Dispatcher, outbox_item
from quell.controller.outcomes import GIVE_WAY
from quell.model.action import KillPod, KillProcess, Quarantine
from quell.model.decision import (
    ActionRecord,
    Command,
    CooldownStarted,
    Decision,
    Match,
    Outcome,
    OutcomeStatus,
    Reason,
    StateChange,
    Status,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Subject
from quell.storage import outbox
from quell.storage.records import Entry, OutboxItem, Settled
from quell.storage.store import Store

KEY = Ed25519PrivateKey.generate()
#: Of now, for what is older than the retention leaves the journal.
START = float(int(time.time()))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class RecordingLink:
    """The wire's end of a link: what was sent, in order."""

    def __init__(self) -> None:
        self.sent: list[FromController] = []

    def send(self, message: FromController) -> None:
        self.sent.append(message)

    def ordered(self) -> list[bytes]:
        return [message.envelope for message in self.sent if isinstance(message, Ordered)]

    def commands(self, agent: str = "a1", now: float = START) -> list[str]:
        return [verify(envelope, KEY.public_key(), agent=agent, now=now).id for envelope in self.ordered()]

    def acknowledged(self) -> list[str]:
        return [one for message in self.sent if isinstance(message, OutcomeAck) for one in message.ids]


class Desk:
    """A dispatcher with what it told."""

    def __init__(self, store: Store, clock: Clock, changes: Sequence[StateChange] = ()) -> None:
        self.told: list[tuple[str, OutcomeStatus]] = []
        self.store = store
        self.dispatcher = Dispatcher(
            store,
            KEY,
            clock,
            lambda command, outcome: self.told.append((command.id, outcome.status)),
            changes=lambda _command, _outcome: changes,
        )

    async def settle(self) -> None:
        """Until outcomes have given way, all that was given to the store has been written, and the loop has heard of it."""
        await asyncio.sleep(GIVE_WAY)
        await asyncio.wrap_future(self.store.submit(lambda _connection: None))
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db") as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(store: Store, clock: Clock, changes: Sequence[StateChange] = ()) -> AsyncIterator[Desk]:
    desk = Desk(store, clock, changes)
    desk.dispatcher.start()
    try:
        yield desk
    finally:
        desk.dispatcher.stop()


def command(n: int, agent: str = "a1", expires: float = START + 30.0) -> Command:
    return Command(
        id=f"event{n}/1",
        agent=agent,
        action=KillProcess(),
        target=ProcessTarget(node="node1", process=Process(pid=4711, start_ticks=n)),
        issued=START,
        expires=expires,
        nonce=f"nonce{n}",
        event_id=f"event{n}",
        asked_by=("rule/8",),
    )


def commit(store: Store, *commands: Command) -> list[OutboxItem]:
    items = [outbox_item(one) for one in commands]
    store.submit(lambda connection: outbox.insert(connection, items)).result()
    return items


def done(n: int, status: OutcomeStatus = OutcomeStatus.DONE) -> Outcome:
    return Outcome(id=f"event{n}/1", status=status, time=START + 1, duration=0.0004)


def statuses(store: Store, n: int) -> list[OutcomeStatus]:
    return [outcome.status for outcome in store.outcomes(f"event{n}")]


def scenario(store: Store, steps: Callable[[Desk, Clock, RecordingLink], object]) -> None:
    """Run steps with a dispatcher whose agent a1 is connected."""

    async def run() -> None:
        clock, link = Clock(), RecordingLink()
        async with running(store, clock) as desk:
            desk.dispatcher.connected("a1", link)
            await steps(desk, clock, link)  # type: ignore[misc]

    asyncio.run(run())


def test_a_command_goes_out_at_once_signed_for_its_agent(store: Store) -> None:
    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        other = RecordingLink()
        desk.dispatcher.connected("a2", other)
        desk.dispatcher.offer(commit(store, command(1), command(2, "a2"), command(3)))
        assert link.commands() == ["event1/1", "event3/1"]
        assert other.commands("a2") == ["event2/1"]
        assert desk.dispatcher.waiting() == 3
        assert desk.dispatcher.waiting("a2") == 1

    scenario(store, steps)


def test_what_waits_goes_out_in_order_when_the_agent_comes(store: Store) -> None:
    async def run() -> None:
        async with running(store, Clock()) as desk:
            desk.dispatcher.offer(commit(store, *(command(n) for n in range(10))))
            link = RecordingLink()
            desk.dispatcher.connected("a1", link)
            assert link.commands() == [f"event{n}/1" for n in range(10)]

    asyncio.run(run())


def test_repetitions_are_the_same_bytes_ever_more_rarely_and_after_a_restart(store: Store) -> None:
    async def run() -> None:
        clock, link = Clock(), RecordingLink()
        async with running(store, clock) as desk:
            desk.dispatcher.connected("a1", link)
            desk.dispatcher.offer(commit(store, command(1)))
            sent_at = []
            for _ in range(290):
                before = len(link.ordered())
                clock.now += 0.1
                desk.dispatcher.look()
                if len(link.ordered()) > before:
                    sent_at.append(round(clock.now - START))
            assert sent_at == [2, 6, 14]
            again = RecordingLink()
            desk.dispatcher.connected("a1", again)
        clock.now = START + 29
        async with running(store, clock) as desk:
            restarted = RecordingLink()
            desk.dispatcher.connected("a1", restarted)
        assert len({*link.ordered(), *again.ordered(), *restarted.ordered()}) == 1
        assert len(restarted.ordered()) == 1

    asyncio.run(run())


def test_an_outcome_is_recorded_once_and_acknowledged_each_time_it_comes(store: Store) -> None:
    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        desk.dispatcher.offer(commit(store, command(1)))
        desk.dispatcher.reported("a1", done(1))
        desk.dispatcher.reported("a1", done(1))
        assert link.acknowledged() == []  # not before it is on disk
        await desk.settle()
        assert link.acknowledged() == ["event1/1"]
        desk.dispatcher.reported("a1", done(1))
        await desk.settle()
        assert link.acknowledged() == ["event1/1"] * 2
        assert desk.told == [("event1/1", OutcomeStatus.DONE)]
        assert desk.dispatcher.waiting() == 0
        assert store.outbox() == []

    scenario(store, steps)
    assert statuses(store, 1) == [OutcomeStatus.DONE]


def test_what_follows_from_an_outcome_is_written_with_it(store: Store) -> None:
    change = CooldownStarted(key="rule/8", at=START, until=START + 60)

    async def run() -> None:
        async with running(store, Clock(), [change]) as desk:
            desk.dispatcher.offer(commit(store, command(1)))
            desk.dispatcher.reported("a1", done(1))
            await desk.settle()

    asyncio.run(run())
    assert list(store.restore()[1]) == [Settled(outcomes=(done(1),), changes=(change,))]


def test_an_agent_cannot_answer_for_another(store: Store) -> None:
    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        thief = RecordingLink()
        desk.dispatcher.connected("a2", thief)
        desk.dispatcher.offer(commit(store, command(1)))
        desk.dispatcher.reported("a2", done(1))
        await desk.settle()
        assert thief.acknowledged() == []
        assert desk.told == []
        assert sum(desk.dispatcher.refused.values()) == 1
        desk.dispatcher.reported("a1", done(1))
        await desk.settle()
        assert link.acknowledged() == ["event1/1"]

    scenario(store, steps)


def test_a_report_nobody_asked_for_is_counted_and_leaves_no_outcome(store: Store) -> None:
    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        desk.dispatcher.reported("a1", done(9))
        await desk.settle()
        assert link.acknowledged() == ["event9/1"]  # so that the agent does not keep it for ever
        assert desk.dispatcher.refused["no such command"] == 1
        assert desk.told == []

    scenario(store, steps)
    assert statuses(store, 9) == []


def test_what_expires_undelivered_is_an_outcome_and_is_never_sent(store: Store) -> None:
    async def run() -> None:
        clock = Clock()
        async with running(store, clock) as desk:
            desk.dispatcher.offer(commit(store, command(1)))
            clock.now = START + 30
            link = RecordingLink()
            desk.dispatcher.connected("a1", link)
            desk.dispatcher.look()
            await desk.settle()
            assert link.sent == []
            assert desk.told == [("event1/1", OutcomeStatus.EXPIRED)]
            assert store.outbox() == []

    asyncio.run(run())
    (outcome,) = store.outcomes("event1")
    assert (outcome.status, outcome.reason) == (OutcomeStatus.EXPIRED, Reason.EXPIRED)
    assert "not connected" in outcome.explanation


def test_what_expired_while_the_controller_was_down_is_an_outcome_too(store: Store) -> None:
    commit(store, command(1))

    async def run() -> None:
        clock = Clock()
        clock.now = START + 3600
        async with running(store, clock) as desk:
            await desk.settle()
            assert desk.told == [("event1/1", OutcomeStatus.EXPIRED)]

    asyncio.run(run())


def test_the_timer_alone_repeats_and_expires(store: Store) -> None:
    async def steps(desk: Desk, clock: Clock, link: RecordingLink) -> None:
        desk.dispatcher.offer(commit(store, command(1)))
        clock.now += 2
        deadline = asyncio.get_running_loop().time() + 5
        while len(link.ordered()) < 2:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        clock.now = START + 3600
        while not desk.told:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    scenario(store, steps)


def test_a_grace_period_is_waited_for_after_the_expiry(store: Store) -> None:
    async def steps(desk: Desk, clock: Clock, link: RecordingLink) -> None:
        pod = msgspec.structs.replace(command(1), action=KillPod(grace_period=60), target=PodTarget(uid="u"))
        desk.dispatcher.offer(commit(store, pod))
        clock.now = START + 30 + 60 + 9
        desk.dispatcher.look()
        await desk.settle()
        assert desk.told == []
        assert len(link.ordered()) == 1, "what has expired is not sent again"
        desk.dispatcher.reported("a1", done(1))
        await desk.settle()
        assert desk.told == [("event1/1", OutcomeStatus.DONE)]

    scenario(store, steps)


@pytest.mark.parametrize("restart", [False, True])
def test_the_truth_about_a_command_given_up_is_still_taken_from_its_agent(store: Store, restart: bool) -> None:
    target = NetworkTarget(node="node1", key="c1")
    asked = msgspec.structs.replace(command(1), action=Quarantine(), target=target)
    action = ActionRecord(
        id="event1/1", action=Quarantine(), target=target, asked_by=("rule/8",), status=Status.GRANTED
    )
    event = Event(
        id="event1",
        time=START,
        received=START,
        source="native",
        category=Category.SECURITY_EVENT,
        kind=Kind.INCIDENT,
        name="x",
        level=Level.WARNING,
        subject=Subject(),
        raw=b"{}",
    )
    decision = Decision(
        event_id="event1", time=START, revision=1, matches=(Match(ref="rule/8", name="r"),), actions=(action,)
    )
    item = outbox_item(asked)

    async def run() -> None:
        clock, link = Clock(), RecordingLink()
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        store.append(
            [Entry(event=event, decision=decision, outbox=(item,))],
            lambda error: loop.call_soon_threadsafe(written.set_result, error),
        )
        assert await written is None
        async with running(store, clock) as desk:
            desk.dispatcher.connected("a1", link)
            clock.now = START + 35
            desk.dispatcher.look()
            await desk.settle()
            assert desk.told == []  # it was sent: its outcome may be on the way
            clock.now = START + 41
            desk.dispatcher.look()
            await desk.settle()
            assert desk.told == [("event1/1", OutcomeStatus.EXPIRED)]
            if not restart:
                await late(desk, link)
                return
        async with running(store, clock) as desk:
            desk.dispatcher.connected("a1", link)
            await late(desk, link)

    async def late(desk: Desk, link: RecordingLink) -> None:
        desk.told.clear()
        desk.dispatcher.reported("a2", done(1))
        await desk.settle()
        assert desk.told == []
        for _ in range(2):
            desk.dispatcher.reported("a1", done(1))
            await desk.settle()
        assert desk.told == [("event1/1", OutcomeStatus.DONE)]
        assert link.acknowledged() == ["event1/1"] * 2
        assert desk.dispatcher.waiting() == 0

    asyncio.run(run())
    assert statuses(store, 1) == [OutcomeStatus.EXPIRED, OutcomeStatus.DONE]


def test_a_command_of_another_version_fails_visibly_and_holds_up_nothing(store: Store) -> None:
    broken = OutboxItem(id="event7/1", channel="agent:a1", body=b"\xc1", created=START, expires=START + 30)
    store.submit(lambda connection: outbox.insert(connection, [broken])).result()
    commit(store, command(8))

    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        await desk.settle()
        assert link.commands() == ["event8/1"]

    scenario(store, steps)
    (outcome,) = store.outcomes("event7")
    assert (outcome.status, outcome.reason) == (OutcomeStatus.FAILED, Reason.UNSUPPORTED)


def test_an_older_link_that_ends_late_does_not_cut_off_the_newer(store: Store) -> None:
    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        newer = RecordingLink()
        desk.dispatcher.connected("a1", newer)
        desk.dispatcher.disconnected("a1", link)
        desk.dispatcher.offer(commit(store, command(1)))
        assert newer.commands() == ["event1/1"]
        desk.dispatcher.disconnected("a1", newer)
        desk.dispatcher.offer(commit(store, command(2)))
        assert newer.commands() == ["event1/1"]

    scenario(store, steps)


def test_a_store_that_cannot_write_gets_no_acknowledgement(store: Store) -> None:
    async def steps(desk: Desk, clock: Clock, link: RecordingLink) -> None:
        desk.dispatcher.offer(commit(store, command(1)))
        store.close()
        desk.dispatcher.reported("a1", done(1))
        await asyncio.sleep(2 * GIVE_WAY)
        assert link.acknowledged() == []
        assert desk.told == []
        clock.now += 2
        desk.dispatcher.look()  # the repeated command makes the agent report again
        assert len(link.ordered()) == 2

    scenario(store, steps)


def commits(store: Store) -> int:
    return store.statistics().commits


def test_an_outcome_lets_the_orders_of_an_event_go_first(store: Store) -> None:
    """It is written right behind them, and what gathered meanwhile with it."""

    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        desk.dispatcher.offer(commit(store, command(1), command(2)))
        before = commits(store)
        desk.dispatcher.reported("a1", done(1))
        desk.dispatcher.reported("a1", done(2))
        assert commits(store) == before
        # Nothing of them was given to the store yet, so an event would be written alone.
        assert store.statistics().queued_entries == 0
        items = commit(store, command(3))
        desk.dispatcher.offer(items)
        assert link.commands()[-1] == "event3/1"
        await asyncio.sleep(0)
        assert store.statistics().queued_entries > 0 or statuses(store, 1)
        await asyncio.wrap_future(store.submit(lambda _connection: None))
        assert [statuses(store, n) for n in (1, 2)] == [[OutcomeStatus.DONE]] * 2

    scenario(store, steps)


def test_an_outcome_waits_no_longer_than_it_has_to(store: Store) -> None:
    async def steps(desk: Desk, _clock: Clock, link: RecordingLink) -> None:
        desk.dispatcher.offer(commit(store, command(1)))
        desk.dispatcher.reported("a1", done(1))
        deadline = time.monotonic() + 20
        while not link.acknowledged():
            assert time.monotonic() < deadline
            await asyncio.sleep(GIVE_WAY)
        assert desk.told == [("event1/1", OutcomeStatus.DONE)]

    scenario(store, steps)


def test_what_was_reported_before_the_end_is_on_disk_after_it(tmp_path: Path) -> None:
    async def run() -> None:
        with Store.open(tmp_path / "quell.db") as store:
            async with running(store, Clock()) as desk:
                desk.dispatcher.connected("a1", RecordingLink())
                desk.dispatcher.offer(commit(store, command(1)))
                desk.dispatcher.reported("a1", done(1))
        with Store.open(tmp_path / "quell.db") as store:
            assert statuses(store, 1) == [OutcomeStatus.DONE]

    asyncio.run(run())
