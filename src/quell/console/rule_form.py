"""A rule as a form has it: from its fields to what is filled in, and back. What can be filled in the tables say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from quell.catalogue.table import ACTIONS, ALLOWED, CRITERIA, NO, Form
from quell.console.page import Query
from quell.documents.options import CriterionOption, Parameter, RuleOptions, parameters_of
from quell.documents.rule import category_of
from quell.errors import Problem
from quell.model.event import Category, Kind
from quell.model.explanation import Explanation

#: Between two values of a criterion, of which any is meant; within a value a backslash stands before it.
_OR, _ESCAPED = " | ", r" \| "
#: Behind the word of an action, which a rule has twice with other parameters.
_AGAIN = "~"
_TEXTS = ("event", "group", "comment", "mode", "cooldown", "limit", "max_age")
#: Fields that are yes or no, as the form names and explains them.
MORE_FLAGS = (
    ("approval", "Ask for approval", "Its destructive actions wait until somebody agrees."),
    ("evidence", "Evidence first", "What a process had open and was connected to is gathered before it is killed."),
    ("allow_broad", "Everything is meant", "It may act although neither a group nor a criterion narrows it."),
)
FLAGS = tuple(name for name, _, _ in MORE_FLAGS)
#: Beside the event itself: kinds of security events, which a rule may name in place of a category.
EVENTS = (*(each.value for each in Category), *(each.value for each in Kind))
#: Empty rows of criteria below those that are filled in, and the most rows of a form.
_SPARE, _ROWS = 1, 50
#: Names of events that are offered.
_NAMES = 800
_STEP = re.compile(r"([a-z_]+)(?:\[(\d+)\])?(?:\.([A-Za-z-]+))?(?:\.([A-Za-z_]+))?")


class Row(Struct, frozen=True, kw_only=True):
    """A criterion of the form."""

    text: str
    #: Of the page, without blanks.
    id: str


class Field(Struct, frozen=True, kw_only=True):
    """A parameter of an action."""

    parameter: Parameter
    name: str
    id: str
    values: list[str]

    @property
    def value(self) -> str:
        """Of several addresses, all in one line."""
        return ", ".join(self.values)


class Offered(Struct, frozen=True, kw_only=True):
    """An action of the form. condition: for which events of the category; "no": for none of it."""

    key: str
    word: str
    id: str
    chosen: bool
    condition: str
    description: str
    action_class: str
    destructive: bool
    reversible: bool
    fields: list[Field]


class Completion(Struct, frozen=True, kw_only=True):
    """A criterion to choose, or to go on from if it ends in a colon."""

    value: str
    label: str


class RuleForm:
    """What is filled in, over the names of the form's fields."""

    def __init__(self, filled: Query) -> None:
        self.filled = filled

    @property
    def event(self) -> str:
        return self.filled.one("event", Category.SECURITY_EVENT.value)

    @property
    def category(self) -> Category:
        found = category_of(self.event)
        return Category.SECURITY_EVENT if found is None else found[0]

    def rows(self, more: int = 0) -> list[Row]:
        """The criteria that are filled in, and empty rows for further ones."""
        texts = self._criteria()
        while texts and not texts[-1].strip():
            texts.pop()
        texts = (texts + [""] * (_SPARE + more))[: max(_ROWS, len(texts))]
        return [Row(text=text, id=f"criterion-{place}") for place, text in enumerate(texts)]

    def actions(self) -> list[Offered]:
        """What the category can have, and what is chosen although it cannot."""
        chosen = self.filled.all("action")
        offered = [word for word in ACTIONS if ALLOWED[word][self.category] != NO]
        keys = dict.fromkeys(offered)
        for key in chosen:
            if key.partition(_AGAIN)[0] in ACTIONS:
                keys.setdefault(key)
        order = list(ACTIONS)
        found = sorted(keys, key=lambda key: (order.index(key.partition(_AGAIN)[0]), key))
        return [self._offered(key, key in chosen) for key in found]

    def fields(self) -> dict[str, Any]:
        """The fields of a rule's spec that are filled in, with its name, as REST takes them."""
        filled = self.filled
        spec: dict[str, Any] = {"event": self.event}
        spec |= {name: value for name in ("name", *_TEXTS) if (value := filled.one(name).strip()) and name != "event"}
        if spec.get("mode") == "enforce":
            del spec["mode"]
        criteria = [criterion for text in self._criteria() if (criterion := _criterion(text)) is not None]
        if criteria:
            spec["criteria"] = criteria
        spec["actions"] = [self._action(key) for key in filled.all("action")]
        if webhooks := filled.all("webhooks"):
            spec["webhooks"] = webhooks
        spec |= {name: True for name in FLAGS if name in filled}
        if "enabled" not in filled:
            spec["disable"] = True
        return spec

    def changes(self) -> dict[str, Any]:
        """As `fields`, for a rule that is there: None for what it is to be without."""
        spec = self.fields()
        spec.pop("name", None)
        absent = ("group", "comment", "mode", "cooldown", "limit", "max_age", "criteria", "webhooks", "disable", *FLAGS)
        return {**dict.fromkeys(absent), **spec}

    def places(self, *, new: bool = True) -> list[str]:
        """Ids of all places at which something can be wrong, of the form that was sent."""
        found = [f"criterion-{place}" for place in range(len(self._criteria()))]
        found += [*(["name"] if new else []), "event", "actions", "criteria", "webhooks", *_TEXTS[1:], *FLAGS]
        for offered in self.actions():
            found += [offered.id, *(field.id for field in offered.fields)]
        return found

    def place(self, path: str) -> str:
        """The id of the field that a problem is of: criteria[0], actions[1].quarantine.ttl, cooldown; "": of none."""
        step = _STEP.match(path)
        if step is None:
            return ""
        name, index, _, parameter = step.groups()
        if name in ("criteria", "conditions"):
            filled = [place for place, text in enumerate(self._criteria()) if text.strip()]
            return "criteria" if index is None else f"criterion-{filled[int(index)]}"
        if name == "actions":
            chosen = self.filled.all("action")
            if index is None or int(index) >= len(chosen):
                return "actions"
            action = _id(chosen[int(index)])
            return f"{action}-{parameter}" if parameter and f"{action}-{parameter}" in self.places() else action
        return name if name in ("name", "event", "webhooks", *_TEXTS, *FLAGS) else ""

    def told(self, problems: Iterable[Problem]) -> tuple[dict[str, str], list[Problem]]:
        """Problems by the id of their field, and those that are of none."""
        found: dict[str, str] = {}
        rest: list[Problem] = []
        for problem in problems:
            place = self.place(problem.path)
            if not place:
                rest.append(problem)
                continue
            message = problem.message + (f"; did you mean {problem.nearest}?" if problem.nearest else "")
            found[place] = f"{found[place]}; {message}" if place in found else message
        return found, rest

    def _criteria(self) -> list[str]:
        """As they stand in the form, empty rows among them."""
        return list(dict(iter(self.filled)).get("criterion", ()))

    def _offered(self, key: str, chosen: bool) -> Offered:
        spec = ACTIONS[key.partition(_AGAIN)[0]]
        return Offered(
            key=key,
            word=spec.word,
            id=_id(key),
            chosen=chosen,
            condition=ALLOWED[spec.word][self.category],
            description=spec.description,
            action_class=spec.action_class.value,
            destructive=spec.destructive,
            reversible=spec.reversible,
            fields=[
                Field(
                    parameter=parameter,
                    name=f"{key}.{parameter.name}",
                    id=f"{_id(key)}-{parameter.name}",
                    values=self.filled.all(f"{key}.{parameter.name}"),
                )
                for parameter in parameters_of(spec)
                # The rule's own webhooks are these: one list says it.
                if parameter.name != "endpoints"
            ],
        )

    def _action(self, key: str) -> Any:
        word = key.partition(_AGAIN)[0]
        if word not in ACTIONS:
            return word
        given: dict[str, Any] = {}
        for parameter in parameters_of(ACTIONS[word]):
            values = self.filled.all(f"{key}.{parameter.name}")
            if not values:
                continue
            match parameter.form:
                case "flag":
                    given[parameter.name] = True
                case "webhooks":
                    given[parameter.name] = values
                case "addresses":
                    given[parameter.name] = re.findall(r"[^\s,]+", values[0])
                case "number":
                    given[parameter.name] = _number(values[0])
                case _:
                    given[parameter.name] = values[0]
        return {word: given} if given else word


