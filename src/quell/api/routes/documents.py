"""The documents people apply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import Struct

from quell.api.auth import Caller
from quell.api.etag import etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.controller import Controller
from quell.controller.editing import Change, Changed
from quell.controller.rulebook import SOURCE, Application, Editor, Kept, Key, kind_of, name_of, refuse_nothing
from quell.documents.load import Documents, Thing, load_text
from quell.documents.references import untold
from quell.documents.write import dump_yaml, to_document
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden, Problem
from quell.matching.policies import status as policy_status
from quell.model.audit import Actor, AuditEntry
from quell.model.policy import Policy
from quell.model.rule import Webhook
from quell.storage import audit

YAML = "application/yaml"
_Call = Request[Any, Any, Any]

DryRun = Annotated[bool, QueryParameter(description="Say what would change, with diffs, and change nothing.")]
Source = Annotated[
    str | None,
    QueryParameter(
        pattern=SOURCE,
        description="By what name these are applied, such as git/prod; it then owns them. Absent: by none.",
    ),
]
_OfSource = Annotated[str | None, QueryParameter(pattern=SOURCE, description="Only what belongs to this source.")]
TakeOver = Annotated[bool, QueryParameter(description="Also change what belongs to another source.")]
Unquarantine = Annotated[
    bool, QueryParameter(description="End the quarantines of rules and policies that go or are disabled. operate.")
]
_Secrets = Annotated[
    bool, QueryParameter(description="With the secrets of webhooks in place of (secret). admin; it is audited.")
]


@dataclass
class OfOneVersion(Operation):
    """A POST that may be for one version: of all documents, or of the rule in its path."""

    def __post_init__(self) -> None:
        wanted = Parameter(
            name="If-Match",
            param_in="header",
            schema=Schema(type=OpenAPIType.STRING, pattern='^"[ -~]*"$'),
            description="The ETag of what was read. 412 if it was changed since.",
        )
        self.parameters = [*(self.parameters or []), wanted]


class Shown(Struct, frozen=True, kw_only=True):
    """A document in force. status is Quell's, and passed over when the document is applied again."""

    apiVersion: str  # noqa: N815 - the word that documents use
    kind: str
    metadata: dict[str, Any]
    spec: dict[str, Any]
    status: dict[str, Any]


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_reading(services), *_changing(services)]


