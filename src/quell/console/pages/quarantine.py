"""Quarantine: what is cut off from the network now, by whom and for how long; isolating by hand, letting go, and the past."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from msgspec import Struct

from quell.api import isolating
from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.api.search import filters
from quell.api.services import Services
from quell.console.forms import text, with_value
from quell.console.page import Call, Moved, Page, Parts, Query, Route, Section, View, address
from quell.console.rendering import fragment
from quell.controller import notifications
from quell.controller.isolation import ENDED, RELEASE, TAMPERED, LetGoAll, Listed, Selection, Wanted
from quell.controller.own_events import QUARANTINED, UNQUARANTINED
from quell.durations import parse_duration
from quell.model.decision import ActionRecord, Status
from quell.model.explanation import Explanation
from quell.model.notification import Notification, SearchPage
from quell.model.subject import NetworkTarget
from quell.response.facts import Phase, Workload
from quell.response.targets import REQUEST

_ROWS = 50
#: Seconds that a page searches the past.
_SECONDS = 0.08
_YEARS = 10 * 365 * 86400.0
#: Events of the past, with what they are called here.
_PAST = {
    REQUEST: "asked for by hand",
    QUARANTINED: "isolated",
    UNQUARANTINED: "released",
    ENDED: "ended by itself",
    TAMPERED: "tampered with",
    RELEASE: "let go",
}
_TTLS = (("", "Until somebody releases it"), ("15m", "15 minutes"), ("1h", "1 hour"), ("8h", "8 hours"), ("24h", "1 day"), ("7d", "7 days"))  # fmt: skip
_FIELDS = ("workload", "pod", "node", "pid", "start_ticks")


class Held(Struct, frozen=True, kw_only=True):
    """A quarantine with how its agent is linked, and how often somebody opened it behind the agent's back."""

    quarantine: Listed
    connected: bool
    tampered: int


async def show(call: Call) -> View:
    query = call.query
    found = call.services.controller.isolation.all()
    chosen = _chosen(call.services, found, query)
    start = query.number("from", 0, least=0, most=10**6)
    shown = chosen[start : start + _ROWS]
    linked = await _linked(call.services)
    tampered = await _tampered(call.services, shown)
    holders = sorted({holder for each in found for holder in each.holders})
    values = {
        "held": [
            Held(quarantine=each, connected=linked.get(each.agent, False), tampered=tampered.get(each.key, 0))
            for each in shown
        ],
        "everything": len(found),
        "found": len(chosen),
        "start": start,
        "rows": _ROWS,
        "holders": [("", "Anybody"), *_with(holders, query.one("holder"))],
        "phases": [("", "Any"), *(phase.value for phase in Phase)],
        "filtered": any(query.one(name) for name in ("text", "holder", "phase", "node", "group")),
        "query": query,
        "tabs": _tabs(call.services),
    }
    return View(template="pages/quarantine.html", values=values)


async def one(call: Call) -> View:
    held = isolating.held(call.services, call.path["key"])
    linked = await _linked(call.services)
    past = await _past(call.services, text=(f'"{held.key}"',), limit=20)
    values = {
        "each": held,
        "connected": linked.get(held.agent, False),
        "tampered": sum(1 for event in past.items if event.name == TAMPERED),
        "events": past.items,
        "words": _PAST,
    }
    return View(template="pages/quarantine_one.html", values=values)


async def history(call: Call) -> View:
    query = call.query
    found = await _past(
        call.services,
        text=tuple(query.all("text")),
        since=query.one("since") or None,
        limit=_ROWS,
        cursor=query.one("cursor") or None,
    )
    values = {"found": found, "words": _PAST, "query": query, "tabs": _tabs(call.services)}
    return View(template="pages/quarantine_history.html", values=values)


async def new_form(call: Call) -> View:
    """Asks what is meant; once something is named, says what would happen to it."""
    return await _new(call, call.query)


async def new(call: Call) -> View | Moved:
    wanted = _wanted(call.form)
    explanation = await isolating.isolate(call.services, wanted, call.caller.actor)
    (record,) = explanation.decision.actions
    if record.status is Status.GRANTED and isinstance(record.target, NetworkTarget):
        key = record.target.key
        held = call.services.controller.isolation.one(key)
        return Moved(
            to=PAGE.address if held is None else address("quarantine", "of", key),
            told=f"Isolating {key if held is None else held.name}: the agent does it now.",
        )
    event = address("notifications", "event", explanation.decision.event_id)
    if record.status is Status.HELD:
        return Moved(to=event, told="Held: it waits for an approval.")
    return await _new(call, call.form, explanation)


