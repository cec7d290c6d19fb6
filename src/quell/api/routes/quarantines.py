"""What is cut off from the network: asked for, shown and ended by people. SEMANTICS section 4, docs/quarantine.md."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from quell.api import isolating
from quell.api.etag import digest, etag, expect
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.isolation import LetGoAll, Listed, Selection, Wanted
from quell.model.audit import Actor
from quell.model.explanation import Explanation
from quell.model.investigator import INVESTIGATORS_LIMIT
from quell.response.facts import Phase

_Call = Request[Any, Any, Any]

_DryRun = Annotated[bool, QueryParameter(description="Say what would be done, and do nothing.")]
_Holder = Annotated[
    str | None, QueryParameter(max_length=300, description="A holder: rule/8, policy/NAME, user/NAME or token/NAME.")
]
_OfGroup = Annotated[str | None, QueryParameter(max_length=300, description="Only those of members of this group.")]
_OnNode = Annotated[str | None, QueryParameter(max_length=300, description="Only those on this node.")]
_InPhase = Annotated[Phase | None, QueryParameter(description="Only those that are asked for, isolated or releasing.")]
_Name = Annotated[str, Meta(min_length=1, max_length=300)]
_Address = Annotated[str, Meta(min_length=1, max_length=100)]


class QuarantineRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of workload, pod and pid says what is to be isolated."""

    #: A container's id, or at least 12 digits of it.
    workload: Annotated[str, Meta(min_length=12, max_length=256)] | None = None
    #: namespace/name, or the pod's uid.
    pod: _Name | None = None
    #: Where it runs. Needed with pid; otherwise only where the inventory does not know.
    node: _Name | None = None
    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    #: When the process started: field 22 of /proc/PID/stat.
    start_ticks: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    #: Seconds; without it, until somebody lets go.
    ttl: Annotated[float, Meta(gt=0, le=10 * 365 * 86400)] | None = None
    #: Closes loopback as well, and the ports of probes.
    strict: bool = False
    #: IPv4 and IPv6 addresses that may reach it meanwhile, and get answers; not with strict.
    investigator: Annotated[tuple[_Address, ...], Meta(max_length=INVESTIGATORS_LIMIT)] = ()
    comment: Annotated[str, Meta(max_length=1000)] = ""


class ReleaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who lets go of what; where several are given, all must hold."""

    #: The id of a rule: what it holds.
    rule: Annotated[int, Meta(ge=1)] | None = None
    #: What this holder has: policy/NAME, user/NAME, token/NAME or rule/ID.
    holder: _Name | None = None
    #: What members of this group are in.
    group: _Name | None = None
    #: Everything; nothing else may then be given.
    all: bool = False


def routes(services: Services) -> list[HTTPRouteHandler]:
    return [*_reading(services), *_changing(services)]


def _reading(services: Services) -> list[HTTPRouteHandler]:
    isolation = services.controller.isolation

    @get("/v1/quarantines", summary="What is cut off from the network, and by whom", opt=needs(Permission.READ))
    async def quarantines(
        holder: _Holder = None,
        group: _OfGroup = None,
        node: _OnNode = None,
        phase: _InPhase = None,
        limit: Limit = 1000,
        cursor: Cursor = None,
    ) -> Page[Listed]:
        members = None if group is None else _members(services, group)
        found = [
            each
            for each in isolation.all()
            if (holder is None or holder in each.holders)
            and (node is None or node == each.target.node)
            and (phase is None or phase is each.phase)
            and (members is None or any(member.id in members for member in each.workloads))
        ]
        return page_of(found, limit, cursor, lambda held: held.key)

    @get("/v1/quarantines/{key:path}", summary="One quarantine", opt=needs(Permission.READ))
    async def quarantine(key: FromPath[str]) -> Response[Listed]:
        one = _held(services, key)
        return Response(one, headers=etag(_version(one)))

    return [quarantines, quarantine]


def _changing(services: Services) -> list[HTTPRouteHandler]:
    isolation = services.controller.isolation

    @post(
        "/v1/quarantines",
        status_code=200,
        summary="Cut a container, a pod or a process off from the network",
        description="All that holds for a rule's quarantine holds for it: the answer is the decision, granted or refused "
        "with the reason. What comes of it: GET /v1/events/{event_id}. The caller holds it.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def request_quarantine(
        data: JSONBody[QuarantineRequest], request: _Call, dry_run: _DryRun = False
    ) -> Explanation:
        wanted = Wanted(**msgspec.structs.asdict(data))
        return await isolating.isolate(services, wanted, _actor(request), dry_run=dry_run)

    @post(
        "/v1/quarantines/release",
        status_code=200,
        summary="Let a rule, or another holder, go of what it isolated; or end all quarantines of a group",
        description="What other holders keep isolated is named under `kept`. Without rule, holder and group it takes "
        "`all`: true.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def release_quarantines(data: JSONBody[ReleaseRequest], request: _Call, dry_run: _DryRun = False) -> LetGoAll:
        holder = data.holder
        if data.rule is not None:
            if holder not in (None, f"rule/{data.rule}"):
                raise Refusal(422, f"rule {data.rule} and holder {holder} are two holders; give one")
            holder = f"rule/{data.rule}"
        narrowed = holder is not None or data.group is not None
        if data.all == narrowed:
            said = "all goes alone" if narrowed else 'without rule, holder and group it takes "all": true'
            raise Refusal(422, said)
        selected = Selection(
            holder=holder, workloads=None if data.group is None else frozenset(_members(services, data.group))
        )
        actor = _actor(request)
        return await isolation.release(selected, actor, f"released by {actor}", dry_run=dry_run)

    @delete(
        "/v1/quarantines/{key:path}",
        status_code=200,
        summary="End a quarantine, whoever holds it; or let one of its holders go",
        opt=needs(Permission.OPERATE),
    )
    async def release(key: FromPath[str], request: _Call, holder: _Holder = None, dry_run: _DryRun = False) -> LetGoAll:
        one = _held(services, key)
        expect(request, _version(one))
        return await isolating.let_go(services, one, holder, _actor(request), dry_run=dry_run)

    return [request_quarantine, release_quarantines, release]


def _held(services: Services, key: str) -> Listed:
    return isolating.held(services, key.removeprefix("/"))


def _version(one: Listed) -> str:
    """Of what is held and by whom; what the inventory says of its containers does not count."""
    return digest(msgspec.structs.replace(one, workloads=(), name=""))


def _members(services: Services, group: str) -> frozenset[str]:
    found = services.controller.inventory.members(group)
    if found is None:
        raise Refusal(404, f"no group {group[:200]}")
    return frozenset(found)


def _actor(request: _Call) -> Actor:
    actor: Actor = request.scope["state"]["caller"].actor
    return actor
