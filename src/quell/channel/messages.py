"""What agent and controller say to each other over the link. One message a binary WebSocket frame, msgpack.

The order of a link: the agent sends Hello; the controller answers Challenge; the agent Proof; the controller
Welcome (or Refused, and closes). From then on both sides send when they have something:

    agent → controller   Observed, until an EventAck names its id; Reported, until an OutcomeAck does; Seen; Isolated;
                         Observations; Evidence, until an EvidenceAck says that it is whole; EvidencePiece, when asked
                         for; Rehearsed, once for each Rehearse; Leaving, last
    controller → agent   Announced, at most once; Ordered, until an outcome of its command is reported; Pause; Observe;
                         EvidenceAck; Rehearse

Everything after Welcome may be repeated after a lost connection; ids make a repetition harmless (SEMANTICS section 9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from quell.errors import LinkError
from quell.model.decision import Outcome
from quell.model.observation import Observation
from quell.model.rehearsal import Deed
from quell.model.sighting import Gone, Sighting

SUBPROTOCOL = "quell.agent.v1"
LINK_PATH = "/v1/agents/link"
JOIN_PATH = "/v1/agents/join"
#: Bytes. A longer frame closes the link; an event with a very long command line is cut by the sensor long before.
MAX_FRAME = 1 << 20
#: Seconds within which each step of the handshake must be answered.
HANDSHAKE_TIMEOUT = 10.0


class JoinRequest(Struct, frozen=True, kw_only=True):
    """The JSON body of POST JOIN_PATH. The token is the only proof; it is good for a short time."""

    token: str
    name: str
    #: quell.channel.keys.public_text of the agent's own key.
    public_key: str
    node: str
    machine_id: str


class Joined(Struct, frozen=True, kw_only=True):
    """The answer, 201: the agent's id from now on, and the key that signs its commands."""

    agent: str
    controller_key: str


class Hello(Struct, frozen=True, kw_only=True, tag="hello", omit_defaults=True):
    """Who dials, and what can be asked of it."""

    agent: str
    version: str
    node: str
    machine_id: str
    boot_id: str
    #: Epoch seconds.
    boot_time: float
    #: Words of the actions it can do, such as agentKillProcess.
    capabilities: tuple[str, ...] = ()
    #: What it cannot do and why, one line each, for people.
    limits: tuple[str, ...] = ()
    #: Inode of the host's network namespace; None where it cannot be read.
    host_netns: int | None = None
    #: Of the agent's process, made anew at each start of it; "": it does not say.
    instance: str = ""
    #: It can be asked for dry runs (Rehearse).
    rehearses: bool = False


class Leaving(Struct, frozen=True, kw_only=True, tag="leaving"):
    """The agent stops, and will close the link; not because of the controller or the network."""

    #: For people.
    reason: str


class Proof(Struct, frozen=True, kw_only=True, tag="proof"):
    """quell.channel.envelope.prove over the challenge's nonce."""

    signature: bytes


class Observed(Struct, frozen=True, kw_only=True, tag="observed"):
    """One event of the agent's sensor, in the native JSON format."""

    id: str
    raw: bytes
    #: When the agent took it in, epoch seconds.
    received: float


class Reported(Struct, frozen=True, kw_only=True, tag="reported"):
    outcome: Outcome


class Isolated(Struct, frozen=True, kw_only=True, tag="isolated", omit_defaults=True):
    """Which quarantines the agent keeps in force: after each Welcome, whenever one ends without a command or somebody
    tampers with it, and now and then. Not acknowledged.
    """

    #: By their keys.
    closed: tuple[str, ...] = ()
    #: Those that ended since it was last said, and why: gone (the namespace is), lease (it ran out), released (by a
    #: person on the machine).
    ended: dict[str, str] = {}
    #: Those that somebody opened or changed behind the agent's back since it was last said, and how often; they are
    #: isolated again.
    tampered: dict[str, int] = {}


class Seen(Struct, frozen=True, kw_only=True, tag="seen", omit_defaults=True):
    """What the machine's container runtimes say. Sent whole (complete) after each Welcome, then as it changes; not
    acknowledged: the next Welcome brings all of it again. The controller fills in the source and the node. What does not
    fit into one frame comes in several: the first is complete, those right after it add to it.
    """

    seen: tuple[Sighting, ...] = ()
    gone: tuple[Gone, ...] = ()
    #: True: the machine has no other of these kinds.
    complete: bool = False
    kinds: tuple[str, ...] = ()


class Observations(Struct, frozen=True, kw_only=True, tag="observations", omit_defaults=True):
    """What the agent saw of workloads since it last said so. Not acknowledged and not repeated; after each Welcome that
    asks for them, and each Observe, all that runs and listens comes anew.
    """

    observations: tuple[Observation, ...] = ()
    #: How many it could not tell since it last said so.
    lost: int = 0


class _Packed(Struct, frozen=True, kw_only=True, tag="observations", omit_defaults=True):
    """Observations, each of them encoded already."""

    observations: tuple[msgspec.Raw, ...] = ()
    lost: int = 0


