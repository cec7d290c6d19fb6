"""What an application or a deletion changes about the documents in force: plans, without a store."""

from __future__ import annotations

import pytest
from tests.plans import AUTHOR, document, group, killing, plan, policy, rule, ruleset, told, warnings, webhook

from quell.controller.numbering import RESERVED_IDS, numbered
from quell.controller.rulebook import Edition, Key, Verb, alone, kind_of, name_of, plan_delete
from quell.documents.load import load_text
from quell.errors import DocumentConflict, DocumentError, DocumentForbidden
from quell.model.rule import Group, Rule, Webhook
from quell.secrets import HIDDEN

SECRET = "whsec_" + "A" * 32


def messages(error: type[DocumentError], *arguments: object, **options: object) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        plan(*arguments, **options)  # type: ignore[arg-type]
    assert type(caught.value) is error
    return [str(problem) for problem in caught.value.problems]


def test_created_configured_unchanged() -> None:
    first = plan({}, rule("a") + rule("b") + group("g"))
    assert told(first) == {"Group g": "created", "ResponseRule a": "created", "ResponseRule b": "created"}
    second = plan(first.after, rule("a") + rule("b", ", comment: new") + group("g"), time=200.0)
    assert [str(step.key) for step in second.changes] == ["ResponseRule b"]
    kept = second.after[Key("ResponseRule", "b")]
    assert (kept.revision, kept.created, kept.changed, kept.changed_by) == (2, 100.0, 200.0, "user/ann")
    assert second.after[Key("ResponseRule", "a")] is first.after[Key("ResponseRule", "a")]


def test_the_same_again_changes_nothing_wherever_it_stands() -> None:
    first = plan({}, rule("a") + webhook("w") + policy("p", "") + ruleset("r"), "git/prod")
    again = plan(first.after, "# moved\n\n" + ruleset("r") + policy("p", "") + webhook("w") + rule("a"), "git/prod")
    assert again.changes == ()
    assert again.after == first.after


def test_prune_deletes_what_the_source_applied_and_nothing_else() -> None:
    ours = plan({}, rule("a") + rule("b") + group("g"), "git/prod").after
    theirs = plan(ours, rule("c"), "git/other").after
    nobodys = plan(theirs, rule("d")).after
    made = plan(nobodys, rule("a"), "git/prod", prune=True)
    assert told(made) == {"ResponseRule a": "unchanged", "ResponseRule b": "deleted", "Group g": "deleted"}
    assert sorted(str(key) for key in made.after) == ["ResponseRule a", "ResponseRule c", "ResponseRule d"]
    assert told(plan(nobodys, rule("a"), "git/prod")) == {"ResponseRule a": "unchanged"}


@pytest.mark.parametrize("empty", ["", "---\n", "# nothing\n"])
@pytest.mark.parametrize("source", ["", "git/prod"])
def test_an_empty_input_is_refused(empty: str, source: str) -> None:
    things = plan({}, rule("a"), "git/prod").after
    for prune in (False, True):
        assert messages(DocumentError, things, empty, source, prune=prune) == ["there is no document in the input"]


def test_prune_needs_a_source() -> None:
    things = plan({}, rule("a")).after
    [message] = messages(DocumentError, things, rule("b"), prune=True)
    assert message.startswith("prune needs the name of a source")


@pytest.mark.parametrize("name", ["two words", "/git", "git\n", "é", "a" * 201])
def test_names_of_sources(name: str) -> None:
    [message] = messages(DocumentError, {}, rule("a"), name)
    assert "is no name of a source" in message


def test_pruning_what_is_still_used_is_refused() -> None:
    used = rule("r", ", group: g, webhooks: [w]")
    ours = plan({}, group("g") + webhook("w") + group("h"), "git/prod").after
    both = plan(ours, used).after
    found = messages(DocumentConflict, both, group("h"), "git/prod", prune=True)
    assert found == [
        "Group g is used by ResponseRule r (rule 8): change or delete these first",
        "Webhook w is used by ResponseRule r (rule 8): change or delete these first",
    ]


def test_what_goes_together_goes_together() -> None:
    things = plan({}, group("g") + rule("r", ", group: g") + rule("s"), "git/prod").after
    made = plan(things, rule("s"), "git/prod", prune=True)
    assert told(made) == {"ResponseRule s": "unchanged", "Group g": "deleted", "ResponseRule r": "deleted"}


def test_a_pruned_rule_frees_its_id() -> None:
    things = plan({}, rule("old", ", id: 77"), "git/prod").after
    made = plan(things, rule("new", ", id: 77"), "git/prod", prune=True)
    assert told(made) == {"ResponseRule new": "created", "ResponseRule old": "deleted"}


