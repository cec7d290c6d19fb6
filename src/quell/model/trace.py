"""Traces: red flags on one causal chain of processes, and what the chain was. SEMANTICS section 6.

A trace holds the facts itself, so that it can be shown when processes, containers and events are long gone.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from quell.model.action import Severity
from quell.model.subject import Subject


class Priority(StrEnum):
    """How urgent a trace is, by its score."""

    CRITICAL = "Critical"
    HIGH = "High"
    LOW = "Low"


class TraceStatus(StrEnum):
    #: Flags on its chains join it.
    OPEN = "open"
    #: Nothing joins it any more: it was quiet for long, or somebody closed it.
    CLOSED = "closed"
    #: It turned out to be one with an older trace, which has all that it had.
    MERGED = "merged"


class TraceProcess(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A process on a chain: one that is flagged, or an ancestor of one."""

    #: Of this trace only.
    id: int
    #: None: nobody said.
    parent: int | None = None
    name: str = ""
    exe: str | None = None
    #: Effective user.
    user: str | None = None
    cmdline: str | None = None
    #: None: only its name is known.
    pid: int | None = None
    #: As in quell.model.subject.Process.
    start_ticks: int | None = None
    start_time: float | None = None
    boot_id: str | None = None
    node: str | None = None
    machine_id: str | None = None
    #: How many flags it has.
    flags: int = 0


class TraceFlag(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a trace keeps of a flag."""

    id: str
    time: float
    severity: Severity
    #: Flag.class_path.
    class_path: str
    name: str
    description: str = ""
    event_id: str = ""
    #: The id of its process; None: it is about no process that can be told from others.
    process: int | None = None


class Trace(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Times in epoch seconds."""

    #: Derived from the trigger, so that a replay gives the same.
    id: str
    status: TraceStatus = TraceStatus.OPEN
    #: The id of the flag that opened it, and what it was.
    trigger: str
    trigger_name: str
    trigger_class: str
    #: Names from the machine's first process down to the trigger's own; "": unknown.
    trigger_ancestors: str = ""
    #: Whom the trigger is about, without the process.
    subject: Subject = Subject()
    #: The id of the highest process of the chain that its first flags are on; None: they are about none that can be told.
    root: int | None = None
    #: When its first and its last flag were raised.
    first: float
    last: float
    #: Processes on the longest chain below its root.
    depth: int = 0
    score: float = 0.0
    #: Flags of each severity, those that are no longer listed included.
    severities: dict[Severity, int] = {}
    flags: tuple[TraceFlag, ...] = ()
    processes: tuple[TraceProcess, ...] = ()
    #: All flags; more than are listed where there were too many.
    flag_count: int = 0
    #: The policy that hides it; "": none does.
    suppressed_by: str = ""
    #: The policy that would hide it if it were not in audit mode.
    would_suppress: str = ""
    #: The trace that has it; "": it is not merged.
    merged_into: str = ""
    #: When somebody opened it again.
    reopened: float | None = None
    closed: float | None = None
    #: quiet, bounds, merged, or who closed it, such as user/ada.
    closed_by: str = ""
    note: str = ""
    #: What policies go by: the classes of all its flags, and everybody they are about (their users too).
    classes: tuple[str, ...] = ()
    scopes: tuple[Subject, ...] = ()
    #: There are more of either than are listed: no policy can prove that it covers this trace.
    uncounted: bool = False
    #: Containers that its flags are in, and those of flags about no process that can be told. First twelve digits.
    containers: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()

    @property
    def priority(self) -> Priority:
        return priority(self.score)

    @property
    def is_suppressed(self) -> bool:
        return bool(self.suppressed_by)


class Judgement(Struct, frozen=True, kw_only=True):
    """What policies make of a trace: their names, or ""."""

    suppressed_by: str = ""
    would_suppress: str = ""


#: What one flag of a severity adds; info adds nothing.
WEIGHTS = {Severity.CRITICAL: 50, Severity.HIGH: 20, Severity.MEDIUM: 8, Severity.LOW: 3}


def opens_trace(severity: Severity) -> bool:
    """Whether a red flag of this severity opens or joins a trace."""
    return severity in WEIGHTS


def cap(severities: dict[Severity, int]) -> int:
    """The most that a trace with these flags can score."""
    if severities.get(Severity.CRITICAL):
        return 100
    return 65 if severities.get(Severity.HIGH) else 45


def score(severities: dict[Severity, int], depth: int) -> float:
    """The sum of the severities' weights, a tenth more for each process that the longest chain is deep, up to the cap."""
    weight = sum(WEIGHTS.get(severity, 0) * count for severity, count in severities.items())
    # In tenths: a factor of 1 + 0.1 x depth is not exact.
    return min(weight * (10 + depth) / 10, float(cap(severities)))


def priority(score: float) -> Priority:
    if score >= 66:
        return Priority.CRITICAL
    return Priority.HIGH if score >= 33 else Priority.LOW
