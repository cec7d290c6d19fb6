"""A policy as a form: what it is for, its mode, its scope and its response. What a form has no fields for, such as the tree
of processes, stays as it is written. Pure.

Conditions and entries are numbered in the names of their fields: scope-0-part, actions-1-if-0-values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.console.page import Query
from quell.documents.load import load_values
from quell.documents.options import Parameter
from quell.documents.policy_options import PolicyTypeOption, policy_options
from quell.documents.write import to_document
from quell.errors import DocumentError
from quell.model.policy import PolicyType

#: Fields of a spec that the form has; all others stay.
_HAS = {"mode", "enabled", "rulesets", "allowedFlags", "response"}
#: Conditions, and entries, that are read.
_MOST = 100
_NO_FIELDS = "it says something that a form has no fields for, such as a value with a comma"
_SIMPLE = ("matchFields", "matchLabels")
_DO = re.compile(r"(add|remove):([a-z0-9-]+)")


class Condition(Struct, frozen=True, kw_only=True):
    """One requirement of a selector. part: the selector and, of one with fixed fields, the field: containerSelector.image;
    of one of labels only the selector, with the label as key.
    """

    part: str = ""
    key: str = ""
    operator: str = "In"
    #: With commas between them.
    values: str = ""


class Entry(Struct, frozen=True, kw_only=True):
    """An entry of response.default or response.actions."""

    action: str = ""
    enabled: bool = True
    parameters: Mapping[str, str] = {}
    conditions: tuple[Condition, ...] = ()


class PolicyForm(Struct, frozen=True, kw_only=True):
    name: str
    type: str
    mode: str
    enabled: bool
    scope: tuple[Condition, ...] = ()
    #: With commas between them; and a class a line.
    rulesets: str = ""
    allowed: str = ""
    default: tuple[Entry, ...] = ()
    actions: tuple[Entry, ...] = ()
    #: Names of fields of the spec that the form does not have.
    others: tuple[str, ...] = ()

    def after(self, do: str) -> PolicyForm:
        """With a condition or entry more, or one less; do: of the button, such as add:scope or remove:actions-1-if-0."""
        found = _DO.fullmatch(do)
        if found is None:
            return self
        verb, place = found.groups()
        where, *rest = place.split("-")
        if where == "scope":
            return msgspec.structs.replace(self, scope=_after(self.scope, verb, rest, Condition()))
        if where not in ("default", "actions"):
            return self
        entries: tuple[Entry, ...] = getattr(self, where)
        if len(rest) >= 2 and rest[1] == "if" and rest[0].isdigit() and int(rest[0]) < len(entries):
            at = int(rest[0])
            one = msgspec.structs.replace(
                entries[at], conditions=_after(entries[at].conditions, verb, rest[2:], Condition())
            )
            entries = (*entries[:at], one, *entries[at + 1 :])
        else:
            new = Entry(conditions=(Condition(),) if where == "actions" else ())
            entries = _after(entries, verb, rest, new)
        return msgspec.structs.replace(self, **{where: entries})


class Options(Struct, frozen=True, kw_only=True):
    """What the selects of a form offer."""

    type: PolicyTypeOption
    #: (value, label), of the scope and of an entry.
    scope: tuple[tuple[str, str], ...]
    conditions: tuple[tuple[str, str], ...]
    operators: tuple[tuple[str, str], ...]
    actions: tuple[tuple[str, str], ...]
    parameters: Mapping[str, tuple[Parameter, ...]]
    #: Those of labels: their conditions have a key.
    labelled: frozenset[str]


@lru_cache(maxsize=8)
def options_of(type_: str) -> Options:
    """type_: one of a policy."""
    told = policy_options(types=[PolicyType(type_)])
    [option] = told.types
    known = {each.kind: each for each in told.selectors}
    in_scope = [*([option.required] if option.required else []), *option.optional]
    of_entries = dict.fromkeys(kind for action in option.actions for kind in action.selectors)

    def parts(kinds: Sequence[str]) -> tuple[tuple[str, str], ...]:
        found = []
        for kind in kinds:
            said = str(kind).removesuffix("Selector")
            fields = known[kind].fields
            found += [(f"{kind}.{field}", f"{said}: {field}") for field in fields] or [(str(kind), f"{said}: label")]
        return tuple(found)

    return Options(
        type=option,
        scope=parts(in_scope),
        conditions=parts(list(of_entries)),
        operators=(
            ("In", "is one of"),
            ("NotIn", "is none of"),
            ("Exists", "is there"),
            ("DoesNotExist", "is not there"),
        ),
        actions=tuple(
            (each.word, each.word if each.usual else f"{each.word} (unusual here)") for each in option.actions
        ),
        parameters={each.word: each.parameters for each in option.actions},
        labelled=frozenset(str(each.kind) for each in told.selectors if not each.fields),
    )


def unfit(form: PolicyForm, document: Mapping[str, Any]) -> str:
    """Why the form would not give back what its document says, so that it has to be edited as text; "": it would.

    document: as quell.documents.write makes it.
    """
    entries = (*form.default, *form.actions)
    if max(map(len, (form.scope, form.default, form.actions, *(each.conditions for each in entries)))) > _MOST:
        return f"it has more conditions or entries than the {_MOST} of a form"
    try:
        [again] = load_values([document_of(form, document)]).policies
    except DocumentError:
        return _NO_FIELDS
    return "" if to_document(again) == document else _NO_FIELDS


def form_of(document: Mapping[str, Any]) -> PolicyForm:
    """document: as quell.documents.write makes it."""
    metadata, spec = document["metadata"], document["spec"]
    response = spec.get("response", {})
    return PolicyForm(
        name=metadata["name"],
        type=metadata["type"],
        mode=spec["mode"],
        enabled=spec.get("enabled", True),
        scope=tuple(_conditions(spec)),
        rulesets=", ".join(spec.get("rulesets", ())),
        allowed="\n".join(each["class"] for each in spec.get("allowedFlags", ())),
        default=tuple(_entry(each) for each in response.get("default", ())),
        actions=tuple(_entry(each) for each in response.get("actions", ())),
        others=_others(spec),
    )


def read_form(form: Query, base: Mapping[str, Any]) -> PolicyForm:
    """What was filled in. base: the document that is edited; {}: a new one. Refusal 422: more than a form has."""
    types = {each.value for each in PolicyType}
    type_ = base["metadata"]["type"] if base else form.one("type")
    return PolicyForm(
        name=base["metadata"]["name"] if base else form.one("name").strip(),
        type=type_ if type_ in types else PolicyType.CONTAINER.value,
        mode=form.one("mode"),
        enabled="enabled" in form,
        scope=tuple(_read_conditions(form, "scope")),
        rulesets=form.one("rulesets"),
        allowed=form.one("allowed").replace("\r\n", "\n"),
        default=tuple(_read_entries(form, "default")),
        actions=tuple(_read_entries(form, "actions")),
        others=_others(base.get("spec", {})),
    )


def document_of(form: PolicyForm, base: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document, with what the form does not have as it is in `base`."""
    before = base.get("spec", {})
    spec: dict[str, Any] = {"mode": form.mode}
    if not form.enabled:
        spec["enabled"] = False
    spec |= _selectors(form.scope)
    if form.type == PolicyType.CLUSTER.value:
        spec["rulesets"] = _listed(form.rulesets)
    spec |= {name: before[name] for name in form.others}
    if form.type == PolicyType.TRACE.value:
        spec["allowedFlags"] = [{"class": line.strip()} for line in form.allowed.splitlines() if line.strip()]
    else:
        options = options_of(form.type)
        spec["response"] = {
            "default": [_written(each, options) for each in form.default if each.action],
            "actions": [_written(each, options) for each in form.actions if each.action],
        }
    metadata = dict(base.get("metadata", {})) or {"name": form.name, "type": form.type}
    return {"apiVersion": "quell.dev/v1", "kind": "Policy", "metadata": metadata, "spec": spec}


