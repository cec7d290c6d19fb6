"""Actions as rules and policies write them: a word, or {word: {parameters}}. SEMANTICS sections 0, 3 and 5."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from msgspec import Struct

from quell.catalogue.table import ACTIONS
from quell.documents.reader import Fields, Value
from quell.model.action import (
    Action,
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    ReniceProcess,
    SendWebhook,
    Severity,
    SuppressLog,
    word,
)
from quell.model.investigator import INVESTIGATORS_LIMIT, read_investigator

IMPACT_LIMIT = 100
#: Of an ops flag's description, which is read as its impact.
DESCRIPTION_LIMIT = 350
#: Of a flag's content: in documents of other systems, and in ours.
FOREIGN_CONTENT_LIMIT = 350
CONTENT_LIMIT = 10_000
#: Seconds, of a pod's kill.
GRACE_LIMIT = 86_400
#: Least and greatest, of a process.
PRIORITIES = (-20, 19)


#: Words of the actions that evidence can be gathered before.
KILLS = tuple(word(action) for action in (KillProcess, KillProcessGroup, KillProcessTree, KillPod))

_AN_ACTION = "an action: a word, or {word: {parameters}}"


class Written(Struct, frozen=True):
    """An action, its word, and those of its fields that are not its own parameters (selectors, enabled)."""

    word: str
    action: Action | None
    others: Fields


def read_action(value: Value, *, foreign: bool, others: Collection[str] = ()) -> Written | None:
    """One action. others: fields allowed beside its parameters. None: it is no known action at all."""
    if value.is_mapping:
        entries = value.entries()
        if not entries:
            value.wrong(_AN_ACTION, "an empty entry")
            return None
        if len(entries) > 1:
            got = ", ".join(entries)
            value.problem(
                f"expected one action an entry, got {got}: write each as an entry of its own",
                expected="one action",
                got=got,
            )
        written = [_written(word, parameters, foreign, others) for word, parameters in entries.items()]
        return written[0]
    if value.is_null or value.is_list:
        value.wrong(_AN_ACTION)
        return None
    word = value.text()
    if not word:
        return None
    if word not in ACTIONS:
        value.unknown("action", word, ACTIONS)
        return None
    required, _, _ = _PARAMETERS[word]
    if required:
        value.problem(
            f'{word} needs {" and ".join(required)}: write "{ACTIONS[word].example}"',
            expected=ACTIONS[word].example,
            got=word,
        )
        return Written(word, None, Fields())
    return Written(word, _read(word, Fields(), foreign), Fields())


def _written(word: str, parameters: Value, foreign: bool, others: Collection[str]) -> Written | None:
    if word not in ACTIONS:
        parameters.name_of_field.unknown("action", word, ACTIONS)
        return None
    required, optional, _ = _PARAMETERS[word]
    if parameters.is_null and not required:
        return Written(word, _read(word, Fields(), foreign), Fields())
    fields = parameters.fields(required, (*optional, *others))
    own = Fields((name, field) for name, field in fields.items() if name in required or name in optional)
    action = _read(word, own, foreign) if own.keys() >= set(required) else None
    return Written(word, action, Fields((name, field) for name, field in fields.items() if name not in own))


def _read(word: str, fields: Fields, foreign: bool) -> Action | None:
    return _PARAMETERS[word][2](fields, foreign)


def _quarantine(fields: Fields, _foreign: bool) -> Action:
    strict, investigator = fields.boolean("strict"), _investigator(fields)
    if strict and investigator:
        fields["investigator"].name_of_field.problem(
            "strict closes everything: no investigator can reach it; write one of them"
        )
    return Quarantine(ttl=fields.duration("ttl"), strict=strict, investigator=investigator)


def _investigator(fields: Fields) -> tuple[str, ...]:
    """One address or a list, each once, in order."""
    written = fields.get("investigator")
    if written is None:
        return ()
    values = written.bounded(INVESTIGATORS_LIMIT, "addresses") if written.is_list else [written]
    found = set()
    for value in values:
        if text := value.text():
            try:
                found.add(read_investigator(text))
            except ValueError as error:
                value.problem(str(error), expected="an IPv4 or IPv6 address, such as 192.0.2.7", got=text)
    return tuple(sorted(found))


def _webhook(fields: Fields, _foreign: bool) -> Action:
    return SendWebhook(endpoints=fields.texts("endpoints"))


def _red_flag(fields: Fields, foreign: bool) -> Action | None:
    severity = fields["severity"].choice(Severity, "severity")
    impact, content, webhooks = _flag(fields, foreign)
    if severity is None:
        return None
    return MakeRedFlag(severity=severity, impact=impact, content=content, webhooks=webhooks)


def _ops_flag(fields: Fields, foreign: bool) -> Action | None:
    severity = fields["severity"].choice(Severity, "severity")
    impact, content, webhooks = _flag(fields, foreign)
    if "description" in fields:
        impact = fields["description"].text(empty=True, limit=DESCRIPTION_LIMIT)
        if "impact" in fields:
            fields["description"].name_of_field.problem("description is another word for impact: write one of them")
    if severity is None:
        return None
    return MakeOpsFlag(severity=severity, impact=impact, content=content, webhooks=webhooks)


def _flag(fields: Fields, foreign: bool) -> tuple[str, str, tuple[str, ...]]:
    return (
        fields.text("impact", limit=IMPACT_LIMIT),
        fields.text("content", limit=FOREIGN_CONTENT_LIMIT if foreign else CONTENT_LIMIT),
        fields.texts("webhooks"),
    )


def _kill_pod(fields: Fields, _foreign: bool) -> Action:
    written = fields.get("grace_period", fields.get("gracePeriod"))
    return KillPod(grace_period=written.integer(0, GRACE_LIMIT) if written else 0)


def _renice(fields: Fields, _foreign: bool) -> Action:
    return ReniceProcess(priority=fields["priority"].integer(*PRIORITIES, quoted=True))


#: Word -> required parameters, optional ones, and what makes the action of them.
_PARAMETERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Fields, bool], Action | None]]] = (
    MappingProxyType(
        {
            "quarantine": ((), ("ttl", "strict", "investigator"), _quarantine),
            "webhook": ((), ("endpoints",), _webhook),
            "suppress-log": ((), (), lambda _fields, _foreign: SuppressLog()),
            "makeRedFlag": (("severity",), ("impact", "content", "webhooks"), _red_flag),
            "makeOpsFlag": (("severity",), ("impact", "content", "webhooks", "description"), _ops_flag),
            "agentKillProcess": ((), (), lambda _fields, _foreign: KillProcess()),
            "agentKillProcessGroup": ((), (), lambda _fields, _foreign: KillProcessGroup()),
            "agentKillProcessTree": ((), (), lambda _fields, _foreign: KillProcessTree()),
            "agentKillPod": ((), ("grace_period", "gracePeriod"), _kill_pod),
            "agentReniceProcess": (("priority",), (), _renice),
        }
    )
)
