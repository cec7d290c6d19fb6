"""What becomes of single rules: inserted, edited, moved, switched on and off, default ones restored. Pure; each is a
plan of quell.controller.rulebook, under the same conditions as documents that are applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from quell.controller.authorship import destructive
from quell.controller.rule_defaults import DEFAULTS, is_default, is_edited
from quell.controller.rule_order import index_of, place
from quell.controller.rulebook import (
    Application,
    Edition,
    Kept,
    Key,
    Plan,
    Step,
    Verb,
    finished,
    plan_apply,
    rule_of,
    rules_in_order,
)
from quell.documents.load import Documents
from quell.documents.reader import NO_NAMES, Names
from quell.documents.single import Single, read_rule
from quell.documents.write import to_document
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden, Problem
from quell.model.rule import Rule


class Options(Struct, frozen=True, kw_only=True):
    """As those of quell.controller.rulebook.Application, for one rule."""

    source: str = ""
    take_over: bool = False
    unquarantine: bool = False

    def application(self, rules: Sequence[Rule], after: int | None = None) -> Application:
        return Application(
            documents=Documents(rules=tuple(rules)),
            source=self.source,
            take_over=self.take_over,
            unquarantine=self.unquarantine,
            after=after,
        )


def plan_insert(
    things: Mapping[Key, Kept], singles: Sequence[Single], after: int | None, edition: Edition, options: Options
) -> Plan:
    """New rules, at one place and in this order; after: as quell.controller.rule_order.index_of takes it.

    DocumentConflict: a rule of such a name is there. NoSuchRule, and what plan_apply raises.
    """
    rules = [single.rule for single in singles]
    taken = [(rule, things[key]) for rule in rules if (key := Key("ResponseRule", rule.name)) in things]
    if taken:
        raise DocumentConflict(
            [
                Problem(
                    file="",
                    path="name",
                    message=f"a rule {rule.name} is there already, {_number(kept)}: edit that one, or give another name",
                    got=rule.name,
                )
                for rule, kept in taken
            ]
        )
    return _doubted(plan_apply(things, options.application(rules, after), edition), singles)


def plan_edit(
    things: Mapping[Key, Kept],
    number: int,
    fields: Mapping[str, Any],
    edition: Edition,
    options: Options,
    names: Names = NO_NAMES,
) -> Plan:
    """A rule with these fields of its spec in place of those it has; None: without it. NoSuchRule, and as plan_apply."""
    key = rule_of(things, number)
    edited = read_rule(_merged(_rule(things[key]), fields), names=names)
    # That it has the id of a default rule is not news.
    warnings = tuple(warning for warning in edited.warnings if warning.path != "id")
    return _doubted(plan_apply(things, options.application([edited.rule]), edition), [Single(edited.rule, warnings)])


def plan_switch(things: Mapping[Key, Kept], number: int, *, on: bool, edition: Edition, options: Options) -> Plan:
    """A rule enabled or disabled. NoSuchRule; DocumentForbidden: an author enables a destructive one."""
    rule = _rule(things[rule_of(things, number)])
    words = destructive(rule)
    if on and rule.disabled and words and not edition.editor.operates:
        told = f"it takes an operator to enable rule {number} ({rule.name}): it asks for {' and '.join(words)}"
        raise DocumentForbidden([Problem(file="", message=told)])
    return plan_apply(things, options.application([msgspec.structs.replace(rule, disabled=not on)]), edition)


def plan_move(things: Mapping[Key, Kept], number: int, after: int | None, edition: Edition) -> Plan:
    """A rule at another place, and nothing else of it. after: as index_of takes it. NoSuchRule; DocumentError: itself."""
    key = rule_of(things, number)
    if after is not None and abs(after) == number:
        told = f"rule {number} cannot stand above or below itself"
        raise DocumentError([Problem(file="", path="after", message=told, expected="another rule", got=str(after))])
    standing = rules_in_order(things)
    others = [(other, kept) for other, kept in standing if other != key]
    index = index_of([_rule(kept).id for _, kept in others], after)
    before = things[key]
    if standing[index][0] == key:
        step = Step(key=key, verb=Verb.UNCHANGED, before=before, after=before)
        return finished(things, things, [step], edition, unquarantine=False)
    placed = place([kept.position for _, kept in others], index, 1)
    moved = msgspec.structs.replace(
        before,
        position=placed.newcomers[0],
        revision=edition.revision,
        changed=edition.time,
        changed_by=str(edition.editor.actor),
    )
    shifted = {
        other: msgspec.structs.replace(kept, position=position)
        for (other, kept), position in zip(others, placed.others or (), strict=False)
        if kept.position != position
    }
    was = next(position for position, (other, _) in enumerate(standing) if other == key)
    step = Step(
        key=key,
        verb=Verb.MOVED,
        before=before,
        after=moved,
        note=f"from place {was + 1} to {index + 1} of {len(standing)}",
    )
    plan = finished(things, {**things, **shifted, key: moved}, [step], edition, unquarantine=False)
    return msgspec.structs.replace(plan, shifted=tuple(shifted))


def plan_restore(things: Mapping[Key, Kept], edition: Edition, options: Options, *, reset: bool) -> Plan:
    """Default rules that were deleted, as they are shipped; reset: those that were edited or enabled as well.

    DocumentConflict: another rule has the id or the name of one.
    """
    rules = {key: _rule(kept) for key, kept in things.items() if key.kind == "ResponseRule"}
    there = {rule.id: rule for rule in rules.values() if is_default(rule)}
    wanted = [rule for number, rule in DEFAULTS.items() if number not in there or (reset and there[number] != rule)]
    names = {rule.name: rule for rule in rules.values()}
    ids = {rule.id: rule for rule in rules.values()}
    problems = [
        Problem(
            file="",
            message=f"default rule {rule.id} ({rule.name}) cannot be restored: its {what} is taken by {other.name}, rule "
            f"{other.id}: give that one another {what} first",
        )
        for rule in wanted
        if rule.id not in there
        for what, other in (("name", names.get(rule.name)), ("id", ids.get(rule.id)))
        if other is not None
    ]
    if problems:
        raise DocumentConflict(problems)
    if not wanted:
        return finished(things, things, [], edition, unquarantine=False)
    return plan_apply(things, options.application(wanted), edition)


def plan_first(things: Mapping[Key, Kept], edition: Edition) -> Plan:
    """The default rules of a controller that never had them: those whose names and ids are free, above all others."""
    rules = [_rule(kept) for key, kept in things.items() if key.kind == "ResponseRule"]
    names, ids = {rule.name for rule in rules}, {rule.id for rule in rules}
    wanted = [rule for rule in DEFAULTS.values() if rule.name not in names and rule.id not in ids]
    if not wanted:
        return finished(things, things, [], edition, unquarantine=False)
    return plan_apply(things, Options().application(wanted, after=0), edition)


def shipped(rule: Rule) -> str:
    """What a rule is among the default ones: "", as shipped, enabled, or edited."""
    if not is_default(rule):
        return ""
    if is_edited(rule):
        return "edited"
    return "shipped" if rule.disabled else "enabled"


def spec_of(rule: Rule) -> dict[str, Any]:
    """What a rule says, as the fields of a document's spec, with its name."""
    spec = to_document(rule)["spec"]
    return {"id": spec.pop("id", 0), "name": rule.name, **spec}


