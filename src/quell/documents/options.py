"""Everything that can be written in a response rule, in one value: what the options endpoint answers, what completion
offers without a controller, and what the matrix in the docs is made of. It reads the tables and adds nothing to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from quell.catalogue.forms import KINDS, REPORTS
from quell.catalogue.mappings import rule_names
from quell.catalogue.names import NAMES, CatalogueName
from quell.catalogue.table import ACTIONS, ALLOWED, CATEGORIES, CRITERIA, NO, WRITTEN, ActionSpec, CriterionSpec, Form
from quell.documents.actions import CONTENT_LIMIT, GRACE_LIMIT, IMPACT_LIMIT, PRIORITIES
from quell.documents.group import KEYS, RESERVED, Op
from quell.documents.rule import CATEGORIES as CATEGORY_WORDS
from quell.model.event import Category, Level
from quell.model.investigator import INVESTIGATORS_LIMIT
from quell.model.rule import Mode


class Parameter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of an action. minimum and maximum: of a number, or of the characters of a text."""

    name: str
    #: duration, flag, number, text, choice or webhooks.
    form: str
    description: str
    required: bool = False
    values: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None


class CriterionOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A criterion that a category takes. type "label:" stands for label:<key>."""

    type: str
    form: str
    written: str
    description: str
    example: str
    #: All that can be written, where that is a list: levels, kinds, reports.
    values: tuple[str, ...] = ()


class NameOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name of the catalogue that an event of the category can have."""

    name: str
    level: str
    description: str
    kind: str | None = None
    #: mission, reference or quell: whose name it is.
    origin: str = "mission"
    aliases: tuple[str, ...] = ()
    #: It stands for a family of names: the glob of its members.
    pattern: str = ""


