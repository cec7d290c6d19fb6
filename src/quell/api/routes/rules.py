"""Response rules, one by one and in their order. Documents (quell.api.routes.documents) are the same rules by file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from quell.api.etag import etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.routes.documents import DryRun, OfOneVersion, Source, TakeOver, Unquarantine, editor, refused
from quell.api.services import Services
from quell.catalogue.forms import is_glob
from quell.catalogue.names import resolve
from quell.catalogue.table import is_broad
from quell.controller.controller import Controller
from quell.controller.editing import Change
from quell.controller.rule_changes import (
    Options,
    plan_edit,
    plan_insert,
    plan_move,
    plan_restore,
    plan_switch,
    shipped,
    spec_of,
)
from quell.controller.rulebook import Edition, Kept, Key, Plan, plan_delete, rule_of
from quell.documents.options import (
    DynamicName,
    GroupOption,
    RuleOptions,
    WebhookOption,
    rule_options,
)
from quell.documents.references import untold
from quell.documents.rule import category_of
from quell.documents.single import read_rule
from quell.errors import DocumentError, NoSuchRule, Problem
from quell.model.event import Category
from quell.model.rule import Mode, Rule, Webhook

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


class Moved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: After | None = None


class ShownRule(Struct, frozen=True, kw_only=True):
    """A rule in force, and where it stands."""

    id: int
    name: str
    #: Among all rules, from 1 on.
    place: int
    enabled: bool
    #: Disabled, Auditing or Enforcing.
    status: str
    #: Why it does less than it says.
    notes: list[str]
    #: Among the default rules: shipped, enabled or edited; null: it is none.
    default: str | None
    #: What it says: the fields of a document's spec, with id and name.
    rule: dict[str, Any]
    #: Keys of the quarantines that it holds.
    quarantines: list[str]
    revision: int
    source: str | None
    created: float | None
    changed: float | None
    changed_by: str | None


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
        keep = _filter(category, group, name, text, enabled=enabled)
        found = [item for item in _standing(controller) if keep(item[1])]
        shown = page_of(found, limit, cursor, _cursor)
        show = _showing(controller)
        page = Page(items=[show(place, rule, kept) for place, rule, kept in shown.items], next=shown.next)
        return Response(page, headers=etag(controller.rulebook.revision))

    @get(
        "/v1/rules/options",
        summary="What can be written in a rule: categories, criteria, names, actions, groups, webhooks",
        opt=needs(Permission.READ),
    )
    async def options(
        category: Annotated[str | None, QueryParameter(description="Only this category.")] = None,
    ) -> RuleOptions:
        return _options(controller, None if category is None else _category(category)[0])

    @get("/v1/rules/{id:str}", summary="One rule, by its id or its name", opt=needs(Permission.READ))
    async def rule(id: FromPath[str]) -> Response[ShownRule]:  # noqa: A002 - the word of the path
        number = _number(controller, id)
        for place, found, kept in _standing(controller):
            if found.id == number:
                return Response(_showing(controller)(place, found, kept), headers=etag(kept.revision))
        raise NoSuchRule(number)

    return [rules, options, rule]


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
    number = _number(controller, word)

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


def _number(controller: Controller, word: str) -> int:
    """The id of the rule that a path names by it or by its name. Refusal 404."""
    if word.isascii() and word.isdigit() and len(word) <= 10:
        return int(word)
    kept = controller.rulebook.kept.get(Key("ResponseRule", word))
    if kept is None or not isinstance(kept.thing, Rule):
        raise Refusal(404, f"there is no rule {word[:253]}")
    return kept.thing.id


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


def _standing(controller: Controller) -> list[tuple[int, Rule, Kept]]:
    """All rules as they stand, with their places."""
    found = [(kept.thing, kept) for kept in controller.rulebook.kept.values() if isinstance(kept.thing, Rule)]
    return [(place, rule, kept) for place, (rule, kept) in enumerate(found, start=1)]


def _cursor(item: tuple[int, Rule, Kept]) -> str:
    _, rule, kept = item
    return f"{kept.position + 2**62:020}/{rule.id:010}"


def _filter(
    category: str | None, group: str | None, name: str | None, text: str | None, *, enabled: bool | None
) -> Callable[[Rule], bool]:
    wanted, kind = (None, None) if category is None else _category(category)
    sought = None if text is None else text.casefold()

    def keep(rule: Rule) -> bool:
        return (
            (wanted is None or rule.category is wanted)
            and (kind is None or rule.kind is kind)
            and (group is None or rule.group == group)
            and (name is None or rule.name == name)
            and (enabled is None or rule.disabled is not enabled)
            and (sought is None or sought in _text(rule))
        )

    return keep


def _text(rule: Rule) -> str:
    """All that a rule says, without case."""
    return msgspec.json.encode(spec_of(rule)).decode().casefold()


def _category(word: str) -> tuple[Category, Any]:
    found = category_of(word)
    if found is None:
        there = ", ".join(Category)
        problem = Problem(file="", path="query.category", message=f"no category {word}", expected=there, got=word)
        raise Refusal(400, f'no category "{word}": there are {there}', problems=[problem])
    return found


def _showing(controller: Controller) -> Callable[[int, Rule, Kept], ShownRule]:
    held = controller.holdings()
    things = [kept.thing for kept in controller.rulebook.kept.values()]
    webhooks = {thing.name: thing for thing in things if isinstance(thing, Webhook)}

    def show(place: int, rule: Rule, kept: Kept) -> ShownRule:
        status, notes = _status(rule, webhooks)
        return ShownRule(
            id=rule.id,
            name=rule.name,
            place=place,
            enabled=not rule.disabled,
            status=status,
            notes=notes,
            default=shipped(rule) or None,
            rule=spec_of(rule),
            quarantines=held.get(f"rule/{rule.id}", []),
            revision=kept.revision,
            source=kept.source or None,
            created=kept.created or None,
            changed=kept.changed or None,
            changed_by=kept.changed_by or None,
        )

    return show


def _status(rule: Rule, webhooks: Mapping[str, Webhook]) -> tuple[str, list[str]]:
    """The words of policies' status, and why a rule does less than it says."""
    notes = []
    if is_broad(rule):
        notes.append("it would act on everything: it runs in audit until allow_broad: true says that this is meant")
    if told := untold(rule, webhooks):
        notes.append(told)
    if rule.disabled:
        return "Disabled", notes
    return ("Auditing" if rule.mode is Mode.AUDIT or is_broad(rule) else "Enforcing"), notes


