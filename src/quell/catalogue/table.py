"""Which criteria and actions there are, and which category takes which: SEMANTICS section 3, the two tables.

The validator, the options endpoint, the reference pages and the completion of words all read these.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from quell.model.action import (
    Action,
    ActionClass,
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    ReniceProcess,
    SendWebhook,
    SuppressLog,
    word,
)
from quell.model.event import Category
from quell.model.rule import Rule

ALL = frozenset(Category)
#: Groups that everything is of.
EVERYTHING = ("", "all")


class Form(StrEnum):
    """How a criterion's value is written."""

    #: An event's name, a benchmark number or a custom check; globs.
    NAME = "name"
    #: A level, or >= and a level.
    LEVEL = "level"
    KIND = "kind"
    REPORT = "report"
    #: Text that is compared whole; globs.
    TEXT = "text"
    #: As text; a value with a slash is compared with the executable's path.
    PROCESS = "process"
    CVE = "cve"
    #: N, >N or >=N.
    COUNT = "count"
    #: As count, with /D days after it if wanted.
    FIXED_COUNT = "fixed-count"
    #: A benchmark number; globs.
    NUMBER = "number"


#: What to write after the colon, by form.
WRITTEN: Mapping[Form, str] = MappingProxyType(
    {
        Form.NAME: "an event's name, a benchmark number or a custom check; globs; no case",
        Form.LEVEL: "a level, or >= and a level; no case",
        Form.KIND: "incident, threat or violation",
        Form.REPORT: "container, host, registry or platform",
        Form.TEXT: "text, compared whole; globs; case counts",
        Form.PROCESS: "a process's name, or with a slash in it the path of its executable; globs; case counts",
        Form.CVE: "a vulnerability's id; a short CVE number is a prefix; globs; no case",
        Form.COUNT: "N or >=N: at least N; >N: more than N",
        Form.FIXED_COUNT: "N or >N: more than N; >=N: at least N; /D after it: published more than D days ago",
        Form.NUMBER: "a benchmark number, with or without its letter; globs; no case",
    }
)


class CriterionSpec(Struct, frozen=True, kw_only=True):
    type: str
    categories: frozenset[Category]
    form: Form
    description: str
    example: str


class ActionSpec(Struct, frozen=True, kw_only=True):
    """What an action needs and costs. Destructive: it disturbs a workload, so that safety (SEMANTICS 8) is asked."""

    word: str
    struct: type[Action]
    action_class: ActionClass
    destructive: bool
    reversible: bool
    #: Facts that the event must give.
    needs: tuple[str, ...]
    #: What the part that carries it out must be allowed to do.
    permissions: tuple[str, ...]
    description: str
    example: str


_CVE = frozenset({Category.CVE_REPORT})
_COMPLIANCE = frozenset({Category.COMPLIANCE})
_SECURITY = frozenset({Category.SECURITY_EVENT})

