"""Workloads: the containers that are known, searched for; one with its groups and its quarantine; and the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from quell.api import workload_search
from quell.api.problem import Refusal
from quell.api.services import Services
from quell.console.page import Call, Page, Query, Route, Section, View
from quell.controller.inventory import WorkloadListed
from quell.controller.isolation import Listed
from quell.response.facts import Workload

_ROWS = 100
#: Filters, by the names that GET /v1/workloads has for them.
_FILTERS = ("text", "node", "namespace", "image", "label", "group", "running")
_SORTS: Mapping[str, Callable[[Workload], tuple[str, ...]]] = {
    "name": lambda known: (known.namespace or "", (known.pod_name or known.name or "~").casefold()),
    "image": lambda known: (known.image or "~",),
    "node": lambda known: (known.node or "~",),
}


class Row(Struct, frozen=True, kw_only=True):
    """A workload of a list, and the quarantine that it is in."""

    known: WorkloadListed
    held: Listed | None
    running: bool


async def show(call: Call) -> View:
    query, inventory = call.query, call.services.controller.inventory
    refused = ""
    try:
        found = wanted(call.services, query)
    except Refusal as error:
        found, refused = [], error.detail
    column, falling = _order(query.one("sort", "name"))
    found.sort(key=lambda known: (*_SORTS[column](known), known.id), reverse=falling)
    start = query.number("from", 0, least=0, most=10**7)
    values = {
        "rows_shown": rows(call.services, found[start : start + _ROWS]),
        "found": len(found),
        "everything": len(inventory.workloads),
        "start": start,
        "rows": _ROWS,
        "refused": refused,
        "query": query,
        "sort": f"-{column}" if falling else column,
        "filtered": any(query.one(name) for name in _FILTERS),
        "more_used": any(query.one(name) for name in ("node", "image", "label")),
        "tabs": _tabs(call.services),
    }
    return View(template="pages/workloads.html", values=values, status=400 if refused else 200)


async def one(call: Call) -> View:
    known = call.services.controller.inventory.find(call.path["id"])
    if known is None:
        raise Refusal(
            404, f"no container {call.path['id'][:64]}: it is not known, or its first digits are not its alone"
        )
    (row,) = rows(call.services, [known])
    return View(template="pages/workloads_one.html", values={"row": row, "known": row.known})


async def nodes(call: Call) -> View:
    agents: dict[str, dict[str, Any]] = {}
    for agent in await asyncio.to_thread(call.services.controller.agents):
        before = agents.get(agent["node"])
        if before is None or agent["connected"]:
            agents[agent["node"]] = agent
    words = call.query.one("text").casefold()
    every = call.services.controller.inventory.nodes()
    known = [node for node in every if words in f"{node.name} {node.cluster or ''} {node.os or ''}".casefold()]
    start = call.query.number("from", 0, least=0, most=10**7)
    values = {
        "nodes": known[start : start + _ROWS],
        "agents": agents,
        "found": len(known),
        "everything": len(every),
        "start": start,
        "rows": _ROWS,
        "query": call.query,
        "tabs": _tabs(call.services),
    }
    return View(template="pages/workloads_nodes.html", values=values)


def wanted(services: Services, query: Query) -> list[Workload]:
    """Refusal 400, 404."""
    state = query.one("running")
    return workload_search.workloads(
        services,
        text=query.one("text") or None,
        node=query.one("node") or None,
        namespace=query.one("namespace") or None,
        image=query.one("image") or None,
        label=query.all("label"),
        group=query.one("group") or None,
        running=None if state not in ("true", "false") else state == "true",
    )


def rows(services: Services, found: list[Workload]) -> list[Row]:
    """In this order."""
    inventory = services.controller.inventory
    held = {member.id: each for each in services.controller.isolation.all() for member in each.workloads}
    return [
        Row(known=inventory.listed(known), held=held.get(known.id), running=workload_search.is_running(known))
        for known in found
    ]


def _order(written: str) -> tuple[str, bool]:
    """Column, and whether the last come first: "-node"."""
    column = written.removeprefix("-")
    return (column, written.startswith("-")) if column in _SORTS else ("name", False)


def _tabs(services: Services) -> list[tuple[str, str, int]]:
    inventory = services.controller.inventory
    return [
        ("Containers", PAGE.address, len(inventory.workloads)),
        ("Nodes", f"{PAGE.address}/nodes", len(inventory.nodes())),
    ]


PAGE = Page(
    name="workloads",
    title="Workloads",
    section=Section.FLEET,
    routes=(
        Route(path="/workloads", handler=show),
        Route(path="/workloads/nodes", handler=nodes),
        Route(path="/workloads/of/{id}", handler=one),
    ),
    key="w",
    icon="workloads",
)
