"""The tree and the time line of a trace: whatever its names are and however deep it goes, they are well-formed HTML."""

from __future__ import annotations

import random
from xml.etree import ElementTree as ET

from quell.console.process_tree import drawn
from quell.console.timeline import timeline
from quell.model.action import Severity
from quell.model.trace import Trace, TraceFlag, TraceProcess

HOSTILE = "</li><script>alert(1)</script>\"'&"


def trace(processes: list[TraceProcess], flags: list[TraceFlag]) -> Trace:
    return Trace(
        id="t",
        trigger="f0",
        trigger_name="n",
        trigger_class="redflag/x",
        first=min((flag.time for flag in flags), default=0.0),
        last=max((flag.time for flag in flags), default=0.0),
        flags=tuple(flags),
        processes=tuple(processes),
        flag_count=len(flags),
    )


def flag(number: int, process: int | None, **more: object) -> TraceFlag:
    given = {"time": 100.0 + number, "severity": Severity.HIGH, "class_path": f"c{number}", "name": "n"} | more
    return TraceFlag(id=f"f{number}", process=process, **given)  # type: ignore[arg-type]


def test_a_long_chain_is_drawn_whole_and_nested_only_so_deeply() -> None:
    processes = [TraceProcess(id=n, parent=n - 1 if n else None, name=f"p{n}", pid=n) for n in range(500)]
    tree = ET.fromstring(drawn(trace(processes, [flag(n, n) for n in range(500)])))  # noqa: S314 - our own
    assert len(tree.findall(".//div[@class='process flagged']")) == 500
    assert len(tree.findall(".//li[@class='flag']")) == 500
    deepest, level = 0, [(tree, 0)]
    while level:
        node, depth = level.pop()
        deepest = max(deepest, depth)
        level += [(child, depth + 1) for child in node]
    # Browsers stop nesting at some hundred elements.
    assert deepest < 100


def test_every_process_stands_below_its_parent() -> None:
    pick = random.Random(3)  # noqa: S311 - the same tree each time, no secret
    parents: list[int | None] = [None, *(pick.randrange(n) for n in range(1, 60))]
    processes = [TraceProcess(id=n, parent=parent, name=f"p{n}") for n, parent in enumerate(parents)]
    tree = ET.fromstring(drawn(trace(processes, [flag(0, 0)])))  # noqa: S314 - our own
    found: dict[str, str | None] = {}
    waiting: list[tuple[ET.Element, str | None]] = [(tree, None)]
    while waiting:
        node, above = waiting.pop()
        line = node.find("div")
        name = above if line is None else line.findtext("b")
        if line is not None and name is not None:
            found[name] = above
        waiting += [(child, name) for child in node]
    assert found == {f"p{n}": None if parent is None else f"p{parent}" for n, parent in enumerate(parents)}


def test_what_an_attacker_named_becomes_no_markup() -> None:
    process = TraceProcess(
        id=0, name=HOSTILE, user=HOSTILE, cmdline=f"{HOSTILE} -x", exe=HOSTILE, pid=1, start_time=5.0
    )
    flags = [flag(0, 0, name=HOSTILE, description=f"{HOSTILE}!"), flag(1, None, name=HOSTILE)]
    for html in (drawn(trace([process], flags)), timeline(trace([process], flags))):
        assert "<script" not in html
        ET.fromstring(html)  # noqa: S314 - our own


def test_the_time_line_has_a_lane_for_each_severity_and_a_mark_for_each_flag() -> None:
    severities = (Severity.CRITICAL, Severity.LOW, Severity.LOW)
    flags = [flag(n, None, severity=severity) for n, severity in enumerate(severities)]
    line = ET.fromstring(timeline(trace([], flags)))  # noqa: S314 - our own
    marks = [(mark.get("class"), mark.get("cx"), mark.get("cy")) for mark in line.iter("circle")]
    assert len(marks) == 3
    assert len({place for _, _, place in marks}) == 2
    assert len({place for _, place, _ in marks}) == 3
    assert timeline(trace([], [flag(0, None)])).count("<circle") == 1
