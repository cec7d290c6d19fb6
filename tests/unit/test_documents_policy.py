"""What processPolicy and networkPolicy mean once they are read, and how much of them a document may have."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml

from quell.documents.load import load_text, load_values
from quell.errors import DocumentError
from quell.model.policy import (
    NETWORK_ENTRY_LIMIT,
    NETWORK_RULE_LIMIT,
    PROCESS_DEPTH_LIMIT,
    PROCESS_LIMIT,
    Block,
    Direction,
    Expected,
    Names,
    NetworkRule,
    Policy,
    Ports,
    ProcessNode,
)


def document(foreign: bool = False, **spec: Any) -> dict[str, Any]:
    head = ("spyderbat/v1", "SpyderbatPolicy") if foreign else ("quell.dev/v1", "Policy")
    return {
        "apiVersion": head[0],
        "kind": head[1],
        "metadata": {"name": "p", "type": "container"},
        "spec": {
            "mode": "audit",
            "containerSelector": {"matchFields": {"image": "*"}},
            "response": {"default": ["agentKillProcess"], "actions": []},
            **spec,
        },
    }


def read(text: str) -> Policy:
    return load_values([document(**yaml.safe_load(text))]).policies[0]


def problems(*documents: dict[str, Any]) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_values(documents)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_whole_expectation() -> None:
    policy = read(
        """
processPolicy:
- id: web
  name: web
  exe: [/bin/web]
  euser: [root]
  listeningSockets: [{port: 8000, endPort: 8010}, {port: 53, protocol: UDP}]
  children:
  - {name: "sh*", exe: ["*"], euser: [www, "UID 7"]}
networkPolicy:
  ingress:
  - from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.64.0.0/10]}}, {ipBlock: {cidr: "FE80::/10"}}]
    ports: [{port: 8000, endPort: 8010, protocol: TCP}]
    processes: [web, web]
  egress:
  - {to: [{dnsSelector: ["*.org", a]}], ports: [{port: 0}]}
disableProcesses: all
disableConnections: all
disablePrivateConnections: ingress
disablePublicConnections: egress
"""
    )
    assert policy.expected == Expected(
        processes=(
            ProcessNode(
                id="web",
                name="web",
                exe=("/bin/web",),
                euser=("root",),
                listening=(Ports(port=8000, end=8010), Ports(port=53, protocol="UDP")),
                children=(ProcessNode(id="sh*_0", name="sh*", exe=("*",), euser=("www", "UID 7")),),
            ),
        ),
        ingress=(
            NetworkRule(
                peers=(Block(cidr="10.0.0.0/8", exceptions=("10.64.0.0/10",)), Block(cidr="fe80::/10")),
                ports=(Ports(port=8000, end=8010),),
                processes=("web",),
            ),
        ),
        egress=(NetworkRule(peers=(Names(names=("*.org", "a")),), ports=(Ports(port=0),)),),
        no_processes=True,
        no_connections=(Direction.INGRESS, Direction.EGRESS),
        no_private_connections=(Direction.INGRESS,),
        no_public_connections=(Direction.EGRESS,),
    )


def test_what_is_not_written_is_not_compared() -> None:
    assert read("{}").expected == Expected(processes=None, ingress=None, egress=None)
    assert read("{processPolicy: [], networkPolicy: {egress: []}}").expected == Expected(processes=(), egress=())


def test_ids_that_are_left_out_are_derived_and_take_no_written_one() -> None:
    policy = read(
        """
