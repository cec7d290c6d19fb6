"""Response rules. SEMANTICS section 3; the mission document's fields and category words, and our extensions."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from quell.catalogue.table import ACTIONS, allowed, is_broad
from quell.documents.actions import KILLS, Written, read_action
from quell.documents.criteria import Context, read_criteria
from quell.documents.document import Document
from quell.documents.reader import Fields, Value, listed
from quell.durations import parse_duration
from quell.model.action import Action, Kill, Quarantine, word
from quell.model.event import Category, Kind
from quell.model.rule import Mode, Rule

#: What may stand for a category, in lower case and without blanks, "-" and "_"; with the kind of security event meant.
CATEGORIES: dict[str, tuple[Category, Kind | None]] = {
    "event": (Category.EVENT, None),
    "events": (Category.EVENT, None),
    "securityevent": (Category.SECURITY_EVENT, None),
    "securityevents": (Category.SECURITY_EVENT, None),
    "incident": (Category.SECURITY_EVENT, Kind.INCIDENT),
    "threat": (Category.SECURITY_EVENT, Kind.THREAT),
    "violation": (Category.SECURITY_EVENT, Kind.VIOLATION),
    "cvereport": (Category.CVE_REPORT, None),
    "compliance": (Category.COMPLIANCE, None),
    "benchmark": (Category.COMPLIANCE, None),
    "admissioncontrol": (Category.ADMISSION_CONTROL, None),
    "admission": (Category.ADMISSION_CONTROL, None),
    "deviation": (Category.DEVIATION, None),
}
_REQUIRED = ("event", "actions")
_OPTIONAL = (
    "id",
    "name",
    "group",
    "criteria",
    "conditions",
    "webhooks",
    "disable",
    "comment",
    "cfg_type",
    "mode",
    "cooldown",
    "ttl",
    "limit",
    "max_age",
    "allow_broad",
    "approval",
    "evidence",
)
#: Fields that the language has and this version does not: refused, as a rule must not mean less than it says.
_LATER = dict.fromkeys(("when", "tests"), "this version does not have it yet")
_DEFAULT_IDS = range(1, 8)
_RESOURCE_IDS = range(110_000, 120_000)


class CfgType(StrEnum):
    """Where a rule comes from, in the reference system's words."""

    USER_CREATED = "user_created"
    GROUND = "ground"
    FEDERAL = "federal"


def read(document: Document) -> Rule | None:
    """The rule that a quell.dev/v1 ResponseRule says."""
    fields = document.spec.fields(_REQUIRED, _OPTIONAL, _LATER)
    name = document.name(fields.get("name"))
    return read_fields(document, document.spec, fields, name)


def read_fields(
    document: Document, spec: Value, fields: Fields, name: str, *, counts_at_least: bool = False
) -> Rule | None:
    """The rule that these fields say; counts_at_least as in criteria.Context. None: its category is unknown."""
    category, kind = _category(fields["event"]) if "event" in fields else (None, None)
    if "criteria" in fields and "conditions" in fields:
        fields["conditions"].name_of_field.problem("criteria and conditions are the same: write one of them")
    written = fields.get("criteria", fields.get("conditions"))
    criteria = read_criteria(written, Context(category, kind, counts_at_least)) if written else ()
    actions = _actions(fields, category, foreign=document.foreign)
    rule = Rule(
        id=fields["id"].integer(0, 2**32 - 1) if "id" in fields else 0,
        name=name,
        # A rule without a category is a problem already, and so never used.
        category=category or Category.EVENT,
        kind=kind,
        group=fields.text("group"),
        criteria=criteria,
        actions=actions,
        webhooks=tuple(dict.fromkeys(fields.texts("webhooks"))),
        disabled=fields.boolean("disable"),
        comment=fields.text("comment"),
        cfg_type=fields.choice("cfg_type", CfgType, CfgType.USER_CREATED).value,
        mode=fields.choice("mode", Mode, Mode.ENFORCE),
        cooldown=fields.duration("cooldown"),
        approval=fields.boolean("approval"),
        evidence=_evidence(fields, actions),
        limit=_limit(fields["limit"]) if "limit" in fields else None,
        max_age=fields.duration("max_age"),
        allow_broad=fields.boolean("allow_broad"),
        source=document.source,
    )
    if category is None:
        return None
    _warn(rule, spec, fields)
    return rule