#: label:<key> stands here as "label:".
CRITERIA: Mapping[str, CriterionSpec] = MappingProxyType(
    {
        type_: CriterionSpec(type=type_, categories=categories, form=form, description=description, example=example)
        for type_, categories, form, example, description in (
            (
                "name",
                ALL,
                Form.NAME,
                "name:Container.Suspicious.Process",
                "The event's own or catalogue name, or (compliance) the number or check of a failed item; no case; globs.",
            ),
            ("level", ALL, Form.LEVEL, "level:>=Warning", "The event's level; >= takes that level and those above it."),
            ("kind", _SECURITY, Form.KIND, "kind:incident", "Incident, threat or violation."),
            (
                "process",
                _SECURITY | {Category.DEVIATION},
                Form.PROCESS,
                "process:/usr/bin/nc",
                "The process's name or, with a slash in it, its executable; case counts; globs.",
            ),
            (
                "cve-name",
                _CVE,
                Form.CVE,
                "cve-name:CVE-2021-44228",
                "A vulnerability's name; CVE-2018-12 and other short CVE numbers are prefixes; globs.",
            ),
            (
                "cve-critical",
                _CVE,
                Form.COUNT,
                "cve-critical:1",
                "How many critical vulnerabilities there are at least.",
            ),
            ("cve-high-only", _CVE, Form.COUNT, "cve-high-only:5", "How many high ones, critical ones not counted."),
            ("cve-high", _CVE, Form.COUNT, "cve-high:>5", "How many critical and high ones."),
            ("cve-medium", _CVE, Form.COUNT, "cve-medium:20", "How many medium ones."),
            (
                "cve-critical-with-fix",
                _CVE,
                Form.FIXED_COUNT,
                "cve-critical-with-fix:0",
                "More than so many critical ones that have a fix; /D: and were published more than D days ago.",
            ),
            (
                "cve-high-only-with-fix",
                _CVE,
                Form.FIXED_COUNT,
                "cve-high-only-with-fix:>=5",
                "The same for high ones, critical ones not counted.",
            ),
            (
                "cve-high-with-fix",
                _CVE,
                Form.FIXED_COUNT,
                "cve-high-with-fix:3/30",
                "The same for critical and high ones.",
            ),
            (
                "number",
                _COMPLIANCE,
                Form.NUMBER,
                "number:5.12",
                "The number of a failed item; without its benchmark's letter it is that number of any benchmark; globs.",
            ),
            (
                "report",
                _CVE,
                Form.REPORT,
                "report:container",
                "What was scanned: container, host, registry or platform.",
            ),
            ("namespace", ALL, Form.TEXT, "namespace:prod-*", "The workload's namespace; globs."),
            ("image", ALL, Form.TEXT, "image:docker.io/library/nginx:*", "The workload's image; globs."),
            ("node", ALL, Form.TEXT, "node:worker-1", "The host's name; globs."),
            ("source", ALL, Form.TEXT, "source:falco", "The detector that sent the event; globs."),
            ("label:", ALL, Form.TEXT, "label:app:web", "One of the pod's labels: label:<key>:<value>; globs."),
        )
    }
)

_PROCESS_NEEDS = ("process id", "process start", "node")
_PROCESS_PERMISSIONS = ("CAP_KILL",)

