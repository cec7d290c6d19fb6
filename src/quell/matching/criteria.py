"""Criteria compiled to tests: whether they hold for an event, on which of its values, and what was expected. SEMANTICS 3."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from quell.catalogue.forms import Threshold, is_glob, levels, threshold
from quell.catalogue.names import NAMES, resolve
from quell.catalogue.table import CRITERIA, Form, criterion_spec
from quell.matching.patterns import Pattern, glob
from quell.matching.reading import FOLDED, Read, Reading, reads, shown
from quell.model.rule import Criterion

_WHOLE_CVE = re.compile(r"CVE-\d{4}-\d{4,}")
_SEVERITIES: dict[str, tuple[str, ...]] = {
    "cve-critical": ("critical",),
    "cve-high-only": ("high",),
    "cve-high": ("critical", "high"),
    "cve-medium": ("medium",),
}


class Test(Protocol):
    """One criterion. text is how it is written, expected what it asks for."""

    text: str
    expected: str
    #: The only value on which it can hold; None: there are several, or the event writes it in its own way.
    only: str | None

    def holds(self, reading: Reading) -> bool: ...

    def held(self, reading: Reading) -> str | None:
        """The event's value on which it holds; None: it does not hold."""

    def got(self, reading: Reading) -> str | None:
        """What the event has instead; None: no such thing."""


class Equality:
    """One of a field's values is one of `exact` or fits one of `patterns`."""

    __slots__ = ("_is_folded", "exact", "expected", "field", "only", "patterns", "read", "text")

    def __init__(
        self,
        field: str,
        read: Read,
        text: str,
        exact: Iterable[str],
        *,
        patterns: Iterable[Pattern] = (),
        expected: str,
    ) -> None:
        self.field = field
        self._is_folded = field in FOLDED
        self.read = read
        self.text = text
        self.exact = frozenset(exact)
        self.patterns = tuple(patterns)
        self.expected = expected
        is_plain = len(self.exact) == 1 and not self.patterns and not self._is_folded
        self.only: str | None = next(iter(self.exact)) if is_plain else None

    def holds(self, reading: Reading) -> bool:
        values = reading.values.get(self.field)
        if values is None:
            values = reading.values[self.field] = self.read(reading)
        exact = self.exact
        for value in values:
            if value in exact:
                return True
        return bool(self.patterns) and self._fitting(values) is not None

    def held(self, reading: Reading) -> str | None:
        values = reading.values.get(self.field)
        if values is None:
            values = reading.values[self.field] = self.read(reading)
        exact = self.exact
        for value in values:
            if value in exact:
                break
        else:
            fitting = self._fitting(values)
            if fitting is None:
                return None
            value = fitting
        return shown(reading, self.field, value) if self._is_folded else value

    def _fitting(self, values: tuple[str, ...]) -> str | None:
        for value in values:
            for pattern in self.patterns:
                if pattern.matches(value):
                    return value
        return None

    def got(self, reading: Reading) -> str | None:
        values = dict.fromkeys(shown(reading, self.field, key) for key in self.read(reading))
        return ", ".join(values) or None


class CveName:
    """Some vulnerability has one of these names."""

    __slots__ = ("exact", "expected", "only", "patterns", "prefixes", "text")

    def __init__(self, text: str, values: tuple[str, ...]) -> None:
        self.text = text
        self.only: str | None = None
        self.expected = " or ".join(values)
        upper = [value.upper() for value in values]
        self.patterns = tuple(glob(value) for value in upper if is_glob(value))
        self.prefixes = tuple(
            value
            for value in upper
            if value.startswith("CVE-") and not is_glob(value) and _WHOLE_CVE.fullmatch(value) is None
        )
        self.exact = frozenset(upper) - frozenset(self.prefixes)

    def holds(self, reading: Reading) -> bool:
        return self.held(reading) is not None

    def held(self, reading: Reading) -> str | None:
        tally = reading.tally()
        if tally is None:
            return None
        for value in self.exact:
            if value in tally.names:
                return tally.names[value]
        if self.prefixes or self.patterns:
            for name, written in tally.names.items():
                if name.startswith(self.prefixes) or any(pattern.matches(name) for pattern in self.patterns):
                    return written
        return None

    def got(self, reading: Reading) -> str | None:
        tally = reading.tally()
        return None if tally is None else f"{len(tally.names)} other vulnerabilities"


