"""What would be done, and what would be refused: SEMANTICS section 8, docs/dry-run.md."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from litestar import Request, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Struct

from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.past import as_decided
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.model.action import Action
from quell.model.audit import Actor
from quell.model.event import Category, Event
from quell.model.explanation import Explanation

_NATIVE = "native"


class DryRunRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of event_id and event says what happened."""

    #: An event that the controller has taken.
    event_id: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    #: An event in Quell's own form (docs/event-format.md), which is not taken.
    event: dict[str, Any] | None = None
    #: As if it had happened now, so that it is not too old.
    now: bool = False
    #: Actions as rules write them, each a word or {word: {parameters}}: as if the caller asked for them, and no rule did.
    actions: Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=20)] | None = None


def routes(services: Services) -> list[HTTPRouteHandler]:
    controller = services.controller

    @post(
        "/v1/dry-runs",
        status_code=200,
        summary="What would be done about an event now, and what would be refused",
        description="The decision that would be made, and in `rehearsals` what each action would come to: its agent, or the "
        "cluster's API, looks at the target with every check that it makes before it acts. Nothing is done, kept or counted.",
        opt=needs(Permission.OPERATE, version=False),
    )
    async def dry_run(data: JSONBody[DryRunRequest], request: Request[Any, Any, Any]) -> Explanation:
        actor: Actor = request.scope["state"]["caller"].actor
        event = _event(services, data)
        if data.now:
            moment = time.time()
            event = msgspec.structs.replace(event, time=moment, received=moment)
        actions = None if data.actions is None else _actions(data.actions, event.category)
        return await controller.rehearsals.of(event, actions, str(actor))

    return [dry_run]


def _event(services: Services, data: DryRunRequest) -> Event:
    """EventError: it is none."""
    if (data.event_id is None) is (data.event is None):
        raise Refusal(422, "expected one of event_id and event")
    if data.event is not None:
        return DETECTORS[_NATIVE].decode(msgspec.json.encode(data.event), id=None, received=time.time())
    stored = services.controller.store.event(data.event_id or "")
    if stored is None:
        raise Refusal(404, f"no event {data.event_id}: it never came, or is no longer kept")
    return as_decided(stored)


def _actions(written: list[str | dict[str, Any]], category: Category) -> tuple[Action, ...]:
    """As a rule for events of this category has them. DocumentError."""
    document = {
        "apiVersion": "quell.dev/v1",
        "kind": "ResponseRule",
        "metadata": {"name": "dry-run"},
        "spec": {"event": category.value, "actions": written, "allow_broad": True},
    }
    (rule,) = load_text(msgspec.json.encode(document).decode(), "").rules
    return rule.actions
