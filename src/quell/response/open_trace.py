"""A trace while flags join it: what it holds, and the frozen form in which it is stored, shown and taken up again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from quell.model.action import Severity
from quell.model.decision import Flag, path_part
from quell.model.subject import Subject
from quell.model.trace import Judgement, Trace, TraceFlag, TraceProcess, TraceStatus, score
from quell.response.instances import MAX_ANCESTORS, Instance

#: Digits of a container's id that name it: some detectors give no more.
_ID_DIGITS = 12
#: What is kept of a flag's words.
_MAX_WORDS = 512
#: Different subjects and classes of flags that policies are asked about.
_MAX_SCOPES = 32
_MAX_CLASSES = 256

Judge = Callable[[Trace], Judgement]


def trace_id(trigger: str) -> str:
    """Of the trace that this flag opens."""
    return hashlib.sha256(trigger.encode()).hexdigest()[:16]


def container_key(subject: Subject) -> str:
    """What flags about no process are joined by; "": they are about no container either."""
    if subject.container is not None:
        return subject.container.id[:_ID_DIGITS]
    return f"pod/{subject.pod.uid}" if subject.pod is not None and subject.pod.uid else ""


def opening(flag: Flag) -> Trace:
    """The trace that a flag opens, before it has the flag."""
    return Trace(
        id=trace_id(flag.id),
        trigger=flag.id,
        trigger_name=flag.name,
        trigger_class=flag.class_path,
        trigger_ancestors=_ancestors(flag.subject),
        subject=_scope(flag.subject),
        first=flag.time,
        last=flag.time,
    )


class OpenTrace:
    """Its processes are those of the chains of its flags, up to the machine's first; quell.response.traces joins them."""

    __slots__ = (
        "_head",
        "classes",
        "containers",
        "first",
        "flag_count",
        "flags",
        "last",
        "loose",
        "nodes",
        "reopened",
        "scopes",
        "serial",
        "severities",
        "tops",
        "uncounted",
    )

    def __init__(self, trace: Trace, serial: int, known: Callable[[Instance], Instance]) -> None:
        """As it was frozen; which of its processes are between flagged ones is still to be said.

        serial: which of two that opened at the same moment is the older. known: a process as other traces have it.
        """
        self._head = trace
        self.serial = serial
        self.first, self.last, self.reopened = trace.first, trace.last, trace.reopened
        made = _thawed(trace.processes, known)
        #: With the number of flags about each.
        self.nodes: dict[Instance, int] = {made[process.id]: process.flags for process in trace.processes}
        self.flags: list[tuple[TraceFlag, Instance | None]] = [
            (msgspec.structs.replace(flag, process=None), None if flag.process is None else made.get(flag.process))
            for flag in trace.flags
        ]
        self.flag_count = trace.flag_count
        #: Flagged processes above which no other is.
        self.tops: dict[Instance, None] = {}
        self.severities: Counter[Severity] = Counter(trace.severities)
        self.classes: dict[str, None] = dict.fromkeys(trace.classes)
        self.scopes: dict[bytes, Subject] = {_encode(scope): scope for scope in trace.scopes}
        self.uncounted = trace.uncounted
        self.containers: dict[str, None] = dict.fromkeys(trace.containers)
        #: Those of flags about no process that can be told.
        self.loose: dict[str, None] = dict.fromkeys(trace.loose)

    @property
    def id(self) -> str:
        return self._head.id

    @property
    def age(self) -> tuple[float, int]:
        """Less: older."""
        return self.first, self.serial

    @property
    def quiet_since(self) -> float:
        return self.last if self.reopened is None else max(self.last, self.reopened)

    @property
    def held(self) -> int:
        """Flags and processes that are kept."""
        return len(self.flags) + len(self.nodes)

    def add(self, flag: Flag, process: Instance | None, *, loose: bool, most: int) -> None:
        """loose: it is about no process that can be told. most: flags that are kept; more are only counted."""
        self.last = max(self.last, flag.time)
        self.first = min(self.first, flag.time)
        self.flag_count += 1
        self.severities[flag.severity] += 1
        self._count_class(flag.class_path)
        scope = _scope(flag.subject)
        self._count_scope(_encode(scope), scope)
        if key := container_key(flag.subject):
            self.containers[key] = None
            if loose:
                self.loose[key] = None
        if process is not None:
            self.nodes[process] += 1
        if len(self.flags) < most:
            self.flags.append((_kept(flag), process))

    def absorb(self, other: OpenTrace, *, most: int) -> None:
        """All that a younger one has."""
        self.last = max(self.last, other.last)
        self.flag_count += other.flag_count
        self.severities.update(other.severities)
        for path in other.classes:
            self._count_class(path)
        for key, scope in other.scopes.items():
            self._count_scope(key, scope)
        self.uncounted = self.uncounted or other.uncounted
        self.containers.update(other.containers)
        self.loose.update(other.loose)
        self.flags += other.flags
        self.flags.sort(key=lambda each: each[0].time)
        del self.flags[most:]
        for node, count in other.nodes.items():
            self.nodes[node] = self.nodes.get(node, 0) + count

    def frozen(self, judge: Judge, **closing: Any) -> Trace:
        """closing: status, closed, closed_by, note and merged_into, where they are not as of an open trace."""
        numbers = {node: number for number, node in enumerate(self.nodes, 1)}
        trace = msgspec.structs.replace(
            self._head,
            root=self._root(numbers),
            first=self.first,
            last=self.last,
            reopened=self.reopened,
            depth=self._depth(),
            severities={severity: self.severities[severity] for severity in Severity if self.severities[severity]},
            flags=tuple([_numbered(flag, process, numbers) for flag, process in self.flags]),
            processes=tuple([_told(node, numbers, count) for node, count in self.nodes.items()]),
            flag_count=self.flag_count,
            classes=tuple(self.classes),
            scopes=tuple(self.scopes.values()),
            uncounted=self.uncounted,
            containers=tuple(self.containers),
            loose=tuple(self.loose),
            **closing,
        )
        return judged(trace, judge)

    def _count_class(self, path: str) -> None:
        if path not in self.classes:
            if len(self.classes) < _MAX_CLASSES:
                self.classes[path] = None
            else:
                self.uncounted = True

    def _count_scope(self, key: bytes, scope: Subject) -> None:
        if key not in self.scopes:
            if len(self.scopes) < _MAX_SCOPES:
                self.scopes[key] = scope
            else:
                self.uncounted = True

    def _depth(self) -> int:
        """Of the lowest process below the highest flagged one of its chain."""
        depths: dict[Instance, int] = {}
        for node in self.nodes:
            path = []
            at: Instance | None = node
            while at is not None and at.trace is self and at not in depths:
                path.append(at)
                at = at.parent
            depth = -1 if at is None or at.trace is not self else depths[at]
            for each in reversed(path):
                depth = depths[each] = depth + 1
        return max(depths.values(), default=0)

    def _root(self, numbers: dict[Instance, int]) -> int | None:
        """The highest process of the chain of its first flag that is about one: the trigger's, mostly."""
        at = next((process for _, process in self.flags if process is not None), None)
        while at is not None and at.parent is not None and at.parent.trace is self:
            at = at.parent
        return None if at is None else numbers.get(at)


