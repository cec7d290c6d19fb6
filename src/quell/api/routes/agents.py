"""Agents: who is enrolled, and how one enrols."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, cast

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct

from quell.api.asgi import Scope, peer
from quell.api.enrolment import offer, withdraw
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.channel.messages import JOIN_PATH, Joined, JoinRequest
from quell.controller.joining import join
from quell.errors import LinkError


class JoinTokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    #: Seconds.
    ttl: Annotated[float, Meta(gt=0, le=86_400)] = 900.0


class JoinToken(Struct, frozen=True):
    token: str
    #: Epoch seconds.
    expires: float


class Revoked(Struct, frozen=True):
    id: str
    node: str


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller, auth, links = services.controller, services.auth, services.links
    store = controller.store

    @get("/v1/agents", summary="The enrolled agents, and whether they are connected", opt=needs(Permission.READ))
    async def agents(
        limit: Limit = 1000, cursor: Cursor = None, connected: FromQuery[bool | None] = None
    ) -> Page[dict[str, Any]]:
        told = await asyncio.to_thread(controller.agents)
        found = [agent for agent in told if connected in (None, agent["connected"])]
        return page_of(sorted(found, key=lambda agent: str(agent["id"])), limit, cursor, lambda agent: str(agent["id"]))

    @post(
        "/v1/agents/join-tokens",
        summary="A token with which one agent may enrol",
        opt=needs(Permission.ADMIN, secret=True),
    )
    async def join_token(data: JSONBody[JoinTokenRequest], request: Request[Any, Any, Any]) -> JoinToken:
        token, expires = await offer(services, request.scope["state"]["caller"].actor, data.ttl)
        return JoinToken(token=token, expires=expires)

    def withdrawn(agent: str) -> None:
        links.close(agent, "this machine enrolled anew")
        controller.agent_withdrawn(agent, "this machine enrolled anew")

    @post(JOIN_PATH, summary="Enrol an agent; the join token is the proof", opt=needs(Permission.OPEN))
    async def enrol(data: JSONBody[JoinRequest], request: Request[Any, Any, Any]) -> Joined:
        try:
            joined = await join(
                store,
                data,
                controller_key=controller.signing_key.public_key(),
                now=time.time(),
                address=peer(cast("Scope", request.scope)),
                withdrawn=withdrawn,
            )
        except LinkError as error:
            auth.failed(peer(cast("Scope", request.scope)))
            raise Refusal(403, str(error)) from error
        controller.agent_joined(joined.agent)
        return joined

    @delete(
        "/v1/agents/{id:str}",
        status_code=200,
        summary="Withdraw an agent's enrolment: its link is cut at once, and it is obeyed and ordered no more",
        opt=needs(Permission.ADMIN, version=False),
    )
    async def revoke_agent(id: FromPath[str], request: Request[Any, Any, Any]) -> Revoked:  # noqa: A002 - the word of the API
        known = await withdraw(services, id, request.scope["state"]["caller"].actor)
        return Revoked(id=known.id, node=known.node)

    return [agents, join_token, enrol, revoke_agent]