def test_nobody_inherits_a_quarantine_with_an_id() -> None:
    things = plan({}, killing("old"), "git/prod").after
    made = plan(things, killing("new"), "git/prod", prune=True, unquarantine=True, rule_8=["uid-1"])
    assert made.released == (("rule/8", Key("ResponseRule", "old")),)
    ids = {key.name: kept.thing.id for key, kept in made.after.items() if isinstance(kept.thing, Rule)}
    assert ids == {"new": 9}
    later = plan({}, rule("newer"), rule_8=["uid-1"]).after[Key("ResponseRule", "newer")].thing
    assert isinstance(later, Rule)
    assert later.id == 9


OWNED = plan({}, rule("a"), "git/prod").after


@pytest.mark.parametrize(
    ("text", "source", "take_over", "owner"),
    [
        (rule("a", ", comment: x"), "git/other", False, None),
        (rule("a", ", comment: x"), "", False, None),
        (rule("a"), "git/other", False, None),
        (rule("a"), "", False, "git/prod"),
        (rule("a", ", comment: x"), "git/prod", False, "git/prod"),
        (rule("a"), "git/other", True, "git/other"),
        (rule("a", ", comment: x"), "", True, ""),
        (rule("a"), "", True, ""),
    ],
)
def test_a_document_belongs_to_the_source_that_applied_it(
    text: str, source: str, take_over: bool, owner: str | None
) -> None:
    if owner is None:
        [message] = messages(DocumentConflict, OWNED, text, source, take_over=take_over)
        assert "ResponseRule a belongs to source git/prod" in message
    else:
        made = plan(OWNED, text, source, take_over=take_over)
        assert made.after[Key("ResponseRule", "a")].source == owner
        passed = [warning for warning in warnings(made) if "passes from source git/prod" in warning]
        assert bool(passed) == (owner != "git/prod")


def test_a_source_takes_what_nobody_owns() -> None:
    made = plan(plan({}, rule("a")).after, rule("a"), "git/prod")
    assert told(made) == {"ResponseRule a": "configured"}
    assert warnings(made) == ["belongs to source git/prod from now on"]
    assert told(plan(made.after, rule("a"), "git/prod")) == {"ResponseRule a": "unchanged"}


def test_ids() -> None:
    things = plan({}, rule("a") + rule("b", ", id: 5000") + rule("c") + rule("top", ", id: 200000")).after
    ids = {key.name: kept.thing.id for key, kept in things.items() if isinstance(kept.thing, Rule)}
    assert ids == {"a": 5001, "b": 5000, "c": 5002, "top": 200000}
    [message] = messages(DocumentError, things, rule("d", ", id: 5001"))
    assert "rule id 5001 is taken by a: leave it out to get a free one" in message
    [message] = messages(DocumentError, things, rule("d", ", id: 5001") + rule("a"))
    assert "rule id 5001 is taken by a" in message
    swapped = plan(things, rule("a", ", id: 5000") + rule("b", ", id: 5001"))
    assert {step.key.name: step.verb for step in swapped.steps} == dict.fromkeys("ab", Verb.CONFIGURED)


def test_ids_go_on_below_the_reserved_ones() -> None:
    (given,) = load_text(rule("a")).rules
    last = RESERVED_IDS.start - 1
    assert [one.id for one in numbered([given], {last: "x", 8: "y"}, {})] == [9]
    assert [one.id for one in numbered([given], {last - 1: "x"}, {})] == [last]


def test_a_dangling_reference_names_the_field_and_its_place() -> None:
    text = "\n" + rule("r", ", webhooks: [w, x]") + webhook("w")
    with pytest.raises(DocumentError) as caught:
        plan({}, text)
    [problem] = caught.value.problems
    assert (problem.path, problem.line) == ("spec.webhooks[1]", 2)
    assert text.splitlines()[1][problem.column - 1] == "x"
    assert 'ResponseRule r names the webhook "x"' in problem.message


def test_a_missing_ruleset_is_a_warning() -> None:
    made = plan({}, policy("p", "", "[r]"))
    assert warnings(made) == [
        'Policy p names the ruleset "r", which does not exist: the policy is Pending until it does'
    ]
    whole = plan(made.after, ruleset("r"))
    assert warnings(whole) == []
    deleted = plan_delete(whole.after, Key("Ruleset", "r"), Edition(revision=9, time=1.0))
    assert warnings(deleted) == ["Policy p named it and is Pending without it"]


def test_hidden_secrets_are_kept_for_the_same_receiver_only() -> None:
    key = Key("Webhook", "w")
    whole = f", secret: {SECRET}, headers: {{Authorization: Bearer x}}"
    shown = f', secret: "{HIDDEN}", headers: {{Authorization: "{HIDDEN}"}}'
    things = plan({}, webhook("w", whole)).after
    assert told(plan(things, webhook("w", shown))) == {"Webhook w": "unchanged"}
    made = plan(things, webhook("w", shown + ", enable: false"))
    changed = made.after[key].thing
    assert isinstance(changed, Webhook)
    assert (changed.secret, changed.headers, changed.enable) == (SECRET, {"Authorization": "Bearer x"}, False)
    for other in (", verify_tls: false", ", ca_file: /mine.pem", ", use_proxy: true"):
        found = messages(DocumentError, things, webhook("w", shown + other))
        assert len(found) == 2
        assert all("only for the receiver it was given for" in message for message in found)
    moved = webhook("w", shown).replace("https://w.example.org", "https://thief.example.org")
    assert [message.split(": ")[0] for message in messages(DocumentError, things, moved)] == [
        "<text>:1:1",
        "<text>:1:1",
    ]
    assert "there is none in force" in messages(DocumentError, {}, webhook("w", shown))[0]