class DynamicName(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A name that is in no catalogue: a detector's rule, DLP.<sensor>.<rule>, WAF.<sensor>.<rule>, a custom check."""

    name: str
    #: seen: an event carried it; rule: a rule in force names it; mapping: a mapping of a detector's rules has it.
    origin: str
    kind: str = ""
    source: str = ""
    #: When an event first carried it, epoch seconds.
    seen: float | None = None


class ActionOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An action that a category can have. condition: for which of its events; "yes": for all."""

    word: str
    condition: str
    action_class: str
    destructive: bool
    reversible: bool
    description: str
    example: str
    needs: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()


class CategoryOption(Struct, frozen=True, kw_only=True):
    category: str
    description: str
    #: Other words that a rule may use for it.
    words: tuple[str, ...]
    criteria: tuple[CriterionOption, ...]
    actions: tuple[ActionOption, ...]
    names: tuple[NameOption, ...]
    dynamic: tuple[DynamicName, ...] = ()


class GroupOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    #: reserved, learned or defined.
    kind: str
    comment: str = ""


class WebhookOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    type: str
    enabled: bool = True
    default: bool = False


class RuleOptions(Struct, frozen=True, kw_only=True):
    """group_keys: anything else is a pod's label; ns:<label> is a namespace's."""

    categories: tuple[CategoryOption, ...]
    groups: tuple[GroupOption, ...]
    group_keys: tuple[str, ...]
    group_operators: tuple[str, ...]
    webhooks: tuple[WebhookOption, ...]
    modes: tuple[str, ...]


_RESERVED = tuple(GroupOption(name=name, kind="reserved") for name in RESERVED)
#: Finite values, by form.
_VALUES: Mapping[Form, tuple[str, ...]] = {
    Form.LEVEL: (*Level, *(f">={level}" for level in Level)),
    Form.KIND: KINDS,
    Form.REPORT: REPORTS,
}
#: Parameter -> what it says, and its bounds where its type has none.
_PARAMETERS: Mapping[str, tuple[str, int | None, int | None]] = {
    "ttl": (
        "After how long it ends unless new evidence comes, such as 1h; absent: it is released by hand.",
        None,
        None,
    ),
    "strict": ("Close the ports of the pod's probes and loopback too.", None, None),
    "investigator": (
        f"IPv4 or IPv6 addresses, at most {INVESTIGATORS_LIMIT}, that may reach it meanwhile; not with strict.",
        None,
        None,
    ),
    "endpoints": ("Names of webhooks; none: those marked default.", None, None),
    "severity": ("How bad it is.", None, None),
    "impact": ("What it means, in a line.", 0, IMPACT_LIMIT),
    "content": ("Markdown.", 0, CONTENT_LIMIT),
    "webhooks": ("Names of webhooks that the flag goes to.", None, None),
    "grace_period": ("Seconds between the polite signal and the last one.", 0, GRACE_LIMIT),
    "priority": ("From -20 (most of the processor) to 19 (least).", *PRIORITIES),
}


def rule_options(
    dynamic: Mapping[Category, Iterable[DynamicName]] | None = None,
    groups: Iterable[GroupOption] = _RESERVED,
    webhooks: Iterable[WebhookOption] = (),
    categories: Iterable[Category] = tuple(Category),
) -> RuleOptions:
    """dynamic, groups, webhooks: what a controller knows beside the tables; without one, the mappings' and reserved ones."""
    if dynamic is None:
        mapped = tuple(DynamicName(name=name, origin="mapping") for name in sorted(rule_names()))
        dynamic = {Category.SECURITY_EVENT: mapped}
    return RuleOptions(
        categories=tuple(_category(category, tuple(dynamic.get(category, ()))) for category in categories),
        groups=tuple(groups),
        group_keys=(*KEYS, "ns:"),
        group_operators=tuple(Op),
        webhooks=tuple(webhooks),
        modes=tuple(Mode),
    )


def criteria_of(category: Category) -> list[CriterionSpec]:
    return [spec for spec in CRITERIA.values() if category in spec.categories]


def names_of(category: Category) -> list[CatalogueName]:
    """The names of the catalogue that rules of the category can meet."""
    return [
        entry
        for entry in NAMES.values()
        if category in (entry.category, *entry.also_category) or (entry.deviation and category is Category.DEVIATION)
    ]


def parameters_of(spec: ActionSpec) -> tuple[Parameter, ...]:
    """As the action's struct has them."""
    hints = get_type_hints(spec.struct)
    return tuple(_parameter(field, hints[field.name]) for field in msgspec.structs.fields(spec.struct))


def _category(category: Category, dynamic: tuple[DynamicName, ...]) -> CategoryOption:
    return CategoryOption(
        category=category.value,
        description=CATEGORIES[category],
        words=tuple(
            word
            for word, (meant, _) in CATEGORY_WORDS.items()
            if meant is category and word.rstrip("s") != category.replace("-", "")
        ),
        criteria=tuple(
            CriterionOption(
                type=spec.type,
                form=spec.form.value,
                written=WRITTEN[spec.form],
                description=spec.description,
                example=spec.example,
                values=tuple(map(str, _VALUES.get(spec.form, ()))),
            )
            for spec in criteria_of(category)
        ),
        actions=tuple(
            ActionOption(
                word=spec.word,
                condition=ALLOWED[spec.word][category],
                action_class=spec.action_class.value,
                destructive=spec.destructive,
                reversible=spec.reversible,
                description=spec.description,
                example=spec.example,
                needs=spec.needs,
                permissions=spec.permissions,
                parameters=parameters_of(spec),
            )
            for spec in ACTIONS.values()
            if ALLOWED[spec.word][category] != NO
        ),
        names=tuple(
            NameOption(
                name=entry.name,
                level=entry.level.value,
                description=entry.description,
                kind=None if entry.kind is None else entry.kind.value,
                origin=entry.origin,
                aliases=entry.aliases,
                pattern=entry.pattern,
            )
            for entry in names_of(category)
        ),
        dynamic=dynamic,
    )


def _parameter(field: msgspec.structs.FieldInfo, hint: Any) -> Parameter:
    description, minimum, maximum = _PARAMETERS[field.name]
    form, values = _form(field.name, hint)
    return Parameter(
        name=field.name,
        form=form,
        description=description,
        required=field.required,
        values=values,
        minimum=minimum,
        maximum=maximum,
    )


def _form(name: str, hint: Any) -> tuple[str, tuple[str, ...]]:
    if get_origin(hint) is tuple:
        return "addresses" if name == "investigator" else "webhooks", ()
    types = [each for each in (get_args(hint) or (hint,)) if each is not type(None)]
    match types:
        case [type() as one] if issubclass(one, Enum):
            return "choice", tuple(str(member.value) for member in one)
        case [type() as one]:
            return {bool: "flag", int: "number", float: "duration", str: "text"}[one], ()
        case _:
            raise TypeError(f"the parameter {name} has a type that no form is known for: {hint}")
