"""Red flags become traces: a flag opens one, or joins those that are on its causal chain. SEMANTICS section 6.

Two flags are on one chain if the process of one is the other's, or an ancestor of it; where one of them is about no
process that can be told from others, if they are in the same container. A trace is all that hangs together so, and what
a flag connects becomes one. Having an ancestor in common connects nothing, unless that ancestor is flagged; the first
process of a machine never does. The order in which flags come makes no difference.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile

import msgspec
from msgspec import Struct

from quell.model.decision import Flag, FlagClass
from quell.model.trace import Judgement, Priority, Trace, TraceStatus, opens_trace
from quell.response.instances import Instance, Instances
from quell.response.open_trace import Judge, OpenTrace, closed, container_key, opening


class Bounds(Struct, frozen=True, kw_only=True):
    """What open traces may take. Beyond it the one that was quiet longest is closed."""

    #: Seconds without a flag after which a trace is closed.
    quiet: float = 3600.0
    #: Flags and processes that one trace lists; flags beyond are only counted.
    flags: int = 500
    processes: int = 500
    #: Open traces, and the flags and processes of all together.
    open: int = 5000
    held: int = 100_000


class Joined(Struct, frozen=True, kw_only=True):
    """What changed since it was last asked for, to be stored."""

    #: As they are now: open, closed and merged ones.
    traces: Sequence[Trace] = ()
    #: (flag, trace) of each flag that was taken.
    flags: Sequence[tuple[str, str]] = ()
    #: (trace, the one that has it now).
    merged: Sequence[tuple[str, str]] = ()


def covered_by_none(_trace: Trace) -> Judgement:
    """Where there are no policies."""
    return Judgement()


class Traces:
    """The open traces. It is changed by one caller at a time; what is stored goes by changes()."""

    def __init__(self, bounds: Bounds | None = None, judge: Judge = covered_by_none) -> None:
        self.bounds = bounds or Bounds()
        self.judge = judge
        #: By id, the one that was quiet longest first.
        self._open: OrderedDict[str, OpenTrace] = OrderedDict()
        self._instances = Instances()
        #: Traces with a flag in a container; and of these the one whose flag is about no process that can be told.
        self._in_container: dict[str, set[OpenTrace]] = {}
        self._loose: dict[str, OpenTrace] = {}
        self._held = 0
        self._serial = 0
        #: How the open ones stood when they were last told of.
        self._priorities: dict[str, Priority | None] = {}
        self._touched: dict[str, None] = {}
        self._ended: dict[str, Trace] = {}
        self._flags: list[tuple[str, str]] = []
        self._merged: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._open)

    def restore(self, traces: Iterable[Trace]) -> None:
        """Take up open ones again, as changes() told of them."""
        for trace in sorted(traces, key=lambda each: (max(each.last, each.reopened or 0.0), each.first, each.id)):
            self._take_up(trace)

    def take(self, flag: Flag) -> None:
        """A flag that was raised, none of which comes twice; others than red ones of severity low or higher are left alone."""
        if flag.flag_class is not FlagClass.RED or not opens_trace(flag.severity):
            return
        self.close_quiet(flag.time)
        chain = self._instances.chain(flag.subject)
        pending: set[OpenTrace] = set()
        for child, parent in pairwise(chain):
            self._link(child, parent, pending)
        found = pending | self._met(flag, chain)
        trace = self._joined(found) if found else self._opened(flag)
        listed = len(trace.flags)
        process = self._hold(trace, chain[0]) if chain else None
        trace.add(flag, process, loose=not chain, most=self.bounds.flags)
        self._held += len(trace.flags) - listed
        if key := container_key(flag.subject):
            self._in_container.setdefault(key, set()).add(trace)
            if not chain:
                self._loose[key] = trace
        if process is not None:
            pending = set()
            self._settle(trace, process, pending)
            trace = self._joined(pending | {trace})
        self._touch(trace)
        self._flags.append((flag.id, trace.id))
        self._bound()

    def close_quiet(self, now: float) -> None:
        """Those that no flag has joined for long. now: epoch seconds."""
        while self._open:
            oldest = next(iter(self._open.values()))
            if now - oldest.quiet_since <= self.bounds.quiet:
                return
            self._close(oldest, oldest.quiet_since + self.bounds.quiet, "quiet")

    def close(self, identifier: str, at: float, by: str, note: str) -> bool:
        """False: no open trace has this id."""
        trace = self._open.get(identifier)
        if trace is not None:
            self._close(trace, at, by, note)
        return trace is not None

    def reopen(self, trace: Trace, at: float) -> str:
        """Flags join a closed trace again. The id of the trace that has it then: an open one on the same chain is one with it."""
        opened = msgspec.structs.replace(
            trace, status=TraceStatus.OPEN, closed=None, closed_by="", note="", reopened=at
        )
        found = {self._loose[key] for key in trace.containers if key in self._loose}
        for key in trace.loose:
            found |= self._in_container.get(key, set())
        one, pending = self._take_up(opened)
        one = self._joined(found | pending | {one})
        self._touch(one)
        self._bound()
        return one.id

    def rejudge(self, judge: Judge) -> None:
        """Policies have changed."""
        self.judge = judge
        self._touched.update(dict.fromkeys(self._open))

    def changes(self, most: int | None = None) -> Joined:
        """What is to be stored. most: traces that are told of at once; ask again while there are more."""
        told = list(self._ended.values())[:most]
        for trace in told:
            del self._ended[trace.id]
        for identifier in list(self._touched)[: None if most is None else most - len(told)]:
            del self._touched[identifier]
            trace = self._open[identifier].frozen(self.judge)
            self._priorities[identifier] = None if trace.is_suppressed else trace.priority
            told.append(trace)
        joined = Joined(traces=told, flags=self._flags, merged=self._merged)
        self._flags, self._merged = [], []
        return joined

    @property
    def has_changes(self) -> bool:
        return bool(self._ended or self._touched)

    def counts(self) -> dict[Priority | None, int]:
        """Open traces by priority; None: those that a policy hides."""
        return Counter(self._priorities.values())

    # ---- which belong together

    def _met(self, flag: Flag, chain: Sequence[Instance]) -> set[OpenTrace]:
        """Open traces that this flag is in."""
        key = container_key(flag.subject)
        if not chain:
            return set(self._in_container.get(key, ()))
        process = chain[0]
        found: set[OpenTrace] = set()
        for one in (process, *process.up()):
            if one.trace is not None and (one is process or not one.is_first):
                found.add(one.trace)
                break
        if not process.is_first:
            found |= process.above
        if key in self._loose:
            found.add(self._loose[key])
        return found

    def _link(self, child: Instance, parent: Instance, pending: set[OpenTrace]) -> None:
        """Learn whose child it is. pending: gets the traces that turn out to be one with another."""
        known = child.parent
        if known is parent or any(one is child for one in (parent, *parent.up())):
            return
        if known is not None and not known.released:
            # What only has a name may be this very one. An orphan's new parent says nothing of where it came from.
            gives_way = known.is_named_only or known.is_first
            if not gives_way or parent.is_named_only:
                return
        child.parent = parent
        below = set(child.above)
        if child.trace is not None and child in child.trace.tops:
            below.add(child.trace)
        for trace in below:
            self._rise(trace, child, pending)

    def _rise(self, trace: OpenTrace, top: Instance, pending: set[OpenTrace]) -> None:
        """Say to the ancestors of a top that the trace is below them; a trace that one of them is in is one with it."""
        for one in top.up():
            if one.trace is trace and not one.is_first:
                _connect(trace, one, pending)
                return
            if one.trace is not None and not one.is_first:
                pending |= {trace, one.trace}
                return
            if not self._hold_one(trace, one):
                return
            if not one.is_first:
                one.above.add(trace)
            self._touched[trace.id] = None

    def _settle(self, trace: OpenTrace, process: Instance, pending: set[OpenTrace]) -> None:
        """Give a flagged process its place: between it and a flagged one above or below all are in the trace."""
        if process.trace is trace:
            return
        path = [process]
        for one in process.up():
            if one.trace is trace and not one.is_first:
                _enter(trace, path, pending)
                return
            path.append(one)
        is_above = trace in process.above
        _enter(trace, [process], pending)
        trace.tops[process] = None
        if is_above:
            _connect(trace, process, pending)
        self._rise(trace, process, pending)

    def _joined(self, found: set[OpenTrace]) -> OpenTrace:
        """All of them as the oldest, and what they turn out to connect."""
        while len(found) > 1:
            oldest, *others = sorted(found, key=lambda each: each.age)
            self._merge(oldest, others)
            found = self._settle_all(oldest) | {oldest}
        return next(iter(found))

    def _merge(self, oldest: OpenTrace, others: Sequence[OpenTrace]) -> None:
        """Nothing has its place in it yet."""
        for other in others:
            self._ended[other.id] = other.frozen(
                self.judge, status=TraceStatus.MERGED, merged_into=oldest.id, closed=other.last, closed_by="merged"
            )
            self._merged.append((other.id, oldest.id))
        self._held -= oldest.held
        _uproot(oldest)
        for other in others:
            self._held -= other.held
            _uproot(other)
            self._forget(other)
            oldest.absorb(other, most=self.bounds.flags)
        for node in list(oldest.nodes)[self.bounds.processes :]:
            del oldest.nodes[node]
            node.holders.discard(oldest)
        self._held += oldest.held
        for other in others:
            for node in other.nodes:
                node.holders.discard(other)
                if node in oldest.nodes:
                    node.holders.add(oldest)
                else:
                    self._release(node)
        self._index(oldest)
        self._touched[oldest.id] = None

    def _settle_all(self, trace: OpenTrace) -> set[OpenTrace]:
        pending: set[OpenTrace] = set()
        for node, flags in list(trace.nodes.items()):
            if flags:
                self._settle(trace, node, pending)
        return pending

    # ---- what is held

    def _opened(self, flag: Flag) -> OpenTrace:
        self._serial += 1
        trace = OpenTrace(opening(flag), self._serial, self._instances.known)
        self._open[trace.id] = trace
        return trace

    def _take_up(self, trace: Trace) -> tuple[OpenTrace, set[OpenTrace]]:
        """It, and the traces that are one with it."""
        self._serial += 1
        one = OpenTrace(trace, self._serial, self._instances.known)
        self._open[one.id] = one
        for node in one.nodes:
            node.holders.add(one)
            self._instances.keep(node)
        self._index(one)
        self._held += one.held
        self._priorities[one.id] = None if trace.is_suppressed else trace.priority
        return one, self._settle_all(one)

    def _index(self, trace: OpenTrace) -> None:
        for key in trace.containers:
            self._in_container.setdefault(key, set()).add(trace)
        for key in trace.loose:
            self._loose[key] = trace

    def _hold(self, trace: OpenTrace, process: Instance) -> Instance | None:
        """Keep a process and its ancestors, where there is room. None: there is none for the process itself."""
        for node in (process, *process.up()):
            if not self._hold_one(trace, node):
                break
        return process if process in trace.nodes else None

    def _hold_one(self, trace: OpenTrace, node: Instance) -> bool:
        if node in trace.nodes:
            return True
        if len(trace.nodes) >= self.bounds.processes:
            self._release(node)
            return False
        trace.nodes[node] = 0
        self._held += 1
        node.holders.add(trace)
        self._instances.keep(node)
        return True

    def _forget(self, trace: OpenTrace) -> None:
        """It is open no more."""
        for by_id in (self._open, self._touched, self._priorities):
            by_id.pop(trace.id, None)
        for key in trace.containers:
            there = self._in_container.get(key, set())
            there.discard(trace)
            if not there:
                self._in_container.pop(key, None)
        for key in trace.loose:
            if self._loose.get(key) is trace:
                del self._loose[key]

    def _close(self, trace: OpenTrace, at: float, by: str, note: str = "") -> None:
        self._ended[trace.id] = closed(trace.frozen(self.judge), at, by, note)
        self._held -= trace.held
        _uproot(trace)
        self._forget(trace)
        for node in trace.nodes:
            node.holders.discard(trace)
            self._release(node)

    def _release(self, node: Instance) -> None:
        """Where no trace shows it."""
        if not node.holders:
            self._instances.drop(node)
            node.released = True

    def _touch(self, trace: OpenTrace) -> None:
        self._touched[trace.id] = None
        self._open.move_to_end(trace.id)

    def _bound(self) -> None:
        while len(self._open) > self.bounds.open or (self._held > self.bounds.held and len(self._open) > 1):
            oldest = next(iter(self._open.values()))
            self._close(oldest, oldest.last, "bounds")


def _enter(trace: OpenTrace, nodes: Iterable[Instance], pending: set[OpenTrace]) -> None:
    for node in nodes:
        if node.trace is not None and node.trace is not trace:
            pending.add(node.trace)
        node.trace = trace
        node.above.discard(trace)
        if not node.is_first:
            pending |= node.above


def _connect(trace: OpenTrace, process: Instance, pending: set[OpenTrace]) -> None:
    """A process of the trace is above some of its tops: so is the trace above what is between."""
    for top in [top for top in trace.tops if top is not process and process in top.up()]:
        del trace.tops[top]
        _enter(trace, list(takewhile(lambda one: one is not process, top.up())), pending)


def _uproot(trace: OpenTrace) -> None:
    """Its processes have no place in it any more."""
    for node in trace.nodes:
        node.above.discard(trace)
        if node.trace is trace:
            node.trace = None
    trace.tops.clear()
