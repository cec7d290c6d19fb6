"""Observations that wait: in order, in frames that fit, never more than a bound, and every loss is told once."""

from __future__ import annotations

import pytest

from quell.agent.backlog import Backlog
from quell.channel.messages import MAX_FRAME, Observations, decode_from_agent
from quell.model.observation import Observation, Seen
from quell.model.subject import Process, Subject


def observed(number: int, size: int = 10) -> Observation:
    process = Process(pid=number, cmdline="x" * size)
    return Observation(seen=Seen.EXECUTED, time=float(number), subject=Subject(node="n", process=process))


def told(frame: bytes | None) -> Observations:
    assert frame is not None
    assert len(frame) <= MAX_FRAME
    message = decode_from_agent(frame)
    assert isinstance(message, Observations)
    return message


def test_in_order_and_all_at_once() -> None:
    backlog = Backlog()
    assert backlog.frame() is None
    waiting = tuple(observed(number) for number in range(3))
    assert [backlog.put(each) for each in waiting] == [0, 0, 0]
    assert told(backlog.frame()) == Observations(observations=waiting)
    assert backlog.frame() is None


def test_in_several_frames_where_one_would_be_long() -> None:
    backlog = Backlog()
    for number in range(5):
        backlog.put(observed(number, 50_000))
    frames = [told(backlog.frame()) for _ in range(3)]
    assert [[each.time for each in frame.observations] for frame in frames] == [[0, 1], [2, 3], [4]]
    assert backlog.frame() is None


@pytest.mark.parametrize("bound", [{"most": 3}, {"most_bytes": 400}])
def test_at_the_bound_the_oldest_are_given_up(bound: dict[str, int]) -> None:
    backlog = Backlog(**bound)
    assert sum(backlog.put(observed(number, 40)) for number in range(7)) == 4
    assert len(backlog) == 3
    backlog.lose(2)
    message = told(backlog.frame())
    assert [each.time for each in message.observations] == [4, 5, 6]
    assert message.lost == 6
    assert backlog.frame() is None


def test_what_was_lost_is_told_even_alone() -> None:
    backlog = Backlog()
    backlog.lose(4)
    assert told(backlog.frame()) == Observations(lost=4)
    assert backlog.frame() is None


def test_one_that_no_frame_has_room_for_is_lost() -> None:
    backlog = Backlog()
    assert backlog.put(observed(1, MAX_FRAME)) == 1
    assert backlog.put(observed(2, MAX_FRAME - 1000)) == 0
    message = told(backlog.frame())
    assert ([each.time for each in message.observations], message.lost) == ([2], 1)


def test_without_a_link_nothing_is_kept() -> None:
    backlog = Backlog(most=1)
    for number in range(3):
        backlog.put(observed(number))
    backlog.clear()
    assert backlog.frame() is None
    backlog.put(observed(3))
    assert told(backlog.frame()).lost == 0
