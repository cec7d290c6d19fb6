"""Selectors of policies and rulesets. SEMANTICS section 5."""

from __future__ import annotations

from collections.abc import Collection

from quell.catalogue.policy_table import SELECTORS
from quell.documents.reader import Fields, Value, listed
from quell.model.policy import Operator, Requirement, Selector, SelectorKind

#: Fields that once stood directly in the selector, and what they are called now.
_DIRECT: dict[SelectorKind, dict[str, str]] = {
    SelectorKind.MACHINE: {"hostname": "hostname", "machineUID": "uid"},
    SelectorKind.CONTAINER: {field: field for field in SELECTORS[SelectorKind.CONTAINER].fields},
    SelectorKind.SERVICE: {"cgroup": "cgroup"},
    SelectorKind.PROCESS: {field: field for field in SELECTORS[SelectorKind.PROCESS].fields},
    SelectorKind.TRACE: {field: field for field in SELECTORS[SelectorKind.TRACE].fields},
    SelectorKind.USER: {"users": "user", "interactiveUsers": "user", "nonInteractiveUsers": "user"},
}
#: What such a field said beside, which is not compared any more.
_NOT_COMPARED = dict.fromkeys(
    ("interactiveUsers", "nonInteractiveUsers"), "; whether a session is interactive is not looked at"
)


def read_selectors(fields: Fields, kinds: Collection[SelectorKind]) -> tuple[Selector, ...]:
    """The selectors of these kinds that the fields have, in the order of the kinds."""
    found = (_read(kind, fields[kind]) for kind in SelectorKind if kind in kinds and kind in fields)
    return tuple(selector for selector in found if selector is not None)


def _read(kind: SelectorKind, value: Value) -> Selector | None:
    words, (simple, expressions) = SELECTORS[kind].fields, SELECTORS[kind].parts
    direct = _DIRECT.get(kind, {})
    fields = value.fields((), (simple, expressions, *direct))
    if value.is_mapping and value.is_empty:
        value.wrong(f"{simple} or {expressions}", "an empty selector")
    requirements: list[Requirement] = []
    if simple in fields:
        requirements += _simple(fields[simple], words)
    if expressions in fields:
        entries = fields[expressions].items()
        if fields[expressions].is_list and fields[expressions].is_empty:
            fields[expressions].wrong("at least one expression", "an empty list")
        requirements += [made for entry in entries if (made := _expression(entry, words)) is not None]
    for old in direct:
        if old in fields:
            requirements.append(_deprecated(fields[old], old, direct[old]))
    return Selector(kind=kind, requirements=tuple(requirements)) if requirements else None


def _simple(value: Value, words: tuple[str, ...]) -> list[Requirement]:
    entries = value.entries()
    if value.is_mapping and value.is_empty:
        value.wrong("at least one key and value", "an empty mapping")
    requirements = []
    for key, field in entries.items():
        if words and key not in words:
            field.name_of_field.unknown("field", key, words)
        elif field.is_list:
            field.wrong("one text (several are an expression: {key: ..., operator: In, values: [...]})")
        else:
            text = field.text(empty=not words)
            requirements.append(Requirement(key=key, operator=Operator.IN, values=(text,)))
    return requirements


def _expression(value: Value, words: tuple[str, ...]) -> Requirement | None:
    fields = value.fields(("key", "operator"), ("values",))
    if len(fields.keys() & {"key", "operator"}) < 2:
        return None
    key, operator = fields["key"].text(), fields["operator"].choice(Operator, "operator")
    if words and key and key not in words:
        fields["key"].unknown("field", key, words)
    if operator is None:
        return None
    values = fields["values"].texts(empty=not words) if "values" in fields else ()
    takes_values = operator in (Operator.IN, Operator.NOT_IN)
    if takes_values and not values:
        value.problem(f"{operator} needs values", expected="values: [...]", got="no values")
    elif values and not takes_values:
        fields["values"].name_of_field.problem(f"{operator} takes no values", expected="no values", got=listed(values))
    return Requirement(key=key, operator=operator, values=values)


def _deprecated(value: Value, old: str, field: str) -> Requirement:
    value.name_of_field.warn(
        f"{old} directly in a selector is an older form: write matchFields: {{{field}: ...}}{_NOT_COMPARED.get(old, '')}",
        expected=f"matchFields: {{{field}: ...}}",
        got=old,
    )
    if value.is_list:
        values = value.texts()
        if not values:
            value.wrong("at least one value", "an empty list")
    else:
        values = (value.text(),)
    return Requirement(key=field, operator=Operator.IN, values=values)