processPolicy:
- {name: sh, exe: [a], euser: [r], children: [{name: sh, exe: [a]}, {name: nc, exe: [a], id: sh_1}]}
- {name: sh, exe: [a], euser: [r]}
"""
    )
    [first, second] = policy.expected.processes or ()
    assert [first.id, *(child.id for child in first.children), second.id] == ["sh_0", "sh_2", "sh_1", "sh_3"]


def test_network_rules_name_written_ids_only() -> None:
    rule = {"to": [{"dnsSelector": ["a"]}], "ports": [{"port": 1}], "processes": ["sh_0"]}
    process = {"name": "sh", "exe": ["a"], "euser": ["r"]}
    named = document(processPolicy=[process | {"id": "sh_0"}], networkPolicy={"egress": [rule]})
    assert load_values([named]).policies
    derived = document(processPolicy=[process], networkPolicy={"egress": [rule]})
    assert problems(derived) == ['spec.networkPolicy.egress[0].processes[0]: no process has the id "sh_0"']


def nested(levels: int, foreign: bool) -> dict[str, Any]:
    node: dict[str, Any] = {"id": "0", "name": "a", "exe": ["a"], "listeningSockets": [{"port": 1}]}
    for level in range(1, levels):
        node = {"id": str(level), "name": "a", "exe": ["a"], "children": [node]}
    network = {"ingress": [], "egress": []}
    return document(foreign, processPolicy=[node | {"euser": ["r"]}], networkPolicy=network)


def test_the_deepest_tree_loads_within_a_list_of_documents() -> None:
    whole = {"apiVersion": "spyderbat/v1", "kind": "List", "items": [nested(PROCESS_DEPTH_LIMIT, foreign=True)]}
    [policy] = load_text(yaml.safe_dump(whole)).policies
    assert load_values([whole]).policies[0].expected == policy.expected
    [problem] = problems(nested(PROCESS_DEPTH_LIMIT + 1, foreign=True))
    assert problem.endswith(f"more than {PROCESS_DEPTH_LIMIT} levels of processes")


def test_no_more_processes_rules_and_entries_than_a_policy_may_have() -> None:
    def process(number: int) -> dict[str, Any]:
        return {"name": f"a{number}", "exe": ["a"], "euser": ["r"]}

    def rules(count: int, entries: int) -> dict[str, Any]:
        rule = {"from": [{"dnsSelector": ["a"]}] * entries, "ports": [{"port": 1}] * entries}
        return {"ingress": [rule] * count}

    most = document(processPolicy=[process(n) for n in range(PROCESS_LIMIT)])
    assert len(load_values([most]).policies[0].expected.processes or ()) == PROCESS_LIMIT
    assert problems(document(processPolicy=[process(n) for n in range(PROCESS_LIMIT + 2)])) == [
        f"spec.processPolicy[{PROCESS_LIMIT}]: more than {PROCESS_LIMIT} processes"
    ]
    assert load_values([document(networkPolicy=rules(NETWORK_RULE_LIMIT, 1))]).policies
    assert problems(document(networkPolicy=rules(NETWORK_RULE_LIMIT + 1, 1))) == [
        f"spec.networkPolicy.ingress: more than {NETWORK_RULE_LIMIT} rules"
    ]
    assert load_values([document(networkPolicy=rules(1, NETWORK_ENTRY_LIMIT))]).policies
    assert problems(document(networkPolicy=rules(1, NETWORK_ENTRY_LIMIT + 1))) == [
        f"spec.networkPolicy.ingress[0].from: more than {NETWORK_ENTRY_LIMIT} peers",
        f"spec.networkPolicy.ingress[0].ports: more than {NETWORK_ENTRY_LIMIT} ports",
    ]


def test_many_unknown_ids_are_all_told_and_in_no_time() -> None:
    processes = [{"id": f"a{n}", "name": "a", "exe": ["a"], "euser": ["r"]} for n in range(PROCESS_LIMIT)]
    rule = {"from": [{"dnsSelector": ["a"]}], "ports": [{"port": 1}], "processes": [f"b{n}" for n in range(1000)]}
    start = time.process_time()
    found = problems(document(processPolicy=processes, networkPolicy={"ingress": [rule]}))
    assert len(found) == 1000
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("foreign", "message"),
    [(False, "expected at least one id; without processes: of any process"), (True, "")],
)
def test_an_empty_list_of_processes(foreign: bool, message: str) -> None:
    rule = {"from": [{"dnsSelector": ["a"]}], "ports": [{"port": 1}], "processes": []}
    written = document(foreign, processPolicy=[], networkPolicy={"ingress": [rule], "egress": []})
    if message:
        assert message in problems(written)[0]
    else:
        documents = load_values([written])
        [read_rule] = documents.policies[0].expected.ingress or ()
        assert read_rule.processes == ()
        assert [warning.message for warning in documents.warnings] == [
            "no process is named, which is read as any: leave processes out to say so"
        ]
