"""Filters of flags and of traces compiled to what the store can leave out and to a test of the rest. docs/flags.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from quell.catalogue.forms import is_glob
from quell.catalogue.words import nearest
from quell.errors import FilterError, Problem
from quell.matching.patterns import Matches, glob
from quell.model.action import Severity
from quell.model.decision import FlagClass
from quell.model.flag import FlagFilter, KeptFlag, PlaceFilter
from quell.model.subject import Subject
from quell.storage.flags import SEVERITIES, Bounds

#: Digits of a container's id that name it, and the least of them.
_ID_DIGITS = 12
_LEAST_DIGITS = 6

_HEX = re.compile(r"[0-9a-f]+")
_WORDS = re.compile(r'"([^"]*)"|(\S+)')

Test = Callable[[KeptFlag], bool]
OfSubject = Callable[[Subject], bool]


class Problems:
    """What is wrong with a filter, as it is found."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, name: str, message: str, *, got: str = "", words: Sequence[str] = ()) -> None:
        near = nearest(got, words) if got and words else ""
        self._found.append(
            Problem(file="", path=name, message=message, expected=", ".join(words), got=got[:200], nearest=near)
        )

    def raise_any(self) -> None:
        """FilterError."""
        if self._found:
            raise FilterError(self._found)


def compiled(wanted: FlagFilter, rules: Mapping[str, str]) -> tuple[Bounds, Test]:
    """rules: the references of rules by name. FilterError: everything that is wrong with the filter."""
    problems = Problems()
    red, classes = _classes(wanted.flag_class, problems)
    tests: list[Test] = []
    if classes is not None:
        tests.append(lambda kept: classes(kept.flag.class_path))
    if wanted.name:
        named = any_glob("name", wanted.name, problems, folded=True)
        tests.append(lambda kept: named(kept.flag.name))
    if wanted.rule:
        asked = _askers(wanted.rule, rules)
        tests.append(lambda kept: any(asked(by) for by in kept.flag.asked_by))
    if wanted.event:
        events = frozenset(wanted.event)
        tests.append(lambda kept: kept.flag.event_id in events)
    if (placed := of_subject(wanted, problems)) is not None:
        tests.append(lambda kept: placed(kept.flag.subject))
    if words := words_of(wanted.text):
        tests.append(lambda kept: _says(kept, words))
    bounds = Bounds(
        since=float("-inf") if wanted.since is None else wanted.since,
        until=float("inf") if wanted.until is None else wanted.until,
        red=red,
        severities=severities(wanted.severity, problems),
        acknowledged=wanted.acknowledged,
        traces=wanted.trace or None,
    )
    problems.raise_any()
    return bounds, lambda kept: all(test(kept) for test in tests)


def severities(values: Iterable[str], problems: Problems) -> frozenset[Severity]:
    """critical, or >=high and the like."""
    found: set[Severity] = set()
    words = {severity.value: severity for severity in SEVERITIES}
    for value in values:
        at_least = value.startswith(">=")
        severity = words.get(value.removeprefix(">=").strip().casefold())
        if severity is None:
            problems.add("severity", f"there is no severity {value[:100]!r}", got=value, words=list(words)[::-1])
        else:
            found |= set(SEVERITIES[SEVERITIES.index(severity) :]) if at_least else {severity}
    return frozenset(found) if values else frozenset(Severity)


def any_glob(name: str, values: Sequence[str], problems: Problems, *, folded: bool = False) -> Matches:
    """Whether a text is, or fits, one of these."""
    written = [value.casefold() if folded else value for value in values]
    exact = frozenset(written)
    patterns: list[Matches] = []
    for value in filter(is_glob, written):
        try:
            patterns.append(glob(value).matches)
        except ValueError as error:
            problems.add(name, str(error), got=value)

    def test(text: str) -> bool:
        text = text.casefold() if folded else text
        return text in exact or any(matches(text) for matches in patterns)

    return test


def of_subject(wanted: PlaceFilter, problems: Problems) -> OfSubject | None:
    """None: it says nothing of that."""
    tests: list[OfSubject] = []
    simple: Mapping[str, Callable[[Subject], str | None]] = {
        "node": lambda subject: subject.node,
        "namespace": lambda subject: subject.namespace,
        "image": lambda subject: subject.image,
    }
    for name, read in simple.items():
        if values := getattr(wanted, name):
            tests.append(_reads(read, any_glob(name, values, problems)))
    if wanted.pod:
        named = any_glob("pod", wanted.pod, problems)
        tests.append(
            lambda subject: (
                subject.pod is not None and any(named(fact) for fact in (subject.pod.name, subject.pod.uid) if fact)
            )
        )
    if wanted.container:
        tests.append(_container(wanted.container, any_glob("container", wanted.container, problems)))
    return (lambda subject: all(test(subject) for test in tests)) if tests else None


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of a search for text, in lower case; those in double quotes with their blanks."""
    return [(quoted or plain).casefold() for text in texts for quoted, plain in _WORDS.findall(text) if quoted or plain]


def _reads(read: Callable[[Subject], str | None], fits: Matches) -> OfSubject:
    return lambda subject: (value := read(subject)) is not None and fits(value)


def _container(values: Sequence[str], named: Matches) -> OfSubject:
    """By the first digits of its id, at least six, or by its name."""
    prefixes = tuple([value for value in values if len(value) >= _LEAST_DIGITS and _HEX.fullmatch(value)])

    def test(subject: Subject) -> bool:
        container = subject.container
        if container is None:
            return False
        # Some detectors say only the first twelve digits.
        short = len(container.id) >= _ID_DIGITS and any(prefix.startswith(container.id) for prefix in prefixes)
        return (
            container.id.startswith(prefixes or ("\0",))
            or short
            or (container.name is not None and named(container.name))
        )

    return test


def _classes(values: Sequence[str], problems: Problems) -> tuple[bool | None, Matches | None]:
    """Red, ops, or both; and what the class path must be, where that is asked for."""
    words = {word.value for word in FlagClass}
    plain = {value.casefold() for value in values if value.casefold() in words}
    paths = [value for value in values if value.casefold() not in words]
    for path in paths:
        if "/" not in path and not is_glob(path):
            problems.add("flag_class", f"there is no class {path[:100]!r}", got=path, words=sorted(words))
    if not paths:
        return (FlagClass.RED.value in plain if len(plain) == 1 else None), None
    return None, any_glob("flag_class", [*paths, *(f"{word}flag/*" for word in plain)], problems)


def _askers(values: Iterable[str], rules: Mapping[str, str]) -> Callable[[str], bool]:
    """References such as rule/8, policy/NAME and policy/NAME/default; ids; names of rules and policies."""
    given = set(values)
    wanted = given | {f"rule/{value}" for value in given} | {f"policy/{value}" for value in given}
    wanted |= {rules[value] for value in given if value in rules}
    above = wanted - {"rule", "policy"}
    return lambda by: by in wanted or by.rpartition("/")[0] in above


def _says(kept: KeptFlag, words: Sequence[str]) -> bool:
    flag = kept.flag
    process = flag.subject.process
    parts = [flag.name, flag.description, flag.impact, flag.content, flag.class_path]
    parts += [] if process is None else [process.cmdline or "", process.exe or ""]
    parts += [] if kept.acknowledged is None else [kept.acknowledged.note]
    text = "\n".join(parts).casefold()
    return all(word in text for word in words)
