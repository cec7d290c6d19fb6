"""Traces: searched for, shown, closed and opened again. SEMANTICS section 6, docs/traces.md."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from litestar import Request, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from quell.api.etag import digest, etag, expect
from quell.api.pages import Cursor, Limit, number
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.search import PAGE_SECONDS, checked, moment, several
from quell.api.services import Services
from quell.controller import trace_search
from quell.controller.suppressing import policy_for
from quell.documents.write import to_document
from quell.matching.suppression import CompiledSuppression
from quell.model.audit import Actor
from quell.model.notification import SearchPage
from quell.model.trace import Trace, TraceStatus
from quell.model.trace_view import TraceFilter, TraceShown, TraceSummary, shown, summary
from quell.storage import traces
from quell.storage.traces import Found

_Call = Request[Any, Any, Any]
TraceOrder = Annotated[
    Literal["newest", "oldest", "score"], QueryParameter(description="Which come first; score: the highest.")
]


class TraceNote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    note: Annotated[str, Meta(max_length=1000)] = ""


class TracePolicy(Struct, frozen=True, kw_only=True):
    """A policy of type trace that is made of a trace. Nothing is applied."""

    document: dict[str, Any]
    #: Ids of the open traces that it would hide and that none hides now.
    hides: list[str]


def filters(
    since: Annotated[
        str | None, moment("With flags of then or later: RFC 3339, so long ago (2h, 7d), or epoch seconds.")
    ] = None,
    until: Annotated[str | None, moment("With flags of before then, written as since.")] = None,
    priority: Annotated[Sequence[str], several("Critical, High or Low.")] = (),
    status: Annotated[Sequence[str], several("open, closed or merged. Without it, open and closed ones.")] = (),
    user: Annotated[Sequence[str], several("A user of its processes; globs.")] = (),
    node: Annotated[Sequence[str], several("A host's name; globs.")] = (),
    namespace: Annotated[Sequence[str], several("A namespace; globs.")] = (),
    pod: Annotated[Sequence[str], several("A pod's name or uid; globs.")] = (),
    container: Annotated[
        Sequence[str], several("The first digits (6 or more) of a container's id, or its name; globs.")
    ] = (),
    image: Annotated[Sequence[str], several("An image; globs.")] = (),
    text: Annotated[
        Sequence[str],
        QueryParameter(
            description='Words, all of which stand in what its flags and processes say; "in quotes" with blanks. No case.',
            max_items=50,
        ),
    ] = (),
    *,
    suppressed: Annotated[bool, QueryParameter(description="Also those that a policy hides.")] = False,
) -> TraceFilter:
    """What the query of a request asks for. FilterError, where a time is none."""
    given = {
        "priority": priority,
        "status": status,
        "user": user,
        "node": node,
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "image": image,
        "text": text,
    }
    first, last = checked(since, until, given)
    return TraceFilter(
        since=first, until=last, **{word: tuple(values) for word, values in given.items()}, suppressed=suppressed
    )


_Asked = NamedDependency[TraceFilter]
_FILTERS = {"wanted": Provide(filters, sync_to_thread=False)}


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_reading(services), *_changing(services)]


def _reading(services: Services) -> list[HTTPRouteHandler]:
    @get(
        "/v1/traces",
        summary="Red flags on one causal chain, those that began last first",
        dependencies=_FILTERS,
        opt=needs(Permission.READ),
    )
    async def list_traces(
        wanted: _Asked, order: TraceOrder = "newest", limit: Limit = 50, cursor: Cursor = None
    ) -> SearchPage[TraceSummary]:
        return await found(services, wanted, order=order, limit=limit, cursor=cursor)

    @get(
        "/v1/traces/{trace_id:str}",
        summary="One trace, with its flags and processes",
        description="A merged one is shown as it was then; `merged_into` is the trace that has all that it had.",
        opt=needs(Permission.READ),
    )
    async def trace(trace_id: FromPath[str]) -> Response[TraceShown]:
        one = await trace_named(services, trace_id)
        return Response(shown(one), headers=etag(version(one)))

    @get(
        "/v1/traces/{trace_id:str}/policy",
        summary="A policy that would hide a trace and those like it; not applied",
        description="Its scope is the trigger of this trace and everybody whom its flags are about; it allows the classes of "
        "its flags.",
        opt=needs(Permission.READ),
    )
    async def policy_of_trace(
        trace_id: FromPath[str],
        name: Annotated[
            str | None,
            QueryParameter(description="Of the policy; absent: made of what the trace began with.", min_length=1),
        ] = None,
    ) -> TracePolicy:
        return await hiding(services, trace_id, name or "")

    return [list_traces, trace, policy_of_trace]


def _changing(services: Services) -> list[HTTPRouteHandler]:
    @post(
        "/v1/traces/{trace_id:str}/close",
        status_code=200,
        summary="Say that a trace is dealt with: what comes later on its chains opens another",
        opt=needs(Permission.OPERATE),
    )
    async def close_trace(trace_id: FromPath[str], data: JSONBody[TraceNote], request: _Call) -> Response[TraceShown]:
        expect(request, version(await trace_named(services, trace_id)))
        closed = await close(services, trace_id, _actor(request), data.note)
        return Response(shown(closed), headers=etag(version(closed)))

    @post(
        "/v1/traces/{trace_id:str}/reopen",
        status_code=200,
        summary="Let flags join a closed trace again",
        description="The answer is the trace that has it then: where another was opened on the same chain meanwhile, the "
        "two are one.",
        opt=needs(Permission.OPERATE),
    )
    async def reopen_trace(trace_id: FromPath[str], data: JSONBody[TraceNote], request: _Call) -> Response[TraceShown]:
        expect(request, version(await trace_named(services, trace_id)))
        opened = await reopen(services, trace_id, _actor(request), data.note)
        return Response(shown(opened), headers=etag(version(opened)))

    return [close_trace, reopen_trace]


async def found(
    services: Services, wanted: TraceFilter, *, order: str, limit: int, cursor: str | None
) -> SearchPage[TraceSummary]:
    """order: newest, oldest or score. FilterError, Refusal 400."""
    bounds, test = trace_search.compiled(wanted)
    at, newer, by_score = number(cursor), order == "oldest", order == "score"

    def search(connection: sqlite3.Connection) -> SearchPage[TraceSummary]:
        some = traces.search(
            connection, bounds, test, limit=limit, at=at, newer=newer, by_score=by_score, seconds=PAGE_SECONDS
        )
        return _page(some, newer=newer)

    return await services.searching.read(search)


async def trace_named(services: Services, identifier: str) -> Trace:
    """Refusal 404."""
    one = await services.searching.read(lambda connection: traces.get(connection, identifier))
    if one is None:
        raise Refusal(404, f"no trace {identifier[:40]}: there never was one, or it is no longer kept")
    return one


async def hiding(services: Services, identifier: str, name: str) -> TracePolicy:
    """name: "": one is made. Refusal 404, 409: no policy can hide it."""
    one = await trace_named(services, identifier)
    taken = {key.name for key in services.controller.rulebook.kept if key.kind == "Policy"}
    try:
        policy = policy_for(one, name, taken)
    except ValueError as error:
        raise Refusal(409, f"trace {identifier[:40]}: {error}") from error
    covers = CompiledSuppression(policy).covers
    opened = await services.searching.read(traces.open_ones)
    return TracePolicy(
        document=to_document(policy), hides=[each.id for each in opened if not each.is_suppressed and covers(each)]
    )


async def close(services: Services, identifier: str, by: Actor, note: str) -> Trace:
    """Refusal 404, 409: it is not open."""
    closed = await services.controller.traces.close(identifier, by, note)
    if closed is None:
        raise Refusal(409, f"trace {identifier[:40]} is not open: {_state(await trace_named(services, identifier))}")
    return closed


async def reopen(services: Services, identifier: str, by: Actor, note: str) -> Trace:
    """The trace that has it then. Refusal 404, 409: it is not closed."""
    opened = await services.controller.traces.reopen(identifier, by, note)
    if opened is None:
        raise Refusal(409, f"trace {identifier[:40]} is not closed: {_state(await trace_named(services, identifier))}")
    return opened


def version(trace: Trace) -> str:
    """As its ETag says it."""
    return digest(summary(trace))


def _state(trace: Trace) -> str:
    match trace.status:
        case TraceStatus.CLOSED:
            return f"closed by {trace.closed_by}"
        case TraceStatus.MERGED:
            return f"it is a part of {trace.merged_into}"
        case TraceStatus.OPEN:
            return "open"


def _page(some: Found, *, newer: bool) -> SearchPage[TraceSummary]:
    following = None if some.next is None else str(some.next)
    # Oldest first, what comes later stands behind what was looked at.
    resume = some.newest if not newer or some.next is None else some.next
    return SearchPage(
        items=[summary(trace) for trace in some.traces],
        next=following,
        complete=following is None,
        searched_until=some.until,
        resume=str(resume),
    )


def _actor(request: _Call) -> Actor:
    actor: Actor = request.scope["state"]["caller"].actor
    return actor
