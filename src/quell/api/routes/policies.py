"""Policies, one by one: what each does now and finds, switched, widened and tried. Documents (quell.api.routes.documents)
are the same policies by file.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import Struct

from quell.api.etag import etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.routes.deviations import kept as known_deviations
from quell.api.routes.deviations import moment
from quell.api.routes.documents import DryRun, OfOneVersion, Source, TakeOver, Unquarantine, editor, refused
from quell.api.services import Services
from quell.controller.controller import Controller
from quell.controller.editing import Change, Changed
from quell.controller.policy_changes import plan_enable, plan_merge, plan_mode
from quell.controller.rule_changes import Options
from quell.controller.rulebook import Edition, Editor, Kept, Key, Plan
from quell.controller.simulation import Difference, differences, switched, with_policy
from quell.controller.simulation import kept as kept_samples
from quell.controller.simulation import learned as learned_samples
from quell.documents.options import WebhookOption
from quell.documents.policy_options import PolicyOptions, policy_options
from quell.documents.references import untold
from quell.documents.write import to_document
from quell.matching.index import compile as compile_index
from quell.matching.policies import PolicyStatus
from quell.matching.policies import status as policy_status
from quell.model.policy import Policy, PolicyType
from quell.model.repeats import Repeated, Standing
from quell.model.rule import Mode, Webhook
from quell.storage.deviations import Wanted

_Call = Request[Any, Any, Any]

#: Deviations that are decided twice in one go; some milliseconds' work.
_TURN = 20


class Found(Struct, frozen=True, kw_only=True):
    """Deviations that are open: how many different ones, and how often they came."""

    unique: int
    total: int


class ShownPolicy(Struct, frozen=True, kw_only=True):
    """A policy in force, and what it finds."""

    name: str
    type: str
    enabled: bool
    #: audit or enforce.
    mode: str
    #: Disabled, Auditing, Enforcing or Pending.
    status: str
    #: Why it does less than it says.
    notes: list[str]
    rulesets: list[str]
    deviations: Found
    #: The document's spec.
    policy: dict[str, Any]
    uid: str | None
    #: Keys of the quarantines that it holds.
    quarantines: list[str]
    revision: int
    source: str | None
    created: float | None
    changed: float | None
    changed_by: str | None


class Merged(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deviations: either by their checksums, or all that are open and that anything could be added for."""

    checksums: Annotated[list[str], msgspec.Meta(max_length=1000)] = []
    all: bool = False


class Simulation(Struct, frozen=True, kw_only=True):
    """What the policy would do about what was seen, where that is not what it does now."""

    policy: str
    #: Disabled, audit or enforce.
    now: str
    then: str
    #: Deviations that were decided both ways: those that are open, and those of what was seen before.
    deviations: int
    differences: list[Difference]


class Switched(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    mode: Literal["audit", "enforce"]


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_reading(services), *_switching(services), *_widening(services)]


