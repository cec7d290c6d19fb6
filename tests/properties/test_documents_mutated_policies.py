"""Policies and rulesets that nobody meant: refused, or taken for no more than they say, and written as they were read.

What a text says is read off by tests.support.naive_policies, which shares no code with loader and index.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.properties.test_documents_mutated import STRAY, change_of, loaded, places, torn
from tests.support import naive_policies

from quell.documents.load import Documents, load_text
from quell.documents.write import dump_yaml
from quell.evaluate import evaluate
from quell.matching.index import compile as compile_index
from quell.model.action import word
from quell.model.details import Deviation
from quell.model.event import Category, Event, Level
from quell.model.policy import Block, NetworkRule, Policy, Ports, ProcessNode, Ruleset
from quell.model.rule import Source
from quell.model.subject import Container, Pod, Process, Subject
from quell.response.state import State

NOW = 1_790_000_000.0
SELECTORS: dict[str, Any] = {
    "clusterSelector": {"matchFields": {"name": "prod"}},
    "machineSelector": {"matchFieldsExpressions": [{"key": "hostname", "operator": "NotIn", "values": ["n2"]}]},
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}},
    "podSelector": {
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}, {"key": "app", "operator": "Exists"}],
    },
    "containerSelector": {"matchFields": {"image": "reg/*"}},
    "serviceSelector": {"cgroup": "systemd:/web"},
    "processSelector": {
        "matchFieldsExpressions": [
            {"key": "name", "operator": "In", "values": ["sh", "n?"]},
            {"key": "euser", "operator": "DoesNotExist"},
        ]
    },
}
SCOPES = {
    "container": ("containerSelector", ["clusterSelector", "machineSelector", "namespaceSelector", "podSelector"]),
    "linux-service": ("serviceSelector", ["clusterSelector", "machineSelector"]),
    "cluster": ("clusterSelector", []),
}
ACTIONS: list[Any] = [
    {"makeRedFlag": {"severity": "high", "content": "x"}},
    {"makeOpsFlag": {"severity": "low", "description": "y"}},
    {"agentKillProcess": {}},
    {"agentKillPod": {"grace_period": 3}},
    {"agentReniceProcess": {"priority": "-5"}},
    {"quarantine": {"ttl": "1h"}},
    "suppress-log",
]
PROCESSES: list[Any] = [
    {
        "id": "web_0",
        "name": "web",
        "exe": ["/bin/web", "/usr/bin/web*"],
        "euser": ["root"],
        "listeningSockets": [{"port": 80, "endPort": 90, "protocol": "TCP"}],
        "children": [{"id": "sh_0", "name": "sh", "exe": ["/bin/sh"]}, {"id": "nc_0", "name": "nc", "exe": ["*"]}],
    }
]
NETWORK: dict[str, Any] = {
    "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 80}]}],
    "egress": [{"to": [{"dnsSelector": ["*.org"]}], "ports": [{"port": 53, "protocol": "UDP"}], "processes": ["sh_0"]}],
}
RULESET: dict[str, Any] = {
    "rules": [
        {"target": "container::image", "verb": "allow", "values": ["reg/a:1", "reg/*"]},
        {
            "target": "process::exe",
            "verb": "deny",
            "values": ["/bin/sh"],
            "namespaceSelector": {"matchLabels": {"a": "b"}},
        },
    ]
}
#: What stands in the place of another and may well be right there.
FITTING = st.sampled_from(
    [
        *("In", "NotIn", "Exists", "DoesNotExist", "name", "exe", "image", "app", "tier", "prod", "reg/*", "sh", "n?"),
        *("audit", "enforce", "all", "egress", "web_0", "80", "TCP", "UDP", "allow", "deny", "10.1.0.0/16"),
        *(["sh"], ["*"], {"matchLabels": {"app": "web"}}, {"matchFields": {"name": "sh"}}, "agentKillProcess"),
    ]
).map(copy.deepcopy)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    type_ = draw(st.sampled_from(sorted(SCOPES)))
    must, may = SCOPES[type_]
    scope = [must, *draw(st.lists(st.sampled_from(may), unique=True, max_size=2) if may else st.just([]))]

    def entry(*, specific: bool) -> Any:
        action = copy.deepcopy(draw(st.sampled_from(ACTIONS)))
        if not specific:
            return action
        [(name, parameters)] = ((action, {}),) if isinstance(action, str) else action.items()
        kinds = draw(st.lists(st.sampled_from(sorted(SELECTORS)), unique=True, min_size=1, max_size=2))
        taken = {kind: SELECTORS[kind] for kind in kinds if (name, kind) != ("agentKillPod", "serviceSelector")}
        return {name: parameters | (taken or {"podSelector": SELECTORS["podSelector"]})}

    spec: dict[str, Any] = {"mode": draw(st.sampled_from(["enforce", "audit"]))}
    spec |= {kind: SELECTORS[kind] for kind in scope}
    spec |= {"rulesets": ["r"]} if type_ == "cluster" else {"processPolicy": PROCESSES, "networkPolicy": NETWORK}
    spec["response"] = {
        "default": [entry(specific=False) for _ in range(draw(st.integers(0, 2)))],
        "actions": [entry(specific=True) for _ in range(draw(st.integers(0, 3)))],
    }
    document = {
        "apiVersion": "spyderbat/v1",
        "kind": "SpyderbatPolicy",
        "metadata": {"name": "p", "type": type_},
        "spec": spec,
    }
    # Aliases of YAML would stand for what is written once here and used twice.
    return copy.deepcopy(document)


@st.composite
def mutated(draw: st.DrawFn, document: dict[str, Any]) -> str:
    """The text of a document that one or two changes have been made to."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        everything = places(document["spec"])
        if not everything:
            break
        path = draw(st.sampled_from(everything))
        parent = document["spec"]
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = draw(FITTING | STRAY)
        else:
            draw(change_of)(parent, path[-1])
    text = written(document)
    return draw(torn(text)) if draw(st.integers(0, 3)) == 0 else text