def _doubted(plan: Plan, singles: Sequence[Single]) -> Plan:
    """With what is doubtful about the rules; the plan's steps are those of the rules, in their order."""
    steps = [
        msgspec.structs.replace(step, warnings=(*map(str, single.warnings), *step.warnings))
        for step, single in zip(plan.steps, singles, strict=True)
    ]
    return msgspec.structs.replace(plan, steps=tuple(steps))


def _merged(rule: Rule, fields: Mapping[str, Any]) -> dict[str, Any]:
    """DocumentError: a rule keeps its id and its name."""
    spec = spec_of(rule)
    problems = [
        Problem(
            file="",
            path=field,
            message=f"the {field} of a rule stays as it is: delete it and insert another",
            expected=str(spec[field]),
            got=str(fields[field]),
        )
        for field in ("id", "name")
        if field in fields and fields[field] != spec[field]
    ]
    if problems:
        raise DocumentError(problems)
    if "conditions" in fields:
        spec.pop("criteria", None)
    if "ttl" in fields and "actions" not in fields:
        spec["actions"] = [_without_ttl(action) for action in spec["actions"]]
    return {name: value for name, value in {**spec, **fields}.items() if value is not None}


def _without_ttl(action: Any) -> Any:
    """A quarantine whose time the rule's own ttl is to say."""
    if isinstance(action, dict) and isinstance(action.get("quarantine"), dict):
        rest = {name: value for name, value in action["quarantine"].items() if name != "ttl"}
        return {"quarantine": rest} if rest else "quarantine"
    return action


def _rule(kept: Kept) -> Rule:
    if not isinstance(kept.thing, Rule):
        raise TypeError(f"{type(kept.thing).__name__} is no rule")
    return kept.thing


def _number(kept: Kept) -> str:
    return f"rule {_rule(kept).id}"
