"""An envelope is good whole or not at all: any flipped bit, any cut and any other key is refused."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from quell.channel.envelope import check_proof, prove, sign, verify
from quell.errors import LinkError
from quell.model.action import KillProcess, Quarantine, ReleaseQuarantine, ReniceProcess
from quell.model.decision import Command
from quell.model.subject import NetworkTarget, Process, ProcessTarget

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
words = st.text(max_size=20)
pids = st.none() | st.integers(1, 1 << 22)
processes = st.builds(
    Process, pid=pids, start_ticks=pids, boot_id=st.none() | words, exe=st.none() | words, uid=st.none() | pids
)
targets = st.builds(ProcessTarget, node=words, process=processes, container_id=st.none() | words) | st.builds(
    NetworkTarget, node=words, key=words, process=st.none() | processes, netns=pids
)
actions = st.one_of(
    st.just(KillProcess()),
    st.just(ReleaseQuarantine()),
    st.builds(ReniceProcess, priority=st.integers(-20, 19)),
    st.builds(
        Quarantine,
        ttl=st.none() | st.floats(1, 1e6),
        strict=st.booleans(),
        investigator=st.lists(st.ip_addresses().map(str), max_size=3).map(tuple),
    ),
)
commands = st.builds(
    Command,
    id=words,
    agent=words,
    action=actions,
    target=targets,
    issued=st.floats(0, 2e9),
    expires=st.floats(0, 2e9),
    nonce=words,
    asked_by=st.lists(words, max_size=3).map(tuple),
)


@given(command=commands)
def test_round_trip(command: Command) -> None:
    assert verify(sign(command, KEY), KEY.public_key(), agent=command.agent, now=command.expires) == command


@given(command=commands)
@settings(max_examples=15)
def test_any_flipped_byte_is_refused(command: Command) -> None:
    envelope = sign(command, KEY)
    for position in range(len(envelope)):
        broken = bytearray(envelope)
        broken[position] ^= 0xFF
        with pytest.raises(LinkError):
            verify(bytes(broken), KEY.public_key(), agent=command.agent, now=command.issued)


@given(command=commands, position=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(command: Command, position: int, bit: int) -> None:
    envelope = bytearray(sign(command, KEY))
    envelope[position % len(envelope)] ^= 1 << bit
    with pytest.raises(LinkError, match="altered"):
        verify(bytes(envelope), KEY.public_key(), agent=command.agent, now=command.issued)


@given(command=commands, length=st.integers(0), tail=st.binary(min_size=1, max_size=4))
def test_cut_or_lengthened_is_refused(command: Command, length: int, tail: bytes) -> None:
    envelope = sign(command, KEY)
    for broken in (envelope[: length % len(envelope)], envelope + tail):
        with pytest.raises(LinkError):
            verify(broken, KEY.public_key(), agent=command.agent, now=command.issued)


@given(command=commands)
def test_another_key_is_refused(command: Command) -> None:
    with pytest.raises(LinkError, match="altered"):
        verify(sign(command, OTHER), KEY.public_key(), agent=command.agent, now=command.issued)


@given(noise=st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(LinkError):
        verify(noise, KEY.public_key(), agent="a", now=0.0)


@given(nonce=st.binary(min_size=16, max_size=64), agent=words, position=st.integers(0), bit=st.integers(0, 7))
def test_proof_is_for_one_nonce_and_one_agent(nonce: bytes, agent: str, position: int, bit: int) -> None:
    proof = prove(nonce, agent, KEY)
    check_proof(proof, nonce, agent, KEY.public_key())
    flipped = bytearray(nonce)
    flipped[position % len(nonce)] ^= 1 << bit
    altered = bytearray(proof)
    altered[position % len(proof)] ^= 1 << bit
    for wrong in ((proof, bytes(flipped), agent), (bytes(altered), nonce, agent), (proof, nonce, agent + "x")):
        with pytest.raises(LinkError, match="did not prove"):
            check_proof(*wrong, KEY.public_key())
