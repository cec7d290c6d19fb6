"""Webhook endpoints: how it goes with them, a test, their deliveries, and those that were given up."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from quell.api.etag import digest, etag, expect
from quell.api.pages import Cursor, Limit, Page, number, page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.delivery import EndpointStatus
from quell.controller.webhooks import Tested
from quell.model.audit import Actor
from quell.storage import dead_letters, deliveries
from quell.storage.dead_letters import DeadLetter
from quell.storage.deliveries import Delivery

_Call = Request[Any, Any, Any]


class Outcome(StrEnum):
    """What an attempt came to."""

    DELIVERED = "delivered"
    FAILED = "failed"


class ShownLetter(Struct, frozen=True, kw_only=True):
    """A delivery that was given up. time: when, in epoch seconds; attempts: how many were made; explanation: why."""

    id: str
    endpoint: str
    time: float
    attempts: int
    explanation: str
    event_id: str
    #: What is sent if it is replayed; null in lists.
    body: str | None = None


class Moved(Struct, frozen=True, kw_only=True):
    """How many dead letters were sent again or discarded."""

    count: int


_OfEndpoint = Annotated[str | None, QueryParameter(description="Only those to this endpoint.")]
_OfEvent = Annotated[
    str | None, QueryParameter(description="Only those about this event, and the flags that followed.")
]
_Of = Annotated[Outcome | None, QueryParameter(description="Only attempts that came to this.")]


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_endpoints(services), *_history(services), *_dead(services)]


def _endpoints(services: Services) -> list[HTTPRouteHandler]:
    webhooks = services.controller.webhooks

    @get(
        "/v1/webhooks",
        summary="How it goes with each webhook endpoint",
        description="The documents themselves are at /v1/documents. An endpoint that was deleted is here while something"
        " waits for it or was given up.",
        opt=needs(Permission.READ),
    )
    async def endpoints(limit: Limit = 1000, cursor: Cursor = None) -> Page[EndpointStatus]:
        return page_of(webhooks.status(), limit, cursor, lambda status: status.name)

    @get("/v1/webhooks/{name:str}", summary="How it goes with one webhook endpoint", opt=needs(Permission.READ))
    async def endpoint(name: FromPath[str]) -> EndpointStatus:
        for status in webhooks.status():
            if status.name == name:
                return status
        raise _unknown(name)

    @post(
        "/v1/webhooks/{name:str}/test",
        status_code=200,
        summary="Send a test to an endpoint, and say what came of it",
        description="A body of the endpoint's type, signed as any other, sent once, past what waits for the endpoint, whether"
        " it is enabled or not.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def test_endpoint(name: FromPath[str], request: _Call) -> Tested:
        try:
            return await webhooks.test(name, _actor(request))
        except KeyError as error:
            raise _unknown(name) from error

    @post(
        "/v1/webhooks/{name:str}/replay",
        status_code=202,
        summary="Send all dead letters of an endpoint again, in the order they were given up in",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def replay_all(name: FromPath[str], request: _Call) -> Moved:
        if reason := webhooks.unavailable(name):
            raise Refusal(409, reason)
        return Moved(count=await webhooks.replay_all(name, _actor(request)))

    @post(
        "/v1/webhooks/{name:str}/discard",
        status_code=200,
        summary="Forget all dead letters of an endpoint",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def discard_all(name: FromPath[str], request: _Call) -> Moved:
        return Moved(count=await webhooks.discard_all(name, _actor(request)))

    return [endpoints, endpoint, test_endpoint, replay_all, discard_all]


def _history(services: Services) -> list[HTTPRouteHandler]:
    store = services.controller.store

    @get("/v1/webhooks/deliveries", summary="The latest attempts to deliver", opt=needs(Permission.READ))
    async def delivered(
        limit: Limit = 50,
        cursor: Cursor = None,
        endpoint: _OfEndpoint = None,
        event: _OfEvent = None,
        outcome: _Of = None,
    ) -> Page[Delivery]:
        before = number(cursor)
        wanted = None if outcome is None else outcome is Outcome.DELIVERED
        found = await asyncio.to_thread(
            store.read,
            lambda connection: deliveries.paged(
                connection, limit + 1, before, endpoint=endpoint, event_id=event, delivered=wanted
            ),
        )
        kept = page(found, limit, lambda each: str(each[0]))
        return Page(items=[delivery for _, delivery in kept.items], next=kept.next)

    return [delivered]


def _dead(services: Services) -> list[HTTPRouteHandler]:
    webhooks, store = services.controller.webhooks, services.controller.store

    def letter(identifier: str) -> DeadLetter:
        found = store.read(lambda connection: dead_letters.get(connection, identifier))
        if found is None:
            raise Refusal(404, f"no dead letter {identifier}")
        return found

    @get("/v1/webhooks/dead-letters", summary="Deliveries that were given up", opt=needs(Permission.READ))
    async def dead(limit: Limit = 50, cursor: Cursor = None, endpoint: _OfEndpoint = None) -> Page[ShownLetter]:
        before = number(cursor)
        found = await asyncio.to_thread(
            store.read, lambda connection: dead_letters.paged(connection, limit + 1, before, endpoint=endpoint)
        )
        kept = page(found, limit, lambda each: str(each[0]))
        return Page(items=[_shown(letter) for _, letter in kept.items], next=kept.next)

    @get(
        "/v1/webhooks/dead-letters/{identifier:path}",
        summary="One dead letter, with what it would send",
        opt=needs(Permission.READ),
    )
    async def dead_letter(identifier: FromPath[str]) -> Response[ShownLetter]:
        found = letter(identifier.removeprefix("/"))
        return Response(_shown(found, body=True), headers=etag(digest(_shown(found))))

    # The id of a delivery has slashes, and a path's own variable part can only be its last.
    @post(
        "/v1/webhooks/dead-letters/{rest:path}",
        status_code=202,
        summary="Send a dead letter again: <id>/replay",
        opt=needs(Permission.OPERATE),
    )
    async def replay(rest: FromPath[str], request: _Call) -> None:
        identifier, slash, verb = rest.removeprefix("/").rpartition("/")
        if not slash or verb != "replay":
            raise Refusal(404, "expected /v1/webhooks/dead-letters/<id>/replay")
        found = letter(identifier)
        expect(request, digest(_shown(found)))
        if reason := webhooks.unavailable(found.endpoint):
            raise Refusal(409, reason)
        if not await webhooks.replay(identifier, _actor(request)):
            raise Refusal(404, f"no dead letter {identifier}")

    @delete(
        "/v1/webhooks/dead-letters/{identifier:path}",
        status_code=204,
        summary="Forget a dead letter",
        opt=needs(Permission.OPERATE),
    )
    async def discard(identifier: FromPath[str], request: _Call) -> None:
        identifier = identifier.removeprefix("/")
        expect(request, digest(_shown(letter(identifier))))
        await webhooks.discard(identifier, _actor(request))

    return [dead, dead_letter, replay, discard]


def _shown(letter: DeadLetter, *, body: bool = False) -> ShownLetter:
    return ShownLetter(
        id=letter.item.id,
        endpoint=letter.endpoint,
        time=letter.time,
        attempts=letter.item.attempts,
        explanation=letter.explanation,
        event_id=letter.item.event_id,
        body=letter.item.body.decode(errors="replace") if body else None,
    )


def _unknown(name: str) -> Refusal:
    return Refusal(404, f"there is no endpoint {name}")


def _actor(request: _Call) -> Actor:
    actor: Actor = request.scope["state"]["caller"].actor
    return actor
