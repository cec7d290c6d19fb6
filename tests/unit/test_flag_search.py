"""What a filter of flags finds in a real store, page by page, and what of it is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from quell.controller.flag_search import compiled
from quell.errors import FilterError
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.flag import Acknowledgement, FlagFilter
from quell.model.subject import Container, Pod, Process, Subject
from quell.storage import flags, schema

NOW = 1_790_000_000.0
RED, OPS = FlagClass.RED, FlagClass.OPS
RULES = {"kill-netcat": "rule/8"}

WEB = Subject(
    node="n1",
    namespace="shop",
    pod=Pod(name="web-1", uid="uid-1"),
    container=Container(id="4f5e2c1b9a8d" + "0" * 52, name="cart"),
    image="reg/cart:1",
    process=Process(name="nc", cmdline="nc -l 4444"),
)
MADE = (
    Flag(id="e1/0", flag_class=RED, severity=Severity.HIGH, name="Container.Suspicious.Process", description="A *reverse* shell", subject=WEB, asked_by=("rule/8",), event_id="e1", time=NOW),
    Flag(id="e1/1", flag_class=OPS, severity=Severity.LOW, name="Container.Suspicious.Process", impact="look here", subject=WEB, asked_by=("policy/web/default", "rule/9"), event_id="e1", time=NOW),
    Flag(id="e2/0", flag_class=RED, severity=Severity.CRITICAL, name="Host.Suspicious.Process", subject=Subject(node="n2", process=Process(name="sh")), asked_by=("policy/web/actions",), event_id="e2", time=NOW + 10),
    Flag(id="e3/0/stale/rule/8", flag_class=OPS, severity=Severity.MEDIUM, name="Response refused: stale", subject=Subject(node="n2", container=Container(id="4f5e2c1b9a8d")), asked_by=("rule/8",), event_id="e3", time=NOW + 20),
    Flag(id="e4/0", flag_class=RED, severity=Severity.INFO, name="Über", content="see [x](https://wiki.example)", time=NOW + 30),
)  # fmt: skip


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    schema.create(tmp_path / "quell.db")
    made = schema.connect(tmp_path / "quell.db")
    schema.prepare(made)
    flags.insert(made, MADE)
    flags.acknowledge(made, ["e2/0"], Acknowledgement(by="user/ada", time=NOW, note="known job"))
    flags.put_traces(made, [("e1/0", "t1"), ("e2/0", "t2")], [("t2", "t3")])
    yield made
    made.close()


def found(connection: sqlite3.Connection, wanted: FlagFilter) -> list[str]:
    bounds, test = compiled(wanted, RULES)
    return [kept.flag.id for kept in flags.search(connection, bounds, test, limit=100).flags]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (FlagFilter(), ["e4/0", "e3/0/stale/rule/8", "e2/0", "e1/1", "e1/0"]),
        (FlagFilter(flag_class=("RED",)), ["e4/0", "e2/0", "e1/0"]),
        (FlagFilter(flag_class=("red", "ops")), ["e4/0", "e3/0/stale/rule/8", "e2/0", "e1/1", "e1/0"]),
        (FlagFilter(flag_class=("redflag/proc/*/nc",)), ["e1/0"]),
        (FlagFilter(flag_class=("redflag/proc/*/nc", "ops")), ["e3/0/stale/rule/8", "e1/1", "e1/0"]),
        (FlagFilter(severity=(">=high",)), ["e2/0", "e1/0"]),
        (FlagFilter(severity=("low", "INFO")), ["e4/0", "e1/1"]),
        (FlagFilter(name=("container.*",), flag_class=("ops",)), ["e1/1"]),
        (FlagFilter(name=("über",)), ["e4/0"]),
        (FlagFilter(rule=("8",)), ["e3/0/stale/rule/8", "e1/0"]),
        (FlagFilter(rule=("rule/8",), severity=("high",)), ["e1/0"]),
        (FlagFilter(rule=("kill-netcat",)), ["e3/0/stale/rule/8", "e1/0"]),
        (FlagFilter(rule=("web",)), ["e2/0", "e1/1"]),
        (FlagFilter(rule=("policy/web",)), ["e2/0", "e1/1"]),
        (FlagFilter(rule=("policy/web/actions",)), ["e2/0"]),
        (FlagFilter(rule=("policy",)), []),
        (FlagFilter(event=("e1",)), ["e1/1", "e1/0"]),
        (FlagFilter(node=("n2",)), ["e3/0/stale/rule/8", "e2/0"]),
        (FlagFilter(node=("n*",), namespace=("sh?p",), pod=("uid-1",), image=("reg/*",)), ["e1/1", "e1/0"]),
        (FlagFilter(container=("4f5e2c",)), ["e3/0/stale/rule/8", "e1/1", "e1/0"]),
        (FlagFilter(container=("4f5e2c1b9a8d" + "0" * 52,)), ["e3/0/stale/rule/8", "e1/1", "e1/0"]),
        (FlagFilter(container=("4f5e2",)), []),
        (FlagFilter(container=("ca*",)), ["e1/1", "e1/0"]),
        (FlagFilter(text=("REVERSE SHELL",)), ["e1/0"]),
        (FlagFilter(text=('"reverse* shell"',)), ["e1/0"]),
        (FlagFilter(text=('"shell reverse"',)), []),
        (FlagFilter(text=("4444", "here")), ["e1/1"]),
        (FlagFilter(text=("known",)), ["e2/0"]),
        (FlagFilter(acknowledged=True), ["e2/0"]),
        (FlagFilter(acknowledged=False, severity=(">=high",)), ["e1/0"]),
        (FlagFilter(trace=("t1", "t3")), ["e2/0", "e1/0"]),
        (FlagFilter(trace=("t2",)), []),
        (FlagFilter(since=NOW + 10, until=NOW + 30), ["e3/0/stale/rule/8", "e2/0"]),
    ],
)
def test_a_filter_finds(connection: sqlite3.Connection, wanted: FlagFilter, expected: list[str]) -> None:
    assert found(connection, wanted) == expected


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = FlagFilter(severity=("hihg", ">=low"), flag_class=("rde",), name=("[z-a]*",), pod=("[z-a]",))
    with pytest.raises(FilterError) as refused:
        compiled(wrong, {})
    places = {problem.path: problem for problem in refused.value.problems}
    assert set(places) == {"severity", "flag_class", "name", "pod"}
    assert places["severity"].nearest == "high"
    assert places["flag_class"].nearest == "red"


@pytest.mark.parametrize("newer", [False, True])
def test_pages_give_each_flag_once_while_more_come(connection: sqlite3.Connection, *, newer: bool) -> None:
    more = [
        Flag(id=f"m{n}/0", flag_class=RED, severity=Severity.LOW, name="x" if n % 5 else "y", time=NOW + 100 + n)
        for n in range(700)
    ]
    flags.insert(connection, more)
    bounds, test = compiled(FlagFilter(name=("y",)), {})
    got: list[str] = []
    at: int | None = None
    pages = 0
    while True:
        page = flags.search(connection, bounds, test, limit=30, at=at, newer=newer, seconds=0.0 if pages % 2 else 9.0)
        got += [kept.flag.id for kept in page.flags]
        at, pages = page.next, pages + 1
        if at is None:
            break
        assert page.until is not None
        if not newer:
            flags.insert(
                connection, [Flag(id=f"later{pages}/0", flag_class=RED, severity=Severity.LOW, name="y", time=NOW)]
            )
    wanted = [f"m{n}/0" for n in range(0, 700, 5)]
    assert got == (wanted if newer else wanted[::-1])
    assert pages > 4
    connection.execute("DELETE FROM flags")
    assert flags.search(connection, bounds, test, limit=30, at=page.newest, newer=newer).flags == []


def test_what_was_acknowledged_stays_whose_it_is(connection: sqlite3.Connection) -> None:
    other = Acknowledgement(by="user/bob", time=NOW + 5)
    assert flags.acknowledge(connection, ["e2/0", "e1/0", "e1/0", "nothing"], other) == ["e1/0"]
    kept = flags.get(connection, "e2/0")
    assert kept is not None
    assert kept.acknowledged == Acknowledgement(by="user/ada", time=NOW, note="known job")
    assert flags.acknowledge(connection, ["e2/0", "e4/0"], None) == ["e2/0"]
    assert found(connection, FlagFilter(acknowledged=True)) == ["e1/0"]


def test_red_flags_come_in_the_order_they_were_raised(connection: sqlite3.Connection) -> None:
    got, last = flags.red_after(connection, 0, 3)
    assert ([one.id for one in got], last) == (["e1/0", "e2/0"], 3)
    got, last = flags.red_after(connection, last, 100)
    assert ([one.id for one in got], last) == ([], 5)
    assert flags.red_after(connection, last, 100) == ([], 5)
