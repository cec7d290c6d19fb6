"""What policies do not allow, once a policy and checksum, and how often it came. docs/deviations.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from quell.api.pages import Cursor, Limit, Page, number, page
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.controller import Controller
from quell.errors import FilterError, Problem
from quell.model.repeats import Repeated, Standing
from quell.moments import parse_moment
from quell.storage import deviations as stored
from quell.storage.deviations import Wanted

#: Values of one filter.
_VALUES = 50
_What = Literal["process", "ingress", "egress", "container"]


def _several(description: str) -> QueryParameter:
    return QueryParameter(description=f"{description} Several: any of them.", max_items=_VALUES)


class ShownDeviation(Struct, frozen=True, kw_only=True):
    """A deviation, and how often it came. Times are epoch seconds."""

    #: The policy's name, or what its source calls it where no such policy is known.
    policy: str
    #: Identifies it within the policy.
    checksum: str
    #: open, merged or irrelevant.
    status: str
    #: process, ingress, egress or container.
    what: str
    #: Of its events.
    name: str
    message: str
    #: As the policy was when it was found first; null: its source does not say.
    mode: str | None
    policy_type: str | None
    first: float
    last: float
    #: How often it was found, a process or container once.
    count: int
    #: How many of these became events, and how many more would have, had there not been too many at once.
    events: int
    omitted: int
    #: The last that became one.
    event_id: str | None
    #: Of the last.
    subject: dict[str, Any]
    connection: dict[str, Any] | None
    #: What would allow it, as a part of the policy's or ruleset's spec.
    addition: dict[str, Any]
    #: Of a ruleset: target -> the patterns that denied it.
    matched: dict[str, list[str]]
    #: What is not known, so that it might be allowed after all.
    unproven: str


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @get(
        "/v1/deviations",
        summary="What policies do not allow, the one first seen last coming first",
        opt=needs(Permission.READ),
    )
    async def deviations(
        policy: Annotated[Sequence[str], _several("Only of this policy.")] = (),
        what: Annotated[Sequence[_What], _several("process, ingress, egress or container.")] = (),
        status: Annotated[Sequence[Standing], _several("open, merged or irrelevant.")] = (),
        checksum: Annotated[Sequence[str], _several("Only this one, or those that begin so.")] = (),
        since: Annotated[
            str | None,
            QueryParameter(
                description="Seen then or later: RFC 3339, so long ago (2h, 7d), or epoch seconds.", max_length=64
            ),
        ] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[ShownDeviation]:
        wanted = Wanted(
            policies=policy,
            whats=what,
            statuses=status,
            checksums=checksum,
            since=None if since is None else moment(since),
        )
        found = await kept(controller, wanted, limit + 1, number(cursor))
        items = page(found, limit, lambda item: str(item[0]))
        return Page(items=[shown(each) for _, each in items.items], next=items.next)

    @get(
        "/v1/deviations/{policy:str}/{checksum:str}",
        summary="One deviation, by its policy and checksum",
        opt=needs(Permission.READ),
    )
    async def deviation(policy: FromPath[str], checksum: FromPath[str]) -> ShownDeviation:
        return shown(await deviation_named(controller, policy, checksum))

    return [deviations, deviation]


async def kept(
    controller: Controller, wanted: Wanted, limit: int | None = None, before: int | None = None
) -> list[tuple[int, Repeated]]:
    """Up to now, each with its number."""
    await controller.guardian.deviations.saved()
    return await asyncio.to_thread(
        controller.store.read, lambda connection: stored.find(connection, wanted, limit, before)
    )


async def deviation_named(controller: Controller, policy: str, checksum: str) -> Repeated:
    """Refusal 404."""
    for _, each in await kept(controller, Wanted(policies=[policy], checksums=[checksum])):
        if each.checksum == checksum:
            return each
    raise Refusal(404, f"policy {policy[:253]} has no deviation {checksum[:64]}: it never came, or is no longer kept")


def shown(repeated: Repeated) -> ShownDeviation:
    deviation = repeated.deviation
    return ShownDeviation(
        policy=repeated.policy,
        checksum=repeated.checksum,
        status=repeated.status.value,
        what=deviation.what,
        name=repeated.name,
        message=deviation.message,
        mode=deviation.mode,
        policy_type=deviation.policy_type,
        first=repeated.first,
        last=repeated.last,
        count=repeated.count,
        events=repeated.events,
        omitted=repeated.omitted,
        event_id=repeated.event_id or None,
        subject=msgspec.to_builtins(repeated.subject),
        connection=None if deviation.connection is None else msgspec.to_builtins(deviation.connection),
        addition=deviation.addition,
        matched={target: list(patterns) for target, patterns in deviation.matched.items()},
        unproven=deviation.unproven,
    )


def moment(text: str) -> float:
    """Epoch seconds of what `since` says. FilterError."""
    try:
        return parse_moment(text, time.time())
    except ValueError as error:
        raise FilterError([Problem(file="", path="since", message=str(error), got=text)]) from error