def written(document: Any) -> str:
    return str(yaml.safe_dump(document, allow_unicode=True, sort_keys=False))


def subjects(seed: int, count: int = 60) -> list[Subject]:
    """Subjects of all sorts, with the values that the policies here speak of."""
    chance = random.Random(seed)  # noqa: S311 - the same subjects for the same seed

    def maybe(*values: Any) -> Any:
        return chance.choice((None, *values))

    return [
        Subject(
            cluster=maybe("prod", "test"),
            node=maybe("n1", "n2"),
            namespace=maybe("shop", "db"),
            namespace_labels=maybe({"env": "prod"}),
            pod=maybe(
                Pod(uid="u"), Pod(labels={}), Pod(labels={"app": "web"}), Pod(labels={"app": "web", "tier": "a"})
            ),
            container=maybe(Container(id="c1"), Container(id="c2", name="web")),
            image=maybe("reg/a:1", "other/b:2"),
            service=maybe("web.service"),
            service_cgroup=maybe("systemd:/web", "systemd:/db"),
            process=maybe(Process(name="sh", exe="/bin/sh"), Process(name="nc", user="root"), Process(pid=7)),
        )
        for _ in range(count)
    ]


def asks(documents: Documents, subject: Subject) -> set[tuple[str, str]]:
    event = Event(
        id="e",
        time=NOW,
        received=NOW,
        source="native",
        category=Category.DEVIATION,
        name="Process.Profile.Violation",
        level=Level.WARNING,
        subject=subject,
        raw=b"{}",
        decode=lambda _: Deviation(policy="p", what="process"),
    )
    decision = evaluate(event, compile_index(documents), State(), NOW)
    return {(by.rpartition("/")[2], word(record.action)) for record in decision.actions for by in record.asked_by}


