"""Notifications: events, security events and risk reports, searched for, and one event with all that followed from it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.search import filters
from quell.api.services import Services
from quell.console.forms import by_field, with_value
from quell.console.page import Call, Page, Parts, Route, Section, View
from quell.console.rendering import fragment
from quell.controller import notifications
from quell.durations import format_duration
from quell.errors import FilterError, Problem
from quell.model.action import SendWebhook, word
from quell.model.decision import ActionRecord, Outcome
from quell.model.event import Level
from quell.model.evidence import ProcessEvidence
from quell.model.explanation import Explanation
from quell.model.notification import Notification, NotificationList, SearchPage
from quell.storage.store import Store

_ROWS = 50
#: Seconds that a page searches. One that found nothing by then goes on by itself.
_SECONDS = 0.08
#: Of those that did not match, at most so many are shown.
_NEAR = 100
#: Tabs, with what a list that has nothing says.
_TABS = {
    NotificationList.EVENTS: ("Events", "What happens to the platform and to containers."),
    NotificationList.SECURITY_EVENTS: (
        "Security events",
        "Incidents, threats, violations, and what policies do not allow.",
    ),
    NotificationList.RISK_REPORTS: ("Risk reports", "Scans for vulnerabilities, compliance checks, admission control."),
}
#: Filters that take several values, as the query of GET /v1/notifications has them.
_SEVERAL = (
    "level", "name", "category", "kind", "group", "workload", "namespace", "node", "image", "source", "rule", "action", "status", "text",
)  # fmt: skip
#: Those that the form always shows; the rest are behind "More filters".
_FIRST = ("text", "level", "since", "rule")
_SINCE = (("", "Any time"), ("15m", "15 minutes"), ("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"))
_LEVELS = (("", "Any"), *((f">={level.value}", f"{level.value} and above") for level in Level), *((level.value, level.value) for level in Level))  # fmt: skip


class Taken(Struct, frozen=True, kw_only=True):
    """An action of a decision with what came of it."""

    record: ActionRecord
    action: str
    parameters: dict[str, str]
    outcomes: list[Outcome]


async def show(call: Call) -> View:
    query = call.query
    which = _which(call.path.get("which", NotificationList.SECURITY_EVENTS.value))
    errors: dict[str, str] = {}
    problems: list[Problem] = []
    found: SearchPage[Notification] | None = None
    oldest_first = query.one("order") == "oldest"
    try:
        wanted = filters(
            query.one("since") or None,
            query.one("until") or None,
            decided="decided" in query,
            include_suppressed="include_suppressed" in query,
            **{name: query.all(name) for name in _SEVERAL},
        )
        searching = call.services.searching
        found = await searching.page(
            searching.query(wanted.filter, which),
            notifications.told,
            limit=_ROWS,
            cursor=query.one("cursor") or None,
            oldest_first=oldest_first,
            seconds=_SECONDS,
        )
    except FilterError as error:
        errors, problems = by_field(error.problems, ("since", "until", *_SEVERAL))
    more = [name for name in (*_SEVERAL, "until") if name not in _FIRST]
    values = {
        "which": which,
        "tabs": {tab: title for tab, (title, _) in _TABS.items()},
        "about": _TABS[which][1],
        "found": found,
        "query": query,
        "errors": errors,
        "problems": problems,
        "levels": with_value(_LEVELS, query.one("level")),
        "since": with_value(_SINCE, query.one("since")),
        "more": more,
        "rows": _ROWS,
        "more_used": any(query.one(name) for name in (*more, "decided", "include_suppressed")),
        "filtered": any(query.one(name) for name in ("since", "until", "decided", *_SEVERAL)),
        "oldest_first": oldest_first,
        "written": call.services.controller.store.statistics().events,
    }
    return View(template="pages/notifications.html", values=values, status=400 if errors or problems else 200)


async def one(call: Call) -> View:
    """An event with its decision."""
    event_id = call.path["id"]
    near = "near" in call.query
    controller = call.services.controller
    if near:
        explanation = controller.explain(event_id, near_misses=True)
    else:
        explanation = await asyncio.to_thread(controller.explain, event_id)
    raw = await asyncio.to_thread(_raw, controller.store, event_id)
    if explanation is None or raw is None:
        raise Refusal(404, f"no event {event_id[:200]}: it never came, or is no longer kept")
    event = explanation.event
    # What a killed process had is for operators, as over REST.
    evidence = controller.evidence.of_event if call.may(Permission.OPERATE) else None
    values = {
        "gathered": [] if evidence is None else await asyncio.to_thread(evidence, event_id),
        "event": event,
        "subject": flat(event.get("subject", {})),
        "details": flat(event.get("details", {})),
        "decision": explanation.decision,
        "taken": _taken(explanation),
        "flags": explanation.flags,
        "shown": {"files": _files, "sockets": _sockets},
        "near": near,
        "near_misses": explanation.decision.near_misses[:_NEAR],
        "near_count": len(explanation.decision.near_misses),
        "record": msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode(),
        "raw": _readable(raw),
    }
    return View(template="pages/notification.html", values=values)


def live(services: Services) -> Parts:
    before: tuple[float, int] | None = None

    async def parts() -> Mapping[str, str]:
        nonlocal before
        now, written = time.monotonic(), services.controller.store.statistics().events
        rate = 0.0 if before is None else max(0.0, (written - before[1]) / max(0.001, now - before[0]))
        before = (now, written)
        return {"pulse": fragment("pages/notifications_pulse.html", written=written, rate=rate)}

    return parts


def _which(word_of_list: str) -> NotificationList:
    """Refusal 404."""
    for which in _TABS:
        if which.value == word_of_list:
            return which
    raise Refusal(404, f"there is no list {word_of_list[:60]}: there are {', '.join(which.value for which in _TABS)}")


def _raw(store: Store, event_id: str) -> bytes | None:
    stored = store.event(event_id)
    return None if stored is None else stored.raw


def _readable(raw: bytes) -> str:
    """JSON with line breaks; else as it is."""
    try:
        return msgspec.json.format(raw, indent=2).decode(errors="replace")
    except msgspec.DecodeError:
        return raw.decode(errors="replace")


def _files(process: ProcessEvidence) -> list[tuple[str, str]]:
    """Descriptors, and what they lead to."""
    return [(str(one.fd), " ".join(filter(None, (one.path, one.access)))) for one in process.files]


def _sockets(process: ProcessEvidence) -> list[tuple[str, str]]:
    """Protocols, and between whom."""
    return [
        (one.protocol or "socket", " ".join(filter(None, (one.local, one.remote and f"→ {one.remote}", one.state))))
        for one in process.sockets
    ]


def _taken(explanation: Explanation) -> list[Taken]:
    """A command's outcomes have its id, or begin with it; a delivery's that of its event, "webhook" and the endpoint."""
    found = []
    for record in explanation.decision.actions:
        ids = {record.id}
        if isinstance(record.action, SendWebhook):
            ids |= {f"{explanation.decision.event_id}/webhook/{endpoint}" for endpoint in record.endpoints}
        found.append(
            Taken(
                record=record,
                action=word(record.action),
                parameters=_parameters(record),
                outcomes=[
                    outcome
                    for outcome in explanation.outcomes
                    if outcome.id in ids or outcome.id.startswith(f"{record.id}/")
                ],
            )
        )
    return found


def _parameters(record: ActionRecord) -> dict[str, str]:
    """Of an action, those that say something, as people read them."""
    given = msgspec.to_builtins(record.action)
    return {
        name: format_duration(value) if name == "ttl" else ", ".join(value) if isinstance(value, list) else str(value)
        for name, value in given.items()
        if name != "type" and value
    }


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names with dots and their values: process.name, nc."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], str):
            found.append((f"{prefix}{name}", ", ".join(map(str, value))))
        elif value not in (None, "", []):
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            found.append((f"{prefix}{name}", text))
    return found


PAGE = Page(
    name="notifications",
    title="Notifications",
    section=Section.WATCH,
    routes=(
        Route(path="/notifications", handler=show),
        Route(path="/notifications/event/{id:path}", handler=one),
        Route(path="/notifications/{which}", handler=show),
    ),
    key="n",
    icon="notifications",
)
