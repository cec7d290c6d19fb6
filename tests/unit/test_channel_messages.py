"""The link's messages survive the wire, and nothing else is taken for one."""

from __future__ import annotations

import msgspec
import pytest

from quell.channel import messages as m
from quell.errors import LinkError
from quell.model.decision import Outcome, OutcomeStatus, Reason

OUTCOME = Outcome(id="e/1", status=OutcomeStatus.REFUSED, reason=Reason.IDENTITY, time=5.0, facts={"pids": [3]})
HELLO = m.Hello(
    agent="a", version="1", node="n", machine_id="m", boot_id="b", boot_time=1.5, limits=("no sensor",), host_netns=4
)


@pytest.mark.parametrize(
    "message",
    [HELLO, m.Proof(signature=b"s"), m.Observed(id="i", raw=b"{}", received=2.0), m.Reported(outcome=OUTCOME)],
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