def placeless(thing: Policy | Ruleset) -> Policy | Ruleset:
    return msgspec.structs.replace(thing, source=Source())


def check_written(documents: Documents) -> None:
    for thing in (*documents.policies, *documents.rulesets):
        again = load_text(dump_yaml([thing]))
        assert [placeless(each) for each in (*again.policies, *again.rulesets)] == [placeless(thing)]


def check_lists(policy: Policy, spec: Any) -> None:
    """What is listed as expected is what the text lists, no more and no less."""

    def nodes(several: tuple[ProcessNode, ...], depth: int = 0) -> list[Any]:
        return [
            one
            for node in several
            for one in (
                (depth, node.name, list(node.exe), list(node.euser), ports(node.listening)),
                *nodes(node.children, depth + 1),
            )
        ]

    expected = policy.expected
    assert nodes(expected.processes or ()) == naive_policies.processes(spec)
    rules = [("ingress", rule) for rule in expected.ingress or ()] + [
        ("egress", rule) for rule in expected.egress or ()
    ]
    said = naive_policies.connections(spec)
    assert [(way, ports(rule.ports), set(rule.processes), peers(rule)) for way, rule in rules] == [
        (way, those, ids, [_peer(peer) for peer in several]) for way, several, those, ids in said
    ]


def ports(several: tuple[Ports, ...]) -> list[tuple[str, int, int]]:
    return [(one.protocol, one.port, one.port if one.end is None else one.end) for one in several]


def peers(rule: NetworkRule) -> list[Any]:
    return [[peer.cidr, *peer.exceptions] if isinstance(peer, Block) else list(peer.names) for peer in rule.peers]


def _peer(peer: Any) -> list[str]:
    block = peer.get("ipBlock")
    return [block["cidr"], *(block.get("except") or [])] if block else list(peer["dnsSelector"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policies(), st.integers(0, 10**6))
def test_a_policy_asks_for_what_it_says(document: dict[str, Any], seed: int) -> None:
    text = written(document)
    taken = loaded(text)
    assert taken is not None
    spec = naive_policies.specs_of(text, "SpyderbatPolicy")["p"]
    check_lists(taken.policies[0], spec)
    for subject in subjects(seed):
        assert asks(taken, subject) == naive_policies.asked(spec, subject), f"{subject}\n{text}"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(policies().flatmap(mutated), st.integers(0, 10**6))
def test_no_change_of_a_policy_makes_it_ask_for_more_than_it_says(text: str, seed: int) -> None:
    taken = loaded(text)
    if taken is None:
        return
    check_written(taken)
    specs = naive_policies.specs_of(text, "SpyderbatPolicy")
    assert {policy.name for policy in taken.policies} == specs.keys()
    for policy in taken.policies:
        check_lists(policy, specs[policy.name])
        for subject in subjects(seed, 20) if policy.name == "p" else ():
            assert asks(taken, subject) <= naive_policies.asked(specs["p"], subject), f"{subject}\n{text}"


RULESET_DOCUMENT = {
    "apiVersion": "spyderbat/v1",
    "kind": "SpyderbatRuleset",
    "metadata": {"name": "r", "type": "cluster"},
    "spec": RULESET,
}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated(RULESET_DOCUMENT))
def test_no_change_of_a_ruleset_makes_it_say_something_else(text: str) -> None:
    taken = loaded(text)
    if taken is None:
        return
    check_written(taken)
    specs = naive_policies.specs_of(text, "SpyderbatRuleset")
    for ruleset in taken.rulesets:
        said = [
            (
                rule["target"],
                rule["verb"],
                list(rule["values"]),
                sorted(key for key in rule if key.endswith("Selector")),
            )
            for rule in specs[ruleset.name]["rules"]
        ]
        assert said == [
            (rule.target, "allow" if rule.allow else "deny", list(rule.values), sorted(s.kind for s in rule.selectors))
            for rule in ruleset.rules
        ]
