"""Response rules, one by one and in their order. Documents (quell.api.routes.documents) are the same rules by file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from quell.api.etag import etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.roles import Permission, needs
from quell.api.routes.documents import DryRun, OfOneVersion, Source, TakeOver, Unquarantine, editor, refused
from quell.api.rule_list import ShownRule, Standing, category_and_kind, keeping, number_of, showing, standing
from quell.api.rule_list import options as options_of
from quell.api.rule_trial import Trial, tried
from quell.api.services import Services
from quell.controller.controller import Controller
from quell.controller.editing import Change
from quell.controller.rule_changes import Options, plan_edit, plan_insert, plan_move, plan_restore, plan_switch
from quell.controller.rulebook import Edition, Kept, Key, Plan, plan_delete, rule_of
from quell.documents.options import RuleOptions
from quell.documents.single import read_rule
from quell.errors import DocumentError, NoSuchRule, Problem

_Call = Request[Any, Any, Any]

_WHERE = "Null or absent: last. 0: first. The id of a rule: directly below it. Minus an id: directly above it."
After = Annotated[int, msgspec.Meta(ge=-(2**32), le=2**32, description=_WHERE)]
#: As a document's spec has them, and `name`.
Fields = Annotated[
    dict[str, Any],
    msgspec.Meta(description="The fields of a ResponseRule's spec: event, criteria, actions, ...; and name."),
]


class Inserted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule or several, which stand at one place in this order. A rule without a name gets one from its id."""

    rule: Fields | None = None
    rules: Annotated[list[Fields], msgspec.Meta(max_length=10_000)] | None = None
    after: After | None = None


class Tried(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """of: the rule, by its id or its name, that these fields would change; null: they are a new one."""

    rule: Fields
    of: Annotated[str, msgspec.Meta(min_length=1, max_length=253)] | None = None
    #: So many of the newest events are looked at.
    events: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000


class Moved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: After | None = None


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_reading(services), *_changing(services), *_switching(services)]


