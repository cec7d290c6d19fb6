"""Rulesets, ours and Spyderbat's. SEMANTICS section 5, "Rulesets"."""

from __future__ import annotations

from enum import StrEnum

from quell.documents.document import Document
from quell.documents.reader import Value, listed
from quell.documents.selectors import read_selectors
from quell.model.policy import PolicyType, Ruleset, RulesetRule, SelectorKind


class Target(StrEnum):
    IMAGE = "container::image"
    IMAGE_ID = "container::imageID"
    CONTAINER_NAME = "container::containerName"
    CONTAINER_ID = "container::containerID"
    EXE = "process::exe"
    PROCESS_NAME = "process::name"
    EUSER = "process::euser"


class Verb(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


#: Policies of these types have rulesets.
_TYPES = (PolicyType.CLUSTER, PolicyType.CONTAINER)
_NAME_LIMIT = 64
_S = SelectorKind
_SELECTORS = (_S.CLUSTER, _S.MACHINE, _S.NAMESPACE, _S.POD, _S.CONTAINER, _S.PROCESS)


def read(document: Document) -> Ruleset | None:
    fields = document.spec.fields(("rules",))
    type_field = document.metadata.get("type")
    if type_field is None:
        document.metadata_value.problem('missing field "type"', expected=listed(_TYPES))
    type_ = type_field.choice(PolicyType, "ruleset type") if type_field else None
    if type_field and type_ and type_ not in _TYPES:
        type_field.unknown("ruleset type", type_, _TYPES)
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
    fields = item.fields(required, _SELECTORS)
    selectors = read_selectors(fields, _SELECTORS)
    if not fields.keys() >= set(required):
        return None
    target, verb = fields["target"].choice(Target, "target"), fields["verb"].choice(Verb, "verb")
    values = fields["values"].texts()
    if fields["values"].is_list and not values:
        fields["values"].wrong("at least one value", "an empty list")
    if target is not None and _S.PROCESS in fields and not target.startswith("process::"):
        fields[_S.PROCESS].name_of_field.problem(
            f"{target} takes no {_S.PROCESS}", expected=listed(_SELECTORS[:-1]), got=_S.PROCESS
        )
    if target is None or verb is None:
        return None
    return RulesetRule(target=target.value, allow=verb is Verb.ALLOW, values=values, selectors=selectors)
