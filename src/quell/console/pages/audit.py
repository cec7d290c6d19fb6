"""The audit log: who did what to what, before and after, and whether the log is as it was written."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.console.page import Call, Page, Route, Section, View
from quell.model.audit import AuditRecord, Base
from quell.moments import parse_moment
from quell.storage import audit
from quell.storage.audit import Filter

_ROWS = 50
#: The newest entries, which every look of an admin checks.
_GLANCE = 200
#: Seconds that a check leaves to others after each thousand entries.
_PAUSE = 0.001
_SINCE = (("", "Any time"), ("1h", "1 hour"), ("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"))
#: What is done, as the log has it, for the filter; others can stand in the address.
_VERBS = ("create", "change", "delete", "login", "approve", "deny", "quarantine", "release", "pause", "resume", "rotate", "test", "replay", "export")  # fmt: skip
_KINDS = ("ResponseRule", "Policy", "Ruleset", "Group", "Webhook", "user", "token", "session", "setting", "action", "approval", "quarantine", "breaker", "agent")  # fmt: skip


class Line(Struct, frozen=True):
    """A part that is other than before."""

    name: str
    before: str
    after: str


async def show(call: Call) -> View:
    query, store = call.query, call.services.controller.store
    error = ""
    wanted = Filter()
    try:
        wanted = _filter(call)
    except ValueError as wrong:
        error = str(wrong)
    before = query.number("before", 0, least=0, most=999_999_999) or None
    found = (
        [] if error else await asyncio.to_thread(store.read, lambda held: audit.recent(held, _ROWS + 1, before, wanted))
    )
    ends = await asyncio.to_thread(store.read, audit.ends)
    is_admin = call.may(Permission.ADMIN)
    values = {
        "records": [(record, told(record)) for record in found[:_ROWS]],
        "next": str(found[_ROWS - 1].n) if len(found) > _ROWS else "",
        "query": query,
        "error": error,
        "ends": ends,
        "glance": await asyncio.to_thread(store.read, lambda held: _glance(call, held, ends.last))
        if is_admin
        else None,
        "since": _SINCE,
        "verbs": _with(_VERBS, query.one("verb")),
        "kinds": _with(_KINDS, query.one("kind")),
        "filtered": any(query.one(name) for name in ("actor", "verb", "kind", "name", "since", "until")),
    }
    return View(template="pages/audit.html", values=values, status=400 if error else 200)


async def one(call: Call) -> View:
    number, store = call.path["n"], call.services.controller.store
    if not number.isascii() or not number.isdigit() or len(number) > 12:
        raise Refusal(404, f"no entry {number[:40]}")
    found = await asyncio.to_thread(store.read, lambda held: audit.recent(held, 1, int(number) + 1))
    if not found or found[0].n != int(number):
        raise Refusal(404, f"no entry {number}: it is older than the log is kept, or never was")
    record = found[0]
    values = {
        "record": record,
        "lines": difference(record.entry.before, record.entry.after),
        "may_see_address": call.may(Permission.ADMIN),
    }
    return View(template="pages/audit_one.html", values=values)


async def verification(call: Call) -> View:
    """The whole of it, which takes its time."""
    controller = call.services.controller
    key, started = controller.signing_key.public_key(), time.monotonic()
    found = await asyncio.to_thread(
        controller.store.read, lambda held: audit.verify(held, key, rest=lambda: time.sleep(_PAUSE))
    )
    values = {"found": found, "took": time.monotonic() - started}
    return View(template="pages/audit_verification.html", values=values)


def difference(before: object, after: object) -> list[Line]:
    """Part by part, by name; what is the same is left out."""
    old, new = _parts(before), _parts(after)
    return [
        Line(name, old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
    ]


def _glance(call: Call, connection: sqlite3.Connection, last: int) -> bool:
    """Whether the newest entries, up to the signed end, follow from each other as they were written."""
    key = call.services.controller.signing_key.public_key()
    first = audit.recent(connection, 1, max(1, last - _GLANCE) + 1)
    start = Base(n=first[0].n, hash=first[0].hash) if first and last > _GLANCE else None
    return not audit.verify(connection, key, start=start).findings


def _filter(call: Call) -> Filter:
    """ValueError."""
    query, now = call.query, time.time()
    moments = {name: parse_moment(query.one(name), now) for name in ("since", "until") if query.one(name)}
    actor, verb, kind, name = (query.one(word).strip() or None for word in ("actor", "verb", "kind", "name"))
    return Filter(actor=actor, verb=verb, kind=kind, name=name, since=moments.get("since"), until=moments.get("until"))


def _parts(value: object, prefix: str = "") -> dict[str, str]:
    """With dots: {"target": {"node": "a"}} is {"target.node": "a"}."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return {prefix or "value": _text(value)}
    found: dict[str, str] = {}
    for name, inside in value.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        found |= _parts(inside, path) if isinstance(inside, Mapping) and inside else {path: _text(inside)}
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    return msgspec.json.encode(value).decode()


def _with(options: tuple[str, ...], value: str) -> list[tuple[str, str]]:
    """A value that came in the address and is none of the options is one too."""
    names = [*sorted(options), *([] if not value or value in options else [value])]
    return [("", "Any"), *((name, name) for name in names)]


def told(record: AuditRecord) -> str:
    """What changed, in a line."""
    lines = difference(record.entry.before, record.entry.after)
    if record.entry.before is None or record.entry.after is None:
        return ""
    shown = [f"{line.name}: {line.before or 'none'} → {line.after or 'none'}" for line in lines[:3]]
    return "; ".join(shown) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")


PAGE = Page(
    name="audit",
    title="Audit log",
    section=Section.ADMINISTER,
    routes=(
        Route(path="/audit", handler=show),
        Route(path="/audit/entry/{n}", handler=one),
        Route(path="/audit/verification", handler=verification, needs=Permission.ADMIN),
    ),
    key="l",
    icon="audit",
)
