"""Process instances that flags tell of, each once, whoever saw it: what causal chains are made of. SEMANTICS section 6.

A detector says of a process what it knows: boot and clock ticks (exact), an epoch time (near), of an ancestor perhaps
only its number, or only its name. Two are one instance where their machine and number are the same and their starts
agree; a name alone proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quell.model.subject import Ancestor, Process, Subject

if TYPE_CHECKING:
    from quell.response.open_trace import OpenTrace

#: Seconds by which two clocks' starts of one process may differ.
_NEAR = 1.0
#: Clock ticks a second (USER_HZ).
_HZ = 100
#: Ancestors that are looked at, from the parent up.
MAX_ANCESTORS = 64
#: Ancestors that are followed, as many flags together told of them.
_MAX_UP = 4 * MAX_ANCESTORS
_MAX_TEXT = 512


class Instance:
    """One process from its start to its end. It changes as more becomes known of it."""

    __slots__ = (
        "above",
        "boot_id",
        "ceiling",
        "cmdline",
        "exe",
        "holders",
        "machine_id",
        "name",
        "node",
        "parent",
        "pid",
        "released",
        "start_ticks",
        "start_time",
        "trace",
        "user",
    )

    def __init__(self, name: str = "", pid: int | None = None) -> None:
        self.name = name
        self.pid = pid
        self.exe: str | None = None
        self.user: str | None = None
        self.cmdline: str | None = None
        self.start_ticks: int | None = None
        self.start_time: float | None = None
        #: Where no start is known: that of the child that told of it, which is later.
        self.ceiling: tuple[int | None, float | None] = (None, None)
        self.boot_id: str | None = None
        self.node: str | None = None
        self.machine_id: str | None = None
        self.parent: Instance | None = None
        #: The open trace that it is in: flagged, or between two that are.
        self.trace: OpenTrace | None = None
        #: Open traces that it is an ancestor of.
        self.above: set[OpenTrace] = set()
        #: Open traces that show it.
        self.holders: set[OpenTrace] = set()
        #: None of them does any more: what is said of it from now on is said of another object.
        self.released = False

    @property
    def has_start(self) -> bool:
        return self.start_ticks is not None or self.start_time is not None

    @property
    def is_named_only(self) -> bool:
        return self.pid is None

    @property
    def is_first(self) -> bool:
        """The machine's first process: it is everybody's ancestor, and so connects nothing."""
        return self.pid == 1

    def up(self) -> Iterator[Instance]:
        """Its ancestors, from the parent on."""
        seen, at = 0, self.parent
        while at is not None and not at.released and seen < _MAX_UP:
            yield at
            seen, at = seen + 1, at.parent

    def places(self) -> list[tuple[str, int]]:
        """Under what it can be found."""
        if self.pid is None:
            return []
        named = (("boot", self.boot_id), ("node", self.node), ("machine", self.machine_id))
        return [(f"{kind}/{name}", self.pid) for kind, name in named if name]

    def is_same(self, other: Instance) -> bool:
        """Of two with a place in common."""
        if self.boot_id and other.boot_id and self.boot_id != other.boot_id:
            return False
        if self.start_ticks is not None and other.start_ticks is not None:
            return self.start_ticks == other.start_ticks
        if self.start_time is not None and other.start_time is not None:
            return abs(self.start_time - other.start_time) <= _NEAR
        if self.has_start and other.has_start:
            return False  # one in ticks, one in seconds: nothing says how they compare
        return _before(self, other) or _before(other, self)

    def learn(self, other: Instance) -> None:
        """What other, which is the same, knows beside."""
        for fact in ("exe", "user", "cmdline", "start_ticks", "start_time", "boot_id", "node", "machine_id"):
            if getattr(self, fact) is None:
                setattr(self, fact, getattr(other, fact))
        self.name = self.name or other.name


def _before(one: Instance, other: Instance) -> bool:
    """Whether one, or the child that told of it, is known to have started before the child that told of other."""
    ticks = one.start_ticks if one.start_ticks is not None else one.ceiling[0]
    seconds = one.start_time if one.start_time is not None else one.ceiling[1]
    if other.has_start:
        return False
    if ticks is not None and other.ceiling[0] is not None:
        return ticks <= other.ceiling[0]
    return seconds is not None and other.ceiling[1] is not None and seconds <= other.ceiling[1] + _NEAR


class Instances:
    """Those that open traces show, by machine and number."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[Instance]] = {}

    def chain(self, subject: Subject) -> list[Instance]:
        """The subject's process and its ancestors, nearest first: those that are known, or new ones, which are not kept.

        Empty: the process cannot be told from others.
        """
        process = subject.process
        if process is None:
            return []
        first = _of(process, subject)
        if not first.places() or not first.has_start:
            return []
        found = [self.known(first)]
        for ancestor in _told(process, first, subject):
            known = self.known(ancestor)
            if known in found:
                break  # who sent it was wrong, or lied
            found.append(known)
        return found

    def keep(self, one: Instance) -> None:
        for place in one.places():
            there = self._found.setdefault(place, [])
            if one not in there:
                there.append(one)

    def drop(self, one: Instance) -> None:
        for place in one.places():
            there = self._found.get(place, [])
            if one in there:
                there.remove(one)
                if not there:
                    del self._found[place]

    def __len__(self) -> int:
        return len({id(one) for there in self._found.values() for one in there})

    def known(self, seen: Instance) -> Instance:
        """The same as it is kept, which learns what is new; itself, if it is not kept."""
        if seen.is_named_only:
            return seen
        best: Instance | None = None
        for place in seen.places():
            for one in self._found.get(place, ()):
                if one.is_same(seen) and (best is None or _rank(one) > _rank(best)):
                    best = one
        if best is None:
            return seen
        known_places = best.places()
        best.learn(seen)
        if best.places() != known_places:
            self.keep(best)
        if seen.has_start and seen.cmdline is not None:
            # What it executes now, by whoever looked at itself and not at a child.
            best.name, best.exe, best.cmdline = seen.name or best.name, seen.exe or best.exe, seen.cmdline
        return best


