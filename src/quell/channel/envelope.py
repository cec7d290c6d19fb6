"""Signed commands and the agent's proof of its key. Pure: bytes in, a value or a LinkError out.

SEMANTICS section 8, signed: a command names one target, one agent, an expiry and a nonce; an agent executes nothing
else. An envelope is the 64 bytes of an Ed25519 signature (RFC 8032) followed by the command as msgpack. The signature
covers a domain and the payload, so a signature made for one purpose is never good for another.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from quell.errors import LinkError
from quell.model.decision import Command

_COMMAND_DOMAIN = b"quell.command.v1\0"
#: Of commands that are only to be rehearsed: an envelope of the one is never good as the other.
_REHEARSAL_DOMAIN = b"quell.rehearsal.v1\0"
_PROOF_DOMAIN = b"quell.agent-proof.v1\0"
_SUCCESSION_DOMAIN = b"quell.key-succession.v1\0"
_SIGNATURE_BYTES = 64
_MIN_NONCE_BYTES = 16

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


class _Succession(Struct, frozen=True, kw_only=True):
    """Raw public keys, and epoch seconds."""

    old: bytes
    new: bytes
    issued: float


_succession_encoder = msgspec.msgpack.Encoder()
_succession_decoder: msgspec.msgpack.Decoder[_Succession] = msgspec.msgpack.Decoder(_Succession)


def sign(command: Command, key: Ed25519PrivateKey, *, rehearsal: bool = False) -> bytes:
    """The envelope of a command, signed with the controller's key. rehearsal: it is good for a dry run and nothing else."""
    payload = _encoder.encode(command)
    return key.sign(_domain(rehearsal=rehearsal) + payload) + payload


def verify(
    envelope: bytes, public_key: Ed25519PublicKey, *, agent: str, now: float, rehearsal: bool = False
) -> Command:
    """The command in an envelope, if this agent may carry it out now (epoch seconds, the agent's clock); rehearsal: if it
    may rehearse it.

    Raises LinkError saying which: unsigned, altered, for another agent, or expired.
    """
    signature, payload = envelope[:_SIGNATURE_BYTES], envelope[_SIGNATURE_BYTES:]
    try:
        public_key.verify(signature, _domain(rehearsal=rehearsal) + payload)
    except InvalidSignature as error:
        if len(envelope) <= _SIGNATURE_BYTES or _is_command(envelope):
            raise LinkError("unsigned command") from error
        raise LinkError("altered command: its signature is not the pinned controller key's") from error
    try:
        command = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"signed, but not a command this version knows: {error}") from error
    if command.agent != agent:
        raise LinkError(f"command {command.id} is for another agent: {command.agent}, this is {agent}")
    if now > command.expires:
        raise LinkError(f"expired command {command.id}: {now - command.expires:.1f} s too late")
    return command


def prove(nonce: bytes, agent: str, key: Ed25519PrivateKey) -> bytes:
    """The agent's signature over a controller's challenge. Raises LinkError for a nonce too short to be unique."""
    if len(nonce) < _MIN_NONCE_BYTES:
        raise LinkError(f"a challenge of {len(nonce)} bytes, expected at least {_MIN_NONCE_BYTES}")
    return key.sign(_proof_text(nonce, agent))


def check_proof(signature: bytes, nonce: bytes, agent: str, public_key: Ed25519PublicKey) -> None:
    """Raises LinkError unless the agent's key signed exactly this challenge for exactly this agent."""
    try:
        public_key.verify(signature, _proof_text(nonce, agent))
    except InvalidSignature as error:
        raise LinkError(f"agent {agent} did not prove its key") from error


def succeed(key: Ed25519PrivateKey, successor: Ed25519PublicKey, now: float) -> bytes:
    """A controller's statement, signed with its key, that another key signs its commands from now on."""
    payload = _succession_encoder.encode(_Succession(old=_raw(key.public_key()), new=_raw(successor), issued=now))
    return key.sign(_SUCCESSION_DOMAIN + payload) + payload


def successor(statements: Iterable[bytes], pinned: Ed25519PublicKey) -> Ed25519PublicKey:
    """The key to pin after these statements, which follow each other: the pinned one where none speaks of it.

    Raises LinkError for a statement about the pinned key that it did not sign; nothing then changes.
    """
    for statement in statements:
        signature, payload = statement[:_SIGNATURE_BYTES], statement[_SIGNATURE_BYTES:]
        try:
            said = _succession_decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LinkError(f"not a statement about a key: {error}") from error
        if said.old != _raw(pinned):
            continue
        try:
            pinned.verify(signature, _SUCCESSION_DOMAIN + payload)
            pinned = Ed25519PublicKey.from_public_bytes(said.new)
        except (InvalidSignature, ValueError) as error:
            raise LinkError("a statement about the controller's key is not signed with it") from error
    return pinned


def _domain(*, rehearsal: bool) -> bytes:
    return _REHEARSAL_DOMAIN if rehearsal else _COMMAND_DOMAIN


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _proof_text(nonce: bytes, agent: str) -> bytes:
    # The nonce's length stands first, so that no other split of nonce and agent gives the same bytes.
    return _PROOF_DOMAIN + len(nonce).to_bytes(2, "big") + nonce + agent.encode()


def _is_command(envelope: bytes) -> bool:
    try:
        _decoder.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True