def of_rule(spec: Mapping[str, Any]) -> RuleForm:
    """spec: as quell.controller.rule_changes.spec_of gives it."""
    filled: dict[str, list[str]] = {name: [str(spec[name])] for name in ("name", *_TEXTS) if spec.get(name)}
    filled |= {name: ["true"] for name in FLAGS if spec.get(name)}
    if not spec.get("disable"):
        filled["enabled"] = ["true"]
    filled["criterion"] = [criterion_text(each) for each in spec.get("criteria", ())]
    webhooks = list(spec.get("webhooks", ()))
    keys: list[str] = []
    for action in spec["actions"]:
        word, parameters = action_parts(action)
        key, count = word, 2
        while key in keys:
            key, count = f"{word}{_AGAIN}{count}", count + 1
        keys.append(key)
        for name, value in parameters.items():
            if name == "endpoints":
                webhooks += [each for each in value if each not in webhooks]
            else:
                filled[f"{key}.{name}"] = _written(value)
    filled |= {"action": keys, "webhooks": webhooks}
    return RuleForm(Query(filled))


def of_event(told: Explanation) -> RuleForm:
    """A rule for events like this one: of its name, and of its process if it has one."""
    event = told.event
    category = Category(event["category"])
    criteria = [f"name:{event.get('catalogue_name') or event['name']}"]
    process = event.get("subject", {}).get("process", {})
    if category in CRITERIA["process"].categories and process.get("name"):
        criteria.append(f"process:{process['name']}")
    filled = {"event": [str(event.get("kind") or category.value)], "criterion": criteria, "enabled": ["true"]}
    return RuleForm(Query(filled))