_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def judged(trace: Trace, judge: Judge) -> Trace:
    """With what the policies make of it now: a suppressed one scores nothing."""
    found = judge(trace)
    return msgspec.structs.replace(
        trace,
        suppressed_by=found.suppressed_by,
        would_suppress=found.would_suppress,
        score=0.0 if found.suppressed_by else score(trace.severities, trace.depth),
    )


def closed(trace: Trace, at: float, by: str, note: str = "") -> Trace:
    return msgspec.structs.replace(trace, status=TraceStatus.CLOSED, closed=at, closed_by=by, note=note)


def _kept(flag: Flag) -> TraceFlag:
    return TraceFlag(
        id=flag.id,
        time=flag.time,
        severity=flag.severity,
        class_path=flag.class_path,
        name=flag.name[:_MAX_WORDS],
        description=flag.description[:_MAX_WORDS],
        event_id=flag.event_id,
    )


def _numbered(flag: TraceFlag, process: Instance | None, numbers: dict[Instance, int]) -> TraceFlag:
    return flag if process is None else msgspec.structs.replace(flag, process=numbers.get(process))


def _scope(subject: Subject) -> Subject:
    """Whom selectors of a trace policy are asked about: a process counts as its user, and nothing more."""
    process = subject.process
    user = subject.user or (process.user if process is not None else None)
    return msgspec.structs.replace(subject, process=None, user=user)


def _ancestors(subject: Subject) -> str:
    """Such as systemd/containerd-shim/sh/python/sh/nc."""
    process = subject.process
    if process is None or not process.name:
        return ""
    above = tuple([each.name for each in process.lineage]) or process.ancestors
    return "/".join([path_part(name) for name in (*reversed(above[:MAX_ANCESTORS]), process.name)])


def _told(node: Instance, numbers: dict[Instance, int], flags: int) -> TraceProcess:
    return TraceProcess(
        id=numbers[node],
        parent=None if node.parent is None else numbers.get(node.parent),
        name=node.name,
        exe=node.exe,
        user=node.user,
        cmdline=node.cmdline,
        pid=node.pid,
        start_ticks=node.start_ticks,
        start_time=node.start_time,
        boot_id=node.boot_id,
        node=node.node,
        machine_id=node.machine_id,
        flags=flags,
    )


def _thawed(processes: Sequence[TraceProcess], known: Callable[[Instance], Instance]) -> dict[int, Instance]:
    """By their numbers."""
    made = {process.id: _made(process) for process in processes}
    for process in processes:
        parent, child = made.get(process.parent or 0), made[process.id]
        if parent is not None and parent.ceiling == (None, None):
            parent.ceiling = (child.start_ticks, child.start_time) if child.has_start else child.ceiling
    found = {number: known(node) for number, node in made.items()}
    for process in processes:
        if found[process.id].parent is None:
            found[process.id].parent = found.get(process.parent or 0)
    return found


def _made(process: TraceProcess) -> Instance:
    node = Instance(process.name, process.pid)
    for fact in ("exe", "user", "cmdline", "start_ticks", "start_time", "boot_id", "node", "machine_id"):
        setattr(node, fact, getattr(process, fact))
    return node
