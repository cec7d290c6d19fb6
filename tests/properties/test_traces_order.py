"""Flags in any order give the same traces, which are those that SEMANTICS section 6 names; so do they after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import hypothesis.strategies as st
from hypothesis import given, settings
from msgspec import Struct

from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.subject import Ancestor, Container, Process, Subject
from quell.model.trace import Trace, TraceStatus, score
from quell.response.traces import Traces, covered_by_none

NOW = 1_790_000_000.0
BOOT = 1_789_000_000.0
SEVERITIES = (Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW)


class Seen(Struct, frozen=True):
    """A flag, as drawn. process: its place in the forest, None: it is about none."""

    process: int | None
    container: int | None
    severity: Severity
    #: How many of its ancestors the source told of.
    told: int
    #: exact: boot, ticks and time; near: times of the process, numbers of its ancestors; names: no more than that.
    style: str


class Drawn(Struct, frozen=True):
    #: Of each process but the first: its parent, an earlier one. Process n has pid n + 1: the first is the machine's.
    parents: tuple[int, ...]
    flags: tuple[Seen, ...]

    def above(self, process: int) -> list[int]:
        found = []
        while process:
            process = self.parents[process - 1]
            found.append(process)
        return found


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    count = draw(st.integers(1, 14))
    parents = tuple(draw(st.integers(max(0, n - 4), n)) for n in range(count))
    flags = draw(
        st.lists(
            st.builds(
                Seen,
                process=st.none() | st.integers(0, count),
                container=st.none() | st.integers(0, 1),
                severity=st.sampled_from(SEVERITIES),
                told=st.integers(0, 6) | st.just(99),
                style=st.sampled_from(("exact", "exact", "near", "names")),
            ),
            min_size=1,
            max_size=10,
        )
    )
    return Drawn(parents, tuple(flags))


def flag(drawn: Drawn, n: int) -> Flag:
    seen = drawn.flags[n]
    container = None if seen.container is None else Container(id=f"{seen.container}" * 64)
    process = None if seen.process is None else process_of(drawn, seen.process, seen)
    return Flag(
        id=f"event-{n}/0",
        flag_class=FlagClass.RED,
        severity=seen.severity,
        name="Host.Suspicious.Process",
        subject=Subject(node="n1", container=container, process=process),
        time=NOW + n,
    )


def process_of(drawn: Drawn, process: int, seen: Seen) -> Process:
    above = drawn.above(process)[: seen.told]
    name, ticks = f"p{process}", 1000 * process
    match seen.style:
        case "exact":
            lineage = tuple(Ancestor(f"p{one}", pid=one + 1, start_ticks=1000 * one) for one in above)
            return Process(
                pid=process + 1,
                name=name,
                boot_id="b1",
                start_ticks=ticks,
                start_time=BOOT + ticks / 100,
                lineage=lineage,
            )
        case "near":
            lineage = tuple(Ancestor(f"p{one}", pid=one + 1) for one in above)
            return Process(pid=process + 1, name=name, start_time=BOOT + ticks / 100 + 0.25, lineage=lineage)
        case _:
            names = tuple(f"p{one}" for one in above)
            return Process(pid=process + 1, name=name, start_time=BOOT + ticks / 100, ancestors=names)


def expected(drawn: Drawn) -> set[frozenset[str]]:
    """Which flags are together, the slow way."""
    parent: dict[int, int] = {}
    for seen in drawn.flags:
        if seen.process is not None and seen.style != "names":
            parent |= dict(pairwise([seen.process, *drawn.above(seen.process)[: seen.told]]))

    def above(process: int) -> set[int]:
        found: set[int] = set()
        while process in parent:
            process = parent[process]
            found.add(process)
        return found - {0}

    def are_one(one: Seen, other: Seen) -> bool:
        if one.process is None or other.process is None:
            return one.container is not None and one.container == other.container
        return (
            one.process == other.process or one.process in above(other.process) or other.process in above(one.process)
        )

    groups = [{n} for n in range(len(drawn.flags))]
    for a, one in enumerate(drawn.flags):
        for b, other in enumerate(drawn.flags[:a]):
            if are_one(one, other):
                first, second = (next(group for group in groups if n in group) for n in (a, b))
                if first is not second:
                    groups.remove(second)
                    first |= second
    return {frozenset(f"event-{n}/0" for n in group) for group in groups}


def store(stored: dict[str, Trace], traces: Traces) -> None:
    stored.update({trace.id: trace for trace in traces.changes().traces})


def taken(drawn: Drawn, order: Sequence[int], restarts: frozenset[int] = frozenset()) -> list[Trace]:
    """What is stored in the end. restarts: after these flags everything is read back."""
    traces, stored = Traces(), dict[str, Trace]()
    for n in order:
        traces.take(flag(drawn, n))
        if n in restarts:
            store(stored, traces)
            traces = Traces()
            traces.restore([trace for trace in stored.values() if trace.status is TraceStatus.OPEN])
    # What becomes known of a process that several show is stored with each when it is next stored.
    traces.rejudge(covered_by_none)
    store(stored, traces)
    return sorted(stored.values(), key=lambda trace: trace.id)


def open_ones(found: Sequence[Trace]) -> list[Trace]:
    return [trace for trace in found if trace.status is TraceStatus.OPEN]


@given(drawn(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_flags_makes_no_difference(drawn: Drawn, random: Random) -> None:
    order = list(range(len(drawn.flags)))
    random.shuffle(order)
    wanted = expected(drawn)
    for one in (range(len(drawn.flags)), order):
        found = open_ones(taken(drawn, list(one)))
        assert {frozenset(each.id for each in trace.flags) for trace in found} == wanted


@given(drawn(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_depth_and_score_do_not_depend_on_the_order(drawn: Drawn, random: Random) -> None:
    order = list(range(len(drawn.flags)))
    random.shuffle(order)
    first, second = (
        {frozenset(each.id for each in trace.flags): (trace.depth, trace.score) for trace in open_ones(found)}
        for found in (taken(drawn, range(len(drawn.flags))), taken(drawn, order))
    )
    assert first == second
    for flags, (depth, got) in first.items():
        severities = dict.fromkeys(Severity, 0)
        for identifier in flags:
            severities[drawn.flags[int(identifier.removeprefix("event-").removesuffix("/0"))].severity] += 1
        assert got == score(severities, depth)


@given(drawn(), st.sets(st.integers(0, 9)))
@settings(max_examples=150, deadline=None)
def test_a_restart_anywhere_changes_nothing(drawn: Drawn, restarts: set[int]) -> None:
    order = range(len(drawn.flags))
    without = taken(drawn, order)
    assert taken(drawn, order, frozenset(restarts)) == without


@given(drawn())
@settings(max_examples=100, deadline=None)
def test_every_merged_trace_points_to_one_that_is_older_and_has_its_flags(drawn: Drawn) -> None:
    found = {trace.id: trace for trace in taken(drawn, range(len(drawn.flags)))}
    for trace in found.values():
        if trace.status is TraceStatus.MERGED:
            into = found[trace.merged_into]
            assert into.first <= trace.first
            while into.merged_into:
                into = found[into.merged_into]
            assert {each.id for each in trace.flags} <= {each.id for each in into.flags}
