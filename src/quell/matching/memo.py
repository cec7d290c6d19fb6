"""Answers given before, found again by the values that the rules look at. DESIGN, engine.

Detectors repeat themselves: the same rule, image and process, with another pid and another command line. Two events
that agree in every field that some rule compares meet the same rules on the same values. Rules that look into details
or at the clock have no such key, so their categories are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
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
_PATHS = {"namespace": "subject.namespace", "image": "subject.image", "node": "subject.node"}

T = TypeVar("T")


class Memo(Generic[T]):
    def __init__(self, reads: dict[str, Read]) -> None:
        """reads: every field that some rule compares, and how it is read."""
        self._plain: Callable[[Event], tuple[Hashable, ...]] = attrgetter(
            *_ALWAYS, *(path for field, path in _PATHS.items() if field in reads)
        )
        self._process = "process" in reads
        told = _ALWAYS_TELL | _PATHS.keys() | {"process"}
        self._others = tuple((field, read) for field, read in reads.items() if field not in told)
        self.needs_reading = bool(self._others)
        self._answers: dict[Hashable, T] = {}
        self.get = self._answers.get

    def key(self, event: Event, reading: Reading | None) -> Hashable:
        """Equal for two events only if no rule can tell them apart. reading: of the event, if needs_reading."""
        key: tuple[Hashable, ...] = self._plain(event)
        if self._process and (process := event.subject.process) is not None:
            key = (key, process.name, process.exe)
        if reading is not None:
            values = reading.values
            for field, read in self._others:
                found = values.get(field)
                if found is None:
                    found = values[field] = read(reading)
                key = (key, found)
        return key

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
