"""Which flags are one trace, what a trace keeps of them, and what policies hide. SEMANTICS section 6."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quell.matching.suppression import Suppression
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.policy import Operator, Policy, PolicyType, Requirement, Selector, SelectorKind
from quell.model.rule import Mode
from quell.model.subject import Ancestor, Container, Pod, Process, Subject
from quell.model.trace import Priority, Trace, TraceStatus
from quell.response.traces import Bounds, Traces

NOW = 1_790_000_000.0
BOOT = 1_789_000_000.0

#: systemd 1 - sshd 20 - bash 30 - sh 40 - nc 50, each with a start of ten times its number.
NAMES = {1: "systemd", 20: "sshd", 30: "bash", 31: "bash", 40: "sh", 41: "sh", 50: "nc", 51: "curl"}
PARENTS = {20: 1, 30: 20, 31: 20, 40: 30, 41: 30, 50: 40, 51: 41}
HIGH, LOW, INFO = Severity.HIGH, Severity.LOW, Severity.INFO


def above(pid: int) -> list[int]:
    found = []
    while pid in PARENTS:
        pid = PARENTS[pid]
        found.append(pid)
    return found


def seen(pid: int, *, boot: str = "b1", start: int | None = None, told: int = 99) -> Process:
    """As the sensor sees a process."""
    ticks = pid * 10 if start is None else start
    return Process(
        pid=pid,
        start_ticks=ticks,
        start_time=BOOT + ticks / 100,
        boot_id=boot,
        name=NAMES.get(pid, f"p{pid}"),
        user="root",
        cmdline=f"{NAMES.get(pid)} -x",
        lineage=tuple(Ancestor(NAMES[one], pid=one, start_ticks=one * 10) for one in above(pid)[:told]),
    )


def flag(n: int, process: Process | None = None, severity: Severity = HIGH, **subject: object) -> Flag:
    made = Subject(**{"node": "n1", "process": process, **subject})  # type: ignore[arg-type]
    return Flag(
        id=f"e{n}/0",
        flag_class=FlagClass.RED,
        severity=severity,
        name="Host.Suspicious.Process",
        description="nc -x is on the watch list",
        subject=made,
        event_id=f"e{n}",
        time=NOW + n,
    )


def taken(*flags: Flag, bounds: Bounds | None = None) -> Traces:
    traces = Traces(bounds)
    for one in flags:
        traces.take(one)
    return traces


def stored(traces: Traces) -> dict[str, Trace]:
    return {trace.id: trace for trace in traces.changes().traces}


def groups(traces: Traces) -> list[list[str]]:
    """The flags of each open trace."""
    return sorted(
        sorted(each.event_id for each in trace.flags)
        for trace in stored(traces).values()
        if trace.status is TraceStatus.OPEN
    )


# ---- classes


@pytest.mark.parametrize(
    ("name", "subject", "expected"),
    [
        ("Host.Suspicious.Process", Subject(process=Process(name="nc")), "proc/host_suspicious_process/high_severity/nc"),
        ("X", Subject(process=Process(exe="/usr/bin/nc")), "proc/x/high_severity/nc"),
        ("Terminal shell in container", Subject(process=Process(name="a/b")), "proc/terminal_shell_in_container/high_severity/a_b"),
        ("X", Subject(process=Process(pid=1), node="n1"), "proc/x/high_severity"),
        ("Response held: budget", Subject(container=Container(id="c", name="web")), "cont/response_held_budget/high_severity/web"),
        ("X", Subject(container=Container(id="c"), image="reg/a:1", node="n"), "cont/x/high_severity/reg_a:1"),
        ("X", Subject(pod=Pod(name="web-1")), "pod/x/high_severity/web-1"),
        ("X", Subject(image="reg/a:1"), "image/x/high_severity/reg_a:1"),
        ("Ünrühig ...", Subject(node="n1"), "mach/ünrühig/high_severity/n1"),
        ("../", Subject(), "cluster/unnamed/high_severity"),
    ],
)  # fmt: skip
def test_the_class_of_a_flag(name: str, subject: Subject, expected: str) -> None:
    made = Flag(id="e/0", flag_class=FlagClass.RED, severity=HIGH, name=name, subject=subject, time=NOW)
    assert made.class_path == f"redflag/{expected}"


# ---- which are one


def test_what_opens_no_trace() -> None:
    ops = Flag(id="o/0", flag_class=FlagClass.OPS, severity=HIGH, name="x", subject=Subject(process=seen(50)), time=NOW)
    traces = taken(flag(1, seen(50), INFO), ops)
    assert (len(traces), traces.changes().traces, traces.changes().flags) == (0, [], [])


def test_two_children_are_not_one_until_their_parent_is_flagged() -> None:
    traces = taken(flag(1, seen(40)), flag(2, seen(41)))
    assert groups(traces) == [["e1"], ["e2"]]
    traces.take(flag(3, seen(30)))
    joined = traces.changes()
    older, younger = sorted(joined.traces, key=lambda trace: trace.first)
    assert (older.status, younger.status, younger.merged_into) == (TraceStatus.OPEN, TraceStatus.MERGED, older.id)
    assert joined.merged == [(younger.id, older.id)]
    assert joined.flags == [("e3/0", older.id)]
    assert older.trigger == "e1/0"
    assert [each.event_id for each in older.flags] == ["e1", "e2", "e3"]


@pytest.mark.parametrize("order", [(30, 50), (50, 30)])
def test_an_ancestor_and_a_descendant_are_one(order: Sequence[int]) -> None:
    traces = taken(*(flag(n, seen(pid)) for n, pid in enumerate(order)))
    [trace] = stored(traces).values()
    assert trace.flag_count == 2
    processes = {process.id: process for process in trace.processes}
    assert processes[trace.root or 0].pid == 30
    assert trace.depth == 2
    assert trace.score == 40 * 1.2
    assert trace.trigger_ancestors == "/".join(NAMES[pid] for pid in [*above(order[0])[::-1], order[0]])
    child = next(process for process in trace.processes if process.pid == 50)
    path = []
    while child.parent is not None:
        child = processes[child.parent]
        path.append(child.name)
    assert path == ["sh", "bash", "sshd", "systemd"]


def test_the_first_process_of_a_machine_connects_nothing_even_if_it_is_flagged() -> None:
    traces = taken(flag(1, seen(30)), flag(2, seen(1)), flag(3, seen(31)), flag(4, seen(1)))
    assert groups(traces) == [["e1"], ["e2", "e4"], ["e3"]]


def test_a_number_that_another_process_has_now_is_another_process() -> None:
    traces = taken(flag(1, seen(50)), flag(2, seen(50, start=9000)), flag(3, seen(50, boot="b2")))
    assert groups(traces) == [["e1"], ["e2"], ["e3"]]


def test_what_two_detectors_say_of_one_process_is_one() -> None:
    near = Process(pid=50, start_time=BOOT + 5.0 + 0.4, name="nc")
    later = Process(pid=50, start_time=BOOT + 5.0 + 2.0, name="nc")
    child = Process(pid=60, start_time=BOOT + 9.0, name="x", lineage=(Ancestor("nc", pid=50),))
    assert groups(taken(flag(1, near), flag(2, seen(50)))) == [["e1", "e2"]]
    assert groups(taken(flag(1, later), flag(2, seen(50)))) == [["e1"], ["e2"]]
    assert groups(taken(flag(1, child), flag(2, seen(50)))) == [["e1", "e2"]]
    elsewhere = Subject(node="n2", process=near)
    assert len(groups(taken(flag(1, seen(50)), flag(2, near, node=elsewhere.node)))) == 2


def test_names_alone_prove_no_chain() -> None:
    shell = Process(pid=40, start_time=BOOT + 4.0, name="sh", ancestors=("bash", "sshd", "systemd"))
    child = Process(pid=50, start_time=BOOT + 5.0, name="nc", ancestors=("sh", "bash", "sshd", "systemd"))
    traces = taken(flag(1, shell), flag(2, child), flag(3, child))
    found = stored(traces).values()
    assert sorted([each.event_id for each in trace.flags] for trace in found) == [["e1"], ["e2", "e3"]]
    assert {trace.trigger_ancestors for trace in found} == {"systemd/sshd/bash/sh", "systemd/sshd/bash/sh/nc"}


def test_without_a_process_it_is_the_container_that_counts() -> None:
    web = Container(id="a" * 64)
    short = Container(id="a" * 12)
    nameless = Process(name="nc")
    traces = taken(flag(1, seen(40), container=web), flag(2, seen(41), container=web))
    assert groups(traces) == [["e1"], ["e2"]]
    for n, (process, container) in enumerate([(None, short), (nameless, web)], 3):
        traces.take(flag(n, process, container=container))
    assert len(traces) == 1
    traces.take(flag(5, seen(31), container=web))
    traces.take(flag(6, None, container=Container(id="b" * 64)))
    traces.take(flag(7))
    traces.take(flag(8))
    traces.take(flag(9, None, pod=Pod(uid="u1")))
    traces.take(flag(10, None, pod=Pod(uid="u1")))
    assert groups(traces) == [["e1", "e2", "e3", "e4", "e5"], ["e10", "e9"], ["e6"], ["e7"], ["e8"]]


def test_what_an_orphans_new_parent_says_is_not_believed() -> None:
    orphan = Process(
        pid=50, start_ticks=500, boot_id="b1", name="nc", lineage=(Ancestor("systemd", pid=1, start_ticks=10),)
    )
    assert groups(taken(flag(1, seen(50)), flag(2, orphan), flag(3, seen(30)))) == [["e1", "e2", "e3"]]
    assert groups(taken(flag(1, orphan), flag(2, seen(50)), flag(3, seen(30)))) == [["e1", "e2", "e3"]]


def test_a_source_that_lies_about_ancestry_hangs_nothing() -> None:
    a = Process(pid=5, start_ticks=5, boot_id="b", name="a", lineage=(Ancestor("b", pid=6, start_ticks=6),))
    b = Process(pid=6, start_ticks=6, boot_id="b", name="b", lineage=(Ancestor("a", pid=5, start_ticks=5),) * 5000)
    traces = taken(flag(1, a), flag(2, b), flag(3, a), flag(4, b))
    assert groups(traces) == [["e1", "e2", "e3", "e4"]]


# ---- how long, and how much


def test_a_trace_that_was_quiet_for_long_takes_no_more() -> None:
    traces = taken(flag(1, seen(50)), flag(3601, seen(50)), flag(7202, seen(50)))
    found = sorted(stored(traces).values(), key=lambda trace: trace.first)
    assert [(len(trace.flags), trace.status, trace.closed_by) for trace in found] == [
        (2, TraceStatus.CLOSED, "quiet"),
        (1, TraceStatus.OPEN, ""),
    ]
    assert found[0].closed == NOW + 3601 + 3600
    traces.close_quiet(NOW + 7202 + 3600)
    assert len(traces) == 1
    traces.close_quiet(NOW + 7202 + 3600.1)
    assert len(traces) == 0


def test_what_is_held_is_bounded_and_what_is_beyond_is_counted() -> None:
    bounds = Bounds(flags=3, processes=6, open=2, held=1000)
    traces = taken(*(flag(n, seen(50)) for n in range(10)), bounds=bounds)
    [trace] = stored(traces).values()
    assert ([each.event_id for each in trace.flags], trace.flag_count) == (["e0", "e1", "e2"], 10)
    assert trace.score == 65
    # Of the other branch only its number fits in; below 30 it is the same trace nevertheless.
    for n, pid in ((11, 30), (12, 51), (13, 51)):
        traces.take(flag(n, seen(pid)))
    [trace] = stored(traces).values()
    assert (trace.flag_count, len(trace.processes)) == (13, 6)
    for n, boot in ((20, "b2"), (21, "b3")):
        traces.take(flag(n, seen(50, boot=boot)))
    found = {trace.id: trace for trace in stored(traces).values()}
    assert sorted(each.closed_by for each in found.values()) == ["", "", "bounds"]
    assert found[trace.id].closed_by == "bounds"


def test_all_traces_together_are_bounded() -> None:
    traces = taken(*(flag(n, seen(50, boot=f"b{n}")) for n in range(50)), bounds=Bounds(held=60))
    # Five processes and a flag each; systemd and sshd of other boots are others.
    assert len(traces) == 10


def test_a_process_of_a_closed_trace_is_forgotten_and_one_of_an_open_one_is_not() -> None:
    traces = taken(flag(1, seen(40)), flag(2, seen(31)))
    first, _ = sorted(stored(traces).values(), key=lambda trace: trace.first)
    assert traces.close(first.id, NOW + 5, "user/ada", "looked at")
    assert not traces.close(first.id, NOW + 5, "user/ada", "")
    traces.take(flag(6, seen(20)))
    traces.take(flag(7, seen(50)))
    assert groups(traces) == [["e2", "e6", "e7"]]


@pytest.mark.parametrize(("since", "depth"), [(50, 1), (40, 0), (30, 1)])
def test_a_closed_trace_is_opened_again_and_is_one_with_what_came_since(since: int, depth: int) -> None:
    traces = taken(flag(1, seen(40)))
    [first] = stored(traces).values()
    traces.close(first.id, NOW + 5, "user/ada", "looked at")
    [shut] = stored(traces).values()
    assert (shut.status, shut.closed_by, shut.note, shut.score) == (TraceStatus.CLOSED, "user/ada", "looked at", 20.0)
    traces.take(flag(6, seen(since)))
    assert traces.reopen(shut, NOW + 5000) == first.id
    [trace] = [trace for trace in stored(traces).values() if trace.status is TraceStatus.OPEN]
    assert (trace.id, trace.flag_count, trace.depth, trace.note, trace.closed) == (first.id, 2, depth, "", None)
    traces.close_quiet(NOW + 8000)
    assert len(traces) == 1
    traces.close_quiet(NOW + 8601)
    assert len(traces) == 0


# ---- policies


def policy(
    name: str = "ci", *, mode: Mode = Mode.ENFORCE, user: str = "root", allowed: Sequence[str] = ("*/nc",)
) -> Policy:
    requirement = Requirement(key="user", operator=Operator.IN, values=(user,))
    return Policy(
        name=name,
        type=PolicyType.TRACE,
        mode=mode,
        scope=(Selector(kind=SelectorKind.USER, requirements=(requirement,)),),
        allowed_flags=tuple(allowed),
    )  # fmt: skip


def test_a_covered_trace_scores_nothing_until_a_flag_outside_joins() -> None:
    traces = Traces(judge=Suppression([policy()]).judge)
    traces.take(flag(1, seen(50)))
    [trace] = traces.changes().traces
    assert (trace.suppressed_by, trace.score, trace.priority) == ("ci", 0.0, Priority.LOW)
    assert traces.counts() == {None: 1}
    traces.take(flag(2, seen(40)))
    [trace] = traces.changes().traces
    assert (trace.suppressed_by, trace.score) == ("", 44.0)
    assert traces.counts() == {Priority.HIGH: 1}


def test_changed_policies_are_asked_about_open_traces() -> None:
    traces = taken(flag(1, seen(50)), flag(2, seen(31)))
    assert len(traces.changes().traces) == 2
    traces.rejudge(Suppression([policy(mode=Mode.AUDIT), policy("z", allowed=["*"])]).judge)
    assert len(traces.changes(1).traces) == 1
    rest = traces.changes().traces
    assert [trace.suppressed_by for trace in rest] == ["z"]
    traces.rejudge(Suppression([policy(mode=Mode.AUDIT)]).judge)
    found = sorted(traces.changes().traces, key=lambda trace: trace.first)
    assert [(trace.suppressed_by, trace.would_suppress, trace.score) for trace in found] == [
        ("", "ci", 20.0),
        ("", "", 20.0),
    ]


def test_more_kinds_of_flags_than_are_counted_are_covered_by_no_policy() -> None:
    traces = Traces(judge=Suppression([policy(allowed=["*"])]).judge)
    for n in range(300):
        made = seen(50)
        traces.take(
            Flag(id=f"e{n}/0", flag_class=FlagClass.RED, severity=LOW, name=f"rule {n}", subject=Subject(node="n1", process=made), time=NOW)
        )  # fmt: skip
        if n == 200:
            assert traces.changes().traces[0].is_suppressed
    [trace] = traces.changes().traces
    assert (trace.uncounted, trace.is_suppressed, trace.score) == (True, False, 45.0)
