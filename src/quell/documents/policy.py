"""Policies, ours and Spyderbat's. SEMANTICS section 5."""

from __future__ import annotations

from enum import StrEnum

from quell.catalogue.policy_table import ACTION_SELECTORS, POLICY_TYPES, PolicyTypeSpec, selectors_of
from quell.documents.actions import KILLS, Written, read_action
from quell.documents.document import Document
from quell.documents.network_policy import Network, read_network
from quell.documents.process_policy import Processes, read_processes
from quell.documents.reader import Fields, Value, listed
from quell.documents.selectors import read_selectors
from quell.model.policy import Direction, Expected, Policy, PolicyType, ResponseEntry, SelectorKind
from quell.model.rule import Mode

_MODE_HINT = 'add "mode: audit" to spec (says what it would do), or "mode: enforce" (does it)'
_RESPONSE_HINT = "a trace policy hides traces and does nothing else"


class _All(StrEnum):
    ALL = "all"


class _Directions(StrEnum):
    ALL = "all"
    EGRESS = "egress"
    INGRESS = "ingress"


def read(document: Document) -> Policy | None:
    type_field = document.metadata.get("type")
    if type_field is None:
        document.metadata_value.problem('missing field "type"', expected=listed(PolicyType))
    type_ = type_field.choice(PolicyType, "policy type") if type_field else None
    name = document.name()
    if type_ is None:
        return None
    spec = POLICY_TYPES[type_]
    fields = _fields(document, spec)
    scope = read_selectors(fields, (spec.must, *spec.may) if spec.must else spec.may)
    if spec.must is None and not any(kind in fields for kind in spec.may):
        document.spec.problem("a trace policy needs at least one selector", expected=listed(spec.may), got="none")
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
        expected=_expected(fields, foreign=document.foreign),
        allowed_flags=_allowed_flags(fields["allowedFlags"], document) if "allowedFlags" in fields else (),
        source=document.source,
    )
    _warn(policy, fields)
    return policy


def _fields(document: Document, spec: PolicyTypeSpec) -> Fields:
    lists = tuple(one.name for one in spec.lists)
    required: tuple[str, ...] = ("mode", spec.must) if spec.must else ("mode",)
    optional: tuple[str, ...] = ("enabled", *spec.may)
    if spec.type is PolicyType.TRACE:
        return document.spec.fields(required, (*optional, *lists), {"mode": _MODE_HINT, "response": _RESPONSE_HINT})
    required = (*required, "response", *(name for name in lists if _is_required(name, foreign=document.foreign)))
    optional = (*optional, *(name for name in lists if name not in required))
    scope = (spec.must, *spec.may)
    others = {kind.value: f"a {spec.type} policy has no such scope" for kind in SelectorKind if kind not in scope}
    return document.spec.fields(required, optional, {"mode": _MODE_HINT, **others})


def _is_required(name: str, *, foreign: bool) -> bool:
    """Of what is expected. Other systems always write both lists of a workload."""
    return name == "rulesets" or (foreign and name in ("processPolicy", "networkPolicy"))


def _response(
    value: Value, type_: PolicyType, document: Document
) -> tuple[tuple[ResponseEntry, ...], tuple[ResponseEntry, ...]]:
    both = ("default", "actions")
    fields = value.fields(both, ()) if document.foreign else value.fields((), both)
    default = _entries(fields["default"], type_, document, specific=False) if "default" in fields else ()
    actions = _entries(fields["actions"], type_, document, specific=True) if "actions" in fields else ()
    return default, actions


def _entries(value: Value, type_: PolicyType, document: Document, *, specific: bool) -> tuple[ResponseEntry, ...]:
    items = value.items()
    if document.foreign and not specific:
        items = [item for item in items if not _is_no_action(item)]
    entries = (_entry(item, type_, document, specific=specific) for item in items)
    return tuple(entry for entry in entries if entry is not None)