def test_a_hidden_address_stands_for_the_one_in_force() -> None:
    spec = "url: 'https://hooks.slack.com/services/T/B/x', type: Slack"
    things = plan({}, document("Webhook", "w", spec)).after
    hidden = document("Webhook", "w", f"url: 'https://hooks.slack.com/{HIDDEN}', type: Slack")
    assert told(plan(things, hidden)) == {"Webhook w": "unchanged"}
    for wrong in (
        hidden.replace("hooks.slack", "hooks.thief"),
        hidden.replace("metadata: {name: w}", "metadata: {name: v}"),
    ):
        [message] = messages(DocumentError, things, wrong)
        assert "spec.url" in message


def test_delete_and_what_stands_against_it() -> None:
    things = plan({}, group("g") + rule("r", ", group: g") + webhook("w") + policy("p", POLICY_FLAG)).after
    edition = Edition(revision=9, time=1.0)
    for key, user in ((Key("Group", "g"), "ResponseRule r (rule 8)"), (Key("Webhook", "w"), "Policy p")):
        with pytest.raises(DocumentConflict, match="is used by") as caught:
            plan_delete(things, key, edition)
        assert user in str(caught.value)
    forced = plan_delete(things, Key("Group", "g"), edition, force=True)
    assert told(forced) == {"Group g": "deleted", "ResponseRule r": "deleted"}
    with pytest.raises(DocumentConflict):
        plan_delete(things, Key("Webhook", "w"), edition, force=True)
    with pytest.raises(KeyError):
        plan_delete(things, Key("Group", "x"), edition)
    owned = plan({}, rule("a"), "git/prod").after
    assert warnings(plan_delete(owned, Key("ResponseRule", "a"), edition)) == [
        "it belongs to source git/prod, which may apply it again"
    ]


POLICY_FLAG = "default: [{makeRedFlag: {severity: low, webhooks: [w]}}]"


def test_what_was_isolated_stays_unless_it_is_let_go() -> None:
    things = plan({}, killing("r") + rule("s"), "git").after
    stays = ["uid-1 stays in quarantine, held by rule/8"]
    ends = ["uid-1 is released from quarantine"]
    for text, prune in ((killing("r", ", disable: true") + rule("s"), False), (rule("s"), True)):
        made = plan(things, text, "git", prune=prune, rule_8=["uid-1"])
        assert (warnings(made), made.released) == (stays, ())
        made = plan(things, text, "git", prune=prune, unquarantine=True, rule_8=["uid-1"])
        assert (warnings(made), made.released) == (ends, (("rule/8", Key("ResponseRule", "r")),))
    renumbered = plan(things, killing("r", ", id: 50") + rule("s"), "git", rule_8=["uid-1"])
    assert warnings(renumbered) == stays
    renamed = plan(things, killing("q", ", id: 8") + rule("s"), "git", prune=True, rule_8=["uid-1"])
    assert warnings(renamed) == []
    policies = plan({}, policy("p", "default: [agentKillPod]")).after
    made = plan_delete(policies, Key("Policy", "p"), Edition(revision=9, time=1.0, held={"policy/p": ["uid-2"]}))
    assert warnings(made) == ["uid-2 stays in quarantine, held by policy/p"]


def test_an_author_ends_no_quarantine() -> None:
    things = plan({}, killing("r")).after
    [message] = messages(DocumentForbidden, things, killing("r", ", disable: true"), editor=AUTHOR, unquarantine=True)
    assert message == "it takes an operator to end quarantines"


def test_documents_by_themselves_are_numbered_and_checked_but_need_no_secrets() -> None:
    shown = webhook("w", f', secret: "{HIDDEN}"')
    assert [one.id for one in alone(load_text(rule("a") + rule("b") + shown)).rules] == [8, 9]
    with pytest.raises(DocumentError, match="names the group"):
        alone(load_text(rule("a", ", group: nowhere")))


@pytest.mark.parametrize(
    ("word", "kind"),
    [("rules", "ResponseRule"), ("rule", "ResponseRule"), ("Policies", "Policy"), ("group", "Group"),
     ("rulesets", "Ruleset"), ("WEBHOOK", "Webhook")],
)  # fmt: skip
def test_words_for_kinds(word: str, kind: str) -> None:
    assert kind_of(word) == kind


def test_a_word_for_no_kind() -> None:
    with pytest.raises(KeyError):
        kind_of("colours")
    assert name_of(Group(name="g")) == Key("Group", "g")
