"""The documents in force, and what an application or a deletion changes about them. Pure; the controller stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from quell.documents.load import Documents
from quell.documents.references import check
from quell.errors import DocumentError, Problem
from quell.model.policy import Policy
from quell.model.rule import Group, Rule, Source, Webhook

Thing = Rule | Group | Webhook | Policy
Key = tuple[str, str]

KINDS: dict[str, type[Rule | Group | Webhook | Policy]] = {
    "ResponseRule": Rule,
    "Group": Group,
    "Webhook": Webhook,
    "Policy": Policy,
}
_SHORT = {"rule": "ResponseRule", "policies": "Policy"}

#: Ids below are the default rules'; those from 110000 on are Kubernetes custom resources' (SEMANTICS section 3).
FIRST_ID, RESERVED_IDS = 8, range(110_000, 120_000)


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one document. verb: created, configured, unchanged or deleted."""

    kind: str
    name: str
    verb: str
    id: int | None = None
    warnings: tuple[str, ...] = ()


def kind_of(word: str) -> str:
    """The kind a word means: ResponseRule for rules, rule, responserules. KeyError if none."""
    lower = word.lower()
    if lower in _SHORT:
        return _SHORT[lower]
    for kind in KINDS:
        if lower in (kind.lower(), kind.lower() + "s", kind.lower().removeprefix("response") + "s"):
            return kind
    raise KeyError(word)


def name_of(thing: Thing) -> Key:
    return next(kind for kind, struct in KINDS.items() if isinstance(thing, struct)), thing.name


def plan_apply(things: Mapping[Key, Thing], documents: Documents) -> tuple[list[Change], dict[Key, Thing]]:
    """The changes that these documents make, and the documents after them. DocumentError: nothing is to be done."""
    after = dict(things)
    changes: list[Change] = []
    taken = {thing.id: thing.name for thing in things.values() if isinstance(thing, Rule)}
    problems: list[Problem] = []
    given: tuple[Thing, ...] = (*documents.groups, *documents.webhooks, *documents.policies, *documents.rules)
    for thing in given:
        key = name_of(thing)
        before = things.get(key)
        new: Thing = _numbered(thing, before, taken, problems) if isinstance(thing, Rule) else thing
        verb = "created" if before is None else "unchanged" if _same(before, new) else "configured"
        after[key] = new if verb != "unchanged" or before is None else before
        changes.append(
            Change(kind=key[0], name=key[1], verb=verb, id=new.id if isinstance(new, Rule) else None),
        )
    if problems:
        raise DocumentError(problems)
    check(as_documents(after.values()))
    return changes, after


def plan_delete(
    things: Mapping[Key, Thing], kind: str, name: str, *, force: bool
) -> tuple[list[Change], dict[Key, Thing]]:
    """As plan_apply. KeyError: there is none. DocumentError: rules refer to it and force was not said."""
    key = (kind, name)
    if key not in things:
        raise KeyError(name)
    referring = [thing for thing in things.values() if isinstance(thing, Rule) and _refers(thing, kind, name)]
    if referring and not (force and kind == "Group"):
        names = ", ".join(f"{rule.name} (rule {rule.id})" for rule in referring)
        hint = "delete these first, or force it to delete them too" if kind == "Group" else "take it out of these first"
        raise DocumentError([Problem(file="", message=f"{kind} {name} is used by {names}: {hint}")])
    gone = [things[key], *referring]
    after = {other: thing for other, thing in things.items() if thing not in gone}
    changes = [
        Change(
            kind=name_of(thing)[0], name=thing.name, verb="deleted", id=thing.id if isinstance(thing, Rule) else None
        )
        for thing in gone
    ]
    return changes, after


def as_documents(things: Iterable[Thing]) -> Documents:
    things = list(things)
    return Documents(
        rules=tuple(sorted((t for t in things if isinstance(t, Rule)), key=lambda rule: rule.id)),
        groups=tuple(t for t in things if isinstance(t, Group)),
        webhooks=tuple(t for t in things if isinstance(t, Webhook)),
        policies=tuple(t for t in things if isinstance(t, Policy)),
    )


def _numbered(rule: Rule, before: Thing | None, taken: dict[int, str], problems: list[Problem]) -> Rule:
    identifier = rule.id or (before.id if isinstance(before, Rule) else 0)
    if not identifier:
        identifier = max((number for number in taken if number < RESERVED_IDS.start), default=FIRST_ID - 1) + 1
        identifier = max(identifier, FIRST_ID)
    if taken.get(identifier, rule.name) != rule.name:
        problems.append(
            Problem(
                file=rule.source.file,
                line=rule.source.line,
                path="spec.id",
                message=f"rule id {identifier} is taken by {taken[identifier]}: leave it out to get a free one",
            )
        )
    taken[identifier] = rule.name
    return msgspec.structs.replace(rule, id=identifier)


def _same(before: Thing, after: Thing) -> bool:
    nowhere = Source()
    return bool(
        msgspec.structs.replace(before, source=nowhere) == msgspec.structs.replace(after, source=nowhere),
    )


def _refers(rule: Rule, kind: str, name: str) -> bool:
    if kind == "Group":
        return rule.group == name
    if kind == "Webhook":
        named = [endpoint for action in rule.actions for endpoint in getattr(action, "endpoints", ())]
        flagged = [endpoint for action in rule.actions for endpoint in getattr(action, "webhooks", ())]
        return name in (*rule.webhooks, *named, *flagged)
    return False