def _rank(one: Instance) -> tuple[bool, float, float]:
    """Of several that may be meant: one whose start is known, and of these the latest."""
    ticks = float("-inf") if one.start_ticks is None else float(one.start_ticks)
    seconds = float("-inf") if one.start_time is None else one.start_time
    return one.has_start, seconds, ticks


def _of(process: Process, subject: Subject) -> Instance:
    made = Instance(_cut(process.name) or (process.exe or "").rpartition("/")[2][:_MAX_TEXT], process.pid)
    made.exe, made.cmdline = _cut(process.exe), _cut(process.cmdline)
    made.user = _cut(process.user or subject.user)
    made.start_ticks, made.start_time = process.start_ticks, process.start_time
    made.boot_id, made.node, made.machine_id = process.boot_id, subject.node, subject.machine_id
    return made


def _told(process: Process, child: Instance, subject: Subject) -> Iterator[Instance]:
    """Its ancestors as it came, nearest first."""
    # A source that knows both gives the moment of the boot, by which the ticks of others become a time.
    boot = None
    if process.start_ticks is not None and process.start_time is not None:
        boot = process.start_time - process.start_ticks / _HZ
    lineage = process.lineage or tuple(Ancestor(name) for name in process.ancestors)
    ceiling = (child.start_ticks, child.start_time)
    for ancestor in lineage[:MAX_ANCESTORS]:
        made = Instance(_cut(ancestor.name) or "", ancestor.pid)
        made.exe, made.user = _cut(ancestor.exe), _cut(ancestor.user)
        made.boot_id, made.node, made.machine_id = process.boot_id, subject.node, subject.machine_id
        made.start_ticks = ancestor.start_ticks
        if ancestor.start_ticks is not None and boot is not None:
            made.start_time = boot + ancestor.start_ticks / _HZ
        if made.has_start:
            ceiling = (made.start_ticks, made.start_time)
        else:
            made.ceiling = ceiling
        yield made


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_MAX_TEXT]
