"""Traces: red flags on one chain of processes, the most urgent first; drawn with their processes, closed, hidden by a policy."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.routes.documents import editing, refused
from quell.api.routes.traces import close, filters, found, hiding, reopen, trace_named, version
from quell.console.editing import edited
from quell.console.forms import by_field
from quell.console.page import Call, Moved, Page, Query, Route, Section, View, address
from quell.console.pages.notifications import flat
from quell.console.process_tree import drawn
from quell.console.timeline import timeline
from quell.console.words import moment
from quell.controller.policy_changes import plan_enable
from quell.controller.rule_changes import Options
from quell.controller.rulebook import Key
from quell.documents.write import as_yaml
from quell.errors import FilterError, Problem
from quell.model.notification import SearchPage
from quell.model.policy import Policy
from quell.model.rule import Mode
from quell.model.trace import WEIGHTS, Priority, Trace, TraceStatus, cap
from quell.model.trace_view import TraceSummary, shown

_ROWS = 50
_NOTE = 1000
#: Filters that take several values, as the query of GET /v1/traces has them.
_SEVERAL = ("priority", "status", "user", "node", "namespace", "pod", "container", "image", "text")
_FIRST = ("text", "priority", "status")
_STATUSES = (("open", "open"), ("closed", "closed"), ("merged", "merged"), ("any", "open and closed"))
_ORDERS = {"score": "Score", "newest": "Newest", "oldest": "Oldest"}


class Part(Struct, frozen=True, kw_only=True):
    """What flags of one severity add to a score."""

    severity: str
    weight: int
    count: int


async def show(call: Call) -> View:
    query = call.query
    errors: dict[str, str] = {}
    problems: list[Problem] = []
    some: SearchPage[TraceSummary] | None = None
    status = query.one("status", TraceStatus.OPEN.value)
    order = query.one("order") if query.one("order") in _ORDERS else "score"
    try:
        some = await found(
            call.services, _wanted(query, status), order=order, limit=_ROWS, cursor=query.one("cursor") or None
        )
    except FilterError as error:
        errors, problems = by_field(error.problems, ("since", "until", *_SEVERAL))
    more = [name for name in ("since", "until", *_SEVERAL) if name not in _FIRST]
    values = {
        "found": some,
        "query": query,
        "errors": errors,
        "problems": problems,
        "priorities": [("", "Any"), *(each.value for each in Priority)],
        "statuses": _STATUSES,
        "status": status,
        "orders": _ORDERS,
        "order": order,
        "more": [(name, name.capitalize()) for name in more],
        "more_used": any(query.one(name) for name in more) or "suppressed" in query,
        "filtered": any(query.one(name) for name in ("since", "until", "suppressed", *_SEVERAL)),
        "counts": {
            "" if priority is None else priority.value: count
            for priority, count in call.services.controller.traces.counts().items()
        },
        "rows": _ROWS,
    }
    return View(template="pages/traces.html", values=values, status=400 if errors or problems else 200)


async def one(call: Call) -> View:
    trace = await trace_named(call.services, call.path["id"])
    parts = [
        Part(severity=severity.value, weight=weight, count=trace.severities[severity])
        for severity, weight in WEIGHTS.items()
        if trace.severities.get(severity)
    ]
    hidden = _hider(call, trace.suppressed_by)
    values = {
        "trace": shown(trace),
        "tree": drawn(trace),
        "line": timeline(trace),
        "flags": sorted(trace.flags, key=lambda flag: flag.time),
        "processes": {process.id: process for process in trace.processes},
        "parts": parts,
        "sum": sum(part.weight * part.count for part in parts),
        "cap": cap(trace.severities),
        "subject": flat(msgspec.to_builtins(trace.subject)),
        "hider": None if hidden is None else hidden.name,
        "many_days": moment(trace.first)[:10] != moment(trace.last)[:10],
        "may_hide": trace.status is TraceStatus.OPEN and not trace.suppressed_by and not trace.uncounted,
    }
    return View(template="pages/traces_one.html", values=values)


async def close_form(call: Call) -> View:
    return await _asked(call, "close")


async def close_it(call: Call) -> Moved:
    identifier, note = await _told(call)
    await close(call.services, identifier, call.caller.actor, note)
    return Moved(to=address("traces", identifier), told="The trace is closed: what comes on its chains opens another.")


async def reopen_form(call: Call) -> View:
    return await _asked(call, "reopen")


async def reopen_it(call: Call) -> Moved:
    identifier, note = await _told(call)
    opened = await reopen(call.services, identifier, call.caller.actor, note)
    return Moved(to=address("traces", opened.id), told="The trace is open: flags on its chains join it.")


async def suppress_form(call: Call) -> View:
    """The policy that would hide it, to be looked at and changed before it is saved. Refusal 404, 409."""
    made = await hiding(call.services, call.path["id"], "")
    return View(
        template="pages/traces_suppress.html",
        values={
            "trace": shown(await trace_named(call.services, call.path["id"])),
            "text": as_yaml(made.document),
            "hides": len(made.hides),
            "edited": None,
        },
    )


async def suppress(call: Call) -> View | Moved:
    trace = await trace_named(call.services, call.path["id"])
    form = call.form
    text = form.one("text").replace("\r\n", "\n")
    done = await edited(call, text, None, "", save=form.one("do") == "save")
    if form.one("do") == "look":
        return View(template="findings.html", values={"edited": done})
    if done.saved:
        names = ", ".join(each.name for each in done.changes)
        return Moved(
            to=address("traces", trace.id),
            told=f"Policy {names} is in force: open traces are judged by it within a second.",
        )
    return View(
        template="pages/traces_suppress.html",
        values={"trace": shown(trace), "text": text, "hides": None, "edited": done},
        status=422 if done.count else 200,
    )


async def unsuppress_form(call: Call) -> View:
    trace = await trace_named(call.services, call.path["id"])
    policy = _hidden_by(call, trace)
    return View(
        template="pages/traces_unsuppress.html",
        values={
            "trace": shown(trace),
            "policy": policy,
            "revision": call.services.controller.rulebook.kept[Key("Policy", policy.name)].revision,
            "hidden": call.services.controller.traces.counts().get(None, 0),
        },
    )


async def unsuppress(call: Call) -> Moved:
    """The policy that hides it is disabled. Refusal 403, 404, 409."""
    trace = await trace_named(call.services, call.path["id"])
    policy = _hidden_by(call, trace)
    options = Options(take_over="take_over" in call.form)
    await refused(
        call.services.controller.rulebook.change(
            lambda kept, edition: plan_enable(kept, policy.name, on=False, edition=edition, options=options),
            editing(call.caller),
        )
    )
    return Moved(
        to=address("traces", trace.id),
        told=f"Policy {policy.name} is disabled: open traces that it hid are shown within a second.",
    )


def _hidden_by(call: Call, trace: Trace) -> Policy:
    """Refusal 409."""
    policy = _hider(call, trace.suppressed_by)
    if policy is None or not policy.enabled or policy.mode is not Mode.ENFORCE:
        raise Refusal(409, f"no policy in force hides trace {trace.id}")
    return policy


def _hider(call: Call, name: str) -> Policy | None:
    kept = call.services.controller.rulebook.kept.get(Key("Policy", name))
    return kept.thing if kept is not None and isinstance(kept.thing, Policy) else None


async def _asked(call: Call, verb: str) -> View:
    trace = await trace_named(call.services, call.path["id"])
    values = {"trace": shown(trace), "verb": verb, "version": version(trace), "note": _NOTE}
    return View(template="pages/traces_close.html", values=values)


async def _told(call: Call) -> tuple[str, str]:
    """Its id, and the note. Refusal 404, 412: it was changed since the form was drawn, 422."""
    trace, note = await trace_named(call.services, call.path["id"]), call.form.one("note").strip()
    if len(note) > _NOTE:
        raise Refusal(422, f"note: expected at most {_NOTE} characters, got {len(note)}")
    if call.form.one("version") != version(trace):
        raise Refusal(412, "more came to the trace in the meantime: look at it again")
    return trace.id, note


def _wanted(query: Query, status: str) -> Any:
    """FilterError."""
    several = {name: query.all(name) for name in _SEVERAL}
    several["status"] = [] if status == "any" else [status]
    return filters(query.one("since") or None, query.one("until") or None, suppressed="suppressed" in query, **several)


PAGE = Page(
    name="traces",
    title="Traces",
    section=Section.WATCH,
    routes=(
        Route(path="/traces", handler=show),
        Route(path="/traces/{id}", handler=one),
        Route(path="/traces/{id}/close", handler=close_form, needs=Permission.OPERATE),
        Route(path="/traces/{id}/close", handler=close_it, method="POST", needs=Permission.OPERATE),
        Route(path="/traces/{id}/reopen", handler=reopen_form, needs=Permission.OPERATE),
        Route(path="/traces/{id}/reopen", handler=reopen_it, method="POST", needs=Permission.OPERATE),
        Route(path="/traces/{id}/suppress", handler=suppress_form, needs=Permission.RULES),
        Route(path="/traces/{id}/suppress", handler=suppress, method="POST", needs=Permission.RULES),
        Route(path="/traces/{id}/unsuppress", handler=unsuppress_form, needs=Permission.RULES),
        Route(path="/traces/{id}/unsuppress", handler=unsuppress, method="POST", needs=Permission.RULES),
    ),
    key="t",
    icon="traces",
)
