"""The agents' link over a real WebSocket: who gets in, what it may say, and that nothing said is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from quell.api import link as link_module
from quell.api.link import REPLACED, AgentLinks
from quell.channel.envelope import prove, verify
from quell.channel.keys import public_text
from quell.channel.messages import (
    MAX_FRAME,
    SUBPROTOCOL,
    Announced,
    Challenge,
    EventAck,
    FromAgent,
    FromController,
    Hello,
    Joined,
    JoinRequest,
    Observed,
    Ordered,
    OutcomeAck,
    Proof,
    Refused,
    Reported,
    Welcome,
    decode_from_controller,
    encode,
)
from quell.controller.controller import Controller
from quell.controller.joining import join
from quell.documents.load import load_text
from quell.errors import LinkError
from quell.ids import uuid7
from quell.model.decision import Outcome, OutcomeStatus
from quell.settings import Settings
from quell.storage import join_tokens
from quell.storage.records import Stored
from quell.storage.store import Store

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-netcat}
spec:
  event: incident
  criteria: ["name:Host.Suspicious.Process"]
  actions: [agentKillProcess]
"""
PAGES = "PRAGMA page_count"
T = TypeVar("T", bound=FromController)


class Place:
    """A controller that serves the agents' link on loopback."""

    def __init__(self, controller: Controller, links: AgentLinks, url: str) -> None:
        self.controller = controller
        self.links = links
        self.url = url

    async def enrol(self, key: Ed25519PrivateKey, node: str = "node1", machine_id: str = "machine1") -> Joined:
        token, now = uuid7(), time.time()
        await self.submit(lambda connection: join_tokens.put(connection, token, "test", now, now + 60))
        return await self.join(token, key, node, machine_id)

    async def join(
        self, token: str, key: Ed25519PrivateKey, node: str = "node1", machine_id: str = "machine1", name: str = "n"
    ) -> Joined:
        request = JoinRequest(
            token=token, name=name, public_key=public_text(key.public_key()), node=node, machine_id=machine_id
        )
        return await join(
            self.controller.store,
            request,
            controller_key=self.controller.signing_key.public_key(),
            now=time.time(),
            withdrawn=lambda agent: self.links.close(agent, "enrolled anew"),
        )

    async def submit(self, change: Callable[[Any], object]) -> None:
        await asyncio.wrap_future(self.controller.store.submit(change))


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Place]:
    controller = Controller.open(folder, Settings())
    controller.start()
    links = AgentLinks(controller, clock=time.time)
    config = uvicorn.Config(
        links, port=0, ws="websockets-sansio", ws_max_size=2 * MAX_FRAME, lifespan="off", log_config=None
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Place(controller, links, f"ws://127.0.0.1:{port}/v1/agents/link")
    finally:
        await server.shutdown()
        await controller.stop()


def run(folder: Path, scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30), serving(folder) as place:
            await scenario(place)

    asyncio.run(within())


def dial(place: Place) -> connect:
    return connect(place.url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, max_size=None)


async def say(connection: ClientConnection, message: FromAgent) -> None:
    await connection.send(encode(message))


async def hear(connection: ClientConnection, kind: type[T]) -> T:
    frame = await connection.recv()
    message = decode_from_controller(frame)
    assert isinstance(message, kind), message
    return message


async def beside(connection: ClientConnection, order: Ordered) -> FromController:
    """The next message but this order, which is repeated as long as no outcome is told."""
    while (heard := decode_from_controller(await connection.recv())) == order:
        pass
    return heard


def hello(agent: str, node: str = "node1", machine_id: str = "machine1") -> Hello:
    return Hello(
        agent=agent,
        version="1",
        node=node,
        machine_id=machine_id,
        boot_id="boot1",
        boot_time=time.time() - 3600,
        capabilities=("agentKillProcess",),
    )


async def introduce(connection: ClientConnection, greeting: Hello, key: Ed25519PrivateKey) -> None:
    await say(connection, greeting)
    challenge = await hear(connection, Challenge)
    await say(connection, Proof(signature=prove(challenge.nonce, greeting.agent, key)))


@contextlib.asynccontextmanager
async def linked(place: Place, agent: str, key: Ed25519PrivateKey, **facts: Any) -> AsyncIterator[ClientConnection]:
    async with dial(place) as connection:
        await introduce(connection, hello(agent, **facts), key)
        await hear(connection, Welcome)
        yield connection


def observed(number: int = 1, **subject: Any) -> Observed:
    identifier = uuid7()
    event = {
        "id": identifier,
        "time": time.time(),
        "name": "Host.Suspicious.Process",
        "subject": {
            "node": "node1",
            "machine_id": "machine1",
            "process": {"pid": 4711, "start_ticks": number, "boot_id": "boot1", "name": "nc", "exe": "/usr/bin/nc"},
        }
        | subject,
    }
    return Observed(id=identifier, raw=json.dumps(event).encode(), received=time.time())


def observed_by(place: Place) -> list[Stored]:
    """Events that agents saw, newest first; what the controller says of its agents is among the others."""
    return [one for one in place.controller.store.recent(1000) if one.source == "sensor"]


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """The code and reason it ends with, after the Refused that says the same."""
    reason = (await hear(connection, Refused)).reason
    with pytest.raises(ConnectionClosed) as raised:
        await connection.recv()
    assert raised.value.rcvd is not None
    assert reason.startswith(raised.value.rcvd.reason)
    return raised.value.rcvd.code, reason


# --- enrolment -------------------------------------------------------------------------------------------------------


def test_a_join_token_is_good_once(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        now = time.time()
        await place.submit(lambda connection: join_tokens.put(connection, "good", "t", now, now + 60))
        await place.submit(lambda connection: join_tokens.put(connection, "old", "t", now - 60, now - 1))
        joined = await place.join("good", Ed25519PrivateKey.generate())
        assert joined.controller_key == public_text(place.controller.signing_key.public_key())
        for bad in ("good", "old", "never"):
            with pytest.raises(LinkError, match="unknown, used or expired"):
                await place.join(bad, Ed25519PrivateKey.generate(), node="node2")
        assert [agent["node"] for agent in place.controller.agents()] == ["node1"]

    run(tmp_path, scenario)


def test_a_request_that_makes_no_sense_does_not_use_the_token_up(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        now, key = time.time(), Ed25519PrivateKey.generate()
        await place.submit(lambda connection: join_tokens.put(connection, "good", "t", now, now + 60))
        for bad in ({"node": ""}, {"name": "a\nb"}, {"machine_id": "m" * 1000}):
            with pytest.raises(LinkError, match=next(iter(bad))):
                await place.join("good", key, **bad)
        assert (await place.join("good", key)).agent

    run(tmp_path, scenario)


def test_a_machine_that_enrols_again_takes_its_former_place(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        former = await place.enrol(key)
        async with linked(place, former.agent, key) as connection:
            await place.enrol(other, node="node2")  # a clone with the same machine id is another machine
            newer = await place.enrol(other)
            assert "enrolled anew" in (await closed(connection))[1]
        assert {agent["id"] for agent in place.controller.agents()} >= {newer.agent}
        assert former.agent not in {agent["id"] for agent in place.controller.agents()}
        async with dial(place) as connection:
            await introduce(connection, hello(former.agent), key)
            assert "not enrolled" in (await closed(connection))[1]

    run(tmp_path, scenario)


# --- the handshake ---------------------------------------------------------------------------------------------------


def test_only_the_enrolled_key_on_its_own_machine_gets_in(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        cases = (
            (hello(agent), Ed25519PrivateKey.generate(), "did not prove its key"),
            (hello(uuid7()), key, "not enrolled"),
            (hello(agent, node="node2"), key, "enrol it anew"),
            (hello(agent, machine_id="machine2"), key, "enrol it anew"),
        )
        for greeting, its_key, reason in cases:
            async with dial(place) as connection:
                await introduce(connection, greeting, its_key)
                code, told = await closed(connection)
                assert code == 1008
                assert reason in told
        assert place.links.refused["handshake"] == len(cases)
        assert place.links.connected() == []
        async with linked(place, agent, key):
            assert place.links.connected() == [agent]

    run(tmp_path, scenario)


def test_a_proof_is_good_for_its_own_challenge_only(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        async with dial(place) as first, dial(place) as second:
            await say(first, hello(agent))
            recorded = prove((await hear(first, Challenge)).nonce, agent, key)
            await say(second, hello(agent))
            await hear(second, Challenge)
            await say(second, Proof(signature=recorded))
            assert "did not prove" in (await closed(second))[1]

    run(tmp_path, scenario)


def test_another_protocol_silence_and_noise_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "HANDSHAKE_TIMEOUT", 0.2)

    async def scenario(place: Place) -> None:
        with pytest.raises(InvalidStatus):
            async with connect(place.url, subprotocols=[Subprotocol("other.v1")]):
                pass
        async with dial(place) as silent:
            assert "within" in (await closed(silent))[1]
        async with dial(place) as noisy:
            await noisy.send(b"\xc1\xff")
            assert "not a message" in (await closed(noisy))[1]
        async with dial(place) as texting:
            await texting.send("hello")
            assert "text frame" in (await closed(texting))[1]
        async with dial(place) as hasty:
            await say(hasty, observed())
            assert "Hello first" in (await closed(hasty))[1]

    run(tmp_path, scenario)


def test_a_newer_link_takes_over_and_malformed_frames_end_it(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        async with linked(place, agent, key) as older, linked(place, agent, key) as newer:
            assert (await closed(older))[0] == REPLACED
            assert [one["connected"] for one in place.controller.agents()] == [True]
            await newer.send(b"x" * (MAX_FRAME + 1))
            assert f"at most {MAX_FRAME}" in (await closed(newer))[1]
        async with linked(place, agent, key) as again:
            await say(again, hello(agent))
            assert "Hello after the handshake" in (await closed(again))[1]
        while place.links.connected():  # noqa: ASYNC110 - the server's task ends a moment later
            await asyncio.sleep(0.005)
        assert [one["connected"] for one in place.controller.agents()] == [False]

    run(tmp_path, scenario)


# --- events ----------------------------------------------------------------------------------------------------------


def test_an_observed_event_is_acknowledged_when_it_is_on_disk_and_decided_once(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        sent = [observed(n) for n in range(200)]
        async with linked(place, agent, key) as connection:
            for message in (*sent, sent[0]):
                await say(connection, message)
            acknowledged: list[str] = []
            while len(acknowledged) < len(sent) + 1:
                acknowledged += (await hear(connection, EventAck)).ids
        assert acknowledged == [message.id for message in (*sent, sent[0])]
        stored = observed_by(place)
        assert sorted(one.id for one in stored) == sorted(message.id for message in sent)
        assert {one.source for one in stored} == {"sensor"}

    run(tmp_path, scenario)


def test_an_agent_speaks_only_for_its_own_machine(tmp_path: Path) -> None:
    wrong = [
        observed(node="node2"),
        observed(machine_id="machine2"),
        observed(node="node2", machine_id="machine1"),
        Observed(id=uuid7(), raw=b'{"name":"Host.Suspicious.Process"}', received=0.0),
        Observed(id=uuid7(), raw=b"not json", received=0.0),
        Observed(id="guessed/quarantined", raw=observed().raw, received=0.0),
    ]
    right = observed()

    async def scenario(place: Place) -> None:
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        async with linked(place, agent, key) as connection:
            acknowledged: list[str] = []
            for message in (*wrong, right):
                await say(connection, message)
            while len(acknowledged) < len(wrong) + 1:  # refused for good: the agent need not keep them
                acknowledged += (await hear(connection, EventAck)).ids
        assert [one.id for one in observed_by(place)] == [right.id]
        rejects = place.controller.store.rejects(10)
        assert len(rejects) == place.links.refused["event"] == len(wrong)
        assert {reject.peer for reject in rejects} == {f"agent {agent}"}
        assert any("may not report about node2" in reject.reason for reject in rejects)

    run(tmp_path, scenario)


# --- commands --------------------------------------------------------------------------------------------------------


def test_event_command_outcome_and_again_after_a_lost_connection(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        await place.controller.apply(load_text(RULE))
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        event = observed()
        async with linked(place, agent, key) as connection:
            await say(connection, event)
            received: list[FromController] = []
            while len(received) < 2:
                received.append(decode_from_controller(await connection.recv()))
            (first,) = [message for message in received if isinstance(message, Ordered)]
        controller_key = place.controller.signing_key.public_key()
        command = verify(first.envelope, controller_key, agent=agent, now=time.time())
        assert command.event_id == event.id
        outcome = Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time())
        async with linked(place, agent, key) as connection:
            again = await hear(connection, Ordered)
            assert again == first
            for _ in range(2):
                await say(connection, Reported(outcome=outcome))
                assert (await hear(connection, OutcomeAck)).ids == (command.id,)
        assert place.controller.store.outcomes(event.id) == [outcome]
        assert place.controller.store.outbox() == []
        async with linked(place, agent, key) as connection:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connection.recv(), 0.1)

    run(tmp_path, scenario)


def test_an_order_does_not_wait_for_the_journal(tmp_path: Path) -> None:
    """What it follows from is on disk when it goes: a copy of the disk, taken then, has all of it."""
    folder, copy = tmp_path / "folder", tmp_path / "copy"

    async def scenario(place: Place) -> None:
        controller = place.controller
        await controller.apply(load_text(RULE))
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        event = observed()
        async with linked(place, agent, key) as connection:
            gate = threading.Event()
            held = asyncio.wrap_future(controller.store.submit(lambda _connection: gate.wait(20)))
            try:
                await say(connection, event)
                announced = await hear(connection, Announced)
                order = await hear(connection, Ordered)
                assert announced.envelope == order.envelope
                assert controller.store.event(event.id) is None
                shutil.copytree(folder, copy)
                command = verify(order.envelope, controller.signing_key.public_key(), agent=agent, now=time.time())
                outcome = Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time())
                await say(connection, Reported(outcome=outcome))
            finally:
                gate.set()
            await held
            acknowledged = [await beside(connection, order) for _ in range(2)]
            assert EventAck(ids=(event.id,)) in acknowledged
            assert OutcomeAck(ids=(command.id,)) in acknowledged
            assert controller.store.outcomes(event.id) == [outcome]
            assert controller.store.outbox() == []
        stored = controller.store.event(event.id)
        with Store.open(copy / "quell.db") as after_a_crash:
            found = after_a_crash.event(event.id)
            assert found == stored
            assert [item.id for item in after_a_crash.outbox()] == [command.id]

    run(folder, scenario)


def test_orders_whose_events_cannot_be_journaled_are_journaled_before_anything_else_is_decided(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        controller = place.controller
        await controller.apply(load_text(RULE))
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        event = observed()
        event = msgspec.structs.replace(
            event, raw=event.raw[:-1] + b', "details": {"message": "%s"}}' % os.urandom(5000).hex().encode()
        )
        async with linked(place, agent, key) as connection:
            # No room for one more page.
            await place.submit(lambda c: c.execute(f"PRAGMA max_page_count={c.execute(PAGES).fetchone()[0]}"))
            await say(connection, event)
            await hear(connection, Announced)
            order = await hear(connection, Ordered)
            while not controller.pipeline.suspended:  # noqa: ASYNC110 - the failed commit is told a moment later
                await asyncio.sleep(0.005)
            assert controller.store.event(event.id) is None
            await place.submit(lambda c: c.execute("PRAGMA max_page_count=1000000"))
            assert await beside(connection, order) == EventAck(ids=(event.id,))
            assert not controller.pipeline.suspended
            stored = controller.store.event(event.id)
            assert stored is not None
            command = verify(order.envelope, controller.signing_key.public_key(), agent=agent, now=time.time())
            assert [record.id for record in stored.decision.actions] == [command.id]
            assert [item.id for item in controller.store.outbox()] == [command.id]
            assert len(observed_by(place)) == 1
            await say(connection, Reported(outcome=Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time())))
            assert await beside(connection, order) == OutcomeAck(ids=(command.id,))
            assert controller.store.outbox() == []

    run(tmp_path, scenario)


def test_orders_to_a_slow_reader_come_whole_and_in_order(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        key = Ed25519PrivateKey.generate()
        agent = (await place.enrol(key)).agent
        async with linked(place, agent, key) as connection:
            link = place.controller.dispatcher.link_of(agent)
            assert link is not None
            # More than all buffers between the two take.
            sent = [Ordered(envelope=n.to_bytes(2, "big") * 50_000) for n in range(300)]
            for n, message in enumerate(sent):
                link.send(message)
                if n % 100 == 50:
                    await asyncio.sleep(0.01)
                    link.send(OutcomeAck(ids=(f"{n}",)))
            heard = [decode_from_controller(await connection.recv()) for _ in range(len(sent) + 3)]
            assert [message for message in heard if isinstance(message, Ordered)] == sent
            for n in (50, 150, 250):
                assert heard[heard.index(sent[n]) + 1] == OutcomeAck(ids=(f"{n}",))
            link.send(sent[0])
            assert await hear(connection, Ordered) == sent[0]
        while place.links.connected():  # noqa: ASYNC110 - the server's task ends a moment later
            await asyncio.sleep(0.005)
        link.send(sent[0])  # goes nowhere, and harms nobody

    run(tmp_path, scenario)
