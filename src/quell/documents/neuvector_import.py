"""NeuVector's response rules as its REST API and its exports give them, turned into documents of ours, rule by rule.

Each rule takes the path of the custom resource (quell.documents.neuvector), so that both mean the same. Forms:
{"rules": [...]} and {"rule": {...}} of GET /v1/response/rule, a plain list, the custom resources
NvResponseRuleSecurityRule and NvSecurityRule (its `response`), and lists of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from quell.documents.group import LEARNED, RESERVED
from quell.documents.load import NEUVECTOR, OURS, Thing, load_values
from quell.errors import DocumentError, Problem
from quell.model.event import Category, Level
from quell.model.rule import Rule

#: Ids of NeuVector's own rules: below them are the default ones, above them federal and custom resources'.
_IDS = range(8, 100_000)
_SPEC = ("event", "group", "conditions", "actions", "webhooks", "comment", "disable")


class Imported(Struct, frozen=True, kw_only=True):
    """One rule or group of the export. thing None: it cannot be written; problems say why."""

    #: As the export names it, such as "rule 12".
    origin: str
    thing: Thing | None
    #: What changes in meaning, a sentence each.
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def import_text(text: str | bytes, file: str = "<text>") -> list[Imported]:
    """Every rule of an export. DocumentError: it is none."""
    try:
        documents = [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = {"line": mark.line + 1, "column": mark.column + 1} if mark else {}
        raise DocumentError([Problem(file=file, message=f"neither JSON nor YAML: {error}", **place)]) from error
    found = [one for document in documents for one in _document(document, file)]
    if not found:
        raise DocumentError([Problem(file=file, message="there is no response rule in it")])
    return _told_apart(found)


def _document(document: Any, file: str) -> Iterator[Imported]:
    match document:
        case {"rules": list(rules)} | list(rules) if all(isinstance(one, dict) and "kind" not in one for one in rules):
            for rule in rules:
                yield _rest(rule)
        case {"rule": dict(rule)}:
            yield _rest(rule)
        case {"kind": "NvResponseRuleSecurityRule", "spec": {"rule": dict(rule)}}:
            name = str((document.get("metadata") or {}).get("name") or "")
            yield _resource(f"resource {name}", name, rule)
        case {"kind": "NvSecurityRule", "spec": dict(spec)}:
            yield from _security_rule(document, spec)
        case {"items": list(items)}:
            for item in items:
                yield from _document(item, file)
        case _:
            expected = "rules of GET /v1/response/rule, or NvResponseRuleSecurityRule and NvSecurityRule resources"
            kind = document.get("kind") if isinstance(document, Mapping) else None
            got = f"kind {kind}" if kind else type(document).__name__
            problem = Problem(file=file, message=f"expected {expected}, got {got}", expected=expected, got=got)
            raise DocumentError([problem])


def _rest(rule: Mapping[str, Any]) -> Imported:
    number = rule.get("id") if isinstance(rule.get("id"), int) else 0
    origin = f"rule {number}" if number else "a rule without an id"
    made = _resource(origin, f"neuvector-{number or 'rule'}", rule)
    if not isinstance(made.thing, Rule):
        return made
    changes = list(made.changes)
    cfg_type = str(rule.get("cfg_type") or "user_created")
    if number in _IDS:
        thing = msgspec.structs.replace(made.thing, id=number)
    else:
        thing = made.thing
        if number:
            kind = "a default rule's" if number < _IDS.start else "a federal rule's or custom resource's"
            changes.append(f"its id {number} is {kind}: it gets a new one")
    if cfg_type in ("federal", "ground"):
        changes.append(f"it was {cfg_type}, which nobody edits there by hand; here it is a rule like any other")
    return msgspec.structs.replace(made, thing=thing, changes=tuple(changes))


def _security_rule(document: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Imported]:
    """A group with its rules: the group becomes a document, its response rules name it."""
    selector = (spec.get("target") or {}).get("selector") or {}
    name = str(selector.get("name") or (document.get("metadata") or {}).get("name") or "")
    criteria = selector.get("criteria") or []
    if name and name not in RESERVED and not name.startswith(LEARNED) and criteria:
        group = {
            "apiVersion": OURS,
            "kind": "Group",
            "metadata": {"name": name},
            "spec": {
                "comment": str(selector.get("comment") or ""),
                "criteria": [{key: str(one.get(key, "")) for key in ("key", "op", "value")} for one in criteria],
            },
        }
        yield _loaded(f"group {name}", group, _group_changes(criteria))
    for place, rule in enumerate(spec.get("response") or (), 1):
        yield _resource(f"response {place} of {name}", f"{name}-response-{place}", {**rule, "group": name})


def _group_changes(criteria: list[Mapping[str, Any]]) -> tuple[str, ...]:
    facts = ("image", "node", "container", "service", "domain", "namespace", "address")
    labels = [str(one.get("key")) for one in criteria if one.get("key") not in facts]
    if len({label.startswith("ns:") for label in labels}) < len(set(labels)):
        return (f"{', '.join(dict.fromkeys(labels))}: NeuVector takes any of a pod's labels; here each must hold",)
    return ()


def _resource(origin: str, name: str, rule: Mapping[str, Any]) -> Imported:
    changes: list[str] = []
    said = {key: value for key in _SPEC if (value := rule.get(key)) not in (None, "", [])}
    if said.get("event") == "serverless":
        return Imported(
            origin=origin, thing=None, problems=("category serverless is not there: no detector tells of it",)
        )
    actions = said.get("actions") or []
    if said.get("event") == Category.ADMISSION_CONTROL and "quarantine" in actions:
        said["actions"] = [action for action in actions if action != "quarantine"]
        changes.append("quarantine is left out: on admission control it did nothing")
        if not said["actions"]:
            return Imported(origin=origin, thing=None, changes=tuple(changes), problems=("no action is left",))
    changes += _of_levels(said.get("conditions") or ())
    document = {
        "apiVersion": NEUVECTOR,
        "kind": "NvResponseRuleSecurityRule",
        "metadata": {"name": name},
        "spec": {"rule": {"policy_name": "default", **said}},
    }
    return _loaded(origin, document, tuple(changes))


def _of_levels(conditions: Iterable[Any]) -> Iterator[str]:
    for one in conditions:
        if isinstance(one, Mapping) and one.get("type") == "level":
            value = str(one.get("value"))
            if value not in set(Level) and value.casefold() in (level.casefold() for level in Level):
                yield f"level:{value} never matches there, where case counts; here it does"


def _loaded(origin: str, document: Mapping[str, Any], changes: tuple[str, ...]) -> Imported:
    try:
        documents = load_values([document])
    except DocumentError as error:
        problems = tuple(
            f"{problem.path}: {problem.message}" if problem.path else problem.message for problem in error.problems
        )
        return Imported(origin=origin, thing=None, changes=changes, problems=problems)
    things: tuple[Thing, ...] = (*documents.rules, *documents.groups)
    [thing] = things
    told = (*changes, *(warning.message for warning in documents.warnings))
    return Imported(origin=origin, thing=thing, changes=told)


def _told_apart(found: list[Imported]) -> list[Imported]:
    """No name twice of one kind: the second gets a number."""
    names: set[tuple[type, str]] = set()
    result = []
    for one in found:
        thing = one.thing
        if thing is not None:
            name, number = thing.name, 2
            while (type(thing), name) in names:
                name, number = f"{thing.name}-{number}", number + 1
            names.add((type(thing), name))
            one = msgspec.structs.replace(one, thing=msgspec.structs.replace(thing, name=name))  # noqa: PLW2901
        result.append(one)
    return result