def _reading(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    def shown(found: Iterable[Kept], *, secrets: bool = False) -> list[Shown]:
        rulesets = {key.name for key in controller.rulebook.kept if key.kind == "Ruleset"}
        webhooks = controller.pipeline.index.webhooks
        return [Shown(**to_document(kept.thing, secrets), status=_status(kept, rulesets, webhooks)) for kept in found]

    async def with_secrets(request: _Call, name: str) -> None:
        """Refusal 403 unless the caller may see them; who did is in the audit log."""
        caller = _caller(request)
        caller.need(Permission.ADMIN)
        entry = AuditEntry(actor=caller.actor, verb="export", kind="documents", name=name, note="with secrets")
        await asyncio.wrap_future(
            controller.store.submit(lambda connection: audit.append(connection, entry, time.time()))
        )

    @get(
        "/v1/documents",
        summary="The documents in force",
        description="The ETag is the version of all of them together, whatever the filters show.",
        opt=needs(Permission.READ),
    )
    async def documents(
        kind: FromQuery[str | None] = None,
        name: FromQuery[str | None] = None,
        source: _OfSource = None,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> Response[Page[Shown]]:
        revision = controller.rulebook.revision
        found = controller.documents(None if kind is None else _kind(kind), name, source)
        if name is not None and not found:
            raise Refusal(404, f"no {kind or 'document'} {name}")
        kept = page_of(found, limit, cursor, _cursor)
        return Response(Page(items=shown(kept.items), next=kept.next), headers=etag(revision))

    @get(
        "/v1/documents/export",
        summary="The documents in force as one YAML text, which applied elsewhere gives the same",
        description="Without `status`. In the place of a webhook's secrets stands (secret), unless they are asked for.",
        media_type=YAML,
        # Its text is no one value: there are as many documents in it as there are.
        responses={200: ResponseSpec(Any, generate_examples=False, media_type=YAML)},
        opt=needs(Permission.READ),
    )
    async def export_documents(
        request: _Call,
        kind: FromQuery[str | None] = None,
        source: _OfSource = None,
        secrets: _Secrets = False,
    ) -> Response[str]:
        revision, found = (
            controller.rulebook.revision,
            controller.documents(None if kind is None else _kind(kind), None, source),
        )
        if secrets:
            await with_secrets(request, "all" if kind is None else _kind(kind))
        text = await asyncio.to_thread(dump_yaml, [kept.thing for kept in found], secrets)
        what = f"{len(found)} document{'s' if len(found) != 1 else ''}"
        controller.happenings.configuring.exported(_caller(request).actor, what, secrets=secrets)
        return Response(text, media_type=YAML, headers={**etag(revision), "cache-control": "no-store"})

    @get("/v1/documents/{kind:str}/{name:path}", summary="One document", opt=needs(Permission.READ))
    async def document(
        request: _Call, kind: FromPath[str], name: FromPath[str], secrets: _Secrets = False
    ) -> Response[Shown]:
        key = _key(kind, name)
        kept = controller.rulebook.kept.get(key)
        if kept is None:
            raise Refusal(404, f"no {key}")
        if secrets:
            await with_secrets(request, str(key))
            controller.happenings.configuring.exported(_caller(request).actor, str(key), secrets=True)
        (told,) = shown([kept], secrets=secrets)
        return Response(told, headers=etag(kept.revision))

    return [documents, export_documents, document]


def _changing(services: Services) -> list[HTTPRouteHandler]:
    rulebook = services.controller.rulebook

    @post(
        "/v1/documents",
        status_code=200,
        summary="Apply YAML documents, all of them or none",
        description="`prune` deletes what `source` applied before and is not here any more.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def apply(
        request: _Call,
        dry_run: DryRun = False,
        source: Source = None,
        prune: Annotated[bool, QueryParameter(description="Delete what this source applied and is not here.")] = False,
        take_over: TakeOver = False,
        unquarantine: Unquarantine = False,
    ) -> Response[list[Change]]:
        wanted = Application(
            documents=await _read(request, services.controller, dry_run=dry_run),
            source=source or "",
            prune=prune,
            take_over=take_over,
            unquarantine=unquarantine,
        )
        done = await refused(
            rulebook.apply(wanted, editor(request), dry_run=dry_run, expect=lambda: expect(request, rulebook.revision))
        )
        return Response(done.changes, headers=etag(done.revision))

    @put(
        "/v1/documents/{kind:str}/{name:path}",
        status_code=200,
        summary="Create or change one document",
        description="The body is the whole document, in YAML or JSON.",
        opt=needs(Permission.RULES),
    )
    async def put_document(
        request: _Call,
        kind: FromPath[str],
        name: FromPath[str],
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
        unquarantine: Unquarantine = False,
    ) -> Response[Change]:
        key = _key(kind, name)
        documents = await _read(request, services.controller, dry_run=dry_run)
        only(documents, key)
        wanted = Application(documents=documents, source=source or "", take_over=take_over, unquarantine=unquarantine)
        done = await refused(
            rulebook.apply(wanted, editor(request), dry_run=dry_run, expect=_expect(request, services.controller, key))
        )
        (change,) = done.changes
        return Response(change, headers=etag(change.revision))

    @delete(
        "/v1/documents/{kind:str}/{name:path}",
        status_code=200,
        summary="Delete a document",
        opt=needs(Permission.RULES),
    )
    async def delete_document(
        request: _Call,
        kind: FromPath[str],
        name: FromPath[str],
        dry_run: DryRun = False,
        unquarantine: Unquarantine = False,
        force: Annotated[bool, QueryParameter(description="Of a group: with the rules that refer to it.")] = False,
    ) -> Response[list[Change]]:
        key = _key(kind, name)
        try:
            done = await refused(
                rulebook.delete(
                    key,
                    editor(request),
                    force=force,
                    unquarantine=unquarantine,
                    dry_run=dry_run,
                    expect=_expect(request, services.controller, key),
                )
            )
        except KeyError:
            raise Refusal(404, f"no {key}") from None
        return Response(done.changes, headers=etag(done.revision))

    return [apply, put_document, delete_document]


async def _read(request: _Call, controller: Controller, *, dry_run: bool) -> Documents:
    return await read(controller, await request.body(), _caller(request).actor, dry_run=dry_run)


async def read(controller: Controller, text: bytes | str, actor: Actor, *, dry_run: bool) -> Documents:
    """The documents of a text, at least one. DocumentError, of which it is told unless nothing was to be changed."""
    try:
        documents = await asyncio.to_thread(load_text, text, "")
        refuse_nothing(documents)
    except DocumentError as error:
        if not dry_run:
            controller.happenings.configuring.import_refused(actor, error.problems)
        raise
    return documents


async def refused(change: Any) -> Changed:
    """What it gives. Refusal 409 where what is in force stands against it, 403 where it takes another role."""
    try:
        done: Changed = await change
    except DocumentConflict as error:
        raise Refusal(409, _told(error), problems=error.problems) from error
    except DocumentForbidden as error:
        raise Refusal(403, _told(error), problems=error.problems) from error
    return done


def _told(error: DocumentError) -> str:
    return "; ".join(problem.message for problem in error.problems)


def _expect(request: _Call, controller: Controller, key: Key) -> Callable[[], None]:
    """Refusal 412, also where there is no such document to be of any version."""

    def check() -> None:
        kept = controller.rulebook.kept.get(key)
        if kept is not None:
            expect(request, kept.revision)
        elif "if-match" in request.headers:
            raise Refusal(412, f"there is no {key}: it was deleted, or never was")

    return check


def only(documents: Documents, key: Key) -> None:
    """DocumentError unless the one document of that kind and name is given."""
    things: tuple[Thing, ...] = (
        *documents.groups,
        *documents.webhooks,
        *documents.syslogs,
        *documents.rulesets,
        *documents.policies,
        *documents.rules,
    )
    found = [name_of(thing) for thing in things]
    if found != [key]:
        told = ", ".join(str(each) for each in found) or "no document"
        message = f"expected {key}, as the path says, got {told}"
        raise DocumentError([Problem(file="", path="metadata.name", message=message, expected=str(key), got=told)])


def _status(kept: Kept, rulesets: Container[str], webhooks: Mapping[str, Webhook]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "revision": kept.revision,
        "source": kept.source or None,
        "created": kept.created or None,
        "changed": kept.changed or None,
        "changed_by": kept.changed_by or None,
        "no-endpoint": untold(kept.thing, webhooks) or None,
    }
    if isinstance(kept.thing, Policy):
        told["state"] = policy_status(kept.thing, rulesets).value
    return {name: value for name, value in told.items() if value is not None}


def _caller(request: _Call) -> Caller:
    caller: Caller = request.scope["state"]["caller"]
    return caller


def editor(request: _Call) -> Editor:
    return editing(_caller(request))


def editing(caller: Caller) -> Editor:
    """Whoever is asking, as one who changes documents."""
    return Editor(actor=caller.actor, operates=caller.may(Permission.OPERATE))


def _cursor(kept: Kept) -> str:
    """In the order of the list: rules as they stand, others by name."""
    key = name_of(kept.thing)
    return f"{key.kind}/{kept.position + 2**62:020}/{getattr(kept.thing, 'id', 0):010}/{key.name}"


def _key(kind: str, name: str) -> Key:
    return Key(_kind(kind), name.removeprefix("/"))


def _kind(word: str) -> str:
    try:
        return kind_of(word)
    except KeyError:
        raise Refusal(404, f"no kind of document {word}") from None
