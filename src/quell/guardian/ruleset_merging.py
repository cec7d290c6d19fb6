"""Rulesets that take in what their policies did not allow. SEMANTICS section 5, rulesets.

A deny of the very value that is to be allowed goes where its scope is the addition's; where its scope is wider it stays,
for all but the addition's namespace or machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from quell.guardian.addition_form import read_addition
from quell.model.details import Deviation
from quell.model.policy import Operator, Requirement, Ruleset, RulesetRule, Selector

Rules = tuple[RulesetRule, ...]


def merge_rulesets(rulesets: Sequence[Ruleset], deviations: Iterable[Deviation]) -> tuple[Ruleset, ...]:
    """All rulesets of one policy, whose rules now allow what deviated; in the same order.

    A rule is added to the first that speaks of its target, beside its like. ValueError: there is no ruleset, or one of the
    deviations has no addition for one; it is said which, and nothing is merged.
    """
    if not rulesets:
        raise ValueError("there is no ruleset to merge into")
    merged = [ruleset.rules for ruleset in rulesets]
    for deviation in deviations:
        try:
            form = read_addition(deviation.addition)
            if not form.rules:
                raise ValueError("its addition is not for a ruleset")
        except ValueError as error:
            raise ValueError(f"deviation {deviation.checksum} ({deviation.message}): {error}") from error
        added = [each.read() for each in form.rules]
        for deny in (each.read() for each in form.without):
            scope = next((each.selectors for each in added if each.target == deny.target), ())
            merged = [_without(rules, deny, scope) for rules in merged]
        for rule in added:
            place = _place(merged, rule)
            merged[place] = _with(merged[place], rule)
    return tuple(msgspec.structs.replace(ruleset, rules=rules) for ruleset, rules in zip(rulesets, merged, strict=True))


def _place(merged: Sequence[Rules], rule: RulesetRule) -> int:
    """Which of the rulesets a rule is added to: one that has it, one that has its like, one that speaks of its target."""
    for is_fit in (_has, _has_like, _speaks_of):
        for place, rules in enumerate(merged):
            if is_fit(rules, rule):
                return place
    return 0


def _has(rules: Rules, rule: RulesetRule) -> bool:
    return any(_is_like(each, rule) and set(rule.values) <= set(each.values) for each in rules)


def _has_like(rules: Rules, rule: RulesetRule) -> bool:
    return any(_is_like(each, rule) for each in rules)


def _speaks_of(rules: Rules, rule: RulesetRule) -> bool:
    return any(each.target == rule.target for each in rules)


def _is_like(one: RulesetRule, other: RulesetRule) -> bool:
    """The same but for the values."""
    return (one.target, one.allow, _scope(one)) == (other.target, other.allow, _scope(other))


def _scope(rule: RulesetRule) -> frozenset[tuple[str, frozenset[Requirement]]]:
    return frozenset((each.kind.value, frozenset(each.requirements)) for each in rule.selectors)


def _with(rules: Rules, rule: RulesetRule) -> Rules:
    if _has(rules, rule):
        return rules
    for place, each in enumerate(rules):
        if _is_like(each, rule):
            wider = msgspec.structs.replace(each, values=(*dict.fromkeys((*each.values, *rule.values)),))
            return (*rules[:place], wider, *rules[place + 1 :])
    return (*rules, rule)


def _without(rules: Rules, deny: RulesetRule, scope: tuple[Selector, ...]) -> Rules:
    """scope: where the values are not to be denied any more."""
    kept: list[RulesetRule] = []
    for rule in rules:
        if not _is_like(rule, deny) or set(rule.values).isdisjoint(deny.values):
            kept.append(rule)
            continue
        rest = tuple(value for value in rule.values if value not in deny.values)
        if rest:
            kept.append(msgspec.structs.replace(rule, values=rest))
        if scope and _scope(rule) != _scope(msgspec.structs.replace(deny, selectors=scope)):
            values = tuple(value for value in rule.values if value in deny.values)
            kept.append(
                RulesetRule(target=rule.target, allow=False, values=values, selectors=_but(rule.selectors, scope))
            )
    return tuple(kept)


def _but(selectors: tuple[Selector, ...], scope: tuple[Selector, ...]) -> tuple[Selector, ...]:
    """The same, without what the scope, one value of one key, takes."""
    [selector] = scope
    [requirement] = selector.requirements
    other = Requirement(key=requirement.key, operator=Operator.NOT_IN, values=requirement.values)
    found = []
    for each in selectors:
        if each.kind is selector.kind:
            found.append(msgspec.structs.replace(each, requirements=(*each.requirements, other)))
        else:
            found.append(each)
    if not any(each.kind is selector.kind for each in selectors):
        found.append(Selector(kind=selector.kind, requirements=(other,)))
    return tuple(found)