def blank() -> RuleForm:
    return RuleForm(Query({"event": [Category.SECURITY_EVENT.value], "enabled": ["true"]}))


def completions(options: RuleOptions, event: str) -> list[Completion]:
    """What a criterion of this category can begin with, or be: of GET /v1/rules/options."""
    [category] = options.categories
    found = [each for option in category.criteria for each in _completions(option)]
    kinds = {each.value for each in Kind}
    names = [
        Completion(value=f"name:{name.pattern or name.name}", label=name.description)
        for name in category.names
        if event not in kinds or name.kind in (None, event)
    ]
    names += [Completion(value=f"name:{each.name}", label=each.source or each.origin) for each in category.dynamic]
    return [*found, *names[:_NAMES]]


def criterion_text(criterion: str | Mapping[str, Any]) -> str:
    """As the form has it: type:value, or type:value | value."""
    if isinstance(criterion, str):
        type_, colon, value = criterion.partition(":")
        return f"{type_}{colon}{value.replace(_OR, _ESCAPED)}"
    values = criterion["value"]
    several = values if isinstance(values, list) else [values]
    return f"{criterion['type']}:{_OR.join(str(value).replace(_OR, _ESCAPED) for value in several)}"


def action_parts(action: str | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Word and parameters."""
    if isinstance(action, str):
        return action, {}
    [(word, parameters)] = action.items()
    return word, parameters or {}


def action_text(action: str | Mapping[str, Any]) -> str:
    """An action with the parameters that a table has room for."""
    word, parameters = action_parts(action)
    told = [
        str(parameters[name])
        if name in ("severity", "ttl")
        else name
        if parameters[name] is True
        else f"{name} {parameters[name]}"
        for name in ("severity", "ttl", "strict", "priority", "grace_period")
        if parameters.get(name)
    ]
    return f"{word} ({', '.join(told)})" if told else word


def _completions(option: CriterionOption) -> list[Completion]:
    if option.values:
        return [Completion(value=f"{option.type}:{value}", label=option.description) for value in option.values]
    beginning = option.type if option.type.endswith(":") else f"{option.type}:"
    if option.form in (Form.COUNT, Form.FIXED_COUNT):
        return [Completion(value=option.example, label=option.description)]
    return [Completion(value=beginning, label=f"{option.description} Such as {option.example}")]


def _criterion(text: str) -> str | dict[str, Any] | None:
    text = text.strip()
    if not text:
        return None
    values = [value.replace(_ESCAPED, _OR) for value in text.split(_OR)]
    if len(values) == 1:
        return values[0]
    type_, colon, first = values[0].partition(":")
    if type_ == "label":
        key, colon, first = first.partition(":")
        type_ = f"label:{key}"
    return {"type": type_, "value": [value.strip() for value in (first, *values[1:])]} if colon else text


def _number(text: str) -> int | str:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text


def _written(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(each) for each in value]
    return ["true"] if value is True else [str(value)]


def _id(key: str) -> str:
    return key.replace(_AGAIN, "-")
