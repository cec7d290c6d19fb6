"""What an author may write: rules, but not what they destroy. DESIGN, trust: "destructive ones are saved disabled".

Pure. Deleting and disabling are free, as they only make Quell do less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from quell.catalogue.table import ACTIONS
from quell.documents.load import Thing
from quell.documents.references import KINDS, references
from quell.errors import Problem
from quell.model.action import word
from quell.model.policy import Policy, Ruleset
from quell.model.rule import Group, Rule, Source

_NOWHERE = Source()


def destructive(thing: Thing) -> list[str]:
    """The destructive actions that a rule or policy can ask for, once it is enabled."""
    match thing:
        case Rule():
            actions = thing.actions
        case Policy():
            actions = tuple(entry.action for entry in (*thing.default, *thing.actions) if entry.enabled)
        case _:
            return []
    return list(dict.fromkeys(word(action) for action in actions if ACTIONS[word(action)].destructive))


def enabled(thing: Thing) -> bool:
    """Whether it is a rule or policy that is in force."""
    return (isinstance(thing, Rule) and not thing.disabled) or (isinstance(thing, Policy) and thing.enabled)


def restrained(before: Thing | None, after: Thing) -> tuple[Thing, str]:
    """What an author's document is saved as, and why it is not as written; "": it is.

    A destructive rule that is enabled as it is written stays so, with another comment too; any other change disables it.
    """
    words = destructive(after)
    if not words or not enabled(after):
        return after, ""
    if before is not None and _says(before) == _says(after):
        return after, ""
    told = f"saved disabled, as {' and '.join(words)} takes an operator to enable"
    if isinstance(after, Rule):
        return msgspec.structs.replace(after, disabled=True), told
    if isinstance(after, Policy):
        return msgspec.structs.replace(after, enabled=False), told
    return after, ""


def widened(before: Mapping[tuple[str, str], Thing], after: Mapping[tuple[str, str], Thing]) -> list[Problem]:
    """Groups and rulesets that an author may not change, as enabled destructive rules act on what they hold."""
    used: dict[tuple[str, str], list[str]] = {}
    for (kind, name), thing in after.items():
        if enabled(thing) and destructive(thing):
            for reference in references(thing):
                used.setdefault((KINDS[reference.what], reference.name), []).append(f"{kind} {name}")
    return [
        _refusal(f"change {kind} {name}", owners, after.get((kind, name)) or before[(kind, name)])
        for (kind, name), owners in sorted(used.items())
        if _members(before.get((kind, name))) != _members(after.get((kind, name)))
    ]


def taken_along(things: Iterable[Thing], group: Thing) -> list[Problem]:
    """Rules that would be deleted with their group, which an author must delete by their own names if they destroy."""
    owners = [f"ResponseRule {thing.name}" for thing in things if enabled(thing) and destructive(thing)]
    return [_refusal(f"delete Group {group.name} together with these", owners, group)] if owners else []


def _refusal(what: str, owners: list[str], thing: Thing) -> Problem:
    return Problem(
        file=thing.source.file,
        line=thing.source.line,
        path="spec.rules" if isinstance(thing, Ruleset) else "spec.criteria",
        message=f"it takes an operator to {what}: it is used by {', '.join(owners)}, enabled and destructive",
    )


def _says(thing: Thing) -> Thing:
    """Without what changes nothing that is done."""
    if isinstance(thing, Rule):
        return msgspec.structs.replace(thing, source=_NOWHERE, comment="")
    return msgspec.structs.replace(thing, source=_NOWHERE)


def _members(thing: Thing | None) -> object:
    """What decides who is a member of a group, or what a ruleset allows; None of a thing that is not there."""
    match thing:
        case Group():
            return thing.criteria
        case Ruleset():
            return thing.type, thing.rules
        case _:
            return None
