"""Flags: searched for, shown, acknowledged, and as files. SEMANTICS section 6, docs/flags.md."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream
from msgspec import Meta, Struct

from quell.api.etag import digest, etag
from quell.api.pages import Cursor, Limit, number
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.search import PAGE_SECONDS, Order, checked, moment, several
from quell.api.services import Services
from quell.controller import flag_search
from quell.controller.flag_file import head, lines
from quell.controller.flags import shown
from quell.controller.table_file import FileFormat
from quell.errors import Problem
from quell.model.audit import Actor
from quell.model.flag import FlagFilter, FlagShown, KeptFlag
from quell.model.notification import SearchPage
from quell.storage import flags
from quell.storage.flags import Bounds, Found

#: Entries of an export read and sent at once, and the seconds after which fewer are sent.
_PART = 500
_PART_SECONDS = 0.25
#: At most so many will come: for whoever shows how far an export is.
_AT_MOST = "quell-at-most"
#: Flags that one request acknowledges.
_AT_ONCE = 1000

_Call = Request[Any, Any, Any]
_Test = Callable[[KeptFlag], bool]


class FlagsChosen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which flags, and why."""

    ids: Annotated[list[Annotated[str, Meta(min_length=1, max_length=2048)]], Meta(min_length=1, max_length=_AT_ONCE)]
    note: Annotated[str, Meta(max_length=1000)] = ""


class FlagsChanged(Struct, frozen=True, kw_only=True):
    """changed: those that it made a difference to. The others were so before; flags: all of them, as they are now."""

    changed: list[str]
    flags: list[FlagShown]


def filters(
    since: Annotated[
        str | None, moment("Raised then or later: RFC 3339, so long ago (2h, 7d), or epoch seconds.")
    ] = None,
    until: Annotated[str | None, moment("Raised before then, written as since.")] = None,
    flag_class: Annotated[Sequence[str], several("red, ops, or a class such as redflag/proc/*; globs.")] = (),
    severity: Annotated[Sequence[str], several("A severity, or >= and a severity.")] = (),
    name: Annotated[Sequence[str], several("Its name; no case; globs.")] = (),
    rule: Annotated[Sequence[str], several("Id, reference or name of a rule or policy that asked for it.")] = (),
    event: Annotated[Sequence[str], several("The id of the event that it followed from.")] = (),
    node: Annotated[Sequence[str], several("A host's name; globs.")] = (),
    namespace: Annotated[Sequence[str], several("A namespace; globs.")] = (),
    pod: Annotated[Sequence[str], several("A pod's name or uid; globs.")] = (),
    container: Annotated[
        Sequence[str], several("The first digits (6 or more) of a container's id, or its name; globs.")
    ] = (),
    image: Annotated[Sequence[str], several("An image; globs.")] = (),
    trace: Annotated[Sequence[str], several("The id of a trace that it is in.")] = (),
    text: Annotated[
        Sequence[str],
        QueryParameter(
            description='Words, all of which stand in what it says, in its class or in the process; "in quotes" with blanks. No case.',
            max_items=50,
        ),
    ] = (),
    acknowledged: Annotated[
        bool | None, QueryParameter(description="true: only those that somebody has acknowledged; false: only others.")
    ] = None,
) -> FlagFilter:
    """What the query of a request asks for. FilterError, where a time is none."""
    given = {
        "flag_class": flag_class,
        "severity": severity,
        "name": name,
        "rule": rule,
        "event": event,
        "node": node,
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "image": image,
        "trace": trace,
        "text": text,
    }
    first, last = checked(since, until, given)
    return FlagFilter(
        since=first, until=last, **{word: tuple(values) for word, values in given.items()}, acknowledged=acknowledged
    )


_Asked = NamedDependency[FlagFilter]
_FILTERS = {"wanted": Provide(filters, sync_to_thread=False)}
_Form = Annotated[FileFormat, QueryParameter(description="csv: a table; ndjson: a JSON object a line.")]


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_reading(services), *_acknowledging(services)]


def _reading(services: Services) -> list[HTTPRouteHandler]:
    searching = services.searching

    @get("/v1/flags", summary="Findings for people, newest first", dependencies=_FILTERS, opt=needs(Permission.READ))
    async def list_flags(
        wanted: _Asked, order: Order = "newest", limit: Limit = 50, cursor: Cursor = None
    ) -> SearchPage[FlagShown]:
        return await found(services, wanted, newer=order == "oldest", limit=limit, cursor=cursor)

    @get(
        "/v1/flags/export",
        summary="Every flag that a search finds, as a file",
        dependencies=_FILTERS,
        responses={200: ResponseSpec(bytes, generate_examples=False, media_type=FileFormat.CSV.media_type)},
        opt=needs(Permission.READ) | {"media_types": [form.media_type for form in FileFormat]},
    )
    async def export_flags(
        wanted: _Asked,
        format: _Form = FileFormat.NDJSON,  # noqa: A002 - the word of the query
        order: Order = "newest",
    ) -> Stream:
        bounds, test = _compiled(services, wanted)
        most = await searching.read(lambda connection: flags.count_within(connection, bounds))
        name = time.strftime(f"quell-flags-%Y%m%dT%H%M%SZ.{format.value}", time.gmtime())
        headers = {
            "content-disposition": f'attachment; filename="{name}"',
            "cache-control": "no-store",
            _AT_MOST: str(most),
        }
        parts = _parts(services, bounds, test, format, newer=order == "oldest")
        return Stream(parts, media_type=format.media_type, headers=headers)

    @get("/v1/flags/{flag_id:path}", summary="One flag", opt=needs(Permission.READ))
    async def flag(flag_id: FromPath[str]) -> Response[FlagShown]:
        one = await flag_named(services, flag_id.removeprefix("/"))
        return Response(one, headers=etag(digest(one)))

    return [list_flags, export_flags, flag]


