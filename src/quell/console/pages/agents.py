"""Agents: who is enrolled and connected, with the containers there; how one enrols; and withdrawing one."""

from __future__ import annotations

import asyncio
from typing import Any

from quell.api import enrolment
from quell.api.asgi import header
from quell.api.problem import Refusal
from quell.api.roles import Permission
from quell.console.page import Call, Moved, Page, Route, Section, View
from quell.console.pages import workloads

_ROWS = 100
#: Seconds in which a join token is to be used.
_JOIN = 900.0
#: Columns that sort, with what they sort by.
_SORTS = {
    "node": lambda agent: str(agent["node"]).casefold(),
    "connected": lambda agent: (agent["connected"], str(agent["node"])),
    "version": lambda agent: (agent["version"], str(agent["node"])),
    "waiting": lambda agent: (agent["waiting"], str(agent["node"])),
    "enrolled": lambda agent: agent["enrolled"],
}


async def show(call: Call) -> View:
    query = call.query
    everyone = await asyncio.to_thread(call.services.controller.agents)
    text, state = query.one("text").casefold(), query.one("state")
    chosen = [
        agent
        for agent in everyone
        if text in f"{agent['node']} {agent['name']} {agent['id']}".casefold()
        and (state not in ("up", "down") or agent["connected"] is (state == "up"))
    ]
    column, falling = _order(query.one("sort", "node"))
    chosen.sort(key=_SORTS[column], reverse=falling)
    start = query.number("from", 0, least=0, most=10**6)
    values = {
        "agents": chosen[start : start + _ROWS],
        "start": start,
        "rows": _ROWS,
        "found": len(chosen),
        "everyone": len(everyone),
        "connected": sum(agent["connected"] for agent in everyone),
        "query": query,
        "sort": f"-{column}" if falling else column,
    }
    return View(template="pages/agents.html", values=values)


async def one(call: Call) -> View:
    """An agent, and the containers on its machine: each can be isolated there."""
    agent = await _agent(call)
    controller = call.services.controller
    found = [known for known in controller.inventory.workloads.values() if known.node == agent["node"]]
    found.sort(key=lambda known: (known.gone is not None, not known.running, known.name or "~", known.id))
    values = {
        "agent": agent,
        "rows_shown": workloads.rows(call.services, found[:_ROWS]),
        "found": len(found),
        "isolated": sum(1 for each in controller.isolation.all() if each.agent == agent["id"]),
    }
    return View(template="pages/agents_one.html", values=values)


async def join_form(_call: Call) -> View:
    return View(template="pages/agents_join.html", values={"token": "", "expires": 0.0, "origin": ""})


async def join(call: Call) -> View:
    """The one answer to a form that is no redirect: the token is shown once and is kept nowhere."""
    token, expires = await enrolment.offer(call.services, call.caller.actor, _JOIN)
    host = (header(call.scope, b"host") or b"").decode("latin-1")
    origin = f"{call.scope.get('scheme', 'http')}://{host}"
    return View(template="pages/agents_join.html", values={"token": token, "expires": expires, "origin": origin})


async def withdraw_form(call: Call) -> View:
    return View(template="pages/agents_withdraw.html", values={"agent": await _agent(call)})


async def withdraw(call: Call) -> Moved:
    known = await enrolment.withdraw(call.services, call.path["id"], call.caller.actor)
    return Moved(to=PAGE.address, told=f"The agent on {known.node} was withdrawn.")


async def _agent(call: Call) -> dict[str, Any]:
    """Refusal 404."""
    wanted = call.path["id"]
    for agent in await asyncio.to_thread(call.services.controller.agents):
        if agent["id"] == wanted:
            return agent
    raise Refusal(404, f"no agent {wanted[:200]} is enrolled")


def _order(written: str) -> tuple[str, bool]:
    """Column, and whether the highest come first: "-waiting"."""
    column = written.removeprefix("-")
    return (column, written.startswith("-")) if column in _SORTS else ("node", False)


PAGE = Page(
    name="agents",
    title="Agents",
    section=Section.FLEET,
    routes=(
        Route(path="/agents", handler=show),
        Route(path="/agents/join", handler=join_form, needs=Permission.ADMIN),
        Route(path="/agents/join", handler=join, method="POST", needs=Permission.ADMIN),
        Route(path="/agents/{id}", handler=one),
        Route(path="/agents/{id}/withdraw", handler=withdraw_form, needs=Permission.ADMIN),
        Route(path="/agents/{id}/withdraw", handler=withdraw, method="POST", needs=Permission.ADMIN),
    ),
    key="a",
    icon="agents",
)
