"""What goes on at a glance: events and outcomes over time, the rules that answer most, and what waits for somebody.

What has to be counted is counted once: minutes of the last day are kept, and each look adds what came since the last.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from enum import StrEnum
from itertools import islice

from msgspec import Struct

from quell.clock import Clock
from quell.controller.controller import Controller
from quell.model.trace import Priority
from quell.storage import activity, journal
from quell.storage.activity import STEP, Mark

#: The rules that are named, and the answered events of which those are the most frequent.
_RULES, _SAMPLE = 8, 1000
#: Seconds for which that is not counted again.
_RULES_FOR = 10.0
_DAY = 86_400


class Span(StrEnum):
    """How far back. The bars of a chart are sixty, or of the day ninety-six."""

    HOUR = "1h"
    QUARTER = "6h"
    DAY = "24h"

    @property
    def seconds(self) -> int:
        return {Span.HOUR: 3600, Span.QUARTER: 6 * 3600, Span.DAY: _DAY}[self]

    @property
    def step(self) -> int:
        """Seconds of a bar."""
        return {Span.HOUR: 60, Span.QUARTER: 360, Span.DAY: 900}[self]


class Bar(Struct, frozen=True, kw_only=True):
    """start: epoch seconds. answered: events that a rule or policy matched. outcomes: of actions, by status."""

    start: float
    events: int
    answered: int
    outcomes: dict[str, int]


class Busy(Struct, frozen=True, kw_only=True):
    """A rule or policy, and how many of the events that were looked at it matched."""

    ref: str
    name: str
    matched: int


class Matches(Struct, frozen=True):
    """How many of the newest answered events each rule and policy matched."""

    #: By ref, such as rule/8 or policy/NAME; most first.
    counts: dict[str, int]
    names: dict[str, str]
    #: Events that were looked at.
    of_events: int

    def of(self, ref: str) -> int:
        return self.counts.get(ref, 0)


class Overview(Struct, frozen=True, kw_only=True):
    """Times in epoch seconds."""

    time: float
    span: str
    #: Seconds of a bar.
    step: int
    bars: list[Bar]
    #: The busiest rules and policies among so many of the newest answered events.
    rules: list[Busy]
    rules_of: int
    #: Events written since the controller started.
    written: int
    quarantined: int
    approvals: int
    breakers: int
    agents: int
    connected: int
    #: Open traces: critical, high, low, and those that a policy hides.
    traces: dict[str, int]
    paused: bool


class Overviews:
    """Of one controller. Any thread."""

    def __init__(self, controller: Controller, clock: Clock) -> None:
        self._controller = controller
        self._clock = clock
        self._turn = threading.Lock()
        self._mark = Mark()
        self._events: dict[int, tuple[int, int]] = {}
        self._outcomes: dict[int, Counter[str]] = {}
        self._matches = Matches({}, {}, 0)
        self._matches_at = float("-inf")

    def overview(self, span: Span) -> Overview:
        """StoreError."""
        controller, now = self._controller, self._clock()
        with self._turn:
            self._count(now)
            bars = self._bars(span, now)
            matches = self._matched(now)
        priorities = controller.traces.counts()
        enrolled, connected = controller.agent_count()
        return Overview(
            time=now,
            span=span.value,
            step=span.step,
            bars=bars,
            rules=[
                Busy(ref=ref, name=matches.names[ref], matched=count)
                for ref, count in islice(matches.counts.items(), _RULES)
            ],
            rules_of=matches.of_events,
            written=controller.store.statistics().events,
            quarantined=len(controller.state.quarantines),
            approvals=len(controller.state.held),
            breakers=len(controller.state.breakers),
            agents=enrolled,
            connected=connected,
            traces={each.value.lower(): priorities.get(each, 0) for each in Priority}
            | {"suppressed": priorities.get(None, 0)},
            paused=controller.settings.safety.paused,
        )

    def matches(self) -> Matches:
        """StoreError."""
        with self._turn:
            return self._matched(self._clock())

    def _matched(self, now: float) -> Matches:
        if now - self._matches_at >= _RULES_FOR:
            self._matches, self._matches_at = self._controller.store.read(_counted), now
        return self._matches

    def _count(self, now: float) -> None:
        """Adds what came since the last look, and lets go of what is a day old."""
        first = int(now - _DAY) // STEP * STEP
        mark = self._mark
        found = self._controller.store.read(lambda connection: activity.counted(connection, mark, first))
        for minute, (events, decided) in found.events.items():
            before = self._events.get(minute, (0, 0))
            self._events[minute] = (before[0] + events, before[1] + decided)
        for (minute, status), count in found.outcomes.items():
            self._outcomes.setdefault(minute, Counter())[status] += count
        self._mark = found.mark
        for kept in (self._events, self._outcomes):
            for minute in [minute for minute in kept if minute * STEP < first]:
                del kept[minute]

    def _bars(self, span: Span, now: float) -> list[Bar]:
        step = span.step
        last = int(now) // step * step
        bars = []
        for start in range(last - span.seconds + step, last + step, step):
            minutes = range(start // STEP, (start + step) // STEP)
            counts = [self._events[minute] for minute in minutes if minute in self._events]
            outcomes: Counter[str] = Counter()
            for minute in minutes:
                outcomes.update(self._outcomes.get(minute, {}))
            bars.append(
                Bar(
                    start=float(start),
                    events=sum(events for events, _ in counts),
                    answered=sum(decided for _, decided in counts),
                    outcomes=dict(outcomes),
                )
            )
        return bars


def _counted(connection: sqlite3.Connection) -> Matches:
    found = journal.recent(connection, _SAMPLE, None, decided=True)
    names: dict[str, str] = {}
    matched: Counter[str] = Counter()
    for stored in found:
        for match in stored.decision.matches:
            names.setdefault(match.ref, match.name)
            matched[match.ref] += 1
    return Matches(dict(matched.most_common()), names, len(found))