def _acknowledging(services: Services) -> list[HTTPRouteHandler]:
    @post(
        "/v1/flags/acknowledge",
        status_code=200,
        summary="Say that somebody has seen to these flags",
        description="The caller, the time and the note are kept with each, and in the audit log. What somebody has "
        "acknowledged already stays theirs.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def acknowledge_flags(data: JSONBody[FlagsChosen], request: _Call) -> FlagsChanged:
        return await acknowledge(services, data, _actor(request))

    @post(
        "/v1/flags/unacknowledge",
        status_code=200,
        summary="Take back that these flags were acknowledged",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def unacknowledge_flags(data: JSONBody[FlagsChosen], request: _Call) -> FlagsChanged:
        return await take_back(services, data, _actor(request))

    return [acknowledge_flags, unacknowledge_flags]


async def found(
    services: Services, wanted: FlagFilter, *, newer: bool = False, limit: int, cursor: str | None
) -> SearchPage[FlagShown]:
    """newer: the oldest first. FilterError, Refusal 400."""
    bounds, test = _compiled(services, wanted)
    at = number(cursor)

    def search(connection: sqlite3.Connection) -> SearchPage[FlagShown]:
        some = flags.search(connection, bounds, test, limit=limit, at=at, newer=newer, seconds=PAGE_SECONDS)
        return _page(some, newer=newer)

    return await services.searching.read(search)


async def flag_named(services: Services, identifier: str) -> FlagShown:
    """Refusal 404."""
    kept = await services.searching.read(lambda connection: flags.get(connection, identifier))
    if kept is None:
        raise Refusal(404, f"no flag {identifier[:300]}: there never was one, or it is no longer kept")
    return shown(kept)


async def acknowledge(services: Services, wanted: FlagsChosen, by: Actor) -> FlagsChanged:
    """Refusal 404: one of them is no flag; nothing is done then."""
    await _check(services, wanted.ids)
    return await _answer(services, await services.controller.flags.acknowledge(wanted.ids, by, wanted.note), wanted.ids)


async def take_back(services: Services, wanted: FlagsChosen, by: Actor) -> FlagsChanged:
    """As acknowledge."""
    await _check(services, wanted.ids)
    return await _answer(services, await services.controller.flags.take_back(wanted.ids, by, wanted.note), wanted.ids)


async def _answer(services: Services, changed: list[str], identifiers: Sequence[str]) -> FlagsChanged:
    found = await services.searching.read(
        lambda connection: [flags.get(connection, one) for one in dict.fromkeys(identifiers)]
    )
    return FlagsChanged(changed=changed, flags=[shown(kept) for kept in found if kept is not None])


async def _check(services: Services, identifiers: Sequence[str]) -> None:
    def missing(connection: sqlite3.Connection) -> list[Problem]:
        return [
            Problem(file="", path=f"/ids/{place}", message="no such flag", got=one)
            for place, one in enumerate(identifiers)
            if flags.get(connection, one) is None
        ]

    if problems := await services.searching.read(missing):
        count = len(problems)
        raise Refusal(
            404,
            f"{count} of the flags {'is' if count == 1 else 'are'} not there; nothing was changed",
            problems=problems,
        )


def _compiled(services: Services, wanted: FlagFilter) -> tuple[Bounds, _Test]:
    rules = {rule.name: f"rule/{rule.id}" for rule in services.controller.pipeline.index.rules} if wanted.rule else {}
    return flag_search.compiled(wanted, rules)


def _page(some: Found, *, newer: bool) -> SearchPage[FlagShown]:
    following = None if some.next is None else str(some.next)
    # Oldest first, what comes later stands behind what was looked at.
    resume = some.newest if not newer or some.next is None else some.next
    return SearchPage(
        items=[shown(kept) for kept in some.flags],
        next=following,
        complete=following is None,
        searched_until=some.until,
        resume=str(resume),
    )


async def _parts(
    services: Services, bounds: Bounds, test: _Test, form: FileFormat, *, newer: bool
) -> AsyncIterator[bytes]:
    """As much as there was when it began; one part is in memory."""
    yield head(form)
    at: int | None = None
    stop: int | None = None

    def part(connection: sqlite3.Connection) -> tuple[bytes, Found]:
        found = flags.search(
            connection, bounds, test, limit=_PART, at=at, stop=stop, newer=newer, seconds=_PART_SECONDS
        )
        return lines(map(shown, found.flags), form), found

    while True:
        content, found = await services.searching.read(part)
        stop, at = found.newest, found.next
        if content:
            yield content
        if at is None:
            return


def _actor(request: _Call) -> Actor:
    actor: Actor = request.scope["state"]["caller"].actor
    return actor
