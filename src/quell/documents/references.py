"""Whether the groups, webhooks and rulesets that rules and policies name exist. SEMANTICS sections 2 and 5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from quell.catalogue.words import nearest
from quell.documents.group import LEARNED, RESERVED
from quell.documents.places import GROUP, NOWHERE, RULESET, WEBHOOK, Places
from quell.documents.reader import listed
from quell.errors import DocumentError, Problem
from quell.model.action import Action, MakeOpsFlag, MakeRedFlag, SendWebhook, word
from quell.model.policy import Policy, Ruleset
from quell.model.rule import Group, Rule, Webhook

#: What can be referred to -> its kind of document.
KINDS = {GROUP: "Group", WEBHOOK: "Webhook", RULESET: "Ruleset"}


class Referring(Protocol):
    """Documents, as load.py makes them."""

    @property
    def rules(self) -> Sequence[Rule]: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def webhooks(self) -> Sequence[Webhook]: ...
    @property
    def policies(self) -> Sequence[Policy]: ...
    @property
    def rulesets(self) -> Sequence[Ruleset]: ...
    @property
    def places(self) -> Mapping[tuple[str, str], Places]: ...


class Reference(Struct, frozen=True, gc=False):
    #: group, webhook or ruleset.
    what: str
    name: str
    #: The field that names it, such as spec.webhooks[1].
    path: str


def references(thing: object) -> Iterator[Reference]:
    """What a document names; only rules and policies name any."""
    match thing:
        case Rule():
            if thing.group:
                yield Reference(GROUP, thing.group, "spec.group")
            yield from _listed(WEBHOOK, thing.webhooks, "spec.webhooks")
            for position, action in enumerate(thing.actions):
                yield from _of_action(action, f"spec.actions[{position}]")
        case Policy():
            yield from _listed(RULESET, thing.rulesets, "spec.rulesets")
            for name, entries in (("default", thing.default), ("actions", thing.actions)):
                for position, entry in enumerate(entries):
                    yield from _of_action(entry.action, f"spec.response.{name}[{position}]")


def check(
    documents: Referring, known_groups: Iterable[str] = (), known_webhooks: Iterable[str] = ()
) -> list[tuple[Policy, Problem]]:
    """DocumentError names every group and webhook that is neither among the documents nor known already.

    A ruleset that is not there is a warning, given back with its policy: it is Pending until there is one. Reserved and
    learned groups are always known. A group with an address has no workload as a member, so that no rule can apply to it.
    """
    known = {
        GROUP: {*RESERVED, *(group.name for group in documents.groups), *known_groups},
        WEBHOOK: {*(webhook.name for webhook in documents.webhooks), *known_webhooks},
        RULESET: {ruleset.name for ruleset in documents.rulesets},
    }
    addresses = {
        group.name for group in documents.groups if any(criterion.key == "address" for criterion in group.criteria)
    }
    problems: list[Problem] = []
    warnings: list[tuple[Policy, Problem]] = []
    owners: tuple[tuple[str, Sequence[Rule | Policy]], ...] = (
        ("ResponseRule", documents.rules),
        ("Policy", documents.policies),
    )
    for kind, things in owners:
        for thing in things:
            told: set[tuple[str, str]] = set()
            for reference in references(thing):
                if (reference.what, reference.name) in told:
                    continue
                problem = _problem(kind, thing, reference, known, addresses, documents.places)
                if problem is None:
                    continue
                told.add((reference.what, reference.name))
                if reference.what == RULESET and isinstance(thing, Policy):
                    warnings.append((thing, problem))
                else:
                    problems.append(problem)
    if problems:
        raise DocumentError(problems)
    return warnings


def untold(thing: object, webhooks: Mapping[str, Webhook]) -> str:
    """Why nobody is told of what a rule or policy is to tell; "": somebody is, or nothing is to be told."""
    match thing:
        case Rule() if not thing.disabled:
            asked = [
                {*thing.webhooks, *action.endpoints} for action in thing.actions if isinstance(action, SendWebhook)
            ]
        case Policy() if thing.enabled:
            actions = [entry.action for entry in (*thing.default, *thing.actions) if entry.enabled]
            asked = [set(action.endpoints) for action in actions if isinstance(action, SendWebhook)]
        case _:
            return ""
    for named in asked:
        if named and not any(webhooks[name].enable for name in named if name in webhooks):
            disabled = ", ".join(sorted(named))
            return f"nobody is told until it is enabled: {disabled} {'is' if len(named) == 1 else 'are'} disabled (no-endpoint)"
        if not named and not any(webhook.default and webhook.enable for webhook in webhooks.values()):
            return "nobody is told: it names no webhook, and no enabled one is marked default (no-endpoint)"
    return ""


def silenced(
    things: Iterable[object], before: Mapping[str, Webhook], after: Mapping[str, Webhook]
) -> list[Rule | Policy]:
    """The rules and policies in force of which nobody is told any more, now that the endpoints are others."""
    return [
        thing
        for thing in things
        if isinstance(thing, Rule | Policy) and untold(thing, after) and not untold(thing, before)
    ]


def _of_action(action: Action, path: str) -> Iterator[Reference]:
    match action:
        case SendWebhook():
            yield from _listed(WEBHOOK, action.endpoints, f"{path}.{word(action)}.endpoints")
        case MakeRedFlag() | MakeOpsFlag():
            yield from _listed(WEBHOOK, action.webhooks, f"{path}.{word(action)}.webhooks")
        case _:
            pass


def _listed(what: str, names: Iterable[str], path: str) -> Iterator[Reference]:
    for position, name in enumerate(names):
        yield Reference(what, name, f"{path}[{position}]")


def _problem(
    kind: str,
    thing: Rule | Policy,
    reference: Reference,
    known: Mapping[str, set[str]],
    addresses: set[str],
    places: Mapping[tuple[str, str], Places],
) -> Problem | None:
    """None: what is named is there, and of use."""
    what, name = reference.what, reference.name
    if what == GROUP and name in addresses:
        message = f"group {name} has an address, which no workload meets: rule {thing.name} could never match"
        expected = near = ""
    elif name in known[what] or (what == GROUP and name.startswith(LEARNED)):
        return None
    else:
        words = sorted(known[what])
        message = f'{kind} {thing.name} names the {what} "{name}", which does not exist'
        if what == RULESET:
            message += ": the policy is Pending until it does"
        expected = listed(words) if words else f"a {what} defined in a document of kind {KINDS[what]}"
        near = nearest(name, words)
    place = places.get((kind, thing.name), NOWHERE).get((what, name))
    return Problem(
        file=thing.source.file,
        line=place.line if place else thing.source.line,
        column=place.column if place else int(thing.source.line > 0),
        path=place.path if place else reference.path,
        message=message,
        expected=expected,
        got=name,
        nearest=near,
    )
