"""Whatever is inserted, moved and deleted: ids are unique, the order is that of a plain list, and events are decided as if
there were no order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans import ANN

from quell.controller import rule_order
from quell.controller.rule_changes import Options, plan_insert, plan_move
from quell.controller.rulebook import Edition, Kept, Key, in_order, plan_delete, rule_of
from quell.detectors import DETECTORS
from quell.documents.load import Documents
from quell.documents.single import read_rule
from quell.evaluate import evaluate
from quell.matching.index import compile as compile_index
from quell.model.decision import Decision
from quell.model.event import Event
from quell.model.rule import Rule
from quell.response.state import Safety, State

Things = Mapping[Key, Kept]

NAMES = ("Container.Suspicious.Process", "Host.Package.Updated", "Container.Start")
EVENTS: list[Event] = [
    DETECTORS["native"].decode(
        b'{"id": "e%d", "time": 1789000000, "name": "%s", "level": "%s"}' % (number, name.encode(), level),
        id=None,
        received=1789000000.5,
    )
    for number, (name, level) in enumerate((name, level) for name in NAMES for level in (b"Critical", b"Info"))
]
FIELDS = st.sampled_from(
    [
        {
            "event": "security-event",
            "criteria": [f"name:{NAMES[0]}"],
            "actions": [{"makeRedFlag": {"severity": "high"}}],
        },
        {"event": "security-event", "criteria": ["level:Critical"], "actions": ["webhook"]},
        {"event": "security-event", "criteria": [f"name:{NAMES[1]}"], "actions": ["suppress-log"], "disable": True},
        {"event": "event", "criteria": [f"name:{NAMES[2]}"], "actions": [{"makeOpsFlag": {"severity": "low"}}]},
    ]
)
#: A step: what is done, which of the rules it is about, where it goes (a rule, above or below it), with what fields.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "insert-several", "move", "move", "delete"]),
        st.integers(0, 30),
        st.one_of(st.none(), st.just(0), st.tuples(st.integers(0, 30), st.sampled_from([1, -1]))),
        FIELDS,
    ),
    max_size=30,
)


def ids(things: Things) -> list[int]:
    return [kept.thing.id for kept in in_order(things).values() if isinstance(kept.thing, Rule)]


def put(model: list[int], new: list[int], after: int | None) -> list[int]:
    """What a list of ids becomes, as a person would do it."""
    at = len(model) if after is None else 0 if after == 0 else model.index(abs(after)) + (after > 0)
    return model[:at] + new + model[at:]


def where(place: Any, others: list[int]) -> int | None:
    """A place among the rules there are, as the API takes it."""
    if place is None or place == 0 or not others:
        return 0 if place == 0 else None
    number, side = place
    return others[number % len(others)] * side


def decided(things: Things) -> list[Decision]:
    """By an index of the rules in the order in which they stand."""
    rules = [kept.thing for kept in in_order(things).values() if isinstance(kept.thing, Rule)]
    index = compile_index(Documents(rules=tuple(rules)))
    return [evaluate(event, index, State(Safety()), 1789000001.0) for event in EVENTS]


def crowded(things: Things) -> Things:
    """With no room between any two."""
    return {
        key: msgspec.structs.replace(kept, position=position)
        for position, (key, kept) in enumerate(in_order(things).items())
    }


@settings(max_examples=80, deadline=None)
@given(STEPS, st.sets(st.integers(0, 29)))
def test_any_sequence(steps: list[tuple[str, int, Any, dict[str, Any]]], squeezes: set[int]) -> None:
    """squeezes: before which steps there is no room left, so that all get new positions."""
    things: Things = {}
    model: list[int] = []
    for revision, (what, which, place, fields) in enumerate(steps, start=1):
        if revision in squeezes:
            things = crowded(things)
        edition = Edition(revision=revision, time=float(revision), editor=ANN)
        if what.startswith("insert"):
            count = 3 if what == "insert-several" else 1
            after = where(place, model)
            plan = plan_insert(things, [read_rule(fields)] * count, after, edition, Options())
            new = [step.after.thing.id for step in plan.steps if step.after and isinstance(step.after.thing, Rule)]
            assert len(new) == count
            assert not set(new) & set(model)
            model, things = put(model, new, after), plan.after
        elif model and what == "move":
            number = model[which % len(model)]
            others = [other for other in model if other != number]
            after = where(place, others)
            before = decided(things)
            things = plan_move(things, number, after, edition).after
            model = put(others, [number], after)
            assert decided(things) == before
        elif model:
            number = model[which % len(model)]
            things = plan_delete(things, rule_of(things, number), edition).after
            model.remove(number)
        assert ids(things) == model
        positions = [kept.position for kept in in_order(things).values()]
        assert positions == sorted(set(positions)), "no two rules share a position"


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_places_are_between_their_neighbours(indexes: list[int]) -> None:
    """Over and over at one place: positions rise, and only a used-up gap moves the others."""
    positions: list[int] = []
    for index in indexes:
        at = min(index, len(positions))
        placed = rule_order.place(positions, at, 1)
        rest = positions if placed.others is None else list(placed.others)
        positions = [*rest[:at], *placed.newcomers, *rest[at:]]
        assert positions == sorted(set(positions))
    if len(indexes) <= 24:
        assert all(rule_order.place([1 << 24, 2 << 24], 1, 1).others is None for _ in indexes)
