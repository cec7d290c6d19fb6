"""Each refusal of an envelope names its reason."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quell.channel.envelope import check_proof, prove, sign, verify
from quell.errors import LinkError
from quell.model.action import KillProcess
from quell.model.decision import Command
from quell.model.subject import Process, ProcessTarget

KEY = Ed25519PrivateKey.generate()
COMMAND = Command(
    id="e/1",
    agent="agent-1",
    action=KillProcess(),
    target=ProcessTarget(node="n", process=Process(pid=7, start_ticks=9)),
    issued=100.0,
    expires=130.0,
    nonce="n1",
)


def test_good_until_it_expires() -> None:
    envelope = sign(COMMAND, KEY)
    assert verify(envelope, KEY.public_key(), agent="agent-1", now=130.0) == COMMAND
    with pytest.raises(LinkError, match=r"expired command e/1: 0\.5 s too late"):
        verify(envelope, KEY.public_key(), agent="agent-1", now=130.5)


def test_for_another_agent() -> None:
    with pytest.raises(LinkError, match="for another agent: agent-1, this is agent-2"):
        verify(sign(COMMAND, KEY), KEY.public_key(), agent="agent-2", now=101.0)


@pytest.mark.parametrize("bare", [b"", b"\0" * 64, msgspec.msgpack.encode(COMMAND)])
def test_unsigned(bare: bytes) -> None:
    with pytest.raises(LinkError, match="unsigned"):
        verify(bare, KEY.public_key(), agent="agent-1", now=101.0)


def test_a_signature_for_another_purpose_is_no_command() -> None:
    payload = msgspec.msgpack.encode(COMMAND)
    for text in (payload, b"quell.agent-proof.v1\0" + payload):
        with pytest.raises(LinkError, match="altered"):
            verify(KEY.sign(text) + payload, KEY.public_key(), agent="agent-1", now=101.0)


def test_an_order_is_no_rehearsal_and_a_rehearsal_is_no_order() -> None:
    order, rehearsal = sign(COMMAND, KEY), sign(COMMAND, KEY, rehearsal=True)
    assert verify(rehearsal, KEY.public_key(), agent="agent-1", now=101.0, rehearsal=True) == COMMAND
    with pytest.raises(LinkError, match="altered"):
        verify(rehearsal, KEY.public_key(), agent="agent-1", now=101.0)
    with pytest.raises(LinkError, match="altered"):
        verify(order, KEY.public_key(), agent="agent-1", now=101.0, rehearsal=True)


def test_a_command_signature_is_no_proof() -> None:
    envelope = sign(COMMAND, KEY)
    with pytest.raises(LinkError, match="agent-1 did not prove"):
        check_proof(envelope[:64], envelope[64:], "agent-1", KEY.public_key())


def test_signed_nonsense_is_refused() -> None:
    payload = msgspec.msgpack.encode({"id": "e/1"})
    with pytest.raises(LinkError, match="not a command this version knows"):
        verify(KEY.sign(b"quell.command.v1\0" + payload) + payload, KEY.public_key(), agent="agent-1", now=101.0)


def test_a_short_challenge_is_not_signed() -> None:
    with pytest.raises(LinkError, match="15 bytes"):
        prove(b"x" * 15, "agent-1", KEY)
