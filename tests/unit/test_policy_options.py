"""The tables of policies against SEMANTICS section 5, written out a second time here, and what is made of them."""

from __future__ import annotations

import msgspec
import pytest

from quell.catalogue.table import ACTIONS
from quell.cli.reference import policies
from quell.documents.load import load_text
from quell.documents.policy_options import PolicyOptions, policy_options
from quell.errors import DocumentError

#: Type -> required selector, others taken, fields.
LAW: dict[str, tuple[str | None, list[str], list[str]]] = {
    "container": (
        "containerSelector",
        ["clusterSelector", "machineSelector", "namespaceSelector", "podSelector"],
        [
            "processPolicy",
            "networkPolicy",
            "disableProcesses",
            "disableConnections",
            "disablePrivateConnections",
            "disablePublicConnections",
        ],
    ),
    "linux-service": (
        "serviceSelector",
        ["clusterSelector", "machineSelector"],
        [
            "processPolicy",
            "networkPolicy",
            "disableProcesses",
            "disableConnections",
            "disablePrivateConnections",
            "disablePublicConnections",
        ],
    ),
    "cluster": ("clusterSelector", [], ["rulesets"]),
    "trace": (
        None,
        [
            "traceSelector",
            "userSelector",
            "clusterSelector",
            "machineSelector",
            "namespaceSelector",
            "podSelector",
            "containerSelector",
            "serviceSelector",
        ],
        ["allowedFlags"],
    ),
}
FIELDS: dict[str, list[str]] = {
    "clusterSelector": ["name", "uid"],
    "machineSelector": ["hostname", "sourceName", "uid"],
    "namespaceSelector": [],
    "podSelector": [],
    "containerSelector": ["image", "imageID", "containerName", "containerID"],
    "serviceSelector": ["cgroup", "name"],
    "processSelector": ["name", "exe", "euser"],
    "traceSelector": ["triggerClass", "triggerAncestors"],
    "userSelector": ["user"],
}
FLAGS = ["makeRedFlag", "makeOpsFlag"]
KILLS = ["agentKillProcess", "agentKillProcessGroup"]
#: What the reference lists for a type, and what follows agentKillProcess.
USUAL: dict[str, list[str]] = {
    "container": [
        *FLAGS,
        *KILLS,
        "agentKillPod",
        "agentKillProcessTree",
        "agentReniceProcess",
        "quarantine",
        "webhook",
        "suppress-log",
    ],
    "linux-service": [
        *FLAGS,
        *KILLS,
        "agentKillProcessTree",
        "agentReniceProcess",
        "quarantine",
        "webhook",
        "suppress-log",
    ],
    "cluster": [*FLAGS, "agentKillPod"],
}
SEVEN = [
    "clusterSelector",
    "machineSelector",
    "namespaceSelector",
    "podSelector",
    "containerSelector",
    "serviceSelector",
    "processSelector",
]
TARGETS = [
    "container::image",
    "container::imageID",
    "container::containerName",
    "container::containerID",
    "process::exe",
    "process::name",
    "process::euser",
]


@pytest.fixture(scope="module")
def told() -> PolicyOptions:
    return policy_options()


def test_types_have_the_scopes_and_fields_of_the_law(told: PolicyOptions) -> None:
    assert {
        option.type: (option.required, list(option.optional), [one.name for one in option.lists])
        for option in told.types
    } == LAW


def test_selectors_and_operators_are_those_of_the_law(told: PolicyOptions) -> None:
    assert {selector.kind: list(selector.fields) for selector in told.selectors} == FIELDS
    assert {operator.name: operator.values for operator in told.operators} == {
        "In": True,
        "NotIn": True,
        "Exists": False,
        "DoesNotExist": False,
    }


def test_actions_are_those_of_the_law(told: PolicyOptions) -> None:
    for option in told.types:
        usual = {action.word for action in option.actions if action.usual}
        assert usual == set(USUAL.get(option.type, ()))
        assert [action.word for action in option.actions] == ([] if option.type == "trace" else list(ACTIONS))
        for action in option.actions:
            without = ["serviceSelector"] if action.word == "agentKillPod" else []
            assert list(action.selectors) == [kind for kind in SEVEN if kind not in without]


def test_targets_are_those_of_the_law(told: PolicyOptions) -> None:
    assert [target.target for target in told.targets] == TARGETS
    for target in told.targets:
        assert ("processSelector" in target.selectors) == target.target.startswith("process::")
    assert told.ruleset_types == ("cluster", "container")


def refused(text: str) -> str:
    """ "": it is taken."""
    try:
        load_text(text)
    except DocumentError as error:
        return str(error.problems[0])
    return ""


def test_the_validator_takes_what_the_options_offer_and_nothing_else(told: PolicyOptions) -> None:
    examples = {selector.kind: f"{{{selector.parts[0]}: {{{selector.example}}}}}" for selector in told.selectors}
    head = "apiVersion: quell.dev/v1\nkind: Policy\nmetadata: {name: p, type: %s}\nspec:\n  mode: audit\n"
    for option in told.types:
        scope = [option.required] if option.required else [option.optional[0]]
        base = head % option.type + "".join(f"  {kind}: {examples[kind]}\n" for kind in scope)
        base += "  rulesets: [r]\n" if option.type == "cluster" else ""
        responds = "" if option.type == "trace" else "  response: {}\n"
        assert refused(base + responds) == ""
        for kind, example in examples.items():
            if kind not in scope:
                text = f"{base}  {kind}: {example}\n{responds}"
                assert bool(refused(text)) == (kind not in option.optional), text
        for action in option.actions:
            parameters = {
                "makeRedFlag": "severity: low, ",
                "makeOpsFlag": "severity: low, ",
                "agentReniceProcess": "priority: 5, ",
            }
            begin = f"{base}  response:\n    actions:\n    - {action.word}: {{{parameters.get(action.word, '')}"
            for kind, example in examples.items():
                assert bool(refused(f"{begin}{kind}: {example}}}\n")) == (kind not in action.selectors)
            assert "needs a selector" in refused(f"{begin}}}\n")


@pytest.mark.parametrize("target", TARGETS)
def test_a_ruleset_of_each_target_loads(target: str, told: PolicyOptions) -> None:
    option = next(each for each in told.targets if each.target == target)
    examples = {selector.kind: f"{{{selector.parts[0]}: {{{selector.example}}}}}" for selector in told.selectors}
    for kind in FIELDS:
        text = (
            "apiVersion: spyderbat/v1\nkind: SpyderbatRuleset\nmetadata: {name: r, type: cluster}\nspec:\n  rules:\n"
            f'  - {{target: "{target}", verb: deny, values: [a], {kind}: {examples[kind]}}}\n'
        )
        assert bool(refused(text)) == (kind not in option.selectors), text


def test_what_a_controller_knows_is_told_too() -> None:
    told = policy_options(rulesets=["prod"], types=())
    assert (told.types, told.rulesets) == ((), ("prod",))
    assert msgspec.json.decode(msgspec.json.encode(told))["rulesets"] == ["prod"]


def test_the_page_shows_every_type_selector_action_and_target() -> None:
    page = policies()
    for word in (*LAW, *FIELDS, *ACTIONS, *TARGETS, "processPolicy", "allowedFlags"):
        assert f"`{word}`" in page, word
    assert "| `agentKillPod` | yes | warning | yes |" in page
