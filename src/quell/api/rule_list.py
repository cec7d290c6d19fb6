"""The response rules as they stand, searched and shown, and what can be written in one: for REST and the console."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.services import Services
from quell.catalogue.forms import is_glob
from quell.catalogue.names import resolve
from quell.catalogue.table import is_broad
from quell.controller.controller import Controller
from quell.controller.editing import Editing
from quell.controller.rule_changes import shipped, spec_of
from quell.controller.rulebook import Kept, Key
from quell.documents.options import DynamicName, GroupOption, RuleOptions, WebhookOption, rule_options
from quell.documents.references import untold
from quell.documents.rule import category_of
from quell.errors import Problem
from quell.model.event import Category, Kind
from quell.model.rule import Mode, Rule, Webhook


class ShownRule(Struct, frozen=True, kw_only=True):
    """A rule in force, and where it stands."""

    id: int
    name: str
    #: Among all rules, from 1 on.
    place: int
    enabled: bool
    #: Disabled, Auditing or Enforcing.
    status: str
    #: Why it does less than it says.
    notes: list[str]
    #: Among the default rules: shipped, enabled or edited; null: it is none.
    default: str | None
    #: What it says: the fields of a document's spec, with id and name.
    rule: dict[str, Any]
    #: Keys of the quarantines that it holds.
    quarantines: list[str]
    #: Of the newest answered events (GET /v1/overview says of how many), those that it matched.
    matched: int
    revision: int
    source: str | None
    created: float | None
    changed: float | None
    changed_by: str | None


class Standing(Struct, frozen=True):
    """A rule where it stands; place: from 1 on."""

    place: int
    rule: Rule
    kept: Kept


#: Of each rulebook, the texts of its rules, to search through: to write ten thousand anew takes a tenth of a second.
_TEXTS: WeakKeyDictionary[Editing, dict[int, tuple[Rule, str]]] = WeakKeyDictionary()

#: What is shown of a rule that stands there.
Show = Callable[[Standing], ShownRule]


def standing(controller: Controller) -> list[Standing]:
    """All rules in their order."""
    found = [(kept.thing, kept) for kept in controller.rulebook.kept.values() if isinstance(kept.thing, Rule)]
    return [Standing(place, rule, kept) for place, (rule, kept) in enumerate(found, start=1)]


def number_of(controller: Controller, word: str) -> int:
    """The id of the rule that is called by it or by its name. Refusal 404."""
    if word.isascii() and word.isdigit() and len(word) <= 10:
        return int(word)
    kept = controller.rulebook.kept.get(Key("ResponseRule", word))
    if kept is None or not isinstance(kept.thing, Rule):
        raise Refusal(404, f"there is no rule {word[:253]}")
    return kept.thing.id


def keeping(
    controller: Controller,
    category: str | None,
    group: str | None,
    name: str | None,
    text: str | None,
    *,
    enabled: bool | None,
) -> Callable[[Standing], bool]:
    """Which rules are meant; None: that does not matter. Refusal 400."""
    wanted, kind = (None, None) if category is None else category_and_kind(category)
    sought = None if text is None else text.casefold()

    texts = _TEXTS.setdefault(controller.rulebook, {})

    def keep(each: Standing) -> bool:
        rule = each.rule
        return (
            (wanted is None or rule.category is wanted)
            and (kind is None or rule.kind is kind)
            and (group is None or rule.group == group)
            and (name is None or rule.name == name)
            and (enabled is None or rule.disabled is not enabled)
            and (sought is None or sought in _text(each, texts))
        )

    return keep


def category_and_kind(word: str) -> tuple[Category, Kind | None]:
    """Refusal 400."""
    found = category_of(word)
    if found is None:
        there = ", ".join(Category)
        problem = Problem(file="", path="query.category", message=f"no category {word}", expected=there, got=word)
        raise Refusal(400, f'no category "{word}": there are {there}', problems=[problem])
    return found


async def showing(services: Services) -> Show:
    """StoreError."""
    controller = services.controller
    matches = await asyncio.to_thread(services.overviews.matches)
    held = controller.holdings()
    things = [kept.thing for kept in controller.rulebook.kept.values()]
    webhooks = {thing.name: thing for thing in things if isinstance(thing, Webhook)}

    def show(each: Standing) -> ShownRule:
        rule, kept = each.rule, each.kept
        status, notes = _status(rule, webhooks)
        return ShownRule(
            id=rule.id,
            name=rule.name,
            place=each.place,
            enabled=not rule.disabled,
            status=status,
            notes=notes,
            default=shipped(rule) or None,
            rule=spec_of(rule),
            quarantines=held.get(f"rule/{rule.id}", []),
            matched=matches.of(f"rule/{rule.id}"),
            revision=kept.revision,
            source=kept.source or None,
            created=kept.created or None,
            changed=kept.changed or None,
            changed_by=kept.changed_by or None,
        )

    return show


def options(controller: Controller, category: Category | None) -> RuleOptions:
    """None: of all categories."""
    kept = [each.thing for each in controller.rulebook.kept.values()]
    return rule_options(
        _dynamic(controller, [thing for thing in kept if isinstance(thing, Rule)]),
        [
            GroupOption(name=group.name, kind=group.kind, comment=group.comment)
            for group in controller.inventory.groups()
        ],
        [
            WebhookOption(name=thing.name, type=thing.type.value, enabled=thing.enable, default=thing.default)
            for thing in kept
            if isinstance(thing, Webhook)
        ],
        tuple(Category) if category is None else (category,),
    )


def _text(each: Standing, texts: dict[int, tuple[Rule, str]]) -> str:
    """All that a rule says, without case. texts: those that were made before, by id; a rule is another once it changes."""
    known = texts.get(each.rule.id)
    if known is None or known[0] is not each.rule:
        text = msgspec.json.encode(spec_of(each.rule)).decode().casefold()
        texts[each.rule.id] = known = (each.rule, text)
    return known[1]


def _status(rule: Rule, webhooks: Mapping[str, Webhook]) -> tuple[str, list[str]]:
    """The words of policies' status, and why a rule does less than it says."""
    notes = []
    if is_broad(rule):
        notes.append("it would act on everything: it runs in audit until allow_broad: true says that this is meant")
    if told := untold(rule, webhooks):
        notes.append(told)
    if rule.disabled:
        return "Disabled", notes
    return ("Auditing" if rule.mode is Mode.AUDIT or is_broad(rule) else "Enforcing"), notes


def _dynamic(controller: Controller, rules: Iterable[Rule]) -> Mapping[Category, list[DynamicName]]:
    """Names that are in no catalogue: those seen, newest first, and those that rules in force name."""
    found = {
        category: {
            seen.name: DynamicName(name=seen.name, origin="seen", kind=seen.kind, source=seen.source, seen=seen.seen)
            for seen in controller.names.of(category)
        }
        for category in Category
    }
    for rule in rules:
        for criterion in rule.criteria:
            if criterion.type != "name":
                continue
            for value in criterion.values:
                if resolve(value) is None and not is_glob(value):
                    found[rule.category].setdefault(value, DynamicName(name=value, origin="rule"))
    return {category: list(names.values()) for category, names in found.items()}