def _is_no_action(item: Value) -> bool:
    """An entry of default that other systems take and that says nothing: null or {}."""
    if not (item.is_null or (item.is_mapping and item.is_empty)):
        return False
    item.warn("an entry without an action: it does nothing", expected="an action", got="nothing")
    return True


def _entry(item: Value, type_: PolicyType, document: Document, *, specific: bool) -> ResponseEntry | None:
    others = ("enabled", *ACTION_SELECTORS) if document.foreign else ("enabled", "evidence", *ACTION_SELECTORS)
    written = read_action(item, foreign=document.foreign, others=others)
    if written is None:
        return None
    selectors = read_selectors(written.others, ACTION_SELECTORS)
    _check_selectors(item, written.word, written.others, specific=specific)
    usual = POLICY_TYPES[type_].usual
    if written.word not in usual:
        item.warn(f"{written.word} is unusual for a {type_} policy", expected=listed(usual), got=written.word)
    if written.action is None:
        return None
    return ResponseEntry(
        action=written.action,
        selectors=selectors,
        enabled=written.others.boolean("enabled", default=True),
        evidence=_evidence(written),
    )


def _evidence(written: Written) -> bool:
    """Whether a kill waits for evidence."""
    wanted = written.others.boolean("evidence")
    if wanted and written.word not in KILLS:
        written.others["evidence"].name_of_field.problem(
            f"evidence is gathered before a kill, and {written.word} is none", expected=listed(KILLS), got=written.word
        )
    return wanted


def _check_selectors(item: Value, word: str, fields: Fields, *, specific: bool) -> None:
    given = [kind for kind in ACTION_SELECTORS if kind in fields]
    takes = selectors_of(word)
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


def _expected(fields: Fields, *, foreign: bool) -> Expected:
    processes, network = Processes(), Network()
    if "processPolicy" in fields:
        processes = read_processes(fields["processPolicy"], foreign=foreign)
    if "networkPolicy" in fields:
        network = read_network(fields["networkPolicy"], processes.ids, foreign=foreign)
    return Expected(
        processes=processes.roots if "processPolicy" in fields else None,
        ingress=network.ingress,
        egress=network.egress,
        no_processes="disableProcesses" in fields and fields["disableProcesses"].choice(_All, "word") is not None,
        no_connections=_directions(fields, "disableConnections"),
        no_private_connections=_directions(fields, "disablePrivateConnections"),
        no_public_connections=_directions(fields, "disablePublicConnections"),
    )


def _directions(fields: Fields, name: str) -> tuple[Direction, ...]:
    word = fields[name].choice(_Directions, "direction") if name in fields else None
    if word is None:
        return ()
    return tuple(Direction) if word is _Directions.ALL else (Direction(word.value),)


def _allowed_flags(value: Value, document: Document) -> tuple[str, ...]:
    """Classes of flags. What else another system says of one is its metadata, and passed over."""
    classes, passed = [], set()
    for item in value.items():
        fields = item.entries() if document.foreign else item.fields(("class",), ())
        if document.foreign and item.is_mapping and "class" not in fields:
            item.problem('missing field "class"', expected="class")
        passed |= fields.keys() - {"class"}
        if "class" in fields:
            written = fields["class"]
            path = "/".join(written.texts()) if written.is_list else written.text()
            if written.is_list and not path:
                written.wrong("at least one word", "an empty list")
            classes.append(path)
    if document.foreign and passed:
        value.name_of_field.warn(f"{', '.join(sorted(passed))} of flags: passed over, as only class is compared")
    return tuple(dict.fromkeys(classes))


def _warn(policy: Policy, fields: Fields) -> None:
    if "response" in fields and not policy.default and not policy.actions:
        fields["response"].name_of_field.warn("no action in default or actions: nothing follows a deviation")
    if policy.expected.no_processes and policy.expected.processes:
        fields["disableProcesses"].name_of_field.warn("every process deviates, those of processPolicy included")
