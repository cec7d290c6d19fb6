"""Actions that wait for a person, and breakers. SEMANTICS section 8, docs/approvals.md."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from quell.api import judging
from quell.api.judging import Judged, Verdict
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.approvals import Breaker, Pending
from quell.model.audit import Actor

_Call = Request[Any, Any, Any]
_Note = Annotated[str, Meta(max_length=1000)]


class Judgement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person decides about an action that waits."""

    #: As in the list.
    id: Annotated[str, Meta(min_length=1, max_length=400)]
    verdict: Verdict
    #: Why; it is in the record and the audit log.
    note: _Note = ""


class BreakerKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: Annotated[str, Meta(min_length=1, max_length=1000)]
    #: Why; it is in the audit log.
    note: _Note = ""


def routes(services: Services) -> list[HTTPRouteHandler]:
    approvals = services.controller.approvals

    @get("/v1/approvals", summary="Actions that wait for a person, the oldest first", opt=needs(Permission.READ))
    async def pending_approvals(limit: Limit = 100, cursor: Cursor = None) -> Page[Pending]:
        return page_of(approvals.all(), limit, cursor, lambda held: f"{held.since:020.6f}/{held.id}")

    @get("/v1/approvals/{id:path}", summary="One action that waits for a person", opt=needs(Permission.READ))
    async def pending_approval(id: FromPath[str]) -> Pending:  # noqa: A002 - the word of the API
        return judging.waiting(services, id.removeprefix("/"))

    @post(
        "/v1/approvals",
        status_code=200,
        summary="Approve or deny an action that waits",
        description="An approved action is carried out under the id it had; what comes of it: GET /v1/events/{event}. What "
        "stands against it now, such as a pause, is answered with 409, and it goes on waiting.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def decide_approval(data: JSONBody[Judgement], request: _Call) -> Judged:
        return await judging.judge(services, data.id, data.verdict, _actor(request), data.note)

    @get("/v1/breakers", summary="Rules that stopped for an owner of workloads", opt=needs(Permission.READ))
    async def breakers(limit: Limit = 100, cursor: Cursor = None) -> Page[Breaker]:
        return page_of(approvals.breakers(), limit, cursor, lambda breaker: breaker.key)

    @post(
        "/v1/breakers/reset",
        status_code=200,
        summary="Let a rule act on an owner's workloads again",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def reset_breaker(data: JSONBody[BreakerKey], request: _Call) -> Breaker:
        return await judging.reset(services, data.key, _actor(request), data.note)

    return [pending_approvals, pending_approval, decide_approval, breakers, reset_breaker]


def _actor(request: _Call) -> Actor:
    actor: Actor = request.scope["state"]["caller"].actor
    return actor