def category_of(text: str) -> tuple[Category, Kind | None] | None:
    """What a word for a category means, in any of its spellings; None: it is no such word."""
    folded = text.lower()
    for character in " -_":
        folded = folded.replace(character, "")
    return CATEGORIES.get(folded)


def _category(value: Value) -> tuple[Category | None, Kind | None]:
    text = value.text()
    found = category_of(text)
    if text and found is None:
        value.unknown("event category", text, (*Category, *Kind))
    return found or (None, None)


def _actions(fields: Fields, category: Category | None, *, foreign: bool) -> tuple[Action, ...]:
    if "actions" not in fields:
        return ()
    entries = fields["actions"].items()
    if fields["actions"].is_list and not entries:
        fields["actions"].wrong("at least one action", "an empty list")
    written = [(entry, read_action(entry, foreign=foreign)) for entry in entries]
    actions: list[Action] = []
    for entry, one in written:
        if one is None:
            continue
        _refuse_never(entry, one, category)
        if one.action in actions:
            entry.warn(f"{one.word} stands here twice: it is done once")
        elif one.action is not None:
            actions.append(one.action)
    if "ttl" in fields:
        return tuple(_with_ttl(fields["ttl"], actions))
    return tuple(actions)


def _refuse_never(entry: Value, written: Written, category: Category | None) -> None:
    """What a category can never have is refused when the rule is written; SEMANTICS section 3, the table of actions."""
    if category is None or allowed(category, written.word):
        return
    takes = [action for action in ACTIONS if allowed(category, action)]
    where = [str(other) for other in Category if allowed(other, written.word)]
    entry.problem(
        f"{written.word} can never be done for category {category}, only for {', '.join(where)}",
        expected=listed(takes),
        got=written.word,
    )


def _with_ttl(field: Value, actions: list[Action]) -> list[Action]:
    """A rule's ttl is that of its quarantines without one of their own."""
    ttl = field.duration()
    if not any(isinstance(action, Quarantine) for action in actions):
        field.name_of_field.problem("ttl ends a quarantine, and the rule has none", expected="the action quarantine")
    return [
        msgspec.structs.replace(action, ttl=ttl) if isinstance(action, Quarantine) and action.ttl is None else action
        for action in actions
    ]


def _evidence(fields: Fields, actions: tuple[Action, ...]) -> bool:
    """Whether the rule's kills wait for evidence."""
    wanted = fields.boolean("evidence")
    if wanted and not any(isinstance(action, Kill) for action in actions):
        fields["evidence"].name_of_field.problem(
            "evidence is gathered before a kill, and the rule has none", expected=listed(KILLS)
        )
    return wanted


def _limit(value: Value) -> tuple[int, float]:
    """(count, seconds) of a text such as 10/1m."""
    count, _, window = value.text().partition("/")
    try:
        limit = int(count), parse_duration(window)
    except ValueError:
        limit = 0, 0.0
    if not (0 < limit[0] < 2**31 and 0 < limit[1] < float("inf")):
        value.wrong("a count and a window, such as 10/1m")
    return limit


def _warn(rule: Rule, spec: Value, fields: Fields) -> None:
    words = [word(action) for action in rule.actions]
    destructive = [one for one in words if ACTIONS[one].destructive]
    if is_broad(rule):
        spec.warn(
            f"{' and '.join(destructive)} on every {rule.category}, as neither a group nor a criterion narrows it: the "
            "rule runs in audit until it says allow_broad: true",
            expected="allow_broad: true",
        )
    elif not rule.criteria and not rule.allow_broad:
        of = f" of group {rule.group}" if rule.group else ""
        spec.warn(f"no criteria: the rule matches every {rule.kind or rule.category}{of}", expected="criteria")
    if rule.webhooks and "webhook" not in words:
        fields["webhooks"].name_of_field.warn("webhooks are named, but webhook is not among the actions")
    if rule.id in _DEFAULT_IDS:
        fields["id"].warn("ids 1 to 7 belong to the default rules", expected="an id from 8 up")
    if rule.id in _RESOURCE_IDS and rule.cfg_type != "ground":
        fields["id"].warn(
            "ids 110000 to 119999 are kept for Kubernetes custom resources", expected="an id below 110000"
        )