def _options(controller: Controller, category: Category | None) -> RuleOptions:
    kept = [each.thing for each in controller.rulebook.kept.values()]
    return rule_options(
        _dynamic(controller, [thing for thing in kept if isinstance(thing, Rule)]),
        [
            GroupOption(name=group.name, kind=group.kind, comment=group.comment)
            for group in controller.inventory.groups()
        ],
        [
            WebhookOption(name=thing.name, type=thing.type.value, enabled=thing.enable, default=thing.default)
            for thing in kept
            if isinstance(thing, Webhook)
        ],
        tuple(Category) if category is None else (category,),
    )


def _dynamic(controller: Controller, rules: Iterable[Rule]) -> Mapping[Category, list[DynamicName]]:
    """Names that are in no catalogue: those seen, newest first, and those that rules in force name."""
    found = {
        category: {
            seen.name: DynamicName(name=seen.name, origin="seen", kind=seen.kind, source=seen.source, seen=seen.seen)
            for seen in controller.names.of(category)
        }
        for category in Category
    }
    for rule in rules:
        for criterion in rule.criteria:
            if criterion.type != "name":
                continue
            for value in criterion.values:
                if resolve(value) is None and not is_glob(value):
                    found[rule.category].setdefault(value, DynamicName(name=value, origin="rule"))
    return {category: list(names.values()) for category, names in found.items()}
