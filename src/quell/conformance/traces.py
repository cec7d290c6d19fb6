"""Cases of traces: which flags open one, what it scores, and what a policy hides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from quell.conformance.case import NODE, NOW, Case, Fields, differs, read
from quell.errors import DocumentError
from quell.matching.policies import status
from quell.matching.suppression import Suppression
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.subject import Process, Subject
from quell.model.trace import Trace, cap, priority
from quell.response.open_trace import judged
from quell.response.traces import Traces, covered_by_none

EXPECTATIONS = frozenset(("suppressed", "score", "score_cap", "triggers_trace", "priority"))
_USERS = ("users", "interactive_users", "non_interactive_users")
_PROCESS = Process(pid=4711, start_ticks=471_100, boot_id="boot", name="nc")


def is_trace_case(case: Case) -> bool:
    return not EXPECTATIONS.isdisjoint(case["expect"]) or "trace" in (case["event"] or {})


def judge(case: Case, subject_of: Callable[[Mapping[str, Any]], Subject]) -> list[str]:
    """subject_of: the scopes that an event of a policy's case has."""
    expect = Fields(case["expect"], "expect")
    valid = expect.take("valid", default=True)
    try:
        documents = read([case["policy"]] if case["policy"] else [])
    except DocumentError as error:
        return [] if not valid else [f"refused: {error}"]
    if not valid:
        return ["expected to be refused, but was taken"]
    found: list[str] = []
    if expect.take("warning") and not documents.warnings:
        found.append("expected a warning, got none")
    event = dict(case["event"] or {})
    bare = event.pop("score", None)
    severities = [Severity(word) for word in event.pop("flag_severities", ())]
    depth = event.pop("depth", 0)
    told = event.pop("trace", None)
    trace = _opened(severities)
    if told is not None:
        trace = _told(Fields(told, "trace"), subject_of(event), severities)
    elif event:
        subject_of(event)
    if trace is not None:
        trace = msgspec.structs.replace(trace, depth=trace.depth or depth)
        trace = judged(trace, Suppression(documents.policies).judge)
    got: dict[str, object] = {
        "triggers_trace": trace is not None,
        "suppressed": trace is not None and trace.is_suppressed,
        "score": 0.0 if trace is None else trace.score,
        "score_cap": cap({} if trace is None else trace.severities),
        "priority": priority(bare if bare is not None else 0.0 if trace is None else trace.score).value,
        "status": status(documents.policies[0]).value if documents.policies else None,
    }
    for key, value in got.items():
        wanted = expect.take(key)
        found += [] if wanted is None else differs(key, wanted, value)
    expect.done()
    return found


def _opened(severities: Iterable[Severity]) -> Trace | None:
    """By flags about one process, one after the other."""
    traces = Traces()
    for number, severity in enumerate(severities):
        traces.take(
            Flag(
                id=f"case/{number}",
                flag_class=FlagClass.RED,
                severity=severity,
                name="Host.Suspicious.Process",
                subject=Subject(node=NODE, process=_PROCESS),
                time=NOW + number,
            )
        )
    return next(iter(traces.changes().traces), None)


def _told(fields: Fields, subject: Subject, severities: list[Severity]) -> Trace:
    """A trace as it stands; the severities of its flags are in their classes, where the case does not give them."""
    classes = tuple(fields.take("flags", ()))
    users = [user for key in _USERS for user in fields.take(key, ())]
    users += filter(None, [fields.take("user")])
    severities = severities or [severity for path in classes if (severity := _severity(path)) is not None]
    trace = Trace(
        id="case",
        trigger="case/0",
        trigger_name="case",
        trigger_class=fields.take("trigger_class", ""),
        trigger_ancestors=fields.take("trigger_ancestors", ""),
        first=NOW,
        last=NOW,
        depth=fields.take("depth", 0),
        severities={severity: severities.count(severity) for severity in severities},
        classes=classes,
        scopes=tuple(msgspec.structs.replace(subject, user=user) for user in users) or (subject,),
    )
    fields.done()
    return msgspec.structs.replace(trace, score=judged(trace, covered_by_none).score)


def _severity(path: str) -> Severity | None:
    words = path.split("/")
    return next((severity for severity in Severity if f"{severity}_severity" in words), None)
