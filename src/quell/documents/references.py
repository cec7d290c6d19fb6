"""Whether the groups and webhooks that rules and policies name exist. SEMANTICS section 2, last paragraph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from quell.catalogue.words import nearest
from quell.documents.group import LEARNED, RESERVED
from quell.documents.reader import listed
from quell.errors import DocumentError, Problem
from quell.model.action import Action, MakeOpsFlag, MakeRedFlag, SendWebhook
from quell.model.policy import Policy
from quell.model.rule import Group, Rule, Source, Webhook


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


def check(documents: Referring, known_groups: Iterable[str] = (), known_webhooks: Iterable[str] = ()) -> None:
    """DocumentError names every group and webhook that is neither among the documents nor known already.

    Reserved and learned groups are always known. A group with an address has no workload as a member, so that no rule
    can apply to it.
    """
    groups = {*RESERVED, *(group.name for group in documents.groups), *known_groups}
    addresses = {
        group.name for group in documents.groups if any(criterion.key == "address" for criterion in group.criteria)
    }
    webhooks = {*(webhook.name for webhook in documents.webhooks), *known_webhooks}
    problems: list[Problem] = []
    for rule in documents.rules:
        if rule.group in addresses:
            problems.append(
                _problem(
                    rule.source,
                    "spec.group",
                    f"group {rule.group} has an address, which no workload meets: rule {rule.name} could never match",
                    got=rule.group,
                )
            )
        elif rule.group and rule.group not in groups and not rule.group.startswith(LEARNED):
            problems.append(_unknown(rule.source, "group", rule.name, rule.group, groups))
        named = (*rule.webhooks, *(name for action in rule.actions for name in _endpoints(action)))
        missing = dict.fromkeys(name for name in named if name not in webhooks)
        problems += [_unknown(rule.source, "webhooks", rule.name, name, webhooks) for name in missing]
    for policy in documents.policies:
        named = tuple(name for entry in (*policy.default, *policy.actions) for name in _endpoints(entry.action))
        missing = dict.fromkeys(name for name in named if name not in webhooks)
        problems += [_unknown(policy.source, "response", policy.name, name, webhooks) for name in missing]
    if problems:
        raise DocumentError(problems)


def _endpoints(action: Action) -> tuple[str, ...]:
    match action:
        case SendWebhook():
            return action.endpoints
        case MakeRedFlag() | MakeOpsFlag():
            return action.webhooks
        case _:
            return ()


def _unknown(source: Source, field: str, owner: str, name: str, names: Iterable[str]) -> Problem:
    known = sorted(names)
    what = "group" if field == "group" else "webhook"
    return _problem(
        source,
        f"spec.{field}",
        f'{owner} names the {what} "{name}", which does not exist',
        expected=listed(known) if known else f"a {what} defined in a document of kind {what.capitalize()}",
        got=name,
        near=nearest(name, known),
    )


def _problem(source: Source, path: str, message: str, *, expected: str = "", got: str = "", near: str = "") -> Problem:
    return Problem(
        file=source.file,
        line=source.line,
        column=1 if source.line else 0,
        path=path,
        message=message,
        expected=expected,
        got=got,
        nearest=near,
    )
