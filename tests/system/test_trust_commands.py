"""What an agent does with a command that is not its controller's, not for it, not for now or not for the first time.

A real agent dials a real controller through somebody in between, who keeps what passes and says what it likes.
DESIGN, trust; docs/threat-model.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from live import Live, live
from running import wait_for
from scripted_agent import NODE as SCRIPTED
from scripted_agent import ScriptedAgent
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from quell.agent import proc
from quell.agent.enrol import Address, Identity, enrol
from quell.agent.runtime import prepare
from quell.channel.envelope import sign
from quell.channel.keys import load_or_create_key
from quell.channel.messages import (
    LINK_PATH,
    MAX_FRAME,
    SUBPROTOCOL,
    Announced,
    Ordered,
    OutcomeAck,
    Reported,
    decode_from_agent,
    decode_from_controller,
    encode,
)
from quell.configuration import Configuration
from quell.model.action import KillProcess
from quell.model.decision import Command, Outcome, OutcomeStatus
from quell.model.subject import ProcessTarget
from quell.settings import Settings

NODE = "trusting-node"
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill}
spec: {event: incident, criteria: ["name:Host.Suspicious.Process"], actions: [agentKillProcess]}
"""


class Between:
    """A WebSocket server that passes on what it is told, both ways, to the controller behind it."""

    def __init__(self, controller: str) -> None:
        self._controller = controller.replace("http", "ws", 1) + LINK_PATH
        self._server = serve(
            self._pass_on, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, max_size=MAX_FRAME
        )
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._agent: ServerConnection | None = None
        self.envelopes: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self.reported: list[Outcome] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()

    def say(self, *envelopes: bytes) -> None:
        """To the agent, as if the controller had ordered them."""
        assert self._agent is not None
        for envelope in envelopes:
            self._agent.send(encode(Ordered(envelope=envelope)))

    def _pass_on(self, agent: ServerConnection) -> None:
        with (
            connect(self._controller, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None) as controller,
            contextlib.suppress(ConnectionClosed),
        ):
            self._agent = agent
            down = threading.Thread(target=self._down, args=(controller, agent))
            down.start()
            try:
                for frame in agent:
                    assert isinstance(frame, bytes)
                    message = decode_from_agent(frame)
                    if isinstance(message, Reported):
                        self.reported.append(message.outcome)
                    controller.send(frame)
            finally:
                controller.close()
                down.join()

    def _down(self, controller: Any, agent: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            for frame in controller:
                message = decode_from_controller(frame)
                agent.send(frame)
                if isinstance(message, Ordered):
                    command = msgspec.msgpack.decode(message.envelope[64:], type=Command)
                    self.envelopes[command.id] = message.envelope
                elif isinstance(message, OutcomeAck):
                    self.acknowledged |= set(message.ids)
                else:
                    assert not isinstance(message, Announced) or len(message.envelope) > 64
        agent.close()


class Place:
    def __init__(self, server: Live, between: Between, admin: httpx.Client, state: Path, identity: Identity) -> None:
        self.server = server
        self.between = between
        self.admin = admin
        self.state = state
        self.identity = identity
        #: What signs commands: who has it is the controller.
        self.key = load_or_create_key(server.folder / "controller.key")

    @contextlib.contextmanager
    def agent(self) -> Iterator[None]:
        """A process of its own, which has told of nothing yet."""
        words = ["-m", "quell.agent", "--url", self.between.url, "--state", str(self.state), "--no-sensor"]
        with subprocess.Popen([sys.executable, *words, "--no-containers"]) as process:
            try:
                wait_for(lambda: self.linked, what="the agent's link")
                yield
            finally:
                process.terminate()
        wait_for(lambda: not self.linked, what="the end of the link")

    @property
    def linked(self) -> bool:
        items = self.admin.get("/v1/agents").raise_for_status().json()["items"]
        return any(each["node"] == NODE and each["connected"] for each in items)

    def refusals(self) -> list[dict[str, Any]]:
        events = self.admin.get("/v1/events", params={"limit": 1000}).raise_for_status().json()["items"]
        return [event for event in events if event["name"] == "Agent.Command.Refused"]

    def post(self, victim: subprocess.Popen[bytes]) -> None:
        """An event because of which the controller orders its death."""
        facts = proc.read_process(victim.pid)
        assert facts is not None
        process = {"pid": victim.pid, "start_ticks": facts.process.start_ticks}
        event = {
            "time": time.time(),
            "name": "Host.Suspicious.Process",
            "subject": {"node": NODE, "process": process},
        }
        self.admin.post("/v1/events", json=event).raise_for_status()

    def command(self, victim: subprocess.Popen[bytes], identity: str) -> Command:
        facts = proc.read_process(victim.pid)
        assert facts is not None
        now = time.time()
        return Command(
            id=identity,
            agent=self.identity.agent,
            action=KillProcess(),
            target=ProcessTarget(node=NODE, process=facts.process, seen=now),
            issued=now,
            expires=now + 60,
            nonce=os.urandom(8).hex(),
        )

    def is_refused(self, said: str, *envelopes: bytes, victim: subprocess.Popen[bytes]) -> None:
        """None is done, none is answered, and the controller has a security event that says so."""
        before, reports = {event["id"] for event in self.refusals()}, len(self.between.reported)
        self.between.say(*envelopes)
        wait_for(lambda: {event["id"] for event in self.refusals()} > before, what="the event")
        [event] = [event for event in self.refusals() if event["id"] not in before]
        assert (event["category"], event["kind"]) == ("security-event", "incident")
        assert said in event["details"]["message"]
        # Orders are taken in turn, so what becomes of this one says that the others have been looked at.
        with sleeping() as last:
            self.post(last)
            assert last.wait(30) == -signal.SIGKILL
        assert victim.poll() is None
        assert {outcome.id for outcome in self.between.reported[reports:]} <= set(self.between.envelopes)


@contextlib.contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as process:
        try:
            time.sleep(5 / proc.HZ)  # an event within a clock tick of the start proves nothing
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("commands")
    # On a slow machine a command is not to expire before it can be replayed.
    settings = Settings().with_values({"safety.command_ttl": "10m"})
    with (
        live(folder / "controller", configuration=Configuration(settings=settings)) as server,
        server.client() as admin,
        Between(server.url) as between,
    ):
        token = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).raise_for_status().json()["token"]
        prepare(folder / "agent")
        address = Address.parse(server.url)
        identity = enrol(folder / "agent", address, token=token, node=NODE, machine_id=proc.machine_id())
        admin.post("/v1/documents", content=RULE).raise_for_status()
        yield Place(server, between, admin, folder / "agent", identity)


