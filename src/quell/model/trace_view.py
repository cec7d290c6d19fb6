"""Traces as the API shows them, and what can be searched for. docs/traces.md."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from quell.model.flag import PlaceFilter
from quell.model.subject import Subject
from quell.model.trace import Trace, TraceFlag, TraceProcess


class TraceSummary(Struct, frozen=True, kw_only=True):
    """A trace in a list. Times in epoch seconds."""

    id: str
    #: open, closed or merged.
    status: str
    #: Critical, High or Low.
    priority: str
    score: float
    #: The id of the flag that opened it, and what it was.
    trigger: str
    trigger_name: str
    trigger_class: str
    #: Names from the machine's first process down to the trigger's; "": unknown.
    trigger_ancestors: str
    #: The name of its highest flagged process; "": unknown.
    root_name: str
    #: Whom the trigger is about, without the process.
    subject: Subject
    #: Whose processes the flags are about.
    users: tuple[str, ...]
    first: float
    last: float
    #: Processes on the longest chain below its root.
    depth: int
    #: Flags of each severity.
    severities: dict[str, int]
    flag_count: int
    process_count: int
    #: The policy that hides it, and the one that would if it were not in audit mode; "": none.
    suppressed_by: str
    would_suppress: str
    #: The trace that has it; "": it is not merged.
    merged_into: str
    closed: float | None
    #: quiet, bounds, merged, or who closed it.
    closed_by: str
    note: str


class TraceShown(TraceSummary, frozen=True, kw_only=True):
    """A trace with all that it has."""

    #: The id of its highest flagged process among the processes; null: unknown.
    root: int | None
    #: The first ones, where there are more than are kept: flag_count says how many there were.
    flags: tuple[TraceFlag, ...]
    processes: tuple[TraceProcess, ...]


class TraceFilter(PlaceFilter, frozen=True, kw_only=True, omit_defaults=True):
    """What is searched for. All that is given must hold; of several values of one filter, any.

    since and until: it had flags then or later, and before then.
    """

    since: float | None = None
    until: float | None = None
    priority: tuple[str, ...] = ()
    #: Without it open and closed ones.
    status: tuple[str, ...] = ()
    #: Users of its processes; globs.
    user: tuple[str, ...] = ()
    #: Words that must all be there; of one in double quotes, spaces too.
    text: tuple[str, ...] = ()
    suppressed: bool = False


def summary(trace: Trace) -> TraceSummary:
    return TraceSummary(**_facts(trace))


def shown(trace: Trace) -> TraceShown:
    return TraceShown(**_facts(trace), root=trace.root, flags=trace.flags, processes=trace.processes)


def _facts(trace: Trace) -> dict[str, Any]:
    root = next((process for process in trace.processes if process.id == trace.root), None)
    return {
        "id": trace.id,
        "status": trace.status.value,
        "priority": trace.priority.value,
        "score": trace.score,
        "trigger": trace.trigger,
        "trigger_name": trace.trigger_name,
        "trigger_class": trace.trigger_class,
        "trigger_ancestors": trace.trigger_ancestors,
        "root_name": "" if root is None else root.name,
        "subject": trace.subject,
        "users": tuple(dict.fromkeys([scope.user for scope in trace.scopes if scope.user])),
        "first": trace.first,
        "last": trace.last,
        "depth": trace.depth,
        "severities": {severity.value: count for severity, count in trace.severities.items()},
        "flag_count": trace.flag_count,
        "process_count": len(trace.processes),
        "suppressed_by": trace.suppressed_by,
        "would_suppress": trace.would_suppress,
        "merged_into": trace.merged_into,
        "closed": trace.closed,
        "closed_by": trace.closed_by,
        "note": trace.note,
    }
