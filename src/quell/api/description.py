"""The API's description, OpenAPI 3.1: what Litestar knows of the routes, and what holds for all of them.

Examples and the routes outside Litestar (ingest, health) are data: data/examples.json by operation, data/bare.json.
"""

from __future__ import annotations

import re
from copy import deepcopy
from functools import lru_cache
from importlib import resources
from typing import Any

import msgspec
from litestar.handlers import HTTPRouteHandler

from quell import __version__
from quell.api.ingest import DIVIDED
from quell.api.problem import MEDIA_TYPE
from quell.api.roles import Permission, those_who
from quell.detectors import Divided
from quell.detectors.context import MEANINGS
from quell.errors import Problem

_METHODS = ("get", "put", "post", "patch", "delete")
_PAGE = re.compile(r"Page_(?:[\w.]*\.)?([A-Za-z]+)_+")

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Up to 255 printable characters, such as a UUID. The same request under the same key within a day is "
    "answered as it was, with Idempotency-Replayed: true, and nothing is done twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_DOCUMENTS: dict[str, Any] = {
    "application/yaml": {"schema": {"type": "string"}},
    "application/json": {"schema": {"type": "object"}},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of what was read. 412 if it was changed since.",
    "schema": {"type": "string", "pattern": '^"[ -~]*"$'},
}


def describe(schema: dict[str, Any], handlers: dict[str, HTTPRouteHandler]) -> dict[str, Any]:
    """Litestar's schema, completed. handlers: by operation id."""
    text = msgspec.json.encode(schema).decode()
    told: dict[str, Any] = msgspec.json.decode(_PAGE.sub(_page_name, text))
    told["info"] = {
        "title": "Quell",
        "version": __version__,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        "description": "Times are epoch seconds. Lists are pages: `items`, and in `next` the cursor to go on with. "
        "Errors are problem+json (RFC 9457).",
    }
    told.pop("servers", None)
    told["paths"] = {path: told["paths"][path] for path in sorted(told["paths"])}
    for path, operations in _data("bare.json")["paths"].items():
        told["paths"][path] = operations | told["paths"].get(path, {})
    for path, detector in DIVIDED.items():
        told["paths"][path] = {"post": _taking(detector)}
    components = told.setdefault("components", {})
    components.setdefault("schemas", {}).update(_problem_schemas())
    components["schemas"].update(_data("bare.json")["schemas"])
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "An API token, or the token of a session."}
    }
    components["responses"] = {
        "Problem": {
            "description": "What was wrong, where, and what to do.",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
    }
    told["security"] = [{"token": []}]
    for operations in told["paths"].values():
        for method in _METHODS:
            if method in operations:
                _complete(method, operations[method], handlers)
    return told


def _taking(detector: Divided) -> dict[str, Any]:
    """The route of a detector of documents."""
    form = {"schema": {"type": ["object", "array"] if detector.is_report else "object"}}
    return {
        "operationId": f"send_{detector.name.replace('-', '_')}_events",
        "tags": ["events"],
        "x-permission": Permission.INGEST.value,
        "summary": f"Take in {detector.about}",
        "description": "As /v1/events. A document may hold several events. The parameters say what it does not say itself, "
        "and must not contradict it. The token may come as the password of HTTP Basic. Roles: admin, ingest.",
        "parameters": [
            {
                "name": word,
                "in": "query",
                "required": False,
                "description": f"{meaning[0].upper()}{meaning[1:]}.",
                "schema": {"type": "string", "format": "date-time"}
                if word == "time"
                else {"type": "string", "minLength": 1, "maxLength": 1024},
            }
            for word, meaning in MEANINGS.items()
            if word in detector.takes
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": form, "application/x-ndjson": {"schema": {"type": "string"}}},
        },
        "responses": {
            "202": {
                "description": "On disk with their decisions",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Receipt"}}},
            }
        },
    }


def _page_name(match: re.Match[str]) -> str:
    item = match[1]
    return "PageOfObjects" if item == "Any" else f"PageOf{item}"


def _complete(method: str, operation: dict[str, Any], handlers: dict[str, HTTPRouteHandler]) -> None:
    handler = handlers.get(operation["operationId"])
    permission = Permission(operation["x-permission"]) if handler is None else handler.opt["permission"]
    operation["x-permission"] = permission.value
    if permission is Permission.OPEN:
        operation["security"] = []
    if handler is not None:
        operation["tags"] = [handler.fn.__module__.rpartition(".")[2]]
        may = "" if permission is Permission.OPEN else f"Roles: {', '.join(those_who(permission))}."
        operation["description"] = " ".join(filter(None, (operation.get("description"), may)))
        parameters = operation.setdefault("parameters", [])
        if method == "post":
            parameters.append(_IDEMPOTENCY_KEY)
        elif method != "get" and handler.opt["version"]:
            parameters.append(_IF_MATCH)
    responses = {status: told for status, told in operation["responses"].items() if not status.startswith(("4", "5"))}
    operation["responses"] = responses
    if handler is not None and "media_types" in handler.opt:
        for told in responses.values():
            (content,) = told["content"].values()
            told["content"] = dict.fromkeys(handler.opt["media_types"], content)
    for status in ("4XX", "5XX"):
        responses[status] = {"$ref": "#/components/responses/Problem"}
    _give_examples(operation, _data("examples.json").get(operation["operationId"], {}))


def _give_examples(operation: dict[str, Any], examples: dict[str, Any]) -> None:
    """request: of the body. response: of the answer that is no error."""
    if "request" in examples:
        # A handler that reads the body itself has not said of which type it is: documents, as YAML or JSON.
        body = operation.setdefault("requestBody", {"required": True, "content": deepcopy(_DOCUMENTS)})
        for kind, content in body["content"].items():
            if kind == ("application/yaml" if isinstance(examples["request"], str) else "application/json"):
                content["example"] = examples["request"]
    if "response" in examples:
        for status, told in operation["responses"].items():
            if status.startswith("2"):
                for content in told.get("content", {}).values():
                    content["example"] = examples["response"]


def _problem_schemas() -> dict[str, Any]:
    (of_problem,), components = msgspec.json.schema_components([Problem], ref_template="#/components/schemas/{name}")
    components["Problem"]["properties"]["pointer"] = {
        "type": "string",
        "description": "The same place as a JSON pointer (RFC 6901).",
    }
    # The file of a problem in a request has no name.
    components["ProblemDetails"] = {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "problems": {"type": "array", "items": of_problem},
        },
    }
    return components


@lru_cache
def _data(name: str) -> Any:
    return msgspec.json.decode(resources.files("quell.api").joinpath("data", name).read_bytes())
