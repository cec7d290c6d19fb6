"""Everything that can be written in a policy or ruleset, in one value: what GET /v1/policies/options answers, and what the
matrix in the docs is made of. It reads the tables (quell.catalogue.policy_table) and adds nothing to them.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from quell.catalogue.policy_table import (
    OPERATORS,
    POLICY_TYPES,
    RULESET_TYPES,
    SELECTORS,
    ListSpec,
    PolicyTypeSpec,
    Target,
    Verb,
    selectors_of,
)
from quell.catalogue.table import ACTIONS, ActionSpec
from quell.documents.actions import KILLS
from quell.documents.options import Parameter, WebhookOption, parameters_of
from quell.model.policy import PolicyType
from quell.model.rule import Mode

#: Of an entry that kills, beside the action's own parameters.
_EVIDENCE = (
    Parameter(name="evidence", form="flag", description="Gather what the process is like before it is killed."),
)


class SelectorOption(Struct, frozen=True, kw_only=True):
    kind: str
    description: str
    #: What its short form takes; (): any label.
    fields: tuple[str, ...]
    #: The names of its short form, and of its expressions.
    parts: tuple[str, str]
    example: str


class OperatorOption(Struct, frozen=True, kw_only=True):
    name: str
    #: Whether it takes values.
    values: bool
    description: str


class ListOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A field that says what is expected, or suppressed."""

    name: str
    #: list, mapping or choice.
    form: str
    description: str
    values: tuple[str, ...] = ()


class PolicyActionOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An action of a policy. usual: for this type; others are taken with a warning."""

    word: str
    usual: bool
    action_class: str
    destructive: bool
    reversible: bool
    description: str
    example: str
    #: Those that an entry of response.actions may have; it has at least one, an entry of response.default none.
    selectors: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()


class PolicyTypeOption(Struct, frozen=True, kw_only=True, omit_defaults=True):
    type: str
    description: str
    #: The selector that its scope must have; absent: at least one of the others.
    required: str | None = None
    optional: tuple[str, ...] = ()
    lists: tuple[ListOption, ...] = ()
    #: None: it has no response.
    actions: tuple[PolicyActionOption, ...] = ()


class TargetOption(Struct, frozen=True, kw_only=True):
    """What a rule of a ruleset is about, and the selectors that it may have."""

    target: str
    selectors: tuple[str, ...]


class PolicyOptions(Struct, frozen=True, kw_only=True):
    """rulesets, webhooks: those that a controller has."""

    types: tuple[PolicyTypeOption, ...]
    modes: tuple[str, ...]
    selectors: tuple[SelectorOption, ...]
    operators: tuple[OperatorOption, ...]
    ruleset_types: tuple[str, ...]
    targets: tuple[TargetOption, ...]
    verbs: tuple[str, ...]
    rulesets: tuple[str, ...]
    webhooks: tuple[WebhookOption, ...]


def policy_options(
    rulesets: Iterable[str] = (),
    webhooks: Iterable[WebhookOption] = (),
    types: Iterable[PolicyType] = tuple(PolicyType),
) -> PolicyOptions:
    """rulesets, webhooks: what a controller knows beside the tables. types: those that are asked for."""
    return PolicyOptions(
        types=tuple(_type(POLICY_TYPES[type_]) for type_ in types),
        modes=tuple(Mode),
        selectors=tuple(
            SelectorOption(
                kind=spec.kind.value,
                description=spec.description,
                fields=spec.fields,
                parts=spec.parts,
                example=spec.example,
            )
            for spec in SELECTORS.values()
        ),
        operators=tuple(
            OperatorOption(name=operator.value, values=values, description=description)
            for operator, (values, description) in OPERATORS.items()
        ),
        ruleset_types=tuple(RULESET_TYPES),
        targets=tuple(TargetOption(target=target.value, selectors=tuple(target.selectors)) for target in Target),
        verbs=tuple(Verb),
        rulesets=tuple(rulesets),
        webhooks=tuple(webhooks),
    )


def _type(spec: PolicyTypeSpec) -> PolicyTypeOption:
    return PolicyTypeOption(
        type=spec.type.value,
        description=spec.description,
        required=spec.must,
        optional=tuple(spec.may),
        lists=tuple(_list(one) for one in spec.lists),
        actions=tuple(_action(action, spec) for action in ACTIONS.values()) if spec.usual else (),
    )


def _list(spec: ListSpec) -> ListOption:
    return ListOption(name=spec.name, form=spec.form, description=spec.description, values=spec.values)


def _action(action: ActionSpec, spec: PolicyTypeSpec) -> PolicyActionOption:
    return PolicyActionOption(
        word=action.word,
        usual=action.word in spec.usual,
        action_class=action.action_class.value,
        destructive=action.destructive,
        reversible=action.reversible,
        description=action.description,
        example=action.example,
        selectors=tuple(selectors_of(action.word)),
        parameters=(*parameters_of(action), *(_EVIDENCE if action.word in KILLS else ())),
    )