async def release_form(call: Call) -> View:
    held = isolating.held(call.services, call.path["key"])
    holder = call.query.one("holder") or None
    told = await isolating.let_go(call.services, held, holder, call.caller.actor, dry_run=True)
    linked = await _linked(call.services)
    values = {
        "told": told,
        "name": held.name,
        "action": address("quarantine", "release", held.key),
        "back": address("quarantine", "of", held.key),
        "fields": {} if holder is None else {"holder": holder},
        "away": not linked.get(held.agent, False),
    }
    return View(template="pages/quarantine_release.html", values=values)


async def release(call: Call) -> Moved:
    held = isolating.held(call.services, call.path["key"])
    told = await isolating.let_go(call.services, held, call.form.one("holder") or None, call.caller.actor)
    return Moved(to=PAGE.address, told=_said(told))


async def release_many_form(call: Call) -> View:
    """All that a holder has, that members of a group are in, or everything there is."""
    selected, fields = _selection(call.services, call.query)
    isolation = call.services.controller.isolation
    values = {
        "told": await isolation.release(selected, call.caller.actor, "", dry_run=True),
        "name": "",
        "action": f"{PAGE.address}/release",
        "back": PAGE.address,
        "fields": fields,
        "away": False,
    }
    return View(template="pages/quarantine_release.html", values=values)


async def release_many(call: Call) -> Moved:
    selected, _ = _selection(call.services, call.form)
    actor = call.caller.actor
    told = await call.services.controller.isolation.release(selected, actor, f"released by {actor}")
    return Moved(to=PAGE.address, told=_said(told))


def live(services: Services) -> Parts:
    async def parts() -> Mapping[str, str]:
        held = services.controller.isolation.all()
        return {"count": fragment("pages/quarantine_pulse.html", held=held)}

    return parts


async def _new(call: Call, given: Query, explanation: Explanation | None = None) -> View:
    named = any(given.one(name) for name in ("workload", "pod", "pid"))
    refused, status = "", 200
    if named and explanation is None:
        try:
            explanation = await isolating.isolate(call.services, _wanted(given), call.caller.actor, dry_run=True)
        except Refusal as error:
            refused, status = error.detail, error.status
    elif explanation is not None:
        status = 409
    record = None if explanation is None else explanation.decision.actions[0]
    target = None if record is None else record.target
    together = _together(call.services, target) if isinstance(target, NetworkTarget) else []
    values = {
        "given": given,
        "fields": {name: given.one(name) for name in _FIELDS if given.one(name)},
        "record": record,
        "name": _name(given, together, record),
        "together": together,
        "already": None
        if not isinstance(target, NetworkTarget)
        else call.services.controller.isolation.one(target.key),
        "refused": refused,
        "ttls": with_value(_TTLS, given.one("ttl")),
        "nodes": sorted({str(agent["node"]) for agent in await asyncio.to_thread(call.services.controller.agents)}),
    }
    template = "pages/quarantine_confirm.html" if record is not None else "pages/quarantine_new.html"
    return View(template=template, values=values, status=status)


def _wanted(given: Query) -> Wanted:
    """Refusal 422."""
    try:
        numbers = {name: int(given.one(name)) for name in ("pid", "start_ticks") if given.one(name)}
        ttl = parse_duration(given.one("ttl")) if given.one("ttl") else None
    except ValueError as error:
        raise Refusal(422, str(error)) from error
    if ttl is not None and not 0 < ttl <= _YEARS:
        raise Refusal(422, "ttl: expected more than nothing and at most ten years")
    if not 0 < numbers.get("pid", 1) < 2**31 or not 0 <= numbers.get("start_ticks", 0) < 2**63:
        raise Refusal(422, "pid and start_ticks: expected those of a process")
    workload, pod, node = (text(given, name, 300) or None for name in ("workload", "pod", "node"))
    return Wanted(
        workload=workload,
        pod=pod,
        node=node,
        pid=numbers.get("pid"),
        start_ticks=numbers.get("start_ticks"),
        ttl=ttl,
        strict="strict" in given,
        investigator=tuple(text(given, "investigator").replace(",", " ").split()),
        comment=text(given, "comment"),
    )


def _selection(services: Services, given: Query) -> tuple[Selection, dict[str, str]]:
    """And the fields that say so. Refusal 404, 422."""
    holder, group = given.one("holder") or None, given.one("group") or None
    if ("all" in given) == (holder is not None or group is not None):
        raise Refusal(422, "either everything is released, or what a holder or a group has")
    members = None
    if group is not None:
        found = services.controller.inventory.members(group)
        if found is None:
            raise Refusal(404, f"no group {group[:200]}")
        members = frozenset(found)
    fields = {name: given.one(name) for name in ("holder", "group", "all") if given.one(name)}
    return Selection(holder=holder, workloads=members), fields


