"""The documents people apply."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.rulebook import Change, kind_of
from quell.documents.load import load_text
from quell.documents.write import to_document
from quell.errors import DocumentError


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @post(
        "/v1/documents",
        status_code=200,
        summary="Apply YAML documents, all of them or none",
        opt=needs(Permission.RULES),
    )
    async def apply(request: Request[Any, Any, Any], dry_run: FromQuery[bool] = False) -> list[Change]:
        documents = await asyncio.to_thread(load_text, await request.body(), "")
        return await controller.apply(documents, dry_run=dry_run)

    @get("/v1/documents", summary="The documents in force", opt=needs(Permission.READ))
    async def documents(
        kind: FromQuery[str | None] = None,
        name: FromQuery[str | None] = None,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> Page[dict[str, Any]]:
        found = controller.documents(_kind(kind) if kind else None, name)
        if name is not None and not found:
            raise Refusal(404, f"no {kind or 'document'} {name}")
        return page_of([to_document(thing) for thing in found], limit, cursor, _key)

    @delete(
        "/v1/documents/{kind:str}/{name:path}",
        status_code=200,
        summary="Delete a document",
        opt=needs(Permission.RULES),
    )
    async def delete_document(
        kind: FromPath[str], name: FromPath[str], unquarantine: FromQuery[bool] = False, force: FromQuery[bool] = False
    ) -> list[Change]:
        name = name.removeprefix("/")
        try:
            return await controller.delete(_kind(kind), name, unquarantine=unquarantine, force=force)
        except KeyError:
            raise Refusal(404, f"no {_kind(kind)} {name}") from None
        except DocumentError as error:
            raise Refusal(409, str(error), problems=error.problems) from error

    return [apply, documents, delete_document]


def _key(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def _kind(word: str) -> str:
    try:
        return kind_of(word)
    except KeyError:
        raise Refusal(404, f"no kind of document {word}") from None
