"""Filters of traces compiled to what the store can leave out and to a test of the rest. docs/traces.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

from quell.controller.flag_search import Problems, any_glob, of_subject, words_of
from quell.model.trace import Priority, Trace, TraceStatus
from quell.model.trace_view import TraceFilter
from quell.storage.traces import Bounds

Word = TypeVar("Word", bound=StrEnum)
Test = Callable[[Trace], bool]


def compiled(wanted: TraceFilter) -> tuple[Bounds, Test]:
    """FilterError: everything that is wrong with it."""
    problems = Problems()
    tests: list[Test] = []
    if (placed := of_subject(wanted, problems)) is not None:
        tests.append(lambda trace: any(placed(scope) for scope in (trace.subject, *trace.scopes)))
    if wanted.user:
        named = any_glob("user", wanted.user, problems)
        tests.append(lambda trace: any(scope.user is not None and named(scope.user) for scope in trace.scopes))
    if words := words_of(wanted.text):
        tests.append(lambda trace: _says(trace, words))
    statuses = _known("status", wanted.status, TraceStatus, problems)
    bounds = Bounds(
        since=float("-inf") if wanted.since is None else wanted.since,
        until=float("inf") if wanted.until is None else wanted.until,
        statuses=statuses or Bounds().statuses,
        priorities=_known("priority", wanted.priority, Priority, problems) or frozenset(Priority),
        suppressed=wanted.suppressed,
    )
    problems.raise_any()
    return bounds, lambda trace: all(test(trace) for test in tests)


def _known(name: str, values: Iterable[str], words: type[Word], problems: Problems) -> frozenset[Word]:
    spelled = {word.casefold(): word for word in words}
    found = set()
    for value in values:
        word = spelled.get(value.casefold())
        if word is None:
            problems.add(name, f"there is no {name} {value[:100]!r}", got=value, words=list(words))
        else:
            found.add(word)
    return frozenset(found)


def _says(trace: Trace, words: Sequence[str]) -> bool:
    parts = [trace.id, trace.trigger_class, trace.trigger_ancestors, trace.note]
    parts += [text for flag in trace.flags for text in (flag.name, flag.description)]
    parts += [text or "" for process in trace.processes for text in (process.name, process.exe, process.cmdline)]
    text = "\n".join(parts).casefold()
    return all(word in text for word in words)
