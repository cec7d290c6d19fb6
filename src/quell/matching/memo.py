"""Answers given before, found again by the values that the rules look at. DESIGN, engine.

Detectors repeat themselves: the same rule, image and process, with another pid and another command line. Two events
that agree in every field that some rule compares meet the same rules on the same values. Rules that look into details
or at the clock have no such key, so their categories are left out.

This is what every event passes, so keys are made by attrgetter, which runs in C, wherever no rule reads more than
plain attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Generic, TypeVar

from quell.matching.criteria import Equality
from quell.matching.reading import Read, Reading
from quell.model.event import Event

#: Answers kept; all are forgotten when there are more.
SIZE = 8192

#: What identity() is made of, and what costs nothing beside it.
_ALWAYS = ("category", "name", "catalogue_name", "kind", "level", "source")
_ALWAYS_TELL = frozenset(("name", "kind", "level", "source"))
_PROCESS = ("subject.process.name", "subject.process.exe")
_PATHS = {"namespace": "subject.namespace", "image": "subject.image", "node": "subject.node"}

T = TypeVar("T")


class Memo(Generic[T]):
    def __init__(self, reads: dict[str, Read]) -> None:
        """reads: every field that some rule compares, and how it is read."""
        paths = (*_ALWAYS, *(path for field, path in _PATHS.items() if field in reads))
        self._plain: Callable[[Event], Hashable] = attrgetter(*paths)
        #: Of an event that has a process; it has more parts, so it is never equal to one that has none.
        self._full: Callable[[Event], Hashable] = attrgetter(*paths, *_PROCESS) if "process" in reads else self._plain
        told = _ALWAYS_TELL | _PATHS.keys() | {"process"}
        self._others = tuple((field, read) for field, read in reads.items() if field not in told)
        self.needs_reading = bool(self._others)
        self._answers: dict[Hashable, T] = {}
        self.get = self._answers.get

    def key(self, event: Event, reading: Reading | None) -> Hashable:
        """Equal for two events only if no rule can tell them apart. reading: of the event, if needs_reading."""
        try:
            key: Hashable = self._full(event)
        except AttributeError:
            key = self._plain(event)
        if reading is not None:
            values = reading.values
            for field, read in self._others:
                found = values.get(field)
                if found is None:
                    found = values[field] = read(reading)
                key = (key, found)
        return key

    def find(self, events: Sequence[Event]) -> list[T | None]:
        """The answers to these, where they are known; only if no reading is needed."""
        try:
            return list(map(self.get, map(self._full, events)))
        except AttributeError:
            return [self.get(self.key(event, None)) for event in events]

    def put(self, key: Hashable, answer: T) -> None:
        if len(self._answers) >= SIZE:
            self._answers.clear()
        self._answers[key] = answer


def fields(tests: Iterable[object]) -> dict[str, Read] | None:
    """The fields that these tests compare; None: one looks at more than fields."""
    reads: dict[str, Read] = {}
    for test in tests:
        if not isinstance(test, Equality):
            return None
        reads[test.field] = test.read
    return reads
