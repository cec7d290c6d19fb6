"""What one controller exports makes the same of an empty one: the same text, the same ids, the same decisions."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import documents
from tests.properties.test_index import IMAGES, NOW, PLACES, events, world

from quell.controller.editing import Editing
from quell.controller.rule_defaults import DEFAULTS
from quell.controller.rulebook import Application, Editor, Verb, name_of
from quell.documents.load import Thing, load_text
from quell.documents.references import GROUP, WEBHOOK, references
from quell.documents.write import dump_yaml
from quell.evaluate import evaluate
from quell.matching.index import Index
from quell.matching.index import compile as compile_index
from quell.model.action import Quarantine, SendWebhook, SuppressLog
from quell.model.event import Category, Event, Level
from quell.model.rule import Criterion, Group, Rule, Webhook
from quell.storage.store import Store

#: Criteria that every category takes and that the events of the index's tests meet now and then.
MET = {
    "level": (*(level.value for level in Level), ">=Warning"),
    "namespace": (*PLACES, "shop*"),
    "image": (*IMAGES, "reg/*"),
    "node": ("n1", "n*"),
    "source": ("falco", "native"),
    "label:app": ("web", "w*"),
}


@st.composite
def met(draw: st.DrawFn, number: int) -> Rule:
    types = draw(st.lists(st.sampled_from(sorted(MET)), unique=True, max_size=2))
    actions = [SendWebhook(), SuppressLog()]
    category = draw(st.sampled_from(Category))
    if category is not Category.ADMISSION_CONTROL:
        actions.append(Quarantine())
    return Rule(
        name=f"met-{number}",
        category=category,
        group=draw(st.sampled_from(("", "nodes", "containers", "g"))),
        criteria=tuple(Criterion(type=type_, values=(draw(st.sampled_from(MET[type_])),)) for type_ in types),
        actions=tuple(draw(st.lists(st.sampled_from(actions), min_size=1, unique=True))),
        disabled=draw(st.booleans()),
    )


@st.composite
def whole(draw: st.DrawFn) -> list[Thing]:
    """Documents of every kind that fit together: no name or id twice, and everything that is named is there."""
    some: list[Thing] = draw(
        st.lists(
            st.one_of(
                documents.rules(),
                documents.groups,
                documents.webhooks,
                documents.syslogs,
                documents.policies(),
                documents.rulesets,
            ),
            max_size=6,
        )
    )
    some += [draw(met(number)) for number in range(draw(st.integers(0, 4)))]
    some.append(Group(name="g", criteria=()))
    things = {name_of(thing): thing for thing in some}
    # Those of the default rules are taken in every controller.
    ids: set[int] = set(DEFAULTS)
    groups = sorted(key.name for key in things if key.kind == "Group")
    for key, thing in things.items():
        if isinstance(thing, Rule):
            number = 0 if thing.id in ids else thing.id
            ids.add(number)
            group = thing.group if thing.name.startswith("met-") else draw(st.sampled_from(["", *groups]))
            things[key] = msgspec.structs.replace(thing, id=number, group=group)
    for thing in list(things.values()):
        for reference in references(thing):
            if reference.what == WEBHOOK:
                endpoint = Webhook(name=reference.name, url="https://example.org")
                things.setdefault(name_of(endpoint), endpoint)
            else:
                assert reference.what != GROUP or reference.name in (*groups, "nodes", "containers")
    return list(things.values())


def editing(folder: Path, store: list[Store]) -> Editing:
    store.append(Store.open(folder / "quell.db"))

    async def nothing(_holder: str, _why: str) -> None:
        raise AssertionError("nothing is in quarantine")

    return Editing(store[-1], time.time, held=dict, use=lambda _documents, _index: None, release=nothing)


def export(book: Editing) -> str:
    return dump_yaml([kept.thing for kept in book.kept.values() if kept.source], secrets=True)


async def through(first: str, folder: Path) -> tuple[list[str], list[Index]]:
    """Exports of controllers, each with the documents of the one before, and after a restart of the last."""
    stores: list[Store] = []
    texts, indexes, text = [], [], first
    try:
        for name in ("one", "two", "two"):
            book = editing(folder / name, stores)
            done = await book.apply(Application(documents=load_text(text), source="git/prod"), Editor())
            verbs = {change.verb for change in done.changes}
            assert verbs == {Verb.UNCHANGED if len(texts) == 2 else Verb.CREATED}
            text = export(book)
            texts.append(text)
            indexes.append(compile_index(book.documents, revision=1))
            stores[-1].close()
    finally:
        for store in stores:
            store.close()
    return texts, indexes


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(whole(), st.lists(events(), min_size=1, max_size=6))
def test_what_is_exported_is_the_same_elsewhere(things: Sequence[Thing], seen: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        texts, indexes = asyncio.run(through(dump_yaml(things, secrets=True), Path(folder)))
    assert texts[0] == texts[1] == texts[2]
    written = load_text(texts[0])
    ids = {rule.name: rule.id for rule in written.rules}
    assert all(ids[thing.name] == thing.id for thing in things if isinstance(thing, Rule) and thing.id)
    assert 0 not in ids.values()
    state = world()
    for event in seen:
        decided = [evaluate(event, index, state, NOW) for index in indexes]
        assert decided[0] == decided[1] == decided[2]
