"""Whether an event meets a response rule, read off the rule's text as SEMANTICS says it, for comparison with the engine.

It shares nothing with quell.documents and quell.matching but the catalogue's data. It is slow and plain on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import yaml

from quell.catalogue.names import NAMES
from quell.model.details import AdmissionReview, ComplianceReport, CveReport, SecurityDetails
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject

CATEGORIES = {
    "event": ("event", None),
    "events": ("event", None),
    "securityevent": ("security-event", None),
    "securityevents": ("security-event", None),
    "incident": ("security-event", "incident"),
    "threat": ("security-event", "threat"),
    "violation": ("security-event", "violation"),
    "cvereport": ("cve-report", None),
    "compliance": ("compliance", None),
    "benchmark": ("compliance", None),
    "admissioncontrol": ("admission-control", None),
    "admission": ("admission-control", None),
    "deviation": ("deviation", None),
}
TRUE = {"true", "yes", "on", "y"}
DAY = 86400.0
SERVICES = (("web", "shop"), ("web.shop", "shop"), ("web.shop", None))
LEVELS = [level.value.casefold() for level in Level]


def texts_of(text: str | bytes) -> list[Any]:
    """The YAML documents of a text, every scalar as it is written."""
    return [document for document in yaml.load_all(text, Loader=yaml.CBaseLoader) if document is not None]


def rules_of(text: str | bytes) -> dict[str, Mapping[str, Any]]:
    """The specs of the response rules in a text, by name."""
    found: dict[str, Mapping[str, Any]] = {}
    pending = texts_of(text)
    while pending:
        document = pending.pop(0)
        if document.get("kind", "").endswith("List"):
            pending = [*document["items"], *pending]
        elif document.get("kind") == "ResponseRule":
            spec = document["spec"]
            found[(document.get("metadata") or {}).get("name") or spec["name"]] = spec
    return found


def matches(spec: Mapping[str, Any], event: Event, groups: Mapping[str, Any], now: float) -> bool:
    """groups: name -> whether the event is of it, for every group that the rules may name."""
    if str(spec.get("disable", "")).casefold() in TRUE:
        return False
    category, kind = CATEGORIES[re.sub("[ _-]", "", spec["event"].casefold())]
    entry = _entry(event)
    meets = {event.category.value}
    if entry is not None and event.category is Category.DEVIATION and entry.deviation:
        meets.add("security-event")
    elif entry is not None and event.category in (family := (entry.category, *entry.also_category)):
        meets |= {each.value for each in family}
    if category not in meets:
        return False
    kinds = {str(event.kind or (entry.kind if entry else None) or "")}
    if kind is not None and kind not in kinds:
        return False
    group = str(spec.get("group") or "")
    if group not in ("", "all") and not groups[group]:
        return False
    return all(_met(*_split(item), event, kinds, now) for item in _items(spec.get("criteria", spec.get("conditions"))))


def _items(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return value
    return (
        [value] if isinstance(value, str) or {"type", "value"} <= value.keys() else [{k: v} for k, v in value.items()]
    )


def _split(item: Any) -> tuple[str, list[str]]:
    if isinstance(item, str):
        if item.startswith("label:"):
            _, key, value = item.split(":", 2)
            return f"label:{key}", [value.strip()]
        type_, value = item.split(":", 1)
        return type_.strip(), [value.strip()]
    if {"type", "value"} <= item.keys():
        type_, values = item["type"], item["value"]
    else:
        [(type_, values)] = item.items()
    return type_, values if isinstance(values, list) else [values]


def _met(type_: str, values: Iterable[str], event: Event, kinds: set[str], now: float) -> bool:
    return any(_value_met(type_, value, event, kinds, now) for value in values)


def _value_met(type_: str, value: str, event: Event, kinds: set[str], now: float) -> bool:
    details, subject = event.details(), event.subject
    match type_:
        case "name":
            return _name(value, event) or (isinstance(details, ComplianceReport) and _number(value, details))
        case "level":
            return _level(value, event.level.value)
        case "kind":
            return value.casefold() in kinds
        case "process":
            return _process(value, subject)
        case "number":
            return isinstance(details, ComplianceReport) and _number(value, details)
        case "report":
            return isinstance(details, CveReport) and value.casefold() == details.report
        case "cve-name":
            return isinstance(details, CveReport) and any(_cve(value, each.name) for each in details.vulnerabilities)
        case _ if type_.startswith("cve-"):
            return isinstance(details, CveReport) and _count(type_, value, details, now)
        case "image" if isinstance(details, AdmissionReview):
            return any(_glob(value, image) for image in (*details.images, *([subject.image] if subject.image else [])))
        case "namespace" | "image" | "node":
            found = getattr(subject, type_)
            return found is not None and _glob(value, found)
        case "source":
            return _glob(value, event.source)
        case _ if type_.startswith("label:"):
            labels = (subject.pod.labels if subject.pod else None) or {}
            key = type_.removeprefix("label:")
            return key in labels and _glob(value, labels[key])
    raise AssertionError(f"no criterion {type_}")


def _entry(event: Event) -> Any:
    return next((entry for name in _names(event) if (entry := _known(name))), None)


def _names(event: Event) -> list[str]:
    return [name for name in (event.catalogue_name, event.name) if name]


def _known(name: str) -> Any:
    folded = name.casefold()
    for entry in NAMES.values():
        for spelling in (entry.name, *entry.aliases):
            pattern = re.escape(spelling.casefold()).replace(re.escape("{product-name}"), "(.+)")
            if re.fullmatch(pattern, folded, re.DOTALL):
                return entry
    return None


def _name(value: str, event: Event) -> bool:
    wanted = _known(value)
    for name in _names(event):
        if _glob(value.casefold(), name.casefold()):
            return True
        known = _known(name)
        if known is not None and _glob(value.casefold(), known.name.casefold()):
            return True
        if wanted is not None and known is not None and known.name in (wanted.name, *wanted.covers):
            return True
    return False


def _level(value: str, level: str) -> bool:
    at_least = value.startswith(">=")
    place = LEVELS.index(value.removeprefix(">=").strip().casefold())
    own = LEVELS.index(level.casefold())
    return own <= place if at_least else own == place


def _process(value: str, subject: Subject) -> bool:
    process = subject.process
    if process is None:
        return False
    found = process.exe if "/" in value else process.name
    return found is not None and _glob(value, found)


def _number(value: str, details: ComplianceReport) -> bool:
    wanted = value.casefold()
    for item in details.items:
        number = item.number.casefold()
        bare = number[2:] if re.match(r"[a-z]\.\d", number) else number
        if item.failed and (_glob(wanted, number) or _glob(wanted, bare)):
            return True
    return False


def _cve(value: str, name: str) -> bool:
    wanted, own = value.casefold(), name.casefold()
    if _is_glob(wanted):
        return _glob(wanted, own)
    if wanted.startswith("cve-") and not re.fullmatch(r"cve-\d{4}-\d{4,}", wanted):
        return own.startswith(wanted)
    return own == wanted


_SEVERITIES = {
    "cve-critical": ("critical",),
    "cve-high-only": ("high",),
    "cve-high": ("critical", "high"),
    "cve-medium": ("medium",),
}


def _count(type_: str, value: str, details: CveReport, now: float) -> bool:
    fixed = type_.endswith("-with-fix")
    severities = _SEVERITIES[type_.removesuffix("-with-fix")]
    number, _, days = value.partition("/")
    found = 0
    for each in details.vulnerabilities:
        old = not days or (each.published is not None and now - each.published > int(days) * DAY)
        if each.severity.casefold() in severities and (not fixed or (each.has_fix and old)):
            found += 1
    if number.startswith(">="):
        return found >= int(number[2:])
    if number.startswith(">") or fixed:
        return found > int(number.removeprefix(">"))
    return found >= int(number)


def _is_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _glob(pattern: str, text: str) -> bool:
    return fnmatchcase(text, pattern) if _is_glob(pattern) else text == pattern


def groups_of(event: Event, state_members: Mapping[str, Iterable[str]]) -> dict[str, bool]:
    """Of the groups that the tests of this folder name."""
    subject, details = event.subject, event.details()
    is_report = event.category in {Category.CVE_REPORT, Category.COMPLIANCE} and not any(
        name.casefold().startswith(("host.", "compliance.host")) for name in _names(event)[:1]
    )
    # A report may be about a workload by its name alone.
    is_named = is_report and None not in (subject.service, subject.namespace)
    workload = subject.container is not None or subject.pod is not None or is_named
    image, app = subject.image, ((subject.pod.labels if subject.pod else None) or {}).get("app")
    own = subject.container.id if subject.container else ""
    found = {
        "containers": workload,
        # A service may be named with its namespace already.
        "nv.web.shop": workload and (subject.service, subject.namespace) in SERVICES,
        "g": workload and ((image or "").startswith("reg/") or own in state_members.get("g", ())),
        "h": workload and app is not None and app != "db" and (subject.namespace or "").startswith("shop"),
        "members": own in state_members.get("members", ()),
    }
    if any(name.casefold().startswith("dlp.") for name in _names(event)[:1]):
        listed = details.groups if isinstance(details, SecurityDetails) else ()
        return {name: holds and name in listed for name, holds in found.items()}
    return found
