"""What an author may write: who has documents but not the right to have destructive rules in force. A table."""

from __future__ import annotations

import pytest
from tests.plans import ANN, AUTHOR, group, killing, plan, policy, rule, ruleset, told, warnings

from quell.controller.authorship import destructive, enabled
from quell.controller.rulebook import Edition, Editor, Key, plan_delete
from quell.documents.load import load_text
from quell.errors import DocumentForbidden
from quell.model.policy import Policy
from quell.model.rule import Rule

NAME = Key("ResponseRule", "r")

DISABLED, ENABLED = False, True
#: What is in force (applied by an operator), what an author writes, whether the rule is enabled then, and a warning.
RULES = [
    ("created", "", killing("r"), DISABLED, True),
    ("created, harmless", "", rule("r"), ENABLED, False),
    ("created in audit", "", killing("r", ", mode: audit"), DISABLED, True),
    ("created disabled", "", killing("r", ", disable: true"), DISABLED, False),
    ("the same", killing("r"), killing("r"), ENABLED, False),
    ("another comment", killing("r"), killing("r", ", comment: why"), ENABLED, False),
    ("other criteria", killing("r"), killing("r").replace("process:nc", "process:n*"), DISABLED, True),
    ("another group", killing("r"), killing("r", ", group: nodes"), DISABLED, True),
    ("all of it", killing("r"), killing("r", ", allow_broad: true"), DISABLED, True),
    ("a looser limit", killing("r", ", limit: 1/1h"), killing("r"), DISABLED, True),
    ("without approval", killing("r", ", approval: true"), killing("r"), DISABLED, True),
    ("from audit to enforce", killing("r", ", mode: audit"), killing("r"), DISABLED, True),
    ("enabling", killing("r", ", disable: true"), killing("r"), DISABLED, True),
    ("disabling", killing("r"), killing("r", ", disable: true"), DISABLED, False),
    ("a disabled one", killing("r", ", disable: true"), killing("r", ", disable: true, group: nodes"), DISABLED, False),
    ("made destructive", rule("r"), killing("r"), DISABLED, True),
    ("made harmless", killing("r"), rule("r"), ENABLED, False),
    ("another id", killing("r"), killing("r", ", id: 90"), DISABLED, True),
]


@pytest.mark.parametrize(("before", "text", "on", "warned"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_rules(before: str, text: str, on: bool, warned: bool) -> None:
    things = plan({}, before, editor=ANN).after if before else {}
    made = plan(things, text, editor=AUTHOR)
    saved = made.after[NAME].thing
    assert enabled(saved) == on
    assert [warning for warning in warnings(made) if "takes an operator to enable" in warning] == warnings(made)
    assert bool(warnings(made)) == warned
    again = plan(made.after, text, editor=AUTHOR)
    assert again.changes == (), "an author's document settles at once"


def test_an_operator_enables_and_nothing_is_taken_back_by_the_same_document() -> None:
    saved = plan({}, killing("r"), editor=AUTHOR).after
    on = plan(saved, killing("r"), editor=ANN)
    assert told(on) == {"ResponseRule r": "configured"}
    assert plan(on.after, killing("r"), editor=AUTHOR).changes == ()


@pytest.mark.parametrize(
    ("response", "on"),
    [
        ("default: [agentKillPod]", DISABLED),
        ("default: [{agentKillPod: {enabled: false}}]", ENABLED),
        ("actions: [{agentKillPod: {podSelector: {matchLabels: {a: b}}}}]", DISABLED),
        ("default: [{makeRedFlag: {severity: low}}]", ENABLED),
        ("", ENABLED),
    ],
)
def test_policies(response: str, on: bool) -> None:
    made = plan({}, policy("p", response), editor=AUTHOR)
    saved = made.after[Key("Policy", "p")].thing
    assert isinstance(saved, Policy)
    assert saved.enabled == on
    turned = plan(
        plan({}, policy("p", "default: [{agentKillPod: {enabled: false}}]")).after, policy("p", response), editor=AUTHOR
    )
    assert enabled(turned.after[Key("Policy", "p")].thing) == on


GUARDED = killing("r", ", group: g")
OFF = killing("r", ", group: g, disable: true")
#: What is in force, and what an author may not write beside it, or may.
GROUPS = [
    ("criteria", group("g") + GUARDED, group("g", "y"), True),
    ("the same", group("g") + GUARDED, group("g"), False),
    ("of a disabled rule", group("g") + OFF, group("g", "y"), False),
    ("with the rule disabled", group("g") + GUARDED, group("g", "y") + OFF, False),
    ("with the rule changed, which disables it", group("g") + GUARDED, group("g", "y") + killing("r", ", group: all"), False),
    ("of a harmless rule", group("g") + rule("r", ", group: g"), group("g", "y"), False),
    ("a learned one written over", killing("r", ", group: nv.web.shop"), group("nv.web.shop", "y"), True),
    ("a ruleset", ruleset("s") + policy("p", "default: [agentKillPod]", "[s]"), ruleset("s", "y"), True),
    ("a ruleset that was missing", policy("p", "default: [agentKillPod]", "[s]"), ruleset("s"), True),
    ("a ruleset of a harmless policy", ruleset("s") + policy("p", "", "[s]"), ruleset("s", "y"), False),
]  # fmt: skip


@pytest.mark.parametrize(("before", "text", "refused"), [row[1:] for row in GROUPS], ids=[row[0] for row in GROUPS])
def test_what_an_enabled_destructive_rule_stands_on(before: str, text: str, refused: bool) -> None:
    things = plan({}, before).after
    plan(things, text, editor=ANN)
    if not refused:
        plan(things, text, editor=AUTHOR)
        return
    with pytest.raises(DocumentForbidden) as caught:
        plan(things, text, editor=AUTHOR)
    assert "it takes an operator to change" in str(caught.value)
    assert "enabled and destructive" in str(caught.value)


def test_deleting() -> None:
    things = plan({}, group("g") + GUARDED + killing("s")).after
    edition = Edition(revision=9, time=1.0, editor=AUTHOR)
    assert told(plan_delete(things, Key("ResponseRule", "s"), edition)) == {"ResponseRule s": "deleted"}
    with pytest.raises(DocumentForbidden, match="delete Group g together with these"):
        plan_delete(things, Key("Group", "g"), edition, force=True)
    with pytest.raises(DocumentForbidden, match="end quarantines"):
        plan_delete(things, Key("ResponseRule", "s"), edition, unquarantine=True)
    plan_delete(things, Key("Group", "g"), Edition(revision=9, time=1.0, editor=ANN), force=True)


@pytest.mark.parametrize(
    ("action", "destroys"),
    [
        ("quarantine", True),
        ("agentKillProcess", True),
        ("agentKillProcessGroup", True),
        ("agentKillProcessTree", True),
        ("agentKillPod", True),
        ("{agentReniceProcess: {priority: 5}}", True),
        ("webhook", False),
        ("suppress-log", False),
        ("{makeRedFlag: {severity: low}}", False),
        ("{makeOpsFlag: {severity: low}}", False),
    ],
)
def test_which_actions_destroy(action: str, destroys: bool) -> None:
    (one,) = load_text(rule("r").replace("suppress-log", action)).rules
    assert bool(destructive(one)) == destroys
    made = plan({}, rule("r").replace("suppress-log", action), editor=Editor(operates=False))
    saved = made.after[NAME].thing
    assert isinstance(saved, Rule)
    assert saved.disabled == destroys
