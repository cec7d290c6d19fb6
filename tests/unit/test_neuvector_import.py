"""Rules of NeuVector's REST API and its resources become documents of ours, and what changes in meaning is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.system.command import quell

from quell.documents.load import load_text
from quell.documents.neuvector_import import Imported, import_text
from quell.errors import DocumentError
from quell.matching.patterns import glob
from quell.model.rule import Criterion, Group, Rule

INPUTS = Path(__file__).parents[1] / "inputs"


def of_rest() -> dict[str, Imported]:
    return {one.origin: one for one in import_text((INPUTS / "neuvector_rules.json").read_bytes())}


def only(rule: dict[str, object]) -> Imported:
    [one] = import_text(json.dumps({"rule": rule}))
    return one


def with_condition(type_: str, value: str, event: str = "security-event") -> Imported:
    return only({"id": 20, "event": event, "conditions": [{"type": type_, "value": value}], "actions": ["webhook"]})


def test_counts_with_a_fix_keep_their_meaning() -> None:
    rule = of_rest()["rule 9"].thing
    assert isinstance(rule, Rule)
    assert (rule.id, rule.name, rule.group, rule.webhooks) == (9, "neuvector-9", "web", ("soc",))
    assert rule.criteria == (
        Criterion(type="cve-high-with-fix", values=(">=3/30",)),
        Criterion(type="level", values=("Critical",)),
    )
    told = of_rest()["rule 9"].changes
    assert any("ignores what comes after one" in one for one in told)
    assert "level:critical never matches there, where case counts; here it does" in told


def test_ids_of_others_ranges_are_new() -> None:
    found = of_rest()
    for origin in ("rule 1", "rule 100001"):
        one = found[origin]
        assert isinstance(one.thing, Rule)
        assert one.thing.id == 0
        assert any("it gets a new one" in told for told in one.changes)
    first = found["rule 1"].thing
    assert isinstance(first, Rule)
    assert first.disabled


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (with_condition("cve-name", "CVE-2018-12", "cve-report"), "the beginning of one"),
        (with_condition("process", "nc*"), "letter by letter"),
        (with_condition("process", "/bin/nc"), "with its executable's path"),
        (with_condition("name", "D.[1-5].*", "compliance"), "letter by letter"),
        (with_condition("name", "5.4", "compliance"), "D.5.4"),
        (with_condition("level", "Critical"), "names no endpoint"),
        (only({"id": 21, "event": "event", "group": "nodes", "actions": ["webhook"]}), "group nodes"),
        (only({"id": 21, "event": "event", "actions": ["suppress-log"]}), "also silences webhooks"),
        (only({"id": 21, "event": "security-event", "actions": ["quarantine"]}), "runs in audit until"),
        (only({"id": 21, "event": "event", "actions": ["webhook"], "webhooks": ["a"]}), "called also when another"),
        (only({"id": 21, "event": "event", "actions": ["webhook"], "cfg_type": "ground"}), "it was ground"),
    ],
)
def test_what_changes_is_said(one: Imported, told: str) -> None:
    assert one.thing is not None
    assert any(told in change for change in one.changes), one.changes


@pytest.mark.parametrize("value", ["nc*", "a?", "[x]", "D.[1-5].*", "plain"])
def test_letters_stay_letters(value: str) -> None:
    for type_, event in (("process", "security-event"), ("name", "compliance"), ("cve-name", "cve-report")):
        rule = with_condition(type_, value, event).thing
        assert isinstance(rule, Rule)
        written = rule.criteria[0].values[0]
        assert glob(written).matches(value)
        assert not any(glob(written).matches(other) for other in ("ncat", "ab", "x", "D.4.1") if other != value)


def test_what_keeps_its_meaning_is_not_talked_about() -> None:
    quiet = only(
        {"id": 30, "event": "cve-report", "conditions": [{"type": "cve-high", "value": "5"}], "actions": ["quarantine"]}
    )
    assert (quiet.changes, quiet.problems) == ((), ())


def test_what_cannot_be_written_says_why() -> None:
    found = of_rest()
    assert found["rule 16"].thing is None
    assert found["rule 16"].problems == ("category serverless is not there: no detector tells of it",)
    assert found["rule 17"].thing is None
    assert "can never hold together" in found["rule 17"].problems[0]
    admission = found["rule 15"]
    assert isinstance(admission.thing, Rule)
    assert len(admission.thing.actions) == 1
    assert "quarantine is left out: on admission control it did nothing" in admission.changes


def test_resources_bring_their_group() -> None:
    found = import_text((INPUTS / "neuvector_resources.yaml").read_bytes())
    assert [one.origin for one in found] == ["resource event--1f", "group web", "response 1 of web"]
    group, rule = found[1].thing, found[2].thing
    assert isinstance(group, Group)
    assert isinstance(rule, Rule)
    assert (group.name, rule.group) == ("web", "web")
    assert "any of a pod's labels" in found[1].changes[0]


def test_a_resource_that_is_applied_says_the_same() -> None:
    text = """
apiVersion: neuvector.com/v1
kind: NvResponseRuleSecurityRule
metadata: {name: r}
spec:
  rule:
    policy_name: default
    event: cve-report
    conditions: [{type: cve-high-with-fix, value: "3"}, {type: cve-name, value: CVE-2018-12}]
    actions: [suppress-log]
"""
    [imported] = import_text(text)
    assert imported.changes == tuple(warning.message for warning in load_text(text).warnings)
    assert len(imported.changes) == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "neither JSON nor YAML"),
        ("{}", "expected rules of GET"),
        ("3", "expected rules of GET"),
        ("kind: Pod", "got kind Pod"),
        ("", "there is no response rule"),
        ('{"rules": []}', "there is no response rule"),
    ],
)
def test_what_is_no_export(text: str, told: str) -> None:
    with pytest.raises(DocumentError, match=told):
        import_text(text)


def test_names_are_told_apart() -> None:
    rule = {"event": "event", "actions": ["webhook"]}
    found = import_text(json.dumps([rule, rule]))
    assert [one.thing.name for one in found if one.thing] == ["neuvector-rule", "neuvector-rule-2"]


def test_the_command(tmp_path: Path) -> None:
    words = ("import", "neuvector", str(INPUTS / "neuvector_rules.json"))
    done = quell(*words, "--to", str(tmp_path / "rules.yaml"), url="http://127.0.0.1:9", state=tmp_path)
    assert done.returncode == 3
    assert "rule 16 CANNOT BE WRITTEN" in done.stderr
    assert "to be there before these are applied: webhooks soc" in done.stderr
    assert len(load_text((tmp_path / "rules.yaml").read_text()).rules) == 7
    told = json.loads(quell(*words, "-o", "json", url="http://127.0.0.1:9", state=tmp_path).stdout)
    assert [one["origin"] for one in told if one["document"] is None] == ["rule 16", "rule 17"]