class CveCount:
    """So many vulnerabilities of these severities, or so many that have a fix."""

    __slots__ = ("expected", "fixable", "only", "severities", "text", "thresholds")

    def __init__(
        self, text: str, severities: tuple[str, ...], thresholds: tuple[Threshold, ...], *, fixable: bool
    ) -> None:
        self.text = text
        self.only: str | None = None
        self.severities = severities
        self.thresholds = thresholds
        self.fixable = fixable
        what = " and ".join(severities) + (" with a fix" if fixable else "")
        self.expected = " or ".join(
            f"at least {bound.minimum} {what}" + (f", published more than {bound.days} days ago" if bound.days else "")
            for bound in thresholds
        )

    def holds(self, reading: Reading) -> bool:
        return self.held(reading) is not None

    def held(self, reading: Reading) -> str | None:
        tally = reading.tally()
        if tally is None:
            return None
        for bound in self.thresholds:
            count = (
                tally.fixable(self.severities, bound.days, reading.now)
                if self.fixable
                else tally.count(self.severities)
            )
            if count >= bound.minimum:
                return str(count)
        return None

    def got(self, reading: Reading) -> str | None:
        tally = reading.tally()
        if tally is None:
            return None
        if not self.fixable:
            return str(tally.count(self.severities))
        return str(max(tally.fixable(self.severities, bound.days, reading.now) for bound in self.thresholds))


def _process_glob(text: str) -> Pattern:
    """With a slash it is about the executable's path, without one about the name; neither meets the other."""
    matches = glob(text).matches
    is_path = "/" in text
    return Pattern(text, lambda value: ("/" in value) is is_path and matches(value))


def compile_criterion(criterion: Criterion) -> Test:
    """ValueError: an unknown type, or a value that is none of its type."""
    spec = criterion_spec(criterion.type)
    if spec is None:
        raise ValueError(f"{criterion.type!r} is no criterion; there are {', '.join(CRITERIA)}")
    values, form = criterion.values, spec.form
    text = f"{criterion.type}:{'|'.join(values)}"
    if form in (Form.COUNT, Form.FIXED_COUNT):
        bounds = tuple(_bound(form, value) for value in values)
        severities = _SEVERITIES[criterion.type.removesuffix("-with-fix")]
        return CveCount(text, severities, bounds, fixable=form is Form.FIXED_COUNT)
    if form is Form.CVE:
        return CveName(text, values)
    exact, patterns = _accepted(form, values)
    return Equality(criterion.type, reads(criterion.type), text, exact, patterns=patterns, expected=" or ".join(values))


def _bound(form: Form, value: str) -> Threshold:
    bound = threshold(form, value)
    if bound is None:
        raise ValueError(f"expected a number, >number or >=number, got {value!r}")
    return bound


def _accepted(form: Form, values: tuple[str, ...]) -> tuple[set[str], list[Pattern]]:
    """Exact values and patterns, in the form in which quell.matching.reading gives the event's. A glob is itself too."""
    exact: set[str] = set()
    patterns: list[Pattern] = []
    for value in values:
        match form:
            case Form.LEVEL:
                known = levels(value)
                if not known:
                    raise ValueError(f"expected a level, or >= and a level, got {value!r}")
                exact.update(known)
            case Form.KIND | Form.REPORT:
                exact.add(value.casefold())
            case Form.NAME | Form.NUMBER:
                exact.update(_names(value) if form is Form.NAME else (value.casefold(),))
                if is_glob(value):
                    patterns.append(glob(value.casefold()))
            case Form.PROCESS:
                exact.add(value)
                if is_glob(value):
                    patterns.append(_process_glob(value))
            case _:
                exact.add(value)
                if is_glob(value):
                    patterns.append(glob(value))
    return exact, patterns


def _names(value: str) -> Iterable[str]:
    """Every spelling and every other name that a name in a rule stands for (SEMANTICS section 1, catalogue)."""
    yield value.casefold()
    if (canonical := resolve(value)) is not None:
        yield canonical.casefold()
        for other in NAMES[canonical].covers:
            yield other.casefold()
