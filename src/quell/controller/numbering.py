"""The ids of rules: those they say, those they had, and free ones for the others. SEMANTICS section 3."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count

import msgspec

from quell.errors import DocumentError, Problem
from quell.model.rule import Rule

#: Ids below are the default rules'; those from 110000 on are Kubernetes custom resources'.
FIRST_ID, RESERVED_IDS = 8, range(110_000, 120_000)


def numbered(
    rules: Iterable[Rule], others: Mapping[int, str], before: Mapping[str, int], spent: Iterable[int] = ()
) -> tuple[Rule, ...]:
    """The rules with their ids. others: ids of rules that stay beside them; before: the ids that rules had, by name;
    spent: ids of rules that are gone or go, which a rule gets only if it says so.

    DocumentError: an id that a rule says belongs to another one.
    """
    rules = tuple(rules)
    taken = dict(others)
    problems: list[Problem] = []
    ids = {rule.name: rule.id or before.get(rule.name, 0) for rule in rules}
    # First those that keep what they had without a word about it, so that who says a taken id is the one refused.
    for rule in sorted(rules, key=lambda rule: rule.id > 0):
        number = ids[rule.name]
        if number and taken.setdefault(number, rule.name) != rule.name:
            problems.append(
                Problem(
                    file=rule.source.file,
                    line=rule.source.line,
                    path="spec.id",
                    message=f"rule id {number} is taken by {taken[number]}: leave it out to get a free one",
                    got=str(number),
                )
            )
    if problems:
        raise DocumentError(problems)
    free = _free({*taken, *spent})
    ids = {name: number or next(free) for name, number in ids.items()}
    return tuple(msgspec.structs.replace(rule, id=ids[rule.name]) for rule in rules)


def _free(taken: Collection[int]) -> Iterator[int]:
    """Those after the last, and where the reserved ones begin all others that are free."""
    last = max((number for number in taken if number < RESERVED_IDS.start), default=0)
    numbers = chain(range(max(last + 1, FIRST_ID), RESERVED_IDS.start), count(FIRST_ID))
    seen: set[int] = set()
    for number in numbers:
        if number not in taken and number not in RESERVED_IDS and number not in seen:
            seen.add(number)
            yield number
