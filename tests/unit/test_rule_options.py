"""The tables against SEMANTICS section 3, written out a second time here, and what is made of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from quell.catalogue.forms import KINDS, REPORTS
from quell.catalogue.names import NAMES
from quell.catalogue.table import ACTIONS, ALLOWED, CRITERIA, WRITTEN, Form, is_broad
from quell.cli.reference import matrix
from quell.documents.options import parameters_of, rule_options
from quell.documents.rule import category_of
from quell.documents.single import read_rule
from quell.errors import DocumentError
from quell.model.event import Category, Level

ALL = ["event", "security-event", "cve-report", "compliance", "admission-control", "deviation"]
#: The law's table of criteria: type -> its categories, and values that are taken and refused.
LAW: dict[str, tuple[list[str], list[str], list[str]]] = {
    "name": (ALL, ["Some.Name", "D.[1-5].*", "?x"], []),
    "level": (ALL, ["critical", ">=Warning", "INFO"], ["High", ">Warning", "<=Info"]),
    "kind": (["security-event"], ["incident", "Threat", "violation"], ["event"]),
    "process": (["security-event", "deviation"], ["nc", "/usr/bin/nc*"], []),
    "cve-name": (["cve-report"], ["cve-2018-12", "CVE-2021-44228", "GHSA-*"], []),
    "cve-critical": (["cve-report"], ["1", ">1", ">=1"], ["0", "1/2", "-1", "many"]),
    "cve-high-only": (["cve-report"], ["1", ">1", ">=1"], ["0", "1/2"]),
    "cve-high": (["cve-report"], ["5", ">5", ">=5"], ["0", "5/1"]),
    "cve-medium": (["cve-report"], ["1", ">1", ">=1"], ["0", "1/2"]),
    "cve-high-with-fix": (["cve-report"], ["0", "3", "3/30", ">=3/30", ">3"], ["3/0", "x", ">=0"]),
    "cve-critical-with-fix": (["cve-report"], ["0", "3", "3/30", ">=3/30"], ["3/0"]),
    "cve-high-only-with-fix": (["cve-report"], ["0", "3", "3/30", ">=3/30"], ["3/0"]),
    "number": (["compliance"], ["5.12", "D.5.12", "D.5.*"], []),
    "report": (["cve-report"], ["container", "HOST", "registry", "platform"], ["image"]),
    "namespace": (ALL, ["prod-*"], []),
    "image": (ALL, ["nginx:*"], []),
    "node": (ALL, ["worker-?"], []),
    "source": (ALL, ["falco"], []),
    "label:app": (ALL, ["web*"], []),
}
NEVER = "no"
#: The law's table of actions, each cell as it stands there.
CELLS: dict[str, dict[str, str]] = {
    **{action: dict.fromkeys(ALL, "yes") for action in ("webhook", "suppress-log", "makeRedFlag", "makeOpsFlag")},
    "quarantine": {
        "event": "container events",
        "security-event": "container subject",
        "cve-report": "container scan",
        "compliance": "container only",
        "admission-control": NEVER,
        "deviation": "container subject",
    },
    **{
        action: {
            **dict.fromkeys(ALL, NEVER),
            "security-event": "event names a process",
            "deviation": "process deviations",
        }
        for action in ("agentKillProcess", "agentKillProcessGroup", "agentKillProcessTree", "agentReniceProcess")
    },
    "agentKillPod": {**dict.fromkeys(ALL, "pod known"), "admission-control": NEVER},
}
PARAMETERS: dict[str, Any] = {
    "makeRedFlag": {"severity": "high"},
    "makeOpsFlag": {"severity": "low"},
    "agentReniceProcess": {"priority": 5},
}


def accepted(fields: dict[str, Any]) -> bool:
    try:
        read_rule(fields)
    except DocumentError:
        return False
    return True


def test_every_criterion_and_action_of_the_law_is_there_and_no_other() -> None:
    assert {type_.partition(":")[0] for type_ in LAW} == {type_.removesuffix(":") for type_ in CRITERIA}
    assert {
        action: {str(category): cell for category, cell in cells.items()} for action, cells in ALLOWED.items()
    } == CELLS
    assert set(WRITTEN) == set(Form) == {spec.form for spec in CRITERIA.values()}


@pytest.mark.parametrize("category", ALL)
@pytest.mark.parametrize("type_", LAW)
def test_which_category_takes_which_criterion(type_: str, category: str) -> None:
    categories, good, bad = LAW[type_]
    for value in good:
        fields = {"event": category, "criteria": [f"{type_}:{value}"], "actions": ["webhook"]}
        assert accepted(fields) == (category in categories), value
    for value in bad:
        assert not accepted({"event": category, "criteria": [f"{type_}:{value}"], "actions": ["webhook"]}), value


@pytest.mark.parametrize("category", ALL)
@pytest.mark.parametrize("action", CELLS)
def test_which_category_takes_which_action(action: str, category: str) -> None:
    written = {action: PARAMETERS[action]} if action in PARAMETERS else action
    fields = {"event": category, "criteria": ["level:Critical"], "actions": [written]}
    assert accepted(fields) == (CELLS[action][category] != NEVER)


@pytest.mark.parametrize(
    ("one", "other", "taken"),
    [
        ("name:Network.Violation", "name:Process.Profile.Violation", False),
        ("level:Critical", "level:Warning", False),
        ("level:>=Error", "level:Critical", True),
        ("kind:incident", "kind:threat", False),
        ("namespace:a", "namespace:b", False),
        ("namespace:a*", "namespace:*b", True),
        ("process:nc", "process:/usr/bin/nc", True),
        ("level:Critical", "name:Network.Violation", True),
    ],
)
def test_a_repetition_that_can_never_hold_is_refused(one: str, other: str, taken: bool) -> None:
    for criteria in ([one, other], [other, one]):
        assert accepted({"event": "security-event", "criteria": criteria, "actions": ["webhook"]}) == taken


def test_options_are_the_tables() -> None:
    told = msgspec.json.decode(msgspec.json.encode(rule_options()))
    assert [option["category"] for option in told["categories"]] == ALL
    for option in told["categories"]:
        category = option["category"]
        criteria = {criterion["type"]: criterion for criterion in option["criteria"]}
        takes = {type_ for type_, (categories, _, _) in LAW.items() if category in categories}
        assert set(criteria) == {"label:" if type_.startswith("label:") else type_ for type_ in takes}
        for criterion in criteria.values():
            assert criterion["description"]
            assert criterion["written"]
            assert criterion["example"].startswith(criterion["type"])
            assert accepted({"event": category, "criteria": [criterion["example"]], "actions": ["webhook"]})
        actions = {action["word"]: action["condition"] for action in option["actions"]}
        assert actions == {word: cells[category] for word, cells in CELLS.items() if cells[category] != NEVER}
        assert criteria["level"]["values"] == [*Level, *(f">={level}" for level in Level)]
        for word in option["words"]:
            assert str((category_of(word) or ("",))[0]) == category
    by_name = {option["category"]: option for option in told["categories"]}
    of = {criterion["type"]: criterion for criterion in by_name["cve-report"]["criteria"]}
    assert of["report"]["values"] == list(REPORTS)
    of = {criterion["type"]: criterion for criterion in by_name["security-event"]["criteria"]}
    assert of["kind"]["values"] == list(KINDS)
    names = {name["name"] for option in told["categories"] for name in option["names"]}
    assert names == set(NAMES)
    assert {group["name"] for group in told["groups"]} == {"containers", "nodes", "external", "all"}
    assert told["group_operators"] == ["=", "!=", "contains", "prefix", "regex", "!regex"]
    assert told["group_keys"] == ["image", "node", "container", "service", "domain", "namespace", "address", "ns:"]


def test_parameters_are_those_of_the_structs_and_what_is_in_bounds_is_taken() -> None:
    for word, spec in ACTIONS.items():
        for parameter in parameters_of(spec):
            assert parameter.description
            if parameter.form != "number":
                continue
            for value, good in (
                (parameter.minimum, True),
                (parameter.maximum, True),
                ((parameter.minimum or 0) - 1, False),
                ((parameter.maximum or 0) + 1, False),
            ):
                fields = {
                    "event": "security-event",
                    "criteria": ["level:Info"],
                    "actions": [{word: {parameter.name: value}}],
                }
                assert accepted(fields) == good, (word, parameter.name, value)
    flag = {parameter.name: parameter for parameter in parameters_of(ACTIONS["makeRedFlag"])}
    assert flag["severity"].required
    assert flag["severity"].values == ("critical", "high", "medium", "low", "info")
    assert (flag["impact"].maximum, flag["content"].maximum) == (100, 10_000)


@pytest.mark.parametrize(
    ("more", "broad"),
    [
        ({}, True),
        ({"group": "all"}, True),
        ({"event": "incident"}, True),
        ({"group": "containers"}, False),
        ({"criteria": ["level:Info"]}, False),
        ({"allow_broad": True}, False),
        ({"actions": ["webhook"]}, False),
    ],
)
def test_which_rules_are_broad(more: dict[str, Any], broad: bool) -> None:
    single = read_rule({"event": "security-event", "actions": ["quarantine"]} | more)
    assert is_broad(single.rule) == broad
    assert any("runs in audit" in warning.message for warning in single.warnings) == broad


def test_the_matrix_has_every_cell() -> None:
    lines = matrix().splitlines()
    for type_, (categories, _, _) in LAW.items():
        name = "label:<key>" if type_.startswith("label:") else type_
        cells = " | ".join("yes" if category in categories else "no" for category in ALL)
        assert f"| `{name}` | {cells} |" in lines
    for action, row in CELLS.items():
        assert f"| `{action}` | {' | '.join(row[category] for category in ALL)} |" in lines
    assert [str(category) for category in Category] == ALL


def test_a_name_that_somebody_sent_is_known() -> None:
    fields = {"event": "incident", "criteria": ["name:My.Own.Rule"], "actions": ["webhook"]}
    [warning] = read_rule(fields).warnings
    assert "neither the catalogue" in warning.message
    assert read_rule(fields, names={"my.own.rule": "My.own.rule"}).warnings == ()
    [near] = read_rule(fields, names={"my.own.rules": "My.own.rules"}).warnings
    assert near.nearest == "My.own.rules"
