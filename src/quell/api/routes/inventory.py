"""What runs where, and which groups it is in. For people and programs to read; sources tell it, nobody writes it."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter

from quell.api import workload_search
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.inventory import GroupListed, Member, NodeListed, WorkloadListed
from quell.response.facts import Workload

Glob = Annotated[
    str | None, QueryParameter(description="The whole value; * and ? stand for any text.", max_length=1024)
]
Text = Annotated[
    str | None,
    QueryParameter(description="Stands in the name, pod, service or id; no case.", max_length=1024),
]
Label = Annotated[
    tuple[str, ...],
    QueryParameter(description="key=value, where the value may have * and ?; or a key alone. All must hold."),
]


def routes(services: Services) -> list[HTTPRouteHandler]:
    inventory = services.controller.inventory

    @get("/v1/workloads", summary="The containers that are known, by id", opt=needs(Permission.READ))
    async def workloads(
        text: Text = None,
        node: Glob = None,
        namespace: Glob = None,
        image: Glob = None,
        label: Label = (),
        group: FromQuery[str | None] = None,
        running: FromQuery[bool | None] = None,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> Page[WorkloadListed]:
        found = workload_search.workloads(
            services,
            text=text,
            node=node,
            namespace=namespace,
            image=image,
            label=label,
            group=group,
            running=running,
        )
        found.sort(key=_id)
        shown = page_of(found, limit, cursor, _id)
        return Page(items=[inventory.listed(known) for known in shown.items], next=shown.next)

    @get("/v1/workloads/{id:str}", summary="One container, by its id or 12 digits of it", opt=needs(Permission.READ))
    async def workload(id: FromPath[str]) -> WorkloadListed:  # noqa: A002 - the word of the path
        known = inventory.find(id)
        if known is None:
            raise Refusal(404, f"no container {id[:64]}: it is not known, or its first digits are not its alone")
        return inventory.listed(known)

    @get("/v1/nodes", summary="The hosts that are known, by name", opt=needs(Permission.READ))
    async def nodes(limit: Limit = 1000, cursor: Cursor = None) -> Page[NodeListed]:
        return page_of(inventory.nodes(), limit, cursor, lambda node: node.name)

    @get("/v1/groups", summary="All groups: reserved, learned and defined by documents", opt=needs(Permission.READ))
    async def groups(limit: Limit = 1000, cursor: Cursor = None) -> Page[GroupListed]:
        return page_of(inventory.groups(), limit, cursor, lambda group: group.name)

    @get(
        "/v1/groups/{name:str}/members",
        summary="Who is in a group: containers, of the group nodes the hosts",
        opt=needs(Permission.READ),
    )
    async def members(name: FromPath[str], limit: Limit = 1000, cursor: Cursor = None) -> Page[Member]:
        shown = page_of(workload_search.members_of(services, name), limit, cursor, str)
        return Page(items=[inventory.member(each) for each in shown.items], next=shown.next)

    return [workloads, workload, nodes, groups, members]


def _id(known: Workload) -> str:
    return known.id
