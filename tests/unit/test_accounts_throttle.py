"""Waiting after failures, and counting what repeats. Pure, on a clock of numbers."""

from __future__ import annotations

from quell.api.accounts.throttle import Throttle
from quell.tally import Tally


def waits(throttle: Throttle, key: str, tries: int, now: float = 0.0) -> list[float]:
    """What each of so many failures in a row has to wait, when made as early as it may."""
    found = []
    for _ in range(tries):
        wait = throttle.wait(key, now)
        found.append(wait)
        now += wait
        throttle.charge(key, now)
    return found


def test_each_failure_after_the_free_ones_waits_twice_as_long() -> None:
    assert waits(Throttle(3, longest=60), "alice", 12) == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_keys_wait_apart_and_are_forgotten() -> None:
    throttle = Throttle(1, forget=100)
    throttle.charge("alice", 0)
    throttle.charge("alice", 2)
    assert throttle.wait("alice", 2) == 2
    assert throttle.wait("alice", 3.5) == 0.5
    assert throttle.wait("bob", 2) == 0
    assert throttle.wait("alice", 102) == 0
    throttle.charge("alice", 102)
    assert throttle.wait("alice", 102) == 1


def test_what_was_right_after_all_costs_nothing() -> None:
    throttle = Throttle(1)
    for moment in range(50):
        throttle.charge("proxy", moment)
        throttle.refund("proxy")
    assert throttle.wait("proxy", 50) == 0
    throttle.charge("alice", 0)
    throttle.charge("alice", 0)
    throttle.clear("alice")
    assert throttle.wait("alice", 0) == 0


def test_memory_is_bounded() -> None:
    throttle = Throttle(0)
    for number in range(10_000):
        throttle.charge(f"name-{number}", 0)
    assert len(throttle._failed) == 4096
    assert throttle.wait("name-0", 0) == 0
    assert throttle.wait("name-9999", 0) == 2


def test_the_first_is_told_at_once_and_the_others_with_their_number() -> None:
    tally: Tally[str] = Tally(60, others="(others)")
    assert [tally.add("a", moment, told=True) for moment in range(5)] == ["a", None, None, None, None]
    assert tally.add("b", 30, told=True) == "b"
    assert tally.due(59) == []
    assert tally.due(60) == [("a", 4)]
    assert tally.due(90) == []
    assert tally.add("a", 91, told=True) == "a"


def test_what_is_told_later_is_told_whole() -> None:
    tally: Tally[str] = Tally(60, others="(others)")
    assert [tally.add("a", 0, told=False) for _ in range(3)] == [None] * 3
    assert tally.due(60) == [("a", 3)]


def test_too_many_keys_are_counted_together() -> None:
    tally: Tally[int] = Tally(60, others=-1)
    told = [tally.add(key, 0, told=True) for key in range(5000)]
    assert [key for key in told if key is not None] == [*range(1000), -1]
    assert tally.due(60) == [(-1, 3999)]
