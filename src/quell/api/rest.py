"""The REST API: JSON in and out, errors as problem+json. Who may call what is decided before (quell.api.app).

Lists come newest first. What a handler reads from the database it reads in a thread, so that taking events in goes on.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, cast

import msgspec
import structlog
from litestar import Litestar, Request, Response, delete, get, post
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Meta, Struct

from quell import __version__
from quell.api.asgi import Scope, peer
from quell.api.auth import Auth, Role
from quell.api.link import AgentLinks
from quell.api.problem import MEDIA_TYPE, Refusal, refusal, unforeseen
from quell.channel.messages import Joined, JoinRequest
from quell.controller.controller import Controller
from quell.controller.joining import join
from quell.controller.rulebook import Change, kind_of
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.documents.write import to_document
from quell.errors import DocumentError, LinkError, Problem, QuellError
from quell.model.decision import Flag
from quell.model.explanation import Explanation, facts
from quell.storage import dead_letters, deliveries, join_tokens, tokens
from quell.storage.deliveries import Delivery
from quell.storage.store import Store, Stored

#: Bytes of a request to any of these.
_MAX_BODY = 32 << 20
_MAX_TTL = 10 * 365 * 86_400.0

#: Where Litestar itself would show the description; /v1/openapi.json shows it, and nothing else is there.
SCHEMA_PATH = "/v1/schema"

Limit = Annotated[int, QueryParameter(ge=1, le=1000, description="At most so many.")]
Before = Annotated[str | None, QueryParameter(description="Only those older than this one's id.")]

_log = structlog.get_logger(__name__)


class JoinTokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    #: Seconds.
    ttl: Annotated[float, Meta(gt=0, le=86_400)] = 900.0


class JoinToken(Struct, frozen=True):
    token: str
    #: Epoch seconds.
    expires: float


class TokenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Role
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    #: Seconds; None: until withdrawn.
    ttl: Annotated[float, Meta(gt=0, le=_MAX_TTL)] | None = None


class IssuedToken(Struct, frozen=True, kw_only=True):
    """The only time that it is shown."""

    token: str
    role: Role
    name: str
    expires: float | None


class LoginLink(Struct, frozen=True):
    """A path of this server that logs in once."""

    path: str


def rest(controller: Controller, auth: Auth, links: AgentLinks) -> Litestar:
    """The application that answers everything under /v1 but ingest and the agents' link."""
    store = controller.store

    @get("/v1/events", summary="The latest events, each with its decision")
    async def events(limit: Limit = 50, before: Before = None) -> list[dict[str, Any]]:
        return await asyncio.to_thread(event_rows, store, limit, before)

    @get("/v1/events/{event_id:path}", summary="One event: what was decided, why, and what came of it")
    async def event(event_id: FromPath[str], near_misses: FromQuery[bool] = False) -> Explanation:
        explanation = controller.explain(event_id.removeprefix("/"), near_misses=near_misses)
        if explanation is None:
            raise Refusal(404, f"no event {event_id.removeprefix('/')}: it never came, or is no longer kept")
        return explanation

    @get("/v1/rejects", summary="What was sent as events and is none")
    async def rejects(limit: Limit = 50) -> list[dict[str, Any]]:
        kept = await asyncio.to_thread(store.rejects, limit)
        return [msgspec.to_builtins(reject) | {"raw": reject.raw.decode(errors="replace")} for reject in kept]

    @get("/v1/flags", summary="Findings for people")
    async def flags(limit: Limit = 50, before: Before = None) -> list[Flag]:
        return await asyncio.to_thread(store.flags, limit, before)

    @post("/v1/documents", status_code=200, summary="Apply YAML documents, all of them or none")
    async def apply(request: Request[Any, Any, Any], dry_run: FromQuery[bool] = False) -> list[Change]:
        documents = await asyncio.to_thread(load_text, await request.body(), "")
        return await controller.apply(documents, dry_run=dry_run)

    @get("/v1/documents", summary="The documents in force")
    async def documents(kind: FromQuery[str | None] = None, name: FromQuery[str | None] = None) -> list[dict[str, Any]]:
        found = controller.documents(_kind(kind) if kind else None, name)
        if name is not None and not found:
            raise Refusal(404, f"no {kind or 'document'} {name}")
        return [to_document(thing) for thing in found]

    @delete("/v1/documents/{kind:str}/{name:path}", status_code=200, summary="Delete a document")
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

    @get("/v1/agents", summary="The enrolled agents, and whether they are connected")
    async def agents() -> list[dict[str, Any]]:
        return controller.agents()

    @post("/v1/agents/join-tokens", summary="A token with which one agent may enrol")
    async def join_token(data: JSONBody[JoinTokenRequest]) -> JoinToken:
        secret, now = tokens.new_secret(), time.time()
        expires = now + data.ttl
        await asyncio.wrap_future(
            store.submit(lambda connection: join_tokens.put(connection, secret, "api", now, expires)),
        )
        return JoinToken(token=secret, expires=expires)

    def withdrawn(agent: str) -> None:
        links.close(agent, "this machine enrolled anew")
        controller.agent_withdrawn(agent)

    @post("/v1/agents/join", summary="Enrol an agent; the join token is the proof")
    async def enrol(data: JSONBody[JoinRequest], request: Request[Any, Any, Any]) -> Joined:
        try:
            return await join(
                store,
                data,
                controller_key=controller.signing_key.public_key(),
                now=time.time(),
                withdrawn=withdrawn,
            )
        except LinkError as error:
            auth.failed(peer(cast("Scope", request.scope)))
            raise Refusal(403, str(error)) from error

    @get("/v1/quarantines", summary="What is cut off from the network, and by whom")
    async def quarantines() -> list[dict[str, Any]]:
        return controller.quarantines()

    @delete("/v1/quarantines/{key:path}", status_code=204, summary="End a quarantine, whoever holds it")
    async def release(key: FromPath[str], request: Request[Any, Any, Any]) -> None:
        by = f"user/{request.scope['state']['caller'].name}"
        if not await controller.release(key.removeprefix("/"), by):
            raise Refusal(404, f"nothing is in quarantine under {key.removeprefix('/')}")

    @get("/v1/webhooks/deliveries", summary="The latest attempts to deliver")
    async def delivered(limit: Limit = 50) -> list[Delivery]:
        return await asyncio.to_thread(store.read, lambda connection: deliveries.recent(connection, limit))

    @get("/v1/webhooks/dead-letters", summary="Deliveries that were given up")
    async def dead(limit: Limit = 50) -> list[dict[str, Any]]:
        letters = await asyncio.to_thread(store.read, lambda connection: dead_letters.recent(connection, limit))
        return [
            {
                "id": letter.item.id,
                "endpoint": letter.item.channel.partition(":")[2],
                "time": letter.time,
                "attempts": letter.item.attempts,
                "explanation": letter.explanation,
                "event_id": letter.item.event_id,
            }
            for letter in letters
        ]

    # The id of a delivery has slashes, and a path's own variable part can only be its last.
    @post("/v1/webhooks/dead-letters/{rest:path}", status_code=202, summary="Send a dead letter again: <id>/replay")
    async def replay(rest: FromPath[str]) -> None:
        identifier, slash, verb = rest.removeprefix("/").rpartition("/")
        if not slash or verb != "replay":
            raise Refusal(404, "expected /v1/webhooks/dead-letters/<id>/replay")
        if not await controller.webhooks.replay(identifier):
            raise Refusal(404, f"no dead letter {identifier}")

    @get("/v1/tokens", summary="Who has a token; never the tokens")
    async def list_tokens() -> list[tokens.Token]:
        return await asyncio.to_thread(store.read, tokens.all_of)

    @post("/v1/tokens", summary="Make a token; one of the same name stops working")
    async def create_token(data: JSONBody[TokenRequest]) -> IssuedToken:
        secret, now = tokens.new_secret(), time.time()
        expires = None if data.ttl is None else now + data.ttl
        token = tokens.Token(name=data.name, role=data.role.value, created=now, expires=expires)
        await asyncio.wrap_future(store.submit(lambda connection: tokens.put(connection, secret, token)))
        auth.forget()
        return IssuedToken(token=secret, role=data.role, name=data.name, expires=expires)

    @delete("/v1/tokens/{name:path}", status_code=204, summary="Withdraw a token")
    async def delete_token(name: FromPath[str]) -> None:
        name = name.removeprefix("/")
        if not await asyncio.wrap_future(store.submit(lambda connection: tokens.delete(connection, name))):
            raise Refusal(404, f"no token {name}")
        auth.forget()

    @post("/v1/login-links", summary="A link that logs a browser in once")
    async def login_link() -> LoginLink:
        return LoginLink(path=f"/login?code={auth.login_code()}")

    @get("/v1/openapi.json", summary="This description", media_type="application/vnd.oai.openapi+json")
    async def description(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return request.app.openapi_schema.to_schema()

    @get("/v1/version", summary="The version of this controller")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    return Litestar(
        route_handlers=[
            *(events, event, rejects, flags),
            *(apply, documents, delete_document),
            *(agents, join_token, enrol),
            *(quarantines, release),
            *(delivered, dead, replay),
            *(list_tokens, create_token, delete_token, login_link, description, version),
        ],
        openapi_config=OpenAPIConfig(
            title="Quell",
            version=__version__,
            path=SCHEMA_PATH,
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        ),
        exception_handlers={QuellError: _answer, HTTPException: _answer_http, Exception: _answer_unforeseen},
        request_max_body_size=_MAX_BODY,
        logging_config=None,
    )


def event_rows(store: Store, limit: int, before: str | None) -> list[dict[str, Any]]:
    """What each of the latest events says, and `decision`."""
    return [row(stored) for stored in store.recent(limit, before)]


def row(stored: Stored) -> dict[str, Any]:
    event = DETECTORS[stored.source].decode(stored.raw, id=stored.id, received=stored.received)
    return facts(event) | {"decision": msgspec.to_builtins(stored.decision)}


def _kind(word: str) -> str:
    try:
        return kind_of(word)
    except KeyError:
        raise Refusal(404, f"no kind of document {word}") from None


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
        Problem(file="", path=str(entry.get("key", "")), message=str(entry.get("message", "")))
        for entry in extra
        if isinstance(entry, dict)
    ]
    refused = Refusal(error.status_code, _detail(request, error), problems=problems, headers=dict(error.headers or {}))
    return _answer(request, refused)


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