ACTIONS: Mapping[str, ActionSpec] = MappingProxyType(
    {
        word(spec.struct): spec
        for spec in (
            ActionSpec(
                word="quarantine",
                struct=Quarantine,
                action_class=ActionClass.AGENT,
                destructive=True,
                reversible=True,
                needs=("container or process in a network namespace of its own", "node"),
                permissions=("CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
                description="Blocks all network traffic in and out of the container; it keeps running.",
                example="quarantine: {ttl: 1h}",
            ),
            ActionSpec(
                word="webhook",
                struct=SendWebhook,
                action_class=ActionClass.STANDARD,
                destructive=False,
                reversible=False,
                needs=(),
                permissions=(),
                description="Sends the event to the endpoints that the rule names, or else to the default ones.",
                example="webhook: {endpoints: [soc]}",
            ),
            ActionSpec(
                word="suppress-log",
                struct=SuppressLog,
                action_class=ActionClass.STANDARD,
                destructive=False,
                reversible=False,
                needs=(),
                permissions=(),
                description="Keeps the event out of notifications, syslog and webhooks; the journal keeps it, marked.",
                example="suppress-log",
            ),
            ActionSpec(
                word="makeRedFlag",
                struct=MakeRedFlag,
                action_class=ActionClass.STANDARD,
                destructive=False,
                reversible=False,
                needs=(),
                permissions=(),
                description="Makes a security flag for the people who investigate.",
                example="makeRedFlag: {severity: high, impact: a shell in production}",
            ),
            ActionSpec(
                word="makeOpsFlag",
                struct=MakeOpsFlag,
                action_class=ActionClass.STANDARD,
                destructive=False,
                reversible=False,
                needs=(),
                permissions=(),
                description="Makes an operations flag for the people who run the machines.",
                example="makeOpsFlag: {severity: low}",
            ),
            ActionSpec(
                word="agentKillProcess",
                struct=KillProcess,
                action_class=ActionClass.AGENT,
                destructive=True,
                reversible=False,
                needs=_PROCESS_NEEDS,
                permissions=_PROCESS_PERMISSIONS,
                description="Kills the process that the event names.",
                example="agentKillProcess",
            ),
            ActionSpec(
                word="agentKillProcessGroup",
                struct=KillProcessGroup,
                action_class=ActionClass.AGENT,
                destructive=True,
                reversible=False,
                needs=_PROCESS_NEEDS,
                permissions=_PROCESS_PERMISSIONS,
                description="Kills the process and all others of its process group.",
                example="agentKillProcessGroup",
            ),
            ActionSpec(
                word="agentKillProcessTree",
                struct=KillProcessTree,
                action_class=ActionClass.AGENT,
                destructive=True,
                reversible=False,
                needs=_PROCESS_NEEDS,
                permissions=_PROCESS_PERMISSIONS,
                description="Kills the process and all its descendants, those with another parent by now included.",
                example="agentKillProcessTree",
            ),
            ActionSpec(
                word="agentKillPod",
                struct=KillPod,
                action_class=ActionClass.AGENT,
                destructive=True,
                reversible=False,
                needs=("pod",),
                permissions=(
                    "get and delete pods, list poddisruptionbudgets in the Kubernetes API",
                    "CAP_KILL where there is no API",
                ),
                description=(
                    "Ends the pod: deletes it under its uid where its API is configured, else ends its containers on their "
                    "machine. Its controller may start another one."
                ),
                example="agentKillPod: {grace_period: 5}",
            ),
            ActionSpec(
                word="agentReniceProcess",
                struct=ReniceProcess,
                action_class=ActionClass.AGENT,
                destructive=True,
                reversible=True,
                needs=_PROCESS_NEEDS,
                permissions=("CAP_SYS_NICE",),
                description="Changes the process's share of the processor, from -20 (most) to 19 (least).",
                example="agentReniceProcess: {priority: 19}",
            ),
        )
    }
)

#: What the events of a category are.
CATEGORIES: Mapping[Category, str] = MappingProxyType(
    {
        Category.EVENT: "Platform and container life-cycle events.",
        Category.SECURITY_EVENT: "Incidents, threats and violations.",
        Category.CVE_REPORT: "One scan result of a container, host, image (registry) or platform.",
        Category.COMPLIANCE: "One result of a benchmark or of custom checks; only failed items count.",
        Category.ADMISSION_CONTROL: "What admission control allowed, found in violation, or denied.",
        Category.DEVIATION: "Something that a policy does not allow.",
    }
)

YES, NO = "yes", "no"
_ORDER = (
    Category.EVENT,
    Category.SECURITY_EVENT,
    Category.CVE_REPORT,
    Category.COMPLIANCE,
    Category.ADMISSION_CONTROL,
    Category.DEVIATION,
)
_ALWAYS = (YES,) * 6
_PROCESS = (NO, "event names a process", NO, NO, NO, "process deviations")

#: Action word, category -> "yes", "no", or for which events of the category it can be done.
ALLOWED: Mapping[str, Mapping[Category, str]] = MappingProxyType(
    {
        action: MappingProxyType(dict(zip(_ORDER, cells, strict=True)))
        for action, cells in {
            "webhook": _ALWAYS,
            "suppress-log": _ALWAYS,
            "makeRedFlag": _ALWAYS,
            "makeOpsFlag": _ALWAYS,
            "quarantine": (
                "container events",
                "container subject",
                "container scan",
                "container only",
                NO,
                "container subject",
            ),
            "agentKillProcess": _PROCESS,
            "agentKillProcessGroup": _PROCESS,
            "agentKillProcessTree": _PROCESS,
            "agentReniceProcess": _PROCESS,
            "agentKillPod": ("pod known", "pod known", "pod known", "pod known", NO, "pod known"),
        }.items()
    }
)


def allowed(category: Category, action: str) -> bool:
    """Whether any event of the category can have the action; what it never can is refused when the rule is written."""
    return ALLOWED[action][category] != NO


def is_broad(rule: Rule) -> bool:
    """Destructive with neither group nor criteria, and not said to be meant: it runs in audit. SEMANTICS section 3."""
    return (
        not rule.allow_broad
        and not rule.criteria
        and rule.group in EVERYTHING
        and any(ACTIONS[word(action)].destructive for action in rule.actions)
    )


def criterion_spec(criterion_type: str) -> CriterionSpec | None:
    """The entry of a criterion's type; label:app finds "label:"."""
    return CRITERIA.get("label:" if criterion_type.startswith("label:") else criterion_type)
