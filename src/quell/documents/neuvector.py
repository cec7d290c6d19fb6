"""NeuVector's custom resource for a response rule, read with the meaning that it has there.

Where a bare count with a fix means "at least" there and "more than" here (SEMANTICS section 3), it is stored as >=N, and
what would be a glob here as one that means its letters. What then still differs is said as a warning. Source: neuvector/neuvector, controller/cache/response.go and
controller/rest/response.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from quell.catalogue.forms import is_glob
from quell.catalogue.names import resolve
from quell.documents import rule
from quell.documents.document import Document
from quell.model.action import SendWebhook, SuppressLog
from quell.model.event import Category
from quell.model.rule import Criterion, Rule

_REQUIRED = ("policy_name", "event", "actions")
_LETTERS = frozenset(("name", "process", "cve-name"))
_GLOB_SIGN = re.compile(r"[*?[]")
_OPTIONAL = ("group", "conditions", "comment", "disable", "webhooks")


class PolicyName(StrEnum):
    """Which of its two sets a rule belongs to."""

    DEFAULT = "default"
    FEDERAL = "fed"


def read(document: Document) -> Rule | None:
    outer = document.spec.fields(("rule",))
    if "rule" not in outer:
        return None
    fields = outer["rule"].fields(_REQUIRED, _OPTIONAL)
    federal = fields.choice("policy_name", PolicyName, PolicyName.DEFAULT) is PolicyName.FEDERAL
    read_rule = rule.read_fields(document, outer["rule"], fields, document.name(), counts_at_least=True)
    if read_rule is None:
        return None
    read_rule = msgspec.structs.replace(read_rule, criteria=tuple(map(_literal, read_rule.criteria)))
    for told in differences(read_rule):
        outer["rule"].warn(told)
    if federal:
        return msgspec.structs.replace(read_rule, cfg_type=rule.CfgType.FEDERAL.value)
    return read_rule


def _literal(criterion: Criterion) -> Criterion:
    """Names are compared letter by letter there: *, ? and [ mean themselves, each as a set of one."""
    if criterion.type not in _LETTERS or not any(map(is_glob, criterion.values)):
        return criterion
    return msgspec.structs.replace(
        criterion, values=tuple(_GLOB_SIGN.sub(r"[\g<0>]", value) for value in criterion.values)
    )


def differences(imported: Rule) -> tuple[str, ...]:
    """Where a rule that was NeuVector's means something else here than it did there, a sentence each."""
    return tuple(
        dict.fromkeys(
            (*_of_criteria(imported.criteria, imported.category), *_of_group(imported), *_of_actions(imported))
        )
    )


def _of_criteria(criteria: tuple[Criterion, ...], category: Category) -> Iterator[str]:
    fixed = False
    for criterion in criteria:
        if fixed:
            yield (
                f"{criterion.type} stands after a count with a fix: NeuVector ignores what comes after one, here it "
                "must hold as well"
            )
        fixed = fixed or criterion.type.endswith("-with-fix")
        for value in criterion.values:
            yield from _of_value(criterion.type, value, category)


def _of_value(type_: str, value: str, category: Category) -> Iterator[str]:
    told = f"{type_}:{value}"
    if type_.endswith("-with-fix"):
        yield f"{told} is NeuVector's {value.removeprefix('>=')}: at least so many there, more than so many here"
    elif type_ == "cve-name" and not is_glob(value):
        head, _, number = value.upper().removeprefix("CVE-").partition("-")
        if value.upper().startswith("CVE-") and not (len(head) == 4 and len(number) >= 4):
            yield f"{told} is a whole name there; here a short number is the beginning of one and matches more"
    elif type_ == "level":
        yield from _of_level(value)
    elif type_ == "process" and "/" in value:
        yield f"{told} is compared with the process's name there, which has no slash; here with its executable's path"
    if type_ in _LETTERS and is_glob(value):
        source = re.sub(r"\[([*?[])\]", r"\1", value)
        yield f"{told} is NeuVector's {source}, which it compares letter by letter; {source} itself would be a glob here"
    if type_ == "name" and category is Category.COMPLIANCE and resolve(value) is None and value[:1].isdigit():
        yield f"{told} has to be the whole number there; here it is also that number of any benchmark, such as D.{value}"


def _of_level(value: str) -> Iterator[str]:
    if value.startswith(">="):
        yield f"level:{value} never matches there; here it takes that level and those above it"


def _of_group(imported: Rule) -> Iterator[str]:
    if imported.group == "nodes":
        yield (
            "group nodes: NeuVector counts every event without a workload as its member (logins, admission control) and "
            "no scan or benchmark of a host; here it is the hosts, with their incidents, scans and benchmarks"
        )
    elif imported.group and imported.category is Category.ADMISSION_CONTROL:
        yield f"group {imported.group}: NeuVector takes no group for admission control; here the object's workload decides"


def _of_actions(imported: Rule) -> Iterator[str]:
    kinds = {type(action) for action in imported.actions}
    if SendWebhook in kinds and not imported.webhooks:
        yield "webhook names no endpoint: NeuVector then calls none; here those marked default are called"
    elif SendWebhook in kinds:
        yield "its webhooks are called also when another rule's webhook matched the event first, as NeuVector does not"
    if SuppressLog in kinds:
        yield "suppress-log also silences webhooks here, other rules' too; NeuVector still calls them"
