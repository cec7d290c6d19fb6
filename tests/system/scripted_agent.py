"""An agent that a test speaks for: it enrols and links as a real one, and says and hears what the test wants."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from quell.channel.envelope import prove, verify
from quell.channel.keys import public_key, public_text
from quell.channel.messages import (
    LINK_PATH,
    SUBPROTOCOL,
    Challenge,
    FromAgent,
    FromController,
    Hello,
    Ordered,
    OutcomeAck,
    Proof,
    Reported,
    Welcome,
    decode_from_controller,
    encode,
)
from quell.model.decision import Command, Outcome

T = TypeVar("T", bound=FromController)
NODE = "scripted-node"


class ScriptedAgent:
    """Link with `linked`. welcome: what it was told at the start of its link."""

    def __init__(self, admin: httpx.Client, node: str = NODE) -> None:
        self._node = node
        self._key = Ed25519PrivateKey.generate()
        self._url = str(admin.base_url).rstrip("/").replace("http", "ws", 1) + LINK_PATH
        token = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).raise_for_status().json()["token"]
        asked = {
            "token": token,
            "name": "scripted",
            "public_key": public_text(self._key.public_key()),
            "node": node,
            "machine_id": f"{node.removesuffix('-node')}-machine",
        }
        joined = admin.post("/v1/agents/join", json=asked).raise_for_status().json()
        self.id = joined["agent"]
        self._controller = public_key(joined["controller_key"])
        self.welcome = Welcome()
        self._connection: ClientConnection | None = None

    @contextlib.contextmanager
    def linked(self) -> Iterator[None]:
        with connect(self._url, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None) as connection:
            self._connection = connection
            hello = Hello(
                agent=self.id,
                version="1",
                node=self._node,
                machine_id=f"{self._node.removesuffix('-node')}-machine",
                boot_id="boot",
                boot_time=time.time() - 3600,
                capabilities=("agentKillProcess", "quarantine"),
            )
            self.say(hello)
            self.say(Proof(signature=prove(self.hear(Challenge).nonce, self.id, self._key)))
            self.welcome = self.hear(Welcome)
            yield

    def say(self, message: FromAgent) -> None:
        assert self._connection is not None
        self._connection.send(encode(message))

    def hear(self, kind: type[T], timeout: float = 30.0) -> T:
        """The next message of this kind; others are passed over. TimeoutError."""
        assert self._connection is not None
        end = time.monotonic() + timeout
        while True:
            message = decode_from_controller(self._connection.recv(timeout=max(end - time.monotonic(), 0.01)))
            if isinstance(message, kind):
                return message

    def ordered(self) -> Command:
        """The next command."""
        return verify(self.hear(Ordered).envelope, self._controller, agent=self.id, now=time.time())

    def hear_order(self, timeout: float) -> Command:
        """As `ordered`, within so many seconds. TimeoutError."""
        return verify(self.hear(Ordered, timeout).envelope, self._controller, agent=self.id, now=time.time())

    def tell(self, outcome: Outcome) -> None:
        """Without waiting for the controller to have it."""
        self.say(Reported(outcome=outcome))

    def report(self, outcome: Outcome) -> None:
        """Until the controller has it on disk."""
        self.say(Reported(outcome=outcome))
        while outcome.id not in self.hear(OutcomeAck).ids:
            continue