def _others(spec: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in spec if name not in _HAS and not name.endswith("Selector"))


# ---- from a document


def _conditions(given: Mapping[str, Any]) -> Iterator[Condition]:
    for kind, selector in given.items():
        if not kind.endswith("Selector"):
            continue
        labelled = "matchLabels" in selector or "matchExpressions" in selector
        for name, part in selector.items():
            if name in _SIMPLE:
                found = [(key, "In", [value]) for key, value in part.items()]
            else:
                found = [(each["key"], each["operator"], each.get("values", [])) for each in part]
            for key, operator, values in found:
                yield Condition(
                    part=kind if labelled else f"{kind}.{key}",
                    key=key if labelled else "",
                    operator=operator,
                    values=", ".join(values),
                )


def _entry(entry: Mapping[str, Any]) -> Entry:
    [(word, given)] = entry.items()
    parameters = {
        name: ", ".join(value)
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for name, value in given.items()
        if name != "enabled" and not name.endswith("Selector")
    }
    return Entry(
        action=word,
        enabled=given.get("enabled", True),
        parameters=parameters,
        conditions=tuple(_conditions(given)),
    )


# ---- from what was filled in


def _read_conditions(form: Query, place: str) -> Iterator[Condition]:
    for number in range(_MOST):
        name = f"{place}-{number}"
        if not form.sent(f"{name}-part"):
            return
        yield Condition(
            part=form.one(f"{name}-part"),
            key=form.one(f"{name}-key").strip(),
            operator=form.one(f"{name}-operator"),
            values=form.one(f"{name}-values"),
        )
    _no_more(form, f"{place}-{_MOST}-part")