def _chosen(services: Services, found: list[Listed], query: Query) -> list[Listed]:
    """Refusal 404: no such group."""
    words, group = query.one("text").casefold(), query.one("group")
    members: frozenset[str] | None = None
    if group:
        of = services.controller.inventory.members(group)
        if of is None:
            raise Refusal(404, f"no group {group[:200]}")
        members = frozenset(of)
    holder, phase, node = (query.one(name) for name in ("holder", "phase", "node"))
    return sorted(
        (
            each
            for each in found
            if words in f"{each.name} {each.key} {each.target.node}".casefold()
            and (not holder or holder in each.holders)
            and (not phase or phase == each.phase.value)
            and (not node or node == each.target.node)
            and (members is None or any(member.id in members for member in each.workloads))
        ),
        key=lambda each: (-each.since, each.key),
    )


def _together(services: Services, target: NetworkTarget) -> list[Workload]:
    """The containers in the namespace that the inventory knows."""
    wanted = {name for name in (target.key, target.container_id, target.pod_uid) if name}
    return [
        known
        for known in services.controller.inventory.workloads.values()
        if known.gone is None and wanted & {known.id, known.pod_uid, known.sandbox}
    ]


def _name(given: Query, together: list[Workload], record: ActionRecord | None) -> str:
    pod = next((f"{each.namespace}/{each.pod_name}" for each in together if each.pod_name), "")
    name = next((each.name for each in together if each.name), "")
    asked = given.one("pod") or given.one("workload") or (f"pid {given.one('pid')}" if given.one("pid") else "")
    return pod or name or asked or ("" if record is None else record.id)


async def _linked(services: Services) -> dict[str, bool]:
    """Of each agent, whether its link is up."""
    return {str(each["id"]): bool(each["connected"]) for each in await asyncio.to_thread(services.controller.agents)}


async def _tampered(services: Services, held: list[Listed]) -> dict[str, int]:
    """How often each was opened or changed behind the agent's back, as far as the newest events tell."""
    if not held:
        return {}
    since = min(each.since for each in held)
    found = await _past(services, names=(TAMPERED,), since=f"{since:.3f}" if since else None, limit=1000)
    counts: dict[str, int] = {}
    for event in found.items:
        key = str(event.details.get("quarantine", ""))
        counts[key] = counts.get(key, 0) + 1
    return counts


async def _past(
    services: Services,
    *,
    names: tuple[str, ...] = tuple(_PAST),
    text: tuple[str, ...] = (),
    since: str | None = None,
    limit: int,
    cursor: str | None = None,
) -> SearchPage[Notification]:
    searching = services.searching
    wanted = filters(since, None, name=names, source=("quell",), text=text, include_suppressed=True)
    query = searching.query(wanted.filter)
    return await searching.page(query, notifications.told, limit=limit, cursor=cursor, seconds=_SECONDS)


def _said(told: LetGoAll) -> str:
    """What letting go came to."""
    if not told.released and not told.kept:
        return "Nothing was held any more."
    parts = []
    if told.released:
        parts.append("Released: " + ", ".join(each.name for each in told.released[:5]))
        if len(told.released) > 5:
            parts[-1] += f" and {len(told.released) - 5} more"
    parts += [f"{each.name} stays isolated, held by {', '.join(each.holders)}" for each in told.kept[:5]]
    return ". ".join(parts) + "."


def _with(options: list[str], value: str) -> list[str]:
    """A value that came in the address and is none of the options is one too."""
    return options if not value or value in options else [*options, value]


def _tabs(services: Services) -> list[tuple[str, str, int]]:
    return [
        ("Now", PAGE.address, len(services.controller.isolation.all())),
        ("History", f"{PAGE.address}/history", 0),
    ]


PAGE = Page(
    name="quarantine",
    title="Quarantine",
    section=Section.RESPOND,
    routes=(
        Route(path="/quarantine", handler=show),
        Route(path="/quarantine/history", handler=history),
        Route(path="/quarantine/new", handler=new_form, needs=Permission.OPERATE),
        Route(path="/quarantine/new", handler=new, method="POST", needs=Permission.OPERATE),
        Route(path="/quarantine/release", handler=release_many_form, needs=Permission.OPERATE),
        Route(path="/quarantine/release", handler=release_many, method="POST", needs=Permission.OPERATE),
        Route(path="/quarantine/release/{key:path}", handler=release_form, needs=Permission.OPERATE),
        Route(path="/quarantine/release/{key:path}", handler=release, method="POST", needs=Permission.OPERATE),
        Route(path="/quarantine/of/{key:path}", handler=one),
    ),
    key="q",
    icon="quarantine",
)