def _reading(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @get(
        "/v1/policies",
        summary="The policies, by name, with what each does now and finds",
        description="The ETag is the version of all documents together, whatever the filters show.",
        opt=needs(Permission.READ),
    )
    async def policies(
        type: Annotated[PolicyType | None, QueryParameter(description="Only of this type.")] = None,  # noqa: A002 - the word of the documents
        status: Annotated[PolicyStatus | None, QueryParameter(description="Only those in this state.")] = None,
        name: FromQuery[str | None] = None,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> Response[Page[ShownPolicy]]:
        show = showing(controller)
        rulesets = rulesets_of(controller)
        found = [
            (policy, kept)
            for policy, kept in standing(controller)
            if type in (None, policy.type)
            and name in (None, policy.name)
            and status in (None, policy_status(policy, rulesets))
        ]
        shown = page_of(found, limit, cursor, lambda item: item[0].name)
        page = Page(items=[show(policy, kept) for policy, kept in shown.items], next=shown.next)
        return Response(page, headers=etag(controller.rulebook.revision))

    @get(
        "/v1/policies/options",
        summary="What can be written in a policy or ruleset: types, selectors, lists, actions; rulesets and webhooks",
        opt=needs(Permission.READ),
    )
    async def options_of_policies() -> PolicyOptions:
        webhooks = [kept.thing for kept in controller.rulebook.kept.values() if isinstance(kept.thing, Webhook)]
        return policy_options(
            sorted(rulesets_of(controller)),
            [
                WebhookOption(name=each.name, type=each.type.value, enabled=each.enable, default=each.default)
                for each in webhooks
            ],
        )

    @get("/v1/policies/{name:str}", summary="One policy, by its name", opt=needs(Permission.READ))
    async def policy(name: FromPath[str]) -> Response[ShownPolicy]:
        found, kept = policy_named(controller, name)
        return Response(showing(controller)(found, kept), headers=etag(kept.revision))

    return [policies, options_of_policies, policy]


def _switching(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @post(
        "/v1/policies/{name:str}/mode",
        status_code=200,
        summary="Switch a policy between audit and enforce",
        description="A destructive one takes the permission operate.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def set_policy_mode(
        request: _Call,
        name: FromPath[str],
        data: JSONBody[Switched],
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
    ) -> Response[Change]:
        options = Options(source=source or "", take_over=take_over)
        return await _changed(
            controller,
            request,
            name,
            lambda kept, edition: plan_mode(kept, name, Mode(data.mode), edition, options),
            dry_run=dry_run,
        )

    @post(
        "/v1/policies/{name:str}/enable",
        status_code=200,
        summary="Enable a policy",
        description="A destructive one takes the permission operate.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def enable_policy(
        request: _Call,
        name: FromPath[str],
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
    ) -> Response[Change]:
        options = Options(source=source or "", take_over=take_over)
        return await _changed(
            controller,
            request,
            name,
            lambda kept, edition: plan_enable(kept, name, on=True, edition=edition, options=options),
            dry_run=dry_run,
        )

    @post(
        "/v1/policies/{name:str}/disable",
        status_code=200,
        summary="Disable a policy",
        description="What it isolated stays isolated unless `unquarantine` is said; the answer names it.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def disable_policy(
        request: _Call,
        name: FromPath[str],
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
        unquarantine: Unquarantine = False,
    ) -> Response[Change]:
        options = Options(source=source or "", take_over=take_over, unquarantine=unquarantine)
        return await _changed(
            controller,
            request,
            name,
            lambda kept, edition: plan_enable(kept, name, on=False, edition=edition, options=options),
            dry_run=dry_run,
        )

    return [set_policy_mode, enable_policy, disable_policy]


def _widening(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @post(
        "/v1/policies/{name:str}/merge",
        status_code=200,
        summary="Merge deviations into a policy or its rulesets: what deviated is expected from now on",
        description="Nothing else of the policy changes. With `dry_run`: the diff. An enabled destructive policy takes the "
        "permission operate.",
        operation_class=OfOneVersion,
        opt=needs(Permission.RULES),
    )
    async def merge_deviations(
        request: _Call,
        name: FromPath[str],
        data: JSONBody[Merged],
        dry_run: DryRun = False,
        source: Source = None,
        take_over: TakeOver = False,
    ) -> Response[list[Change]]:
        def check() -> None:
            expect(request, policy_named(controller, name)[1].revision)

        options = Options(source=source or "", take_over=take_over)
        done = await merged(controller, name, data, editor(request), options=options, dry_run=dry_run, expect=check)
        return Response(done.changes, headers=etag(done.revision))

    @get(
        "/v1/policies/{name:str}/simulation",
        summary="What a policy would do in another mode about what was seen, where that is not what it does now",
        description="Each open deviation is decided twice, as it was last seen, by an engine without history and with able "
        "agents of now. So is what was seen of its workloads before there was the policy: with a count of 0.",
        opt=needs(Permission.READ),
    )
    async def simulate(
        name: FromPath[str],
        mode: Annotated[
            Literal["audit", "enforce"], QueryParameter(description="The mode it would be in.")
        ] = "enforce",
        since: Annotated[
            str | None,
            QueryParameter(
                description="Only of what was seen then or later: RFC 3339, so long ago (2h), or epoch seconds.",
                max_length=64,
            ),
        ] = None,
    ) -> Simulation:
        policy, _ = policy_named(controller, name)
        start = 0.0 if since is None else moment(since)
        return await simulated(controller, policy, Mode(mode), start)

    return [merge_deviations, simulate]


async def merged(
    controller: Controller,
    name: str,
    data: Merged,
    by: Editor,
    *,
    options: Options,
    dry_run: bool,
    expect: Callable[[], None],
) -> Changed:
    """What was chosen is expected from now on, and marked so. Refusal 403, 404, 409, 422, and what `expect` raises."""
    policy_named(controller, name)
    found = await chosen(controller, name, data)
    deviations = [each.deviation for each in found]
    done = await refused(
        controller.rulebook.change(
            lambda kept, edition: plan_merge(kept, name, deviations, edition, options),
            by,
            dry_run=dry_run,
            expect=expect,
        )
    )
    if not dry_run:
        controller.guardian.deviations.set_status([(name, each.checksum) for each in found], Standing.MERGED)
    return done


async def chosen(controller: Controller, name: str, data: Merged) -> list[Repeated]:
    """The deviations that are meant. Refusal 404, 422."""
    if data.all == bool(data.checksums):
        raise Refusal(422, 'say which deviations: "checksums", or "all": true')
    wanted = Wanted(policies=[name], statuses=[Standing.OPEN]) if data.all else Wanted(policies=[name])
    kept = {each.checksum: each for _, each in await known_deviations(controller, wanted)}
    unknown = [checksum for checksum in data.checksums if checksum not in kept]
    if unknown:
        raise Refusal(404, f"policy {name[:253]} has no deviation {unknown[0][:64]}")
    if not data.all:
        return [kept[checksum] for checksum in dict.fromkeys(data.checksums)]
    found = [each for each in kept.values() if each.deviation.addition]
    if not found:
        told = "has no open deviation" if not kept else "has no open deviation that anything could be added for"
        raise Refusal(404, f"policy {name[:253]} {told}")
    return found


async def simulated(controller: Controller, policy: Policy, mode: Mode, since: float) -> Simulation:
    """What it would do in this mode about what was seen since then (epoch seconds), where that differs from now."""
    documents, revision = controller.rulebook.documents, controller.rulebook.revision
    other = switched(policy, mode)
    changed = with_policy(documents, other)
    # Many rules take a while to be compiled.
    then = await asyncio.to_thread(lambda: compile_index(changed, revision=revision))
    wanted = Wanted(policies=[policy.name], statuses=[Standing.OPEN], since=since)
    found = [each for _, each in await known_deviations(controller, wanted)]
    rulesets = [ruleset for ruleset in documents.rulesets if ruleset.name in policy.rulesets]
    samples = list(kept_samples(found))
    if len(rulesets) == len(policy.rulesets):
        known = [each.checksum for each in found]
        fingerprints = controller.guardian.learning.all()
        samples += learned_samples(other, rulesets, fingerprints, known, since, time.time())
    now, state, differing = controller.pipeline.index, controller.without_history(), []
    for place, sample in enumerate(samples, 1):
        differing += differences(sample, now, then, state)
        if place % _TURN == 0:
            await asyncio.sleep(0)
    return Simulation(
        policy=policy.name,
        now=policy.mode.value if policy.enabled else "disabled",
        then=mode.value,
        deviations=len(samples),
        differences=differing,
    )


async def _changed(
    controller: Controller,
    request: _Call,
    name: str,
    make: Callable[[Mapping[Key, Kept], Edition], Plan],
    *,
    dry_run: bool,
) -> Response[Change]:
    """A change of one policy, for its version. Refusal 404, 412."""
    policy_named(controller, name)

    def check() -> None:
        expect(request, policy_named(controller, name)[1].revision)

    done = await refused(controller.rulebook.change(make, editor(request), dry_run=dry_run, expect=check))
    [change] = done.changes
    return Response(change, headers=etag(change.revision))


def standing(controller: Controller) -> list[tuple[Policy, Kept]]:
    """By name."""
    return [(kept.thing, kept) for kept in controller.rulebook.kept.values() if isinstance(kept.thing, Policy)]


def policy_named(controller: Controller, name: str) -> tuple[Policy, Kept]:
    """Refusal 404."""
    kept = controller.rulebook.kept.get(Key("Policy", name))
    if kept is None or not isinstance(kept.thing, Policy):
        raise Refusal(404, f"there is no policy {name[:253]}")
    return kept.thing, kept


def rulesets_of(controller: Controller) -> set[str]:
    """The names of those that are there."""
    return {key.name for key in controller.rulebook.kept if key.kind == "Ruleset"}


def showing(controller: Controller) -> Callable[[Policy, Kept], ShownPolicy]:
    """What shows one policy after the other, as things stand now."""
    held, rulesets = controller.holdings(), rulesets_of(controller)
    found = controller.guardian.deviations.totals()
    things = [kept.thing for kept in controller.rulebook.kept.values()]
    webhooks = {thing.name: thing for thing in things if isinstance(thing, Webhook)}

    def show(policy: Policy, kept: Kept) -> ShownPolicy:
        unique, total = found.get(policy.name, (0, 0))
        missing = [
            f"ruleset {name} is not there: the policy is Pending" for name in policy.rulesets if name not in rulesets
        ]
        told = untold(policy, webhooks)
        return ShownPolicy(
            name=policy.name,
            type=policy.type.value,
            enabled=policy.enabled,
            mode=policy.mode.value,
            status=policy_status(policy, rulesets).value,
            notes=[*missing, *([told] if told else []), *controller.guardian.doubts(policy)],
            rulesets=list(policy.rulesets),
            deviations=Found(unique=unique, total=total),
            policy=to_document(policy)["spec"],
            uid=policy.uid or None,
            quarantines=held.get(f"policy/{policy.name}", []),
            revision=kept.revision,
            source=kept.source or None,
            created=kept.created or None,
            changed=kept.changed or None,
            changed_by=kept.changed_by or None,
        )

    return show
