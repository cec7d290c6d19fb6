"""Rulesets: what they allow and deny, and which policies go by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery
from msgspec import Struct

from quell.api.etag import etag
from quell.api.pages import Cursor, Limit, Page, page_of
from quell.api.problem import Refusal
from quell.api.roles import Permission, needs
from quell.api.services import Services
from quell.controller.rulebook import Kept, Key
from quell.documents.write import to_document
from quell.model.policy import Policy, Ruleset


class ShownRuleset(Struct, frozen=True, kw_only=True):
    """A ruleset in force."""

    name: str
    #: cluster or container.
    type: str
    #: As a document's spec has them.
    rules: list[dict[str, Any]]
    #: Names of the policies that go by it.
    policies: list[str]
    uid: str | None
    revision: int
    source: str | None
    created: float | None
    changed: float | None
    changed_by: str | None


def routes(services: Services) -> list[HTTPRouteHandler]:
    rulebook = services.controller.rulebook

    @get(
        "/v1/rulesets",
        summary="The rulesets, by name",
        description="The ETag is the version of all documents together, whatever the filters show.",
        opt=needs(Permission.READ),
    )
    async def rulesets(
        name: FromQuery[str | None] = None, limit: Limit = 1000, cursor: Cursor = None
    ) -> Response[Page[ShownRuleset]]:
        found = [
            (kept.thing, kept)
            for kept in rulebook.kept.values()
            if isinstance(kept.thing, Ruleset) and name in (None, kept.thing.name)
        ]
        items = page_of(found, limit, cursor, lambda item: item[0].name)
        page = Page(
            items=[shown(ruleset, kept, users_of(rulebook.kept, ruleset.name)) for ruleset, kept in items.items],
            next=items.next,
        )
        return Response(page, headers=etag(rulebook.revision))

    @get("/v1/rulesets/{name:str}", summary="One ruleset, by its name", opt=needs(Permission.READ))
    async def ruleset(name: FromPath[str]) -> Response[ShownRuleset]:
        found, kept = ruleset_named(rulebook.kept, name)
        return Response(shown(found, kept, users_of(rulebook.kept, name)), headers=etag(kept.revision))

    return [rulesets, ruleset]


def ruleset_named(things: Mapping[Key, Kept], name: str) -> tuple[Ruleset, Kept]:
    """Refusal 404."""
    kept = things.get(Key("Ruleset", name))
    if kept is None or not isinstance(kept.thing, Ruleset):
        raise Refusal(404, f"there is no ruleset {name[:253]}")
    return kept.thing, kept


def users_of(things: Mapping[Key, Kept], name: str) -> list[str]:
    """The policies that go by a ruleset."""
    return [
        kept.thing.name for kept in things.values() if isinstance(kept.thing, Policy) and name in kept.thing.rulesets
    ]


def shown(ruleset: Ruleset, kept: Kept, users: list[str]) -> ShownRuleset:
    """users: names of the policies that go by it."""
    return ShownRuleset(
        name=ruleset.name,
        type=ruleset.type.value,
        rules=to_document(ruleset)["spec"]["rules"],
        policies=users,
        uid=ruleset.uid or None,
        revision=kept.revision,
        source=kept.source or None,
        created=kept.created or None,
        changed=kept.changed or None,
        changed_by=kept.changed_by or None,
    )