def test_one_that_is_replayed(place: Place) -> None:
    """The very bytes, while they have not expired, of a command whose outcome the controller has acknowledged."""
    with place.agent(), sleeping() as victim, sleeping() as other:
        before = set(place.between.envelopes)
        place.post(victim)
        assert victim.wait(30) == -signal.SIGKILL
        [identity] = set(place.between.envelopes) - before
        wait_for(lambda: identity in place.between.acknowledged, what="the acknowledgement")
        ledger = place.state / "ledger"
        wait_for(lambda: f'"ids":["{identity}"]' in ledger.read_text("latin-1"), what="the agent's note of it")
        place.is_refused(f"replayed command {identity}", place.between.envelopes[identity], victim=other)
    with place.agent(), sleeping() as other:
        place.is_refused(f"replayed command {identity}", place.between.envelopes[identity], victim=other)


def test_one_with_any_byte_altered(place: Place) -> None:
    with place.agent(), sleeping() as victim:
        good = sign(place.command(victim, "altered/1"), place.key)
        flipped = []
        for position in range(len(good)):
            broken = bytearray(good)
            broken[position] ^= 1 << position % 8
            flipped.append(bytes(broken))
        assert len(flipped) > 200
        place.is_refused("1 commands were not accepted: altered command", *flipped, victim=victim)


def test_one_signed_by_somebody_else(place: Place) -> None:
    with place.agent(), sleeping() as victim:
        forged = sign(place.command(victim, "forged/1"), Ed25519PrivateKey.generate())
        place.is_refused("altered command: its signature is not the pinned controller key's", forged, victim=victim)


def test_one_that_has_expired(place: Place) -> None:
    with place.agent(), sleeping() as victim:
        late = msgspec.structs.replace(place.command(victim, "late/1"), expires=time.time() - 1)
        place.is_refused("expired command late/1", sign(late, place.key), victim=victim)


def test_one_for_another_agent(place: Place) -> None:
    with place.agent(), sleeping() as victim:
        other = msgspec.structs.replace(place.command(victim, "other/1"), agent="agent-of-another")
        place.is_refused("command other/1 is for another agent", sign(other, place.key), victim=victim)


def test_one_that_is_not_signed(place: Place) -> None:
    with place.agent(), sleeping() as victim:
        bare = msgspec.msgpack.encode(place.command(victim, "bare/1"))
        place.is_refused("unsigned command", bare, victim=victim)


def test_the_same_key_and_a_good_command_are_taken(place: Place) -> None:
    """Else the tests above would show nothing."""
    with place.agent(), sleeping() as victim:
        place.between.say(sign(place.command(victim, "good/1"), place.key))
        assert victim.wait(30) == -signal.SIGKILL


def test_a_revoked_agent_is_cut_at_once_and_is_not_heard_any_more(tmp_path: Path) -> None:
    with live(tmp_path / "controller") as server, server.client() as admin:
        admin.post("/v1/documents", content=RULE).raise_for_status()
        agent = ScriptedAgent(admin)
        process = {"pid": 4711, "start_ticks": 1, "boot_id": "boot"}
        count = iter(range(10))

        def event() -> dict[str, Any]:
            told = {"id": f"e{next(count)}", "time": time.time(), "name": "Host.Suspicious.Process"}
            subject = {"node": SCRIPTED, "process": process}
            admin.post("/v1/events", json={**told, "subject": subject}).raise_for_status()
            [record] = admin.get(f"/v1/events/{told['id']}").json()["decision"]["actions"]
            return dict(record)

        with contextlib.suppress(ConnectionClosed), agent.linked():
            assert event()["status"] == "granted"
            command = agent.ordered()
            admin.delete(f"/v1/agents/{agent.id}").raise_for_status()
            with pytest.raises(ConnectionClosed):
                agent.hear(OutcomeAck, timeout=20)  # there is none to come
            with pytest.raises(ConnectionClosed):
                agent.say(Reported(outcome=Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time())))
        refused = event()
        assert (refused["status"], refused["reason"]) == ("refused", "no-agent")
        assert admin.get(f"/v1/events/{command.event_id}").json().get("outcomes", []) == []
        with pytest.raises(ConnectionClosed), agent.linked():
            pass
