"""Traces: searched for, shown, closed and opened again. SEMANTICS section 6, docs/traces.md."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from quell.api.etag import digest, etag, expect
from quell.api.pages import Cursor, Limit, number
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.search import PAGE_SECONDS, Order, checked, moment, several
from quell.api.services import Services
from quell.controller import trace_search
from quell.model.audit import Actor
from quell.model.notification import SearchPage
from quell.model.trace import Trace, TraceStatus
from quell.model.trace_view import TraceFilter, TraceShown, TraceSummary, shown, summary
from quell.storage import traces
from quell.storage.traces import Found

_Call = Request[Any, Any, Any]


class TraceNote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why."""

    note: Annotated[str, Meta(max_length=1000)] = ""


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
    searching = services.searching

    @get(
        "/v1/traces",
        summary="Red flags on one causal chain, those that began last first",
        dependencies=_FILTERS,
        opt=needs(Permission.READ),
    )
    async def list_traces(
        wanted: _Asked, order: Order = "newest", limit: Limit = 50, cursor: Cursor = None
    ) -> SearchPage[TraceSummary]:
        bounds, test = trace_search.compiled(wanted)
        at, newer = number(cursor), order == "oldest"

        def search(connection: sqlite3.Connection) -> SearchPage[TraceSummary]:
            found = traces.search(connection, bounds, test, limit=limit, at=at, newer=newer, seconds=PAGE_SECONDS)
            return _page(found, newer=newer)

        return await searching.read(search)

    @get(
        "/v1/traces/{trace_id:str}",
        summary="One trace, with its flags and processes",
        description="A merged one is shown as it was then; `merged_into` is the trace that has all that it had.",
        opt=needs(Permission.READ),
    )
    async def trace(trace_id: FromPath[str]) -> Response[TraceShown]:
        found = await _found(services, trace_id)
        return Response(shown(found), headers=etag(_version(found)))

    return [list_traces, trace]


def _changing(services: Services) -> list[HTTPRouteHandler]:
    tracing = services.controller.traces

    @post(
        "/v1/traces/{trace_id:str}/close",
        status_code=200,
        summary="Say that a trace is dealt with: what comes later on its chains opens another",
        opt=needs(Permission.OPERATE),
    )
    async def close_trace(trace_id: FromPath[str], data: JSONBody[TraceNote], request: _Call) -> Response[TraceShown]:
        found = await _found(services, trace_id)
        expect(request, _version(found))
        closed = await tracing.close(trace_id, _actor(request), data.note)
        if closed is None:
            raise Refusal(409, f"trace {trace_id[:40]} is not open: {_state(await _found(services, trace_id))}")
        return Response(shown(closed), headers=etag(_version(closed)))

    @post(
        "/v1/traces/{trace_id:str}/reopen",
        status_code=200,
        summary="Let flags join a closed trace again",
        description="The answer is the trace that has it then: where another was opened on the same chain meanwhile, the "
        "two are one.",
        opt=needs(Permission.OPERATE),
    )
    async def reopen_trace(trace_id: FromPath[str], data: JSONBody[TraceNote], request: _Call) -> Response[TraceShown]:
        found = await _found(services, trace_id)
        expect(request, _version(found))
        opened = await tracing.reopen(trace_id, _actor(request), data.note)
        if opened is None:
            raise Refusal(409, f"trace {trace_id[:40]} is not closed: {_state(await _found(services, trace_id))}")
        return Response(shown(opened), headers=etag(_version(opened)))

    return [close_trace, reopen_trace]


async def _found(services: Services, identifier: str) -> Trace:
    found = await services.searching.read(lambda connection: traces.get(connection, identifier))
    if found is None:
        raise Refusal(404, f"no trace {identifier[:40]}: there never was one, or it is no longer kept")
    return found


def _version(trace: Trace) -> str:
    return digest(summary(trace))


def _state(trace: Trace) -> str:
    match trace.status:
        case TraceStatus.CLOSED:
            return f"closed by {trace.closed_by}"
        case TraceStatus.MERGED:
            return f"it is a part of {trace.merged_into}"
        case TraceStatus.OPEN:
            return "open"


def _page(found: Found, *, newer: bool) -> SearchPage[TraceSummary]:
    following = None if found.next is None else str(found.next)
    # Oldest first, what comes later stands behind what was looked at.
    resume = found.newest if not newer or found.next is None else found.next
    return SearchPage(
        items=[summary(trace) for trace in found.traces],
        next=following,
        complete=following is None,
        searched_until=found.until,
        resume=str(resume),
    )


def _actor(request: _Call) -> Actor:
    actor: Actor = request.scope["state"]["caller"].actor
    return actor
