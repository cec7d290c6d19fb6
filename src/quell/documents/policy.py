"""Policies, ours and Spyderbat's. SEMANTICS section 5."""

from __future__ import annotations

import msgspec

from quell.documents.actions import read_action
from quell.documents.document import Document
from quell.documents.reader import Fields, Value, listed
from quell.documents.selectors import read_selectors
from quell.model.policy import Policy, PolicyType, ResponseEntry, SelectorKind
from quell.model.rule import Mode

_S = SelectorKind
_WORKLOAD_SCOPE = (_S.CLUSTER, _S.MACHINE, _S.NAMESPACE, _S.POD)
#: Type -> the selector that its scope must have, and those that it may have.
_SCOPES: dict[PolicyType, tuple[SelectorKind | None, tuple[SelectorKind, ...]]] = {
    PolicyType.CONTAINER: (_S.CONTAINER, _WORKLOAD_SCOPE),
    PolicyType.LINUX_SERVICE: (_S.SERVICE, (_S.CLUSTER, _S.MACHINE)),
    PolicyType.CLUSTER: (_S.CLUSTER, ()),
    PolicyType.TRACE: (None, (_S.TRACE, _S.USER, *_WORKLOAD_SCOPE, _S.CONTAINER, _S.SERVICE)),
}
#: What a workload policy lists as expected, kept as it is written.
_LISTS = ("processPolicy", "networkPolicy")
_SWITCHES = ("disableProcesses", "disableConnections", "disablePrivateConnections", "disablePublicConnections")
_OPAQUE = (*_LISTS, *_SWITCHES, "allowedFlags")

_FLAGS = ("makeRedFlag", "makeOpsFlag")
_PROCESS_ACTIONS = (
    "agentKillProcess",
    "agentKillProcessGroup",
    "agentKillProcessTree",
    "agentReniceProcess",
    "quarantine",
    "webhook",
    "suppress-log",
)
#: The actions that are usual for a type; others are taken with a warning.
_USUAL: dict[PolicyType, tuple[str, ...]] = {
    PolicyType.CONTAINER: (*_FLAGS, "agentKillPod", *_PROCESS_ACTIONS),
    PolicyType.LINUX_SERVICE: (*_FLAGS, *_PROCESS_ACTIONS),
    PolicyType.CLUSTER: (*_FLAGS, "agentKillPod"),
}
_ACTION_SELECTORS = (_S.CLUSTER, _S.MACHINE, _S.NAMESPACE, _S.POD, _S.CONTAINER, _S.SERVICE, _S.PROCESS)

_MODE_HINT = 'add "mode: audit" to spec (says what it would do), or "mode: enforce" (does it)'
_RESPONSE_HINT = "a trace policy hides traces and does nothing else"


def read(document: Document) -> Policy | None:
    type_field = document.metadata.get("type")
    if type_field is None:
        document.metadata_value.problem('missing field "type"', expected=listed(PolicyType))
    type_ = type_field.choice(PolicyType, "policy type") if type_field else None
    name = document.name()
    if type_ is None:
        return None
    must, may = _SCOPES[type_]
    fields = _fields(document, type_)
    scope = read_selectors(fields, (must, *may) if must else may)
    if must is None and not any(kind in fields for kind in may):
        document.spec.problem("a trace policy needs at least one selector", expected=listed(may), got="none")
    default, actions = _response(fields["response"], type_, document) if "response" in fields else ((), ())
    policy = Policy(
        name=name,
        uid=document.metadata.text("uid"),
        type=type_,
        enabled=fields.boolean("enabled", default=True),
        mode=fields.choice("mode", Mode, Mode.AUDIT),
        scope=scope,
        rulesets=fields.texts("rulesets"),
        default=default,
        actions=actions,
        opaque=_opaque(fields),
        source=document.source,
    )
    _warn(policy, document, fields)
    return policy