def _reading(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @get(
        "/v1/rules",
        summary="The response rules, in their order",
        description="The ETag is the version of all documents together, whatever the filters show.",
        opt=needs(Permission.READ),
    )
    async def rules(
        category: Annotated[
            str | None, QueryParameter(description="Only of this category, or of this kind of security event.")
        ] = None,
        group: Annotated[str | None, QueryParameter(description="Only of this group; empty: of none.")] = None,
        name: FromQuery[str | None] = None,
        enabled: FromQuery[bool | None] = None,
        text: Annotated[
            str | None, QueryParameter(description="Only with this text in what they say; no case.")
        ] = None,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> Response[Page[ShownRule]]:
        keep = keeping(controller, category, group, name, text, enabled=enabled)
        found = [each for each in standing(controller) if keep(each)]
        shown = page_of(found, limit, cursor, _cursor)
        show = await showing(services)
        page = Page(items=[show(each) for each in shown.items], next=shown.next)
        return Response(page, headers=etag(controller.rulebook.revision))

    @get(
        "/v1/rules/options",
        summary="What can be written in a rule: categories, criteria, names, actions, groups, webhooks",
        opt=needs(Permission.READ),
    )
    async def options(
        category: Annotated[str | None, QueryParameter(description="Only this category.")] = None,
    ) -> RuleOptions:
        return options_of(controller, None if category is None else category_and_kind(category)[0])

    @get("/v1/rules/{id:str}", summary="One rule, by its id or its name", opt=needs(Permission.READ))
    async def rule(id: FromPath[str]) -> Response[ShownRule]:  # noqa: A002 - the word of the path
        number = number_of(controller, id)
        for each in standing(controller):
            if each.rule.id == number:
                return Response((await showing(services))(each), headers=etag(each.kept.revision))
        raise NoSuchRule(number)

    @post(
        "/v1/rules/trial",
        status_code=200,
        summary="Try a rule on the last events, and change nothing",
        description="Says what is doubtful about it, as inserting it would, and which of the newest events it matches.",
        opt=needs(Permission.READ),
    )
    async def try_rule(request: _Call, data: JSONBody[Tried]) -> Trial:
        number = None if data.of is None else number_of(controller, data.of)
        return await tried(services, editor(request), data.rule, of=number, events=data.events)

    return [rules, options, rule, try_rule]


def _changing(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @post(
        "/v1/rules",
        status_code=200,
        summary="Insert rules",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def insert_rules(
        request: _Call,
        data: JSONBody[Inserted],
        dry_run: DryRun = False,
        source: Source = None,
    ) -> Response[list[Change]]:
        names = controller.names.words
        given = await asyncio.to_thread(lambda: [read_rule(*each, names) for each in _given(data)])
        done = await refused(
            controller.rulebook.change(
                lambda kept, edition: plan_insert(kept, given, data.after, edition, Options(source=source or "")),
                editor(request),
                dry_run=dry_run,
                expect=lambda: expect(request, controller.rulebook.revision),
            )
        )
        return Response(done.changes, headers=etag(done.revision))

    @patch(
        "/v1/rules/{id:str}",
        summary="Change fields of a rule",
        description="A field that is absent stays as it is; null removes it. criteria, actions and webhooks are given whole.",
        opt=needs(Permission.RULES),
    )
    async def edit_rule(
        request: _Call,
        id: FromPath[str],  # noqa: A002 - the word of the path
        data: JSONBody[Fields],
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
        unquarantine: Unquarantine = False,
    ) -> Response[Change]:
        names = controller.names.words
        options = Options(source=source or "", take_over=take_over, unquarantine=unquarantine)
        return await _one(
            controller,
            request,
            id,
            lambda kept, edition, number: plan_edit(kept, number, data, edition, options, names),
            dry_run=dry_run,
        )

    @delete("/v1/rules/{id:str}", status_code=200, summary="Delete a rule", opt=needs(Permission.RULES))
    async def delete_rule(
        request: _Call,
        id: FromPath[str],  # noqa: A002 - the word of the path
        dry_run: DryRun = False,
        unquarantine: Unquarantine = False,
    ) -> Response[Change]:
        return await _one(
            controller,
            request,
            id,
            lambda kept, edition, number: plan_delete(kept, rule_of(kept, number), edition, unquarantine=unquarantine),
            dry_run=dry_run,
        )

    return [insert_rules, edit_rule, delete_rule]


def _switching(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @post(
        "/v1/rules/{id:str}/move",
        status_code=200,
        summary="Put a rule at another place",
        description="For people only: the order of rules changes no decision.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def move_rule(
        request: _Call,
        id: FromPath[str],  # noqa: A002 - the word of the path
        data: JSONBody[Moved],
        dry_run: DryRun = False,
    ) -> Response[Change]:
        return await _one(
            controller,
            request,
            id,
            lambda kept, edition, number: plan_move(kept, number, data.after, edition),
            dry_run=dry_run,
        )

    @post(
        "/v1/rules/{id:str}/enable",
        status_code=200,
        summary="Enable a rule",
        description="A destructive rule takes the permission operate.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def enable_rule(
        request: _Call,
        id: FromPath[str],  # noqa: A002 - the word of the path
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
    ) -> Response[Change]:
        options = Options(source=source or "", take_over=take_over)
        return await _one(
            controller,
            request,
            id,
            lambda kept, edition, number: plan_switch(kept, number, on=True, edition=edition, options=options),
            dry_run=dry_run,
        )

    @post(
        "/v1/rules/{id:str}/disable",
        status_code=200,
        summary="Disable a rule",
        description="What it isolated stays isolated unless `unquarantine` is said; the answer names it.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def disable_rule(
        request: _Call,
        id: FromPath[str],  # noqa: A002 - the word of the path
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
        unquarantine: Unquarantine = False,
    ) -> Response[Change]:
        options = Options(source=source or "", take_over=take_over, unquarantine=unquarantine)
        return await _one(
            controller,
            request,
            id,
            lambda kept, edition, number: plan_switch(kept, number, on=False, edition=edition, options=options),
            dry_run=dry_run,
        )

    @post(
        "/v1/rules/restore-defaults",
        status_code=200,
        summary="Put back default rules that were deleted",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def restore_defaults(
        request: _Call,
        dry_run: DryRun = False,
        reset: Annotated[
            bool, QueryParameter(description="Also those that were edited or enabled, as they are shipped.")
        ] = False,
        take_over: TakeOver = False,
        unquarantine: Unquarantine = False,
    ) -> Response[list[Change]]:
        options = Options(take_over=take_over, unquarantine=unquarantine)
        done = await refused(
            controller.rulebook.change(
                lambda kept, edition: plan_restore(kept, edition, options, reset=reset),
                editor(request),
                dry_run=dry_run,
                expect=lambda: expect(request, controller.rulebook.revision),
            )
        )
        return Response(done.changes, headers=etag(done.revision))

    return [move_rule, enable_rule, disable_rule, restore_defaults]


async def _one(
    controller: Controller,
    request: _Call,
    word: str,
    make: Callable[[Mapping[Key, Kept], Edition, int], Plan],
    *,
    dry_run: bool,
) -> Response[Change]:
    """A change of one rule, for its version. Refusal, NoSuchRule."""
    number = number_of(controller, word)

    def check() -> None:
        kept = controller.rulebook.kept
        expect(request, kept[rule_of(kept, number)].revision)

    done = await refused(
        controller.rulebook.change(
            lambda kept, edition: make(kept, edition, number), editor(request), dry_run=dry_run, expect=check
        )
    )
    [change] = done.changes
    return Response(change, headers=etag(change.revision))


def _given(data: Inserted) -> list[tuple[dict[str, Any], str]]:
    """The rules of a request, each with where it stands in it. DocumentError."""
    if (data.rule is None) == (data.rules is None):
        told = "expected either rule or rules"
        raise DocumentError([Problem(file="", path="rule", message=told, expected="rule or rules")])
    if data.rule is not None:
        return [(data.rule, "rule")]
    if not data.rules:
        raise DocumentError([Problem(file="", path="rules", message="there is no rule in the request")])
    return [(fields, f"rules[{index}]") for index, fields in enumerate(data.rules)]


def _cursor(each: Standing) -> str:
    return f"{each.kept.position + 2**62:020}/{each.rule.id:010}"
