"""Approvals: actions that wait for a person, what was decided about others, and breakers that a person resets."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from typing import Any, cast

from msgspec import Struct

from quell.api import judging
from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.services import Services
from quell.console.forms import text
from quell.console.page import Call, Moved, Page, Parts, Route, Section, View, address
from quell.console.rendering import fragment
from quell.controller.approvals import Pending
from quell.controller.past import as_decided
from quell.model.audit import AuditRecord
from quell.model.decision import Outcome
from quell.model.event import Event
from quell.storage import audit, outcomes
from quell.storage.audit import Filter
from quell.storage.store import Store

_ROWS = 50
#: As they stand in the audit log, with what they are called here.
_VERDICTS = {"approve": "approved", "deny": "denied", "expire": "expired"}


class Waiting(Struct, frozen=True, kw_only=True):
    """An action that waits, and what it is answered to; None: the event is no longer kept."""

    held: Pending
    event: Event | None


class Decided(Struct, frozen=True, kw_only=True):
    """An action that waited, as the audit log has it, with the outcomes of its command."""

    record: AuditRecord
    verdict: str
    #: What waited: command, event, action, asked_by, reason, explanation, since.
    held: Mapping[str, Any]
    outcomes: list[Outcome]


async def show(call: Call) -> View:
    approvals = call.services.controller.approvals
    start = call.query.number("from", 0, least=0, most=10**6)
    waiting = approvals.all()
    page = waiting[start : start + _ROWS]
    values = {
        "tabs": _tabs(call.services),
        "waiting": await asyncio.to_thread(_with_events, call.services.controller.store, page),
        "found": len(waiting),
        "start": start,
        "rows": _ROWS,
        "query": call.query,
        "paused": call.services.controller.live.pause,
    }
    return View(template="pages/approvals.html", values=values)


async def decided(call: Call) -> View:
    before = call.query.number("before", 0, least=0, most=999_999_999) or None
    found = await asyncio.to_thread(
        call.services.controller.store.read, lambda connection: _decided(connection, before)
    )
    values = {
        "tabs": _tabs(call.services),
        "decided": found[:_ROWS],
        "next": str(found[_ROWS - 1].record.n) if len(found) > _ROWS else "",
        "query": call.query,
    }
    return View(template="pages/approvals_decided.html", values=values)


async def breakers(call: Call) -> View:
    found = call.services.controller.approvals.breakers()
    return View(template="pages/approvals_breakers.html", values={"tabs": _tabs(call.services), "breakers": found})


async def decide_form(call: Call) -> View:
    return await _decide(call, _verdict(call.query.one("verdict", "approve")))


async def decide(call: Call) -> View | Moved:
    verdict, identifier = _verdict(call.form.one("verdict")), call.path["id"]
    held = judging.waiting(call.services, identifier)
    try:
        await judging.judge(call.services, identifier, verdict, call.caller.actor, text(call.form, "note"))
    except Refusal as refused:
        if refused.status not in (409, 422):
            raise
        return await _decide(call, verdict, refused)
    if verdict == "deny":
        return Moved(to=PAGE.address, told=f"Denied: {held.action}, asked for by {', '.join(held.asked_by)}.")
    return Moved(
        to=address("notifications", "event", held.event),
        told=f"Approved: {held.action} is on its way. What comes of it is told here.",
    )


async def reset_form(call: Call) -> View:
    key = call.query.one("key")
    for breaker in call.services.controller.approvals.breakers():
        if breaker.key == key:
            return View(template="pages/approvals_reset.html", values={"breaker": breaker})
    raise Refusal(404, f"no breaker stands open under {key[:300]}")


async def reset(call: Call) -> Moved:
    done = await judging.reset(call.services, call.form.one("key"), call.caller.actor, text(call.form, "note"))
    return Moved(to=f"{PAGE.address}/breakers", told=f"{done.by} may do {done.action} to {done.owner} again.")


def live(services: Services) -> Parts:
    async def parts() -> Mapping[str, str]:
        approvals = services.controller.approvals.all()
        newest = max((held.since for held in approvals), default=0.0)
        return {"waiting": fragment("pages/approvals_pulse.html", waiting=len(approvals), newest=newest)}

    return parts


async def _decide(call: Call, verdict: judging.Verdict, refused: Refusal | None = None) -> View:
    held = judging.waiting(call.services, call.path["id"])
    explanation = await asyncio.to_thread(call.services.controller.explain, held.event)
    matches = () if explanation is None else explanation.decision.matches
    values = {
        "held": held,
        "event": None if explanation is None else explanation.event,
        "matches": [match for match in matches if match.ref in held.asked_by],
        "verdict": verdict,
        "note": call.form.one("note"),
        "refused": "" if refused is None else refused.detail,
    }
    return View(
        template="pages/approvals_decide.html", values=values, status=200 if refused is None else refused.status
    )


def _with_events(store: Store, held: list[Pending]) -> list[Waiting]:
    told = []
    for each in held:
        stored = store.event(each.event)
        told.append(Waiting(held=each, event=None if stored is None else as_decided(stored)))
    return told


def _decided(connection: sqlite3.Connection, before: int | None) -> list[Decided]:
    """One more than a page has."""
    told = []
    for record in audit.recent(connection, _ROWS + 1, before, Filter(kind="approval")):
        held: Mapping[str, Any] = record.entry.before or {}
        verdict = _VERDICTS.get(record.entry.verb, record.entry.verb)
        command = str(held.get("command", ""))
        # Of a denial and of a time that ran out the outcome says no more than the verdict does.
        done = outcomes.of(connection, command) if verdict == "approved" and command else []
        told.append(Decided(record=record, verdict=verdict, held=held, outcomes=done))
    return told


def _verdict(written: str) -> judging.Verdict:
    """Refusal 400."""
    if written not in ("approve", "deny"):
        raise Refusal(400, f"verdict: expected approve or deny, got {written[:40]}")
    return cast("judging.Verdict", written)


def _tabs(services: Services) -> list[tuple[str, str, int | None]]:
    approvals = services.controller.approvals
    return [
        ("Waiting", PAGE.address, len(approvals.all())),
        ("Decided", f"{PAGE.address}/decided", None),
        ("Breakers", f"{PAGE.address}/breakers", len(approvals.breakers())),
    ]


PAGE = Page(
    name="approvals",
    title="Approvals",
    section=Section.RESPOND,
    routes=(
        Route(path="/approvals", handler=show),
        Route(path="/approvals/decided", handler=decided),
        Route(path="/approvals/breakers", handler=breakers),
        Route(path="/approvals/breakers/reset", handler=reset_form, needs=Permission.OPERATE),
        Route(path="/approvals/breakers/reset", handler=reset, method="POST", needs=Permission.OPERATE),
        Route(path="/approvals/decide/{id:path}", handler=decide_form, needs=Permission.OPERATE),
        Route(path="/approvals/decide/{id:path}", handler=decide, method="POST", needs=Permission.OPERATE),
    ),
    key="p",
    icon="approvals",
)
