"""Rules one by one: inserted, edited, moved, switched, deleted, default ones restored. Plans, without a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.plans import ANN, AUTHOR, group, plan, rule, told, warnings, webhook

from quell.controller.rule_changes import (
    Options,
    plan_edit,
    plan_first,
    plan_insert,
    plan_move,
    plan_restore,
    plan_switch,
    shipped,
    spec_of,
)
from quell.controller.rule_defaults import DEFAULTS
from quell.controller.rule_order import GAP, place
from quell.controller.rulebook import Edition, Editor, Holding, Kept, Key, Plan, in_order, plan_delete
from quell.documents.load import load_text
from quell.documents.single import Single, read_rule
from quell.documents.write import dump_yaml
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden, NoSuchRule
from quell.model.event import Category
from quell.model.rule import Rule

Things = Mapping[Key, Kept]
FLAG: dict[str, Any] = {"event": "incident", "criteria": ["level:Critical"], "actions": ["suppress-log"]}
KILL: dict[str, Any] = {"event": "incident", "criteria": ["process:nc"], "actions": ["agentKillProcess"]}


def edition(editor: Editor = ANN, **held: list[str]) -> Edition:
    return Edition(
        revision=99, time=500.0, editor=editor, held={key.replace("_", "/"): each for key, each in held.items()}
    )


def singles(*fields: dict[str, Any]) -> list[Single]:
    return [read_rule(each) for each in fields]


def standing(things: Things) -> list[str]:
    return [key.name for key in in_order(things) if key.kind == "ResponseRule"]


def rule_in(things: Things, name: str) -> Rule:
    thing = things[Key("ResponseRule", name)].thing
    assert isinstance(thing, Rule)
    return thing


THREE = plan({}, rule("a") + rule("b") + rule("c")).after  # ids 8, 9, 10


# ---- order


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, "abcxy"),
        (0, "xyabc"),
        (8, "axybc"),
        (-8, "xyabc"),
        (9, "abxyc"),
        (-9, "axybc"),
        (10, "abcxy"),
        (-10, "abxyc"),
    ],
)
def test_where_rules_are_inserted(after: int | None, expected: str) -> None:
    made = plan_insert(THREE, singles(FLAG | {"name": "x"}, FLAG | {"name": "y"}), after, edition(), Options())
    assert "".join(standing(made.after)) == expected
    assert told(made) == {"ResponseRule x": "created", "ResponseRule y": "created"}
    assert (rule_in(made.after, "x").id, rule_in(made.after, "y").id) == (11, 12)


@pytest.mark.parametrize(
    ("number", "after", "expected"),
    [(8, None, "bca"), (8, 10, "bca"), (8, -10, "bac"), (10, 0, "cab"), (10, -8, "cab"), (10, 8, "acb"), (9, 8, "abc")],
)
def test_where_a_rule_is_moved(number: int, after: int | None, expected: str) -> None:
    made = plan_move(THREE, number, after, edition())
    assert "".join(standing(made.after)) == expected
    [step] = made.steps
    assert step.verb.value == ("unchanged" if expected == "abc" else "moved")
    assert made.shifted == ()
    for key, kept in made.after.items():
        if key != step.key:
            assert kept is THREE[key]
    if expected != "abc":
        assert step.after is not None
        assert (step.after.revision, step.after.changed_by, step.after.thing) == (
            99,
            "user/ann",
            THREE[step.key].thing,
        )


def test_a_rule_that_is_not_there_has_no_place_beside_it() -> None:
    for after in (77, -77):
        with pytest.raises(NoSuchRule, match="there is no rule 77"):
            plan_insert(THREE, singles(FLAG), after, edition(), Options())
        with pytest.raises(NoSuchRule, match="77"):
            plan_move(THREE, 8, after, edition())
    with pytest.raises(NoSuchRule, match="77"):
        plan_move(THREE, 77, 0, edition())
    for after in (8, -8):
        with pytest.raises(DocumentError, match="above or below itself"):
            plan_move(THREE, 8, after, edition())


def test_applied_again_a_rule_keeps_its_place_and_new_ones_come_last_in_the_order_of_the_file() -> None:
    moved = plan_move(THREE, 10, 0, edition()).after
    made = plan(moved, rule("z") + rule("b", ", comment: x") + rule("y") + rule("a"))
    assert "".join(standing(made.after)) == "cabzy"
    text = dump_yaml(kept.thing for kept in in_order(made.after).values())
    assert "".join(standing(plan({}, text).after)) == "cabzy", "an export elsewhere gives the same order"


def test_twenty_four_insertions_at_one_place_move_nobody_else() -> None:
    positions, moved = [GAP, 2 * GAP], []
    for serial in range(40):
        placed = place(positions, 1, 1)
        moved += [serial] if placed.others is not None else []
        rest = positions if placed.others is None else list(placed.others)
        positions = [rest[0], *placed.newcomers, *rest[1:]]
    assert moved == [24]


def test_rules_that_make_room_are_said_and_keep_their_versions() -> None:
    things = dict(THREE)
    for serial in range(30):
        made = plan_insert(things, singles(FLAG | {"name": f"x{serial}"}), 8, edition(), Options())
        things = dict(made.after)
        for key in made.shifted:
            assert things[key].revision == (1 if key.name in "abc" else 99)
        if made.shifted:
            assert Key("ResponseRule", "a") not in {step.key for step in made.steps}
    assert standing(things) == ["a", *(f"x{serial}" for serial in reversed(range(30))), "b", "c"]


# ---- inserting


def test_a_rule_without_a_name_gets_one_from_its_id() -> None:
    things = plan({}, rule("rule-8", ", id: 30")).after
    made = plan_insert(things, singles(FLAG, FLAG | {"id": 8}, FLAG), 0, edition(), Options())
    names = {
        step.after.thing.id: step.key.name for step in made.steps if step.after and isinstance(step.after.thing, Rule)
    }
    assert names == {31: "rule-31", 8: "rule-8-2", 32: "rule-32"}


def test_a_name_that_is_taken_is_not_overwritten() -> None:
    with pytest.raises(DocumentConflict, match="a rule b is there already, rule 9: edit that one"):
        plan_insert(THREE, singles(FLAG | {"name": "b"}), None, edition(), Options())


def test_what_is_doubtful_is_said_with_the_rule_it_is_about() -> None:
    broad = {"event": "incident", "actions": ["quarantine"]}
    made = plan_insert(THREE, singles(FLAG, broad), None, edition(), Options())
    assert [bool(step.warnings) for step in made.steps] == [False, True]
    assert "runs in audit until it says allow_broad" in made.steps[1].warnings[0]


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        (FLAG | {"criteria": ["level:Critical", "lvel:Info"]}, "rules[1].criteria[1]", 'unknown criterion "lvel"'),
        (FLAG | {"colour": "red"}, "rules[1]", 'unknown field "colour"'),
        (FLAG | {"actions": []}, "rules[1].actions", "at least one action"),
        (
            {"event": "event", "actions": ["agentKillProcess"]},
            "rules[1].actions[0]",
            "can never be done for category event",
        ),
        (FLAG | {"name": " x"}, "rules[1].name", "a name in one line"),
        ({"actions": ["webhook"]}, "rules[1]", 'missing field "event"'),
    ],
)
def test_what_is_wrong_has_its_place(fields: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_rule(fields, "rules[1]")
    [problem] = caught.value.problems
    assert problem.path == path
    assert message in problem.message


# ---- editing


def test_an_absent_field_stays_and_null_removes() -> None:
    whole = FLAG | {"name": "x", "group": "containers", "comment": "why", "cooldown": "5m", "limit": "3/1m"}
    things = plan_insert(THREE, singles(whole), 0, edition(), Options()).after
    made = plan_edit(things, 11, {"comment": "because", "limit": None}, edition(), Options())
    assert spec_of(rule_in(made.after, "x")) == {
        "id": 11,
        "name": "x",
        "event": "incident",
        "group": "containers",
        "criteria": ["level:Critical"],
        "actions": ["suppress-log"],
        "comment": "because",
        "cooldown": "5m",
    }
    assert standing(made.after) == standing(things)
    assert plan_edit(things, 11, {"comment": "why"}, edition(), Options()).changes == ()


def test_conditions_and_ttl_take_the_place_of_what_says_the_same() -> None:
    long = FLAG | {"name": "x", "actions": [{"quarantine": {"ttl": "1h", "strict": True}}]}
    things = plan_insert(THREE, singles(long), 0, edition(), Options()).after
    made = plan_edit(
        things, 11, {"ttl": "2h", "conditions": [{"type": "level", "value": "Info"}]}, edition(), Options()
    )
    spec = spec_of(rule_in(made.after, "x"))
    assert (spec["criteria"], spec["actions"]) == (["level:Info"], [{"quarantine": {"ttl": "2h", "strict": True}}])


@pytest.mark.parametrize("fields", [{"id": 9}, {"name": "q"}])
def test_a_rule_keeps_its_id_and_name(fields: dict[str, Any]) -> None:
    with pytest.raises(DocumentError, match="stays as it is"):
        plan_edit(THREE, 8, fields, edition(), Options())
    assert plan_edit(THREE, 8, {"id": 8, "name": "a", "comment": "x"}, edition(), Options()).changes


def test_what_a_source_owns_is_its_to_edit_and_anybodys_to_move() -> None:
    things = plan({}, rule("a") + rule("b"), "git/prod").after
    for change in (
        lambda options: plan_edit(things, 8, {"comment": "x"}, edition(), options),
        lambda options: plan_switch(things, 8, on=False, edition=edition(), options=options),
    ):
        with pytest.raises(DocumentConflict, match="belongs to source git/prod"):
            change(Options())
        assert change(Options(source="git/prod")).changes[0].after.source == "git/prod"
        assert change(Options(take_over=True)).changes[0].after.source == ""
    moved = plan_move(things, 8, None, edition()).changes[0]
    assert moved.after is not None
    assert moved.after.source == "git/prod"


def test_an_edit_of_a_default_rule_is_no_news_about_ids() -> None:
    things = plan_first({}, edition()).after
    assert warnings(plan_edit(things, 2, {"comment": "x"}, edition(), Options())) == []
    text = dump_yaml([things[Key("ResponseRule", "default-event")].thing])
    [warning] = load_text(text).warnings
    assert "ids 1 to 7 belong to the default rules" in warning.message


# ---- authors


def test_what_an_author_may() -> None:
    inserted = plan_insert(THREE, singles(KILL | {"name": "k"}), 0, edition(AUTHOR), Options())
    assert rule_in(inserted.after, "k").disabled
    assert warnings(inserted) == ["saved disabled, as agentKillProcess takes an operator to enable"]
    with pytest.raises(DocumentForbidden, match="takes an operator to enable rule 11"):
        plan_switch(inserted.after, 11, on=True, edition=edition(AUTHOR), options=Options())
    enabled = plan_switch(inserted.after, 11, on=True, edition=edition(), options=Options()).after
    assert not rule_in(enabled, "k").disabled
    moved = plan_move(enabled, 11, None, edition(AUTHOR)).after
    assert not rule_in(moved, "k").disabled, "another place is no other rule"
    assert not rule_in(plan_edit(enabled, 11, {"comment": "x"}, edition(AUTHOR), Options()).after, "k").disabled
    assert rule_in(plan_edit(enabled, 11, {"criteria": ["process:*"]}, edition(AUTHOR), Options()).after, "k").disabled
    assert rule_in(plan_switch(enabled, 11, on=False, edition=edition(AUTHOR), options=Options()).after, "k").disabled
    for unquarantine in (
        lambda: plan_switch(enabled, 11, on=False, edition=edition(AUTHOR), options=Options(unquarantine=True)),
        lambda: plan_delete(enabled, Key("ResponseRule", "k"), edition(AUTHOR), unquarantine=True),
    ):
        with pytest.raises(DocumentForbidden, match="takes an operator to end quarantines"):
            unquarantine()


# ---- quarantines

Go = Callable[[Things, Edition, bool], Plan]


def off(things: Things, now: Edition, unquarantine: bool) -> Plan:
    return plan_switch(things, 8, on=False, edition=now, options=Options(unquarantine=unquarantine))


def gone(things: Things, now: Edition, unquarantine: bool) -> Plan:
    return plan_delete(things, Key("ResponseRule", "a"), now, unquarantine=unquarantine)


@pytest.mark.parametrize("go", [off, gone], ids=["disabled", "deleted"])
def test_what_becomes_of_quarantines(go: Go) -> None:
    now = edition(rule_8=["uid-1", "uid-2"], rule_9=["uid-2"], user_ann=["uid-3"])
    stays, ends = go(THREE, now, False).steps[0], go(THREE, now, True)
    assert stays.quarantines == (
        Holding(key="uid-1", released=False, holders=("rule/8",)),
        Holding(key="uid-2", released=False, holders=("rule/8", "rule/9")),
    )
    assert stays.warnings == (
        "uid-1 stays in quarantine, held by rule/8",
        "uid-2 stays in quarantine, held by rule/8",
    )
    assert ends.steps[0].quarantines == (
        Holding(key="uid-1", released=True),
        Holding(key="uid-2", released=False, holders=("rule/9",)),
    )
    assert ends.steps[0].warnings == ("uid-1 is released from quarantine", "uid-2 stays in quarantine, held by rule/9")
    assert ends.released == (("rule/8", Key("ResponseRule", "a")),)


@pytest.mark.parametrize("go", [off, gone], ids=["disabled", "deleted"])
def test_what_a_disabled_rule_still_holds_can_be_ended_later(go: Go) -> None:
    now = edition(rule_8=["uid-1"])
    disabled = off(THREE, now, False).after
    made = go(disabled, now, True)
    assert made.released == (("rule/8", Key("ResponseRule", "a")),)
    assert made.steps[0].quarantines == (Holding(key="uid-1", released=True),)
    again = off(disabled, now, False)
    assert (again.released, again.changes, warnings(again)) == ((), (), [])
    assert again.steps[0].quarantines == (Holding(key="uid-1", released=False, holders=("rule/8",)),)


def test_an_enabled_rule_lets_go_of_nothing() -> None:
    now = edition(rule_8=["uid-1"])
    made = plan_edit(THREE, 8, {"comment": "x"}, now, Options(unquarantine=True))
    assert (made.released, made.steps[0].quarantines) == ((), ())


# ---- default rules


def test_the_default_rules_are_one_a_category_and_what_the_law_says() -> None:
    said = {number: (rule.category.value, list(map(str, spec_of(rule).get("criteria", ()))), spec_of(rule)["actions"])
            for number, rule in DEFAULTS.items()}  # fmt: skip
    assert said == {
        1: ("event", ["name:Container.Quarantined"], ["webhook"]),
        2: ("security-event", ["level:Critical"], ["webhook"]),
        3: ("cve-report", ["cve-high:10"], ["quarantine"]),
        4: ("compliance", ["name:D.5.4"], ["webhook"]),
        5: ("admission-control", ["name:Admission.Control.Denied"], ["webhook"]),
        6: ("deviation", [], [{"makeRedFlag": {"severity": "high"}}]),
    }
    assert {rule.category for rule in DEFAULTS.values()} == set(Category)
    assert all(rule.disabled for rule in DEFAULTS.values())
    read = load_text(dump_yaml(DEFAULTS.values())).rules
    assert [spec_of(rule) for rule in read] == [spec_of(rule) for rule in DEFAULTS.values()]


def test_at_the_first_start_they_stand_above_what_is_there() -> None:
    assert standing(plan_first(THREE, edition()).after)[-3:] == ["a", "b", "c"]
    assert [rule_in(plan_first({}, edition()).after, rule.name).id for rule in DEFAULTS.values()] == [1, 2, 3, 4, 5, 6]
    taken = plan({}, rule("mine", ", id: 2") + rule("default-compliance")).after
    assert standing(plan_first(taken, edition()).after) == [
        "default-event",
        "default-cve-report",
        "default-admission-control",
        "default-deviation",
        "mine",
        "default-compliance",
    ]


def test_restoring() -> None:
    things = plan_first({}, edition()).after
    things = plan_edit(things, 2, {"comment": "mine"}, edition(), Options()).after
    things = plan_switch(things, 3, on=True, edition=edition(), options=Options()).after
    things = plan_delete(things, Key("ResponseRule", "default-compliance"), edition()).after
    kinds = {name: shipped(rule_in(things, name)) for name in standing(things)}
    assert kinds["default-security-event"] == "edited"
    assert kinds["default-cve-report"] == "enabled"
    assert kinds["default-event"] == "shipped"
    missing = plan_restore(things, edition(), Options(), reset=False)
    assert told(missing) == {"ResponseRule default-compliance": "created"}
    assert standing(missing.after)[-1] == "default-compliance"
    whole = plan_restore(things, edition(), Options(), reset=True)
    assert told(whole) == {
        "ResponseRule default-security-event": "configured",
        "ResponseRule default-cve-report": "configured",
        "ResponseRule default-compliance": "created",
    }
    assert {shipped(rule_in(whole.after, name)) for name in standing(whole.after)} == {"shipped"}
    assert plan_restore(whole.after, edition(), Options(), reset=True).steps == ()


@pytest.mark.parametrize("more", [", id: 4", ""], ids=["id", "name"])
def test_what_is_taken_is_not_restored(more: str) -> None:
    things = plan({}, rule("mine" if more else "default-compliance", more)).after
    with pytest.raises(DocumentConflict, match=r"default rule 4 \(default-compliance\) cannot be restored"):
        plan_restore(things, edition(), Options(), reset=False)


def test_a_rule_that_names_what_is_not_there_is_refused() -> None:
    with pytest.raises(DocumentError, match='names the group "shpo", which does not exist'):
        plan_insert(THREE, singles(FLAG | {"group": "shpo"}), 0, edition(), Options())
    there = plan({}, group("shop") + webhook("soc")).after
    fields = FLAG | {"group": "shop", "webhooks": ["soc"], "actions": ["webhook"]}
    assert plan_insert(there, singles(fields), 0, edition(), Options()).changes
