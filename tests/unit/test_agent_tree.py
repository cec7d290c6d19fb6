"""Who descends from whom, by a table of processes that is never quite of one moment."""

from __future__ import annotations

import pytest

from quell.agent.proc import Stat
from quell.agent.tree import offspring


def line(ppid: int, sid: int = 0, start: int = 100) -> Stat:
    return Stat(name="x", state="S", ppid=ppid, pgid=0, sid=sid, kernel_thread=False, start_ticks=start)


ROOT = {10: 100}


@pytest.mark.parametrize(
    ("table", "known", "found"),
    [
        pytest.param({10: line(1), 11: line(10), 12: line(11), 13: line(1)}, ROOT, [11, 12], id="by their parents"),
        pytest.param({12: line(11), 11: line(10), 10: line(1)}, ROOT, [11, 12], id="whatever the order of the table"),
        pytest.param({10: line(1), 11: line(10), 12: line(11)}, {10: 100, 11: 100}, [12], id="the known are not new"),
        pytest.param(
            {10: line(1), 11: line(10, start=99)}, ROOT, [], id="a child that is older than its parent is none"
        ),
        pytest.param({10: line(1, start=300), 11: line(10, start=301)}, ROOT, [], id="the number was given away"),
        pytest.param({11: line(10, start=200)}, ROOT, [], id="a parent that is not there proves nothing"),
        pytest.param(
            {10: line(1, sid=10), 11: line(1, sid=10), 12: line(11)}, ROOT, [11, 12], id="re-parented, in its session"
        ),
        pytest.param({11: line(1, sid=10)}, ROOT, [11], id="in the session of one that is gone"),
        pytest.param(
            {10: line(1), 11: line(10, sid=11), 12: line(1, sid=11)},
            ROOT,
            [11, 12],
            id="in the session of a descendant",
        ),
        pytest.param({10: line(1, sid=5), 11: line(1, sid=5)}, ROOT, [], id="in the same session, which another leads"),
        pytest.param({10: line(1, sid=10), 11: line(1, sid=10, start=99)}, ROOT, [], id="older than its session"),
        pytest.param(
            {10: line(1), 11: line(10, start=500)}, {10: 100, 11: 300}, [11], id="a known number is another's by now"
        ),
        pytest.param({}, ROOT, [], id="nothing is there"),
    ],
)
def test_offspring(table: dict[int, Stat], known: dict[int, int], found: list[int]) -> None:
    assert offspring(table, known) == found


def test_a_ring_of_parents_ends() -> None:
    assert offspring({10: line(12), 11: line(10), 12: line(11)}, ROOT) == [11, 12]
