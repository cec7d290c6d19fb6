"""The model as documents: what to_document makes loads back to an equal value (its source apart)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import yaml
from msgspec.structs import fields as struct_fields

from quell.documents.actions import IMPACT_LIMIT
from quell.documents.hidden import hide
from quell.documents.load import OURS, Thing
from quell.durations import format_duration
from quell.model.action import Action, MakeOpsFlag, MakeRedFlag, Quarantine, word
from quell.model.policy import Policy, ResponseEntry, Ruleset
from quell.model.rule import Criterion, Group, Rule, Webhook, WebhookFilter
from quell.model.spec import expected_spec, ruleset_rule_spec, selectors_spec
from quell.model.syslog import Syslog, SyslogFilter

#: The line between documents. No document has such a line within: all below its first level is indented.
SEPARATOR = "---\n"
#: What a missing field of a rule means.
_DEFAULTS = {field.name: field.default for field in struct_fields(Rule)}


def to_document(thing: Thing, secrets: bool = False) -> dict[str, Any]:
    """A quell.dev/v1 document. Without secrets, (secret) stands for those of a webhook; applied, it means the one in force."""
    match thing:
        case Rule():
            return _document("ResponseRule", {"name": thing.name}, _rule(thing))
        case Group():
            criteria = [msgspec.to_builtins(criterion) for criterion in thing.criteria]
            return _document("Group", {"name": thing.name}, _filled(comment=thing.comment, criteria=criteria))
        case Webhook():
            return _document("Webhook", {"name": thing.name}, _webhook(thing if secrets else hide(thing)))
        case Syslog():
            return _document("Syslog", {"name": thing.name}, _syslog(thing))
        case Policy():
            metadata = _filled(name=thing.name, type=thing.type.value, uid=thing.uid)
            return _document("Policy", metadata, _policy(thing))
        case Ruleset():
            metadata = _filled(name=thing.name, type=thing.type.value, uid=thing.uid)
            return _document("Ruleset", metadata, {"rules": [ruleset_rule_spec(rule) for rule in thing.rules]})


def dump_yaml(things: Iterable[Thing], secrets: bool = False) -> str:
    """The documents of these as one YAML text."""
    return SEPARATOR.join(as_yaml(to_document(thing, secrets)) for thing in things)


def as_yaml(document: dict[str, Any]) -> str:
    """One document in the form in which every document is written."""
    return str(
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)
    )


def split(text: str) -> list[str]:
    """The documents of what dump_yaml made, each by itself."""
    return [document for document in re.split(f"^{SEPARATOR}", text, flags=re.MULTILINE) if document]


class _Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, _data: object) -> bool:
        """Each document is complete where it stands: equal values are written out again."""
        return True


def _document(kind: str, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": OURS, "kind": kind, "metadata": metadata, "spec": spec}


def _filled(**fields: Any) -> dict[str, Any]:
    """The fields that say anything: what is empty, false or nought is what a missing field means."""
    return {name: value for name, value in fields.items() if value}


def _rule(rule: Rule) -> dict[str, Any]:
    # A category with a kind is written as the kind: incident, threat or violation.
    return {
        **_filled(id=rule.id),
        "event": (rule.kind or rule.category).value,
        **_filled(group=rule.group, criteria=[_criterion(criterion) for criterion in rule.criteria]),
        "actions": [_action(action) for action in rule.actions],
        **_filled(
            webhooks=list(rule.webhooks),
            disable=rule.disabled,
            comment=rule.comment,
            cfg_type=_unless_default(rule, "cfg_type"),
            mode=_unless_default(rule, "mode"),
            cooldown=_duration(rule.cooldown),
            limit=f"{rule.limit[0]}/{_duration(rule.limit[1])}" if rule.limit else "",
            max_age=_duration(rule.max_age),
            allow_broad=rule.allow_broad,
            approval=rule.approval,
            evidence=rule.evidence,
        ),
    }


def _criterion(criterion: Criterion) -> str | dict[str, Any]:
    [first, *others] = criterion.values
    if others or first != first.strip():
        return {"type": criterion.type, "value": list(criterion.values)}
    return f"{criterion.type}:{first}"


def _action(action: Action) -> str | dict[str, Any]:
    parameters = _parameters(action)
    return {word(action): parameters} if parameters else word(action)


def _parameters(action: Action) -> dict[str, Any]:
    parameters: dict[str, Any] = msgspec.to_builtins(action)
    del parameters["type"]
    if isinstance(action, Quarantine) and action.ttl is not None:
        parameters["ttl"] = _duration(action.ttl)
    if isinstance(action, Quarantine) and action.investigator:
        parameters["investigator"] = list(action.investigator)
    if isinstance(action, MakeOpsFlag) and len(action.impact) > IMPACT_LIMIT:
        parameters["description"] = parameters.pop("impact")
    if isinstance(action, MakeRedFlag | MakeOpsFlag) and "webhooks" in parameters:
        parameters["webhooks"] = list(action.webhooks)
    return parameters


def _webhook(webhook: Webhook) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.to_builtins(webhook)
    for field in ("name", "source"):
        spec.pop(field, None)
    if webhook.filter == WebhookFilter():
        spec.pop("filter", None)
    return spec


def _syslog(syslog: Syslog) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.to_builtins(syslog)
    for field in ("name", "source"):
        spec.pop(field, None)
    if syslog.filter == SyslogFilter():
        spec.pop("filter", None)
    return spec


def _policy(policy: Policy) -> dict[str, Any]:
    spec: dict[str, Any] = {"mode": policy.mode.value}
    if not policy.enabled:
        spec["enabled"] = False
    spec |= selectors_spec(policy.scope)
    if policy.type.value == "cluster" or policy.rulesets:
        spec["rulesets"] = list(policy.rulesets)
    spec |= expected_spec(policy.expected)
    if policy.allowed_flags:
        spec["allowedFlags"] = [{"class": path} for path in policy.allowed_flags]
    if policy.type.value != "trace":
        spec["response"] = {
            "default": [_entry(entry) for entry in policy.default],
            "actions": [_entry(entry) for entry in policy.actions],
        }
    return spec


def _entry(entry: ResponseEntry) -> dict[str, Any]:
    parameters = _parameters(entry.action)
    if not entry.enabled:
        parameters["enabled"] = False
    if entry.evidence:
        parameters["evidence"] = True
    parameters |= selectors_spec(entry.selectors)
    return {word(entry.action): parameters}


def _unless_default(rule: Rule, name: str) -> str:
    value = getattr(rule, name)
    return "" if value == _DEFAULTS[name] else str(value)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)
