"""The REST API: JSON in and out, errors as problem+json. quell.api.routes has the routes, each with what it needs.

What a handler reads from the database it reads in a thread, so that taking events in goes on.
"""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.typing import FieldDefinition

from quell import __version__
from quell.api.description import describe
from quell.api.problem import MEDIA_TYPE, Refusal, refusal, unforeseen
from quell.api.roles import Permission
from quell.api.routes import NOUNS
from quell.api.services import Services
from quell.catalogue.words import nearest
from quell.errors import Problem, QuellError

#: Bytes of a request to any of these.
_MAX_BODY = 32 << 20

#: Where Litestar itself would show the description; /v1/openapi.json shows it, and nothing else is there.
SCHEMA_PATH = "/v1/schema"

_log = structlog.get_logger(__name__)


def rest(services: Services) -> Litestar:
    """The application that answers everything under /v1 but ingest and the agents' link."""
    handlers = [handler for noun in NOUNS for handler in noun.routes(services)]
    # A route that does not say who may call it is a fault that must not be served.
    unsaid = [str(handler) for handler in handlers if not isinstance(handler.opt.get("permission"), Permission)]
    if unsaid:
        raise TypeError(f"routes without a permission: {', '.join(unsaid)}")
    named: dict[str, HTTPRouteHandler] = {}

    def name(handler: HTTPRouteHandler, _method: Any, _path: Any) -> str:
        named[handler.fn.__name__] = handler
        return handler.fn.__name__

    twice = [word for word, count in Counter(handler.fn.__name__ for handler in handlers).items() if count > 1]
    if twice:
        raise TypeError(f"operations need names of their own: {', '.join(twice)}")
    application = Litestar(
        route_handlers=handlers,
        guards=[_permitted, _knows_each_parameter, _has_what_is_matched],
        openapi_config=OpenAPIConfig(
            title="Quell",
            version=__version__,
            path=SCHEMA_PATH,
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            operation_id_creator=name,
        ),
        exception_handlers={QuellError: _answer, HTTPException: _answer_http, Exception: _answer_unforeseen},
        request_max_body_size=_MAX_BODY,
        logging_config=None,
    )
    application.state.description = lru_cache(lambda: describe(application.openapi_schema.to_schema(), named))
    return application


def _permitted(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refusal 403 unless the caller's role has what the route needs."""
    permission = handler.opt["permission"]
    if permission is not Permission.OPEN:
        connection.scope["state"]["caller"].need(permission)


#: What a handler takes that is no parameter of the query.
_NOT_OF_THE_QUERY = frozenset(("data", "request"))


def _knows_each_parameter(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refusal 400 for a parameter of the query that the route does not have, or has once: ignoring one could mean its
    opposite.
    """
    for word in connection.query_params:
        known = _parameters(handler).keys() - connection.path_params.keys()
        if word not in known:
            there = ", ".join(sorted(known)) or "none"
            problem = Problem(
                file="",
                path=f"query.{word}",
                message=f'unknown parameter "{word}"',
                expected=there,
                got=word,
                nearest=nearest(word, sorted(known)),
            )
            raise Refusal(400, f'unknown parameter "{word}": there are {there}', problems=[problem])
        several = len(connection.query_params.getall(word)) > 1
        if several and not _parameters(handler)[word].is_non_string_collection:
            told = f'parameter "{word}" is given more than once, and takes one value'
            raise Refusal(400, told, problems=[Problem(file="", path=f"query.{word}", message=told)])


def _has_what_is_matched(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refusal 400 for an If-Match of what has no version: whoever sends it expects that it protects something."""
    if not handler.opt["version"] and connection.headers.get("if-match") is not None:
        raise Refusal(400, "If-Match: what this changes has no version; leave the header out")


@cache
def _parameters(handler: BaseRouteHandler) -> dict[str, FieldDefinition]:
    """What the handler takes itself, and what the things take that are made for it."""
    provided = handler.resolve_dependencies()
    found = dict(handler.parsed_fn_signature.parameters)
    for provider in provided.values():
        found |= provider.parsed_fn_signature.parameters
    return {name: field for name, field in found.items() if name not in _NOT_OF_THE_QUERY | provided.keys()}


def _answer(_request: Request[Any, Any, Any], error: QuellError) -> Response[bytes]:
    refused = refusal(error)
    if refused.status == 500:
        _log.error("an error without an answer of its own", error=str(error), exc_info=error)
    return Response(refused.body(), status_code=refused.status, media_type=MEDIA_TYPE, headers=refused.headers)


def _answer_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals: no such path, method or parameter."""
    if error.status_code >= 500:
        return _answer_unforeseen(request, error)
    extra = error.extra if isinstance(error.extra, list) else []
    problems = [
        Problem(file="", path=_place(entry), message=str(entry.get("message", "")))
        for entry in extra
        if isinstance(entry, dict)
    ]
    refused = Refusal(error.status_code, _detail(request, error), problems=problems, headers=dict(error.headers or {}))
    return _answer(request, refused)


def _place(entry: dict[str, Any]) -> str:
    """Where Litestar's finding is; its word for the whole body is that of the handler's parameter."""
    key = str(entry.get("key", ""))
    return "" if key == "data" else key


def _detail(request: Request[Any, Any, Any], error: HTTPException) -> str:
    match error.status_code:
        case 404:
            return f"there is nothing at {request.scope['path']}"
        case 405:
            return f"{request.method} is not allowed at {request.scope['path']}"
        case _:
            return error.detail


def _answer_unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    _log.error("a request failed", method=request.method, path=request.scope["path"], exc_info=error)
    return _answer(request, unforeseen())
