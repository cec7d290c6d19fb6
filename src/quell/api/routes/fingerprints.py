"""What images and services did while they were watched, and policies made of it. docs/learning.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery, QueryParameter
from msgspec import Struct

from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.controller import Controller
from quell.controller.creation import of_cluster, of_workloads
from quell.controller.workload_events import subject_of
from quell.documents.load import Thing
from quell.documents.write import to_document
from quell.guardian.fingerprint import Fingerprint, Key, Kind, SeenProcess
from quell.model.subject import Subject

#: Images or services of one policy.
_VALUES = 50


class ListedFingerprint(Struct, frozen=True, kw_only=True):
    """What was seen of one image or service, in numbers. Times are epoch seconds."""

    #: image or service.
    kind: str
    name: str
    first: float
    last: float
    #: Observations that were taken in, the same of one workload once a minute; those that lacked a fact, and those for which
    #: there was no room.
    count: int
    incomplete: int
    dropped: int
    #: Processes in its tree.
    processes: int


class ShownFingerprint(ListedFingerprint, frozen=True, kw_only=True):
    #: Its processes as a tree, each with its sockets and peers.
    roots: list[dict[str, Any]]
    #: Examples of workloads that it was seen in.
    workloads: list[dict[str, Any]]


class Made(Struct, frozen=True, kw_only=True):
    """Documents that would expect what was seen. Nothing is applied."""

    documents: list[dict[str, Any]]
    #: What they are made of.
    fingerprints: list[ListedFingerprint]


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @get(
        "/v1/fingerprints",
        summary="What was seen of images and services, by kind and name",
        opt=needs(Permission.READ),
    )
    async def fingerprints(
        kind: Annotated[Kind | None, QueryParameter(description="Only of images, or of services.")] = None,
        text: Annotated[str | None, QueryParameter(description="Only with this in their names.")] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Page[ListedFingerprint]:
        found = [
            each
            for each in controller.guardian.learning.all()
            if kind in (None, each.kind) and (text is None or text in each.name)
        ]
        page = page_of(found, limit, cursor, lambda each: f"{each.kind.value}/{each.name}")
        return Page(items=[listed(each) for each in page.items], next=page.next)

    @get(
        "/v1/fingerprints/policy",
        summary="A policy that expects what was seen of images or services, or what runs in a cluster; not applied",
        description="It audits and makes a red flag: what it does beyond that is for a person to write.",
        opt=needs(Permission.READ),
    )
    async def policy_of_observed(
        image: Annotated[Sequence[str], QueryParameter(description="Images; globs.", max_items=_VALUES)] = (),
        service: Annotated[
            Sequence[str],
            QueryParameter(description="Services, by control group or name; globs.", max_items=_VALUES),
        ] = (),
        cluster: FromQuery[str | None] = None,
        name: Annotated[
            str | None, QueryParameter(description="Of the policy; absent: made of what it is for.", min_length=1)
        ] = None,
    ) -> Made:
        return made(controller, image, service, cluster, name)

    @get(
        "/v1/fingerprints/{kind:str}/{name:path}",
        summary="What was seen of one image or service: its processes as a tree",
        opt=needs(Permission.READ),
    )
    async def fingerprint(kind: FromPath[str], name: FromPath[str]) -> ShownFingerprint:
        word = name.removeprefix("/")
        known = next((each for each in Kind if each.value == kind), None)
        found = None if known is None else controller.guardian.learning.one(Key(known, word))
        if found is None or not found.count:
            raise Refusal(404, f"nothing was seen of {kind[:40]} {word[:300]}")
        return ShownFingerprint(
            **msgspec.structs.asdict(listed(found)),
            roots=[_shown(each) for each in found.roots],
            workloads=[msgspec.to_builtins(each) for each in found.workloads],
        )

    return [fingerprints, policy_of_observed, fingerprint]


def made(
    controller: Controller, image: Sequence[str], service: Sequence[str], cluster: str | None, name: str | None
) -> Made:
    """A policy for images, services or a cluster; globs. Refusal 404: nothing was seen of it, 422."""
    if sum((bool(image), bool(service), cluster is not None)) != 1:
        raise Refusal(422, "say what the policy is for: image, service or cluster")
    taken = {key.name for key in controller.rulebook.kept if key.kind == "Policy"}
    try:
        if cluster is not None:
            return _documents(of_cluster(cluster, running(controller), name or "", taken), [])
        known = controller.guardian.learning.all()
        kind, words = (Kind.IMAGE, image) if image else (Kind.SERVICE, service)
        policy = of_workloads(kind, words, known, name or "", taken)
    except ValueError as error:
        raise Refusal(404, str(error)) from error
    used = [each for word in words for each in controller.guardian.learning.named(kind, word)]
    return _documents([policy], used)


def listed(found: Fingerprint) -> ListedFingerprint:
    return ListedFingerprint(
        kind=found.kind.value,
        name=found.name,
        first=found.first,
        last=found.last,
        count=found.count,
        incomplete=found.incomplete,
        dropped=found.dropped,
        processes=found.size,
    )


def _shown(process: SeenProcess) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(process)
    told.pop("workload", None)
    return told | ({"children": [_shown(each) for each in process.children]} if process.children else {})


def _documents(things: Sequence[Thing], used: Sequence[Fingerprint]) -> Made:
    distinct = {(each.kind, each.name): each for each in used}
    return Made(
        documents=[to_document(thing) for thing in things],
        fingerprints=[listed(each) for each in distinct.values()],
    )


def running(controller: Controller) -> list[Subject]:
    """Containers that run, and those that were watched before."""
    running = [
        subject_of(known)
        for known in controller.inventory.workloads.values()
        if known.gone is None and known.running and not known.taught_by
    ]
    return [*running, *(each for found in controller.guardian.learning.all() for each in found.workloads)]
