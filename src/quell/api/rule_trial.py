"""What a rule would be, before it is one: whether it can be written so, and which of the last events it matches."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from quell.api.services import Services
from quell.controller.past import as_decided
from quell.controller.rule_changes import Options, plan_edit, plan_insert
from quell.controller.rulebook import Edition, Editor, rule_of
from quell.documents.load import Documents
from quell.documents.single import read_rule
from quell.errors import EventError
from quell.matching.index import Index
from quell.matching.index import compile as compile_index
from quell.matching.reading import World
from quell.model.event import Level
from quell.model.rule import Group, Rule
from quell.model.subject import Subject
from quell.storage import journal

#: Of those that match, so many are named.
_NAMED = 10
#: Seconds after which no further event is looked at.
_SECONDS = 0.5


class Met(Struct, frozen=True, kw_only=True):
    """An event that the rule matches. received: epoch seconds."""

    id: str
    received: float
    name: str
    level: Level
    subject: Subject


class Trial(Struct, frozen=True, kw_only=True):
    """What the rule comes to. Groups are taken as they are now."""

    #: What is doubtful about it, with its place in front where it has one.
    warnings: list[str]
    #: The newest events, and those of them that it matches.
    looked_at: int
    matched: int
    #: When the oldest that was looked at was received, epoch seconds; null: there is none.
    since: float | None
    #: Those that it matches, newest first, the first ten.
    latest: list[Met]


async def tried(
    services: Services, editor: Editor, fields: Mapping[str, Any], *, of: int | None = None, events: int = 1000
) -> Trial:
    """A new rule of these fields, or rule `of` with these in place of its own, tried on so many of the last events.

    DocumentError and those below it: it cannot be written so. NoSuchRule, StoreError.
    """
    controller = services.controller
    kept, names = controller.rulebook.kept, controller.names.words
    edition = Edition(
        revision=controller.rulebook.revision + 1,
        time=time.time(),
        editor=editor,
        held=controller.holdings(),
    )

    def planned() -> tuple[Rule, list[str]]:
        if of is None:
            single = read_rule(fields, names=names)
            plan = plan_insert(kept, [single], None, edition, Options())
        else:
            plan = plan_edit(kept, of, fields, edition, Options(source=kept[rule_of(kept, of)].source), names)
        [step] = plan.steps
        thing = None if step.after is None else step.after.thing
        if not isinstance(thing, Rule):
            raise TypeError(f"{step.key} is no rule")
        return thing, list(step.warnings)

    rule, warnings = await asyncio.to_thread(planned)
    index = compile_index(_alone(rule, controller.pipeline.index.groups))
    world = controller.state
    now = time.time()
    return await services.searching.read(lambda connection: _looked(connection, index, world, now, events, warnings))


def _alone(rule: Rule, groups: tuple[Group, ...]) -> Documents:
    """The rule as if it were enabled, and no other."""
    return Documents(rules=(msgspec.structs.replace(rule, disabled=False),), groups=groups)


def _looked(
    connection: sqlite3.Connection, index: Index, world: World, now: float, events: int, warnings: list[str]
) -> Trial:
    until = time.monotonic() + _SECONDS
    looked_at, matched, since = 0, 0, None
    latest: list[Met] = []
    for stored in journal.recent(connection, events, None):
        if time.monotonic() > until:
            break
        looked_at += 1
        since = stored.received
        try:
            event = as_decided(stored)
            met = bool(index.match(event, world, now).matches)
        except EventError:
            continue
        if met:
            matched += 1
            if len(latest) < _NAMED:
                latest.append(
                    Met(
                        id=event.id,
                        received=event.received,
                        name=event.name,
                        level=event.level,
                        subject=event.subject,
                    )
                )
    return Trial(warnings=warnings, looked_at=looked_at, matched=matched, since=since, latest=latest)
