"""Groups of workloads. SEMANTICS section 2."""

from __future__ import annotations

from enum import StrEnum

import re2

from quell.catalogue.words import nearest
from quell.documents.document import Document
from quell.documents.reader import Value
from quell.model.rule import Group, GroupCriterion

#: Groups that are always there.
RESERVED = ("containers", "nodes", "external", "all")
#: What the names of learned groups begin with.
LEARNED = "nv."
#: Keys that are no label; "ns:" begins that of a namespace's label.
KEYS = ("image", "node", "container", "service", "domain", "namespace", "address")
_QUIET = re2.Options()
_QUIET.log_errors = False


class Op(StrEnum):
    EQUALS = "="
    DIFFERS = "!="
    CONTAINS = "contains"
    PREFIX = "prefix"
    REGEX = "regex"
    NOT_REGEX = "!regex"


def read(document: Document) -> Group:
    fields = document.spec.fields((), ("comment", "criteria"))
    name = document.name()
    place = document.metadata.get("name", document.metadata_value)
    if name in RESERVED:
        place.problem(f"{name} is a group that is always there: take another name", expected="another name", got=name)
    elif name.startswith(LEARNED):
        place.warn(f"{LEARNED}* names groups that Quell learns from the workloads it sees", got=name)
    criteria = [_criterion(item) for item in fields["criteria"].items()] if "criteria" in fields else []
    if not criteria:
        document.spec.warn("no criteria: the group has no members", expected="criteria")
    return Group(
        name=name,
        comment=fields.text("comment"),
        criteria=tuple(criterion for criterion in criteria if criterion is not None),
        source=document.source,
    )


def _criterion(item: Value) -> GroupCriterion | None:
    fields = item.fields(("key", "op", "value"))
    if len(fields) < 3:
        return None
    key, op, value = fields["key"].text(), fields["op"].choice(Op, "operator"), fields["value"].text()
    if key == "ns:":
        fields["key"].problem("ns: needs the label of a namespace after it", expected="ns:<label>", got=key)
    if key not in KEYS and (near := nearest(key, KEYS)) and sorted(key) == sorted(near):
        fields["key"].warn(f"{key} is taken for a pod's label", expected=near, got=key, near=near)
    if op is None:
        return None
    if op in (Op.REGEX, Op.NOT_REGEX):
        _check_pattern(fields["value"], value)
    if key == "address" and op is not Op.EQUALS:
        fields["op"].problem("an address can only be compared with =", expected="=", got=op)
    return GroupCriterion(key=key, op=op.value, value=value)


def _check_pattern(place: Value, pattern: str) -> None:
    try:
        re2.compile(pattern, _QUIET)
    except re2.error as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        place.problem(f"not a regular expression (RE2): {reason}", expected="a regular expression", got=pattern)
