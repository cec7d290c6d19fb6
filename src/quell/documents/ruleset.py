"""Rulesets, ours and Spyderbat's. SEMANTICS section 5, "Rulesets"."""

from __future__ import annotations

from quell.catalogue.policy_table import RULESET_TYPES, Target, Verb
from quell.documents.document import Document
from quell.documents.reader import Value, listed
from quell.documents.selectors import read_selectors
from quell.model.policy import PolicyType, Ruleset, RulesetRule

_NAME_LIMIT = 64
_ALL_SELECTORS = Target.EXE.selectors


def read(document: Document) -> Ruleset | None:
    fields = document.spec.fields(("rules",))
    type_field = document.metadata.get("type")
    if type_field is None:
        document.metadata_value.problem('missing field "type"', expected=listed(RULESET_TYPES))
    type_ = type_field.choice(PolicyType, "ruleset type") if type_field else None
    if type_field and type_ and type_ not in RULESET_TYPES:
        type_field.unknown("ruleset type", type_, RULESET_TYPES)
    name = document.name()
    if " " in name or len(name) > _NAME_LIMIT:
        document.metadata["name"].wrong(f"a name without blanks, of at most {_NAME_LIMIT} characters")
    rules = [_rule(item) for item in fields["rules"].items()] if "rules" in fields else []
    if type_ is None:
        return None
    return Ruleset(
        name=name,
        uid=document.metadata.text("uid"),
        type=type_,
        rules=tuple(rule for rule in rules if rule is not None),
        source=document.source,
    )


def _rule(item: Value) -> RulesetRule | None:
    required = ("target", "verb", "values")
    fields = item.fields(required, _ALL_SELECTORS)
    selectors = read_selectors(fields, _ALL_SELECTORS)
    if not fields.keys() >= set(required):
        return None
    target, verb = fields["target"].choice(Target, "target"), fields["verb"].choice(Verb, "verb")
    values = fields["values"].texts()
    if fields["values"].is_list and not values:
        fields["values"].wrong("at least one value", "an empty list")
    if target is not None:
        for kind in [kind for kind in _ALL_SELECTORS if kind in fields and kind not in target.selectors]:
            told = f"{target} takes no {kind}"
            fields[kind].name_of_field.problem(told, expected=listed(target.selectors), got=kind)
    if target is None or verb is None:
        return None
    return RulesetRule(target=target.value, allow=verb is Verb.ALLOW, values=values, selectors=selectors)