def _fields(document: Document, type_: PolicyType) -> Fields:
    must, may = _SCOPES[type_]
    required: tuple[str, ...] = ("mode", must) if must else ("mode",)
    optional: tuple[str, ...] = ("enabled", *may)
    if type_ is PolicyType.TRACE:
        optional = (*optional, "allowedFlags")
        return document.spec.fields(required, optional, {"mode": _MODE_HINT, "response": _RESPONSE_HINT})
    required = (*required, "response")
    if type_ is PolicyType.CLUSTER:
        required = (*required, "rulesets")
    elif document.foreign:
        required, optional = (*required, *_LISTS), (*optional, *_SWITCHES)
    else:
        optional = (*optional, *_LISTS, *_SWITCHES)
    others = {kind.value: f"a {type_} policy has no such scope" for kind in SelectorKind if kind not in (must, *may)}
    return document.spec.fields(required, optional, {"mode": _MODE_HINT, **others})


def _response(
    value: Value, type_: PolicyType, document: Document
) -> tuple[tuple[ResponseEntry, ...], tuple[ResponseEntry, ...]]:
    both = ("default", "actions")
    fields = value.fields(both, ()) if document.foreign else value.fields((), both)
    default = _entries(fields["default"], type_, document, specific=False) if "default" in fields else ()
    actions = _entries(fields["actions"], type_, document, specific=True) if "actions" in fields else ()
    return default, actions


def _entries(value: Value, type_: PolicyType, document: Document, *, specific: bool) -> tuple[ResponseEntry, ...]:
    entries = (_entry(item, type_, document, specific=specific) for item in value.items())
    return tuple(entry for entry in entries if entry is not None)


def _entry(item: Value, type_: PolicyType, document: Document, *, specific: bool) -> ResponseEntry | None:
    written = read_action(item, foreign=document.foreign, others=("enabled", *_ACTION_SELECTORS))
    if written is None:
        return None
    selectors = read_selectors(written.others, _ACTION_SELECTORS)
    _check_selectors(item, written.word, written.others, specific=specific)
    if written.word not in _USUAL[type_]:
        item.warn(f"{written.word} is unusual for a {type_} policy", expected=listed(_USUAL[type_]), got=written.word)
    if written.action is None:
        return None
    return ResponseEntry(
        action=written.action, selectors=selectors, enabled=written.others.boolean("enabled", default=True)
    )


def _check_selectors(item: Value, word: str, fields: Fields, *, specific: bool) -> None:
    given = [kind for kind in _ACTION_SELECTORS if kind in fields]
    takes = [kind for kind in _ACTION_SELECTORS if word != "agentKillPod" or kind is not _S.SERVICE]
    if specific and not given:
        item.problem(
            f"{word} in actions needs a selector: add one, or move the entry to default",
            expected=listed(takes),
            got="no selector",
        )
    for kind in given:
        if not specific:
            fields[kind].name_of_field.problem(
                f"an entry of default has no selector: move {word} to actions", expected="no selector", got=kind
            )
        elif kind not in takes:
            fields[kind].name_of_field.problem(f"{word} takes no {kind}", expected=listed(takes), got=kind)


def _opaque(fields: Fields) -> str:
    for name in ("processPolicy", "allowedFlags"):
        if name in fields and not fields[name].is_list:
            fields[name].wrong("a list")
    if "networkPolicy" in fields and not fields["networkPolicy"].is_mapping:
        fields["networkPolicy"].wrong("a mapping")
    for name in _SWITCHES:
        if name in fields:
            words = ("all",) if name == "disableProcesses" else ("all", "egress", "ingress")
            text = fields[name].text()
            if text and text not in words:
                fields[name].unknown(name, text, words)
    kept = {name: fields[name].plain() for name in _OPAQUE if name in fields}
    return msgspec.json.encode(kept).decode() if kept else ""


def _warn(policy: Policy, document: Document, fields: Fields) -> None:
    if "response" in fields and not policy.default and not policy.actions:
        fields["response"].name_of_field.warn("no action in default or actions: nothing follows a deviation")
    if policy.type is PolicyType.TRACE:
        document.spec.warn("this version makes no traces: the policy is kept and hides nothing yet")
    compared = [name for name in ("processPolicy", "networkPolicy", "rulesets", *_SWITCHES) if name in fields]
    if compared and policy.enabled:
        fields[compared[0]].name_of_field.warn(
            "this version takes deviations from detectors; it does not compare workloads with "
            f"{' and '.join(compared)} itself"
        )
