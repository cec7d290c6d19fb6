"""The link's messages survive the wire, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest

from quell.channel import messages as m
from quell.errors import LinkError
from quell.model.decision import Outcome, OutcomeStatus, Reason
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import Direction
from quell.model.subject import Ancestor, Container, Process, Subject

OUTCOME = Outcome(id="e/1", status=OutcomeStatus.REFUSED, reason=Reason.IDENTITY, time=5.0, facts={"pids": [3]})
HELLO = m.Hello(
    agent="a", version="1", node="n", machine_id="m", boot_id="b", boot_time=1.5, limits=("no sensor",), host_netns=4
)
SUBJECT = Subject(
    node="n",
    container=Container(id="c" * 64),
    process=Process(pid=7, start_ticks=70, lineage=(Ancestor("sh", "/bin/sh", "root", 6, 60), Ancestor("init", pid=1))),
)
CONNECTED = Observation(
    seen=Seen.CONNECTED,
    time=3.5,
    subject=SUBJECT,
    inside=1,
    peer=Peer(direction=Direction.EGRESS, ip="2001:db8::1", port=443),
)


@pytest.mark.parametrize(
    "message",
    [
        HELLO,
        m.Proof(signature=b"s"),
        m.Observed(id="i", raw=b"{}", received=2.0),
        m.Reported(outcome=OUTCOME),
        m.Observations(observations=(CONNECTED, Observation(seen=Seen.EXECUTED, time=4.0, subject=SUBJECT)), lost=3),
    ],
)
def test_from_agent(message: m.FromAgent) -> None:
    assert m.decode_from_agent(m.encode(message)) == message
    with pytest.raises(LinkError, match="not a message"):
        m.decode_from_controller(m.encode(message))


@pytest.mark.parametrize(
    "message",
    [
        m.Challenge(nonce=b"n" * 32),
        m.Welcome(protected=("exe:/sbin/x",), paused=True),
        m.Welcome(observe=m.Observe(executions=True, sockets=1.5)),
        m.Observe(),
        m.Ordered(envelope=b"\0\1"),
        m.EventAck(ids=("1", "2")),
        m.OutcomeAck(ids=("e/1",)),
        m.Refused(reason="no"),
    ],
)
def test_from_controller(message: m.FromController) -> None:
    assert m.decode_from_controller(m.encode(message)) == message
    with pytest.raises(LinkError, match="not a message"):
        m.decode_from_agent(m.encode(message))


@pytest.mark.parametrize("frame", [b"", b"\xc1", m.encode(HELLO)[:-1], msgspec.msgpack.encode({"type": "hello"})])
def test_no_message(frame: bytes) -> None:
    with pytest.raises(LinkError, match=m.SUBPROTOCOL):
        m.decode_from_agent(frame)


def test_text_frame() -> None:
    with pytest.raises(LinkError, match="binary"):
        m.decode_from_controller("hello")