class Observe(Struct, frozen=True, kw_only=True, tag="observe", omit_defaults=True):
    """What the agent shall look at from now on, in place of what was asked before."""

    #: True: processes of workloads, those that run now and each execution.
    executions: bool = False
    #: Seconds between two looks at sockets; None: no looks.
    sockets: float | None = None


class Evidence(Struct, frozen=True, kw_only=True, tag="evidence"):
    """What was gathered before a kill: quell.model.evidence.Gathered in JSON, as the agent keeps it on its disk."""

    facts: bytes


class EvidencePiece(Struct, frozen=True, kw_only=True, tag="evidence-piece"):
    """A part of the copy of an executable, as an EvidenceAck asks for it. No data: there is no such copy any more."""

    #: Of the command.
    id: str
    sha256: str
    offset: int
    data: bytes


class Rehearsed(Struct, frozen=True, kw_only=True, tag="rehearsed", omit_defaults=True):
    """What would become of the command of a Rehearse; nothing was done. Not repeated."""

    outcome: Outcome
    deeds: tuple[Deed, ...] = ()


class Challenge(Struct, frozen=True, kw_only=True, tag="challenge"):
    #: At least 16 random bytes, never used twice.
    nonce: bytes


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome", omit_defaults=True):
    #: More that may never be touched, beside what the agent protects by itself (quell.agent.protected).
    protected: tuple[str, ...] = ()
    #: True: every destructive command is answered refused, reason paused.
    paused: bool = False
    #: Statements about the key that signs commands, oldest first: quell.channel.envelope.successor.
    keys: tuple[bytes, ...] = ()
    #: Percent of its memory, and seconds: quell.memory.Pressure. None: the agent's own idea.
    memory_threshold: int | None = None
    memory_pause: float | None = None
    #: None: the agent observes nothing.
    observe: Observe | None = None


class Pause(Struct, frozen=True, kw_only=True, tag="pause"):
    """As in Welcome, from now on."""

    paused: bool


class Announced(Struct, frozen=True, kw_only=True, tag="announced"):
    """A signed command that is being written to disk: look at its target already, do nothing to it.

    The same envelope follows as Ordered once it is on disk, or never.
    """

    envelope: bytes


class Ordered(Struct, frozen=True, kw_only=True, tag="ordered"):
    """A signed command, see quell.channel.envelope."""

    envelope: bytes


class Rehearse(Struct, frozen=True, kw_only=True, tag="rehearse"):
    """A command of which the agent shall say what would become of it: everything is looked at, nothing is done.

    The envelope is signed for this and nothing else (quell.channel.envelope): it can never be carried out, nor can an order
    be rehearsed. Only to agents whose Hello says that they rehearse.
    """

    envelope: bytes


class EventAck(Struct, frozen=True, kw_only=True, tag="event-ack"):
    """These events are on disk with their decisions."""

    ids: tuple[str, ...]


class OutcomeAck(Struct, frozen=True, kw_only=True, tag="outcome-ack"):
    """The outcomes of these commands are on disk."""

    ids: tuple[str, ...]


class EvidenceAck(Struct, frozen=True, kw_only=True, tag="evidence-ack", omit_defaults=True):
    """The evidence gathered for this command is on disk, as far as it came."""

    id: str
    #: The copy of which the next piece is to be sent, from this byte on; "": all is there, and need not be kept.
    wanted: str = ""
    offset: int = 0


class Refused(Struct, frozen=True, kw_only=True, tag="refused"):
    """The link is refused; the controller closes it."""

    reason: str


FromAgent = (
    Hello
    | Proof
    | Observed
    | Reported
    | Seen
    | Isolated
    | Observations
    | Evidence
    | EvidencePiece
    | Rehearsed
    | Leaving
)
FromController = (
    Challenge
    | Welcome
    | Announced
    | Ordered
    | Pause
    | Observe
    | EventAck
    | OutcomeAck
    | EvidenceAck
    | Rehearse
    | Refused
)

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_from_agent: msgspec.msgpack.Decoder[FromAgent] = msgspec.msgpack.Decoder(FromAgent)
_from_controller: msgspec.msgpack.Decoder[FromController] = msgspec.msgpack.Decoder(FromController)


def encode(message: FromAgent | FromController) -> bytes:
    return _encoder.encode(message)


def pack(observation: Observation) -> bytes:
    """One of the observations of a frame, for pack_frame."""
    return _encoder.encode(observation)


def pack_frame(packed: Sequence[bytes], lost: int) -> bytes:
    """The frame of one Observations message. Observations wait packed, so that what waits has a size."""
    return _encoder.encode(_Packed(observations=tuple([msgspec.Raw(each) for each in packed]), lost=lost))


def decode_from_agent(frame: bytes | str) -> FromAgent:
    """Raises LinkError for anything that is not one well-formed message of an agent."""
    return _decode(_from_agent, frame)


def decode_from_controller(frame: bytes | str) -> FromController:
    """Raises LinkError for anything that is not one well-formed message of a controller."""
    return _decode(_from_controller, frame)


def _decode(decoder: msgspec.msgpack.Decoder[_T], frame: bytes | str) -> _T:
    if isinstance(frame, str):
        raise LinkError("expected a binary frame, got a text frame")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"not a message of {SUBPROTOCOL}: {error}") from error