def _read_entries(form: Query, place: str) -> Iterator[Entry]:
    for number in range(_MOST):
        name = f"{place}-{number}"
        if not form.sent(f"{name}-action"):
            return
        prefix = f"{name}-p-"
        yield Entry(
            action=form.one(f"{name}-action"),
            enabled=f"{name}-enabled" in form,
            parameters={
                key.removeprefix(prefix): form.one(key).replace("\r\n", "\n").strip()
                for key, _ in form
                if key.startswith(prefix)
            },
            conditions=tuple(_read_conditions(form, f"{name}-if")),
        )
    _no_more(form, f"{place}-{_MOST}-action")


def _no_more(form: Query, name: str) -> None:
    """Refusal 422: nothing that was filled in is left out without a word."""
    if form.sent(name):
        raise Refusal(422, f"a form has at most {_MOST} conditions or entries in one place: edit the policy as YAML")


# ---- into a document


def _selectors(conditions: Sequence[Condition]) -> dict[str, Any]:
    """Each selector under its kind, in the short form where one says it."""
    found: dict[str, dict[str, Any]] = {}
    for one in conditions:
        kind, _, field = one.part.partition(".")
        key, values = field or one.key, _listed(one.values)
        if not kind or not (key or values):
            continue
        selector = found.setdefault(kind, {})
        simple, written = ("matchFields", "matchFieldsExpressions") if field else ("matchLabels", "matchExpressions")
        if (
            one.operator == "In"
            and len(values) == 1
            and written not in selector
            and key not in selector.get(simple, {})
        ):
            selector.setdefault(simple, {})[key] = values[0]
        else:
            takes = {"values": values} if values else {}
            selector.setdefault(written, []).append({"key": key, "operator": one.operator, **takes})
    return found


def _written(entry: Entry, options: Options) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for parameter in options.parameters.get(entry.action, ()):
        value = entry.parameters.get(parameter.name, "")
        if value:
            given[parameter.name] = _value(parameter, value)
    if not entry.enabled:
        given["enabled"] = False
    return {entry.action: given | _selectors(entry.conditions)}


def _value(parameter: Parameter, text: str) -> Any:
    match parameter.form:
        case "flag" if text in ("true", "false"):
            return text == "true"
        case "webhooks":
            return _listed(text)
        case "number":
            return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text
        case _:
            return text


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _after(items: tuple[Any, ...], verb: str, rest: Sequence[str], new: Any) -> tuple[Any, ...]:
    if verb == "add":
        return (*items, new)
    at = int(rest[0]) if rest and rest[0].isdigit() else -1
    return tuple(item for place, item in enumerate(items) if place != at)
