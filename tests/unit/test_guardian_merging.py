"""What a policy and a ruleset look like once deviations are merged, as a diff that people read; and what is refused."""

from __future__ import annotations

import msgspec
import pytest
from tests.guardian import connects, listens, node, policy, rule, ruleset, seen, selector, step, workload

from quell.documents.diff import unified
from quell.guardian.guard import Guard
from quell.guardian.merging import merge
from quell.guardian.ruleset_merging import merge_rulesets
from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.policy import Block, Direction, Expected, NetworkRule, Policy, PolicyType, Ports, Ruleset, SelectorKind

SH, NGINX, CURL = step("sh"), step("nginx"), step("curl")
WEB = policy(
    node("sh", node("nginx", ports=(80,)), users=("root",)),
    egress=(
        NetworkRule(peers=(Block(cidr="10.0.0.1/32"),), ports=(Ports(port=443),), processes=("nginx_0",)),
        NetworkRule(peers=(Block(cidr="10.0.0.0/8"),), ports=(Ports(port=53, protocol="UDP"),)),
    ),
)


def deviations(written: Policy, *some: Observation) -> list[Deviation]:
    [watch] = Guard([written], []).watches(workload())
    return [found for each in some if (found := watch.compare(each)) is not None]


def diff(before: Policy | Ruleset, after: Policy | Ruleset) -> list[str]:
    """The lines that were added and removed."""
    lines = unified(before, after).splitlines()
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def test_a_new_program_is_a_few_lines_at_its_place() -> None:
    grown = merge(WEB, deviations(WEB, seen(SH, NGINX, CURL)))
    assert diff(WEB, grown) == [
        "+      children:",
        "+      - id: curl_0",
        "+        name: curl",
        "+        exe:",
        "+        - /usr/bin/curl",
    ]


def test_a_program_of_another_user_says_so_and_a_root_says_who_runs_it() -> None:
    grown = merge(WEB, deviations(WEB, seen(SH, step("curl", "app")), seen(CURL)))
    assert diff(WEB, grown) == [
        "+    - id: curl_0",
        "+      name: curl",
        "+      exe:",
        "+      - /usr/bin/curl",
        "+      euser:",
        "+      - app",
        "+  - id: curl_1",
        "+    name: curl",
        "+    exe:",
        "+    - /usr/bin/curl",
        "+    euser:",
        "+    - root",
    ]


def test_a_socket_and_a_peer_join_what_differs_in_them_alone() -> None:
    found = deviations(
        WEB, listens(SH, NGINX, port=443), connects(SH, NGINX, ip="10.0.0.2"), connects(SH, ip="10.0.0.2")
    )
    assert diff(WEB, merge(WEB, found)) == [
        "+      - protocol: TCP",
        "+        port: 443",
        "+      - ipBlock:",
        "+          cidr: 10.0.0.2/32",
        "+    - to:",
        "+      - ipBlock:",
        "+          cidr: 10.0.0.2/32",
        "+      processes:",
        "+      - sh_0",
        "+      ports:",
        "+      - protocol: TCP",
        "+        port: 443",
    ]


def test_a_connection_of_a_new_program_brings_the_program() -> None:
    grown = merge(WEB, deviations(WEB, connects(SH, CURL, ip="10.0.0.1"), seen(SH, CURL)))
    assert grown.expected.processes == (node("sh", node("nginx", ports=(80,)), node("curl"), users=("root",)),)
    assert (grown.expected.egress or ())[0].processes == ("nginx_0", "curl_0")


def test_deviations_that_want_one_new_id_get_one_each() -> None:
    both = deviations(WEB, seen(SH, NGINX, CURL), seen(SH, CURL))
    assert [each.addition["processPolicy"][0]["policyNode"]["children"][0]["id"] for each in both] == ["curl_0"] * 2
    grown = merge(WEB, both)
    assert deviations(grown, seen(SH, NGINX, CURL), seen(SH, CURL)) == []
    again = connects(SH, CURL, ip="10.0.0.1")
    grown = merge(grown, deviations(WEB, again))
    assert deviations(grown, again) == [], "and a connection's process is the one that was put there"


def test_one_of_another_system_is_merged_as_its_record_says() -> None:
    told = Deviation(
        policy="web",
        what="ingress",
        addition={
            "processPolicy": [{"policyNode": {"id": "nginx_0"}}],
            "networkPolicy": {
                "ingress": [
                    {
                        "from": [{"ipBlock": {"cidr": "192.168.47.160/32"}}],
                        "ports": [{"protocol": "TCP", "port": 5000}],
                        "processes": ["nginx_0"],
                    }
                ]
            },
        },
    )
    compares = msgspec.structs.replace(WEB, expected=msgspec.structs.replace(WEB.expected, ingress=()))
    grown = merge(compares, [told])
    assert deviations(grown, connects(SH, NGINX, ip="192.168.47.160", port=5000, direction=Direction.INGRESS)) == []
    assert merge(WEB, [told]) == WEB, "a direction that is not compared needs no rule"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (Deviation(policy="other", addition={"rules": []}), "it is about policy other, not about web"),
        (Deviation(policy="web"), "no addition would allow it"),
        (Deviation(policy="web", addition={"weather": 1}), "unknown field `weather`"),
        (Deviation(policy="web", addition={"processPolicy": [{"exe": ["/x"]}]}), "without id or name"),
        (
            Deviation(policy="web", addition={"processPolicy": [{"policyNode": {"id": "gone_0"}}]}),
            "the policy has no process 'gone_0' any more",
        ),
        (
            Deviation(
                policy="web",
                addition={
                    "networkPolicy": {
                        "egress": [{"to": [], "ports": [{"port": 1}], "processes": ["gone_0"]}],
                    }
                },
            ),
            "the policy has no process 'gone_0' any more",
        ),
        (
            Deviation(policy="web", addition={"rules": [{"target": "t", "verb": "allow", "values": ["v"]}]}),
            "its addition is for a ruleset",
        ),
    ],
)
def test_what_cannot_be_merged_is_said_and_nothing_is(told: Deviation, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        merge(WEB, [*deviations(WEB, seen(SH, CURL)), told])


def test_nothing_lifts_a_switch() -> None:
    written = policy(expected=Expected(no_processes=True))
    with pytest.raises(ValueError, match="no addition would allow it"):
        merge(written, deviations(written, seen(SH)))


NAME = "kubernetes.io/metadata.name"
SHOP = (selector(SelectorKind.NAMESPACE, NAME, "shop"),)
BOTH = (selector(SelectorKind.NAMESPACE, NAME, "shop", "dev"),)
IMAGE, OTHER, TARGET = "docker.io/library/web:1", "docker.io/library/db:1", "container::image"
CLUSTER = policy(
    name="images",
    type_=PolicyType.CLUSTER,
    scope=(selector(SelectorKind.CLUSTER, "name", "demo"),),
    rulesets=("rules",),
    expected=Expected(),
)


def denied(*sets: Ruleset) -> list[Deviation]:
    written = msgspec.structs.replace(CLUSTER, rulesets=tuple(each.name for each in sets))
    [watch] = Guard([written], sets).watches(workload())
    found = watch.compare_container(workload())
    return [] if found is None else [found]


def test_an_image_joins_the_rule_of_its_namespace() -> None:
    rules = ruleset(rule(TARGET, OTHER), rule(TARGET, OTHER, scope=SHOP))
    [grown] = merge_rulesets([rules], denied(rules))
    assert diff(rules, grown) == [f"+    - {IMAGE}"]
    assert denied(grown) == []


def test_an_image_that_is_the_first_of_its_namespace_is_a_rule() -> None:
    rules = ruleset(rule(TARGET, OTHER))
    [grown] = merge_rulesets([rules], denied(rules))
    assert diff(rules, grown) == [
        "+  - target: container::image",
        "+    verb: allow",
        "+    values:",
        f"+    - {IMAGE}",
        "+    namespaceSelector:",
        "+      matchLabels:",
        f"+        {NAME}: shop",
    ]


def test_a_deny_of_the_same_scope_goes_and_one_of_a_wider_scope_stays_for_the_rest() -> None:
    rules = ruleset(rule(TARGET, IMAGE, OTHER, allow=False, scope=SHOP), rule(TARGET, IMAGE, allow=False, scope=BOTH))
    [grown] = merge_rulesets([rules], denied(rules))
    assert denied(grown) == []
    assert [(each.allow, each.values, len(each.selectors[0].requirements)) for each in grown.rules] == [
        (False, (OTHER,), 1),
        (False, (IMAGE,), 2),
        (True, (IMAGE,), 1),
    ]
    [watch] = Guard([CLUSTER], [grown]).watches(workload(namespace="dev"))
    found = watch.compare_container(workload(namespace="dev"))
    assert found is not None
    assert found.matched == {TARGET: (IMAGE,)}


def test_of_several_rulesets_the_one_that_speaks_of_it_is_added_to() -> None:
    names = ruleset(rule("container::containerName", "*"), name="names")
    images = ruleset(rule(TARGET, OTHER), name="images")
    grown = merge_rulesets([names, images], denied(names, images))
    assert grown[0] == names
    assert denied(*grown) == []


def test_what_no_ruleset_can_take_in_is_refused() -> None:
    with pytest.raises(ValueError, match="no ruleset"):
        merge_rulesets([], [])
    with pytest.raises(ValueError, match="its addition is not for a ruleset"):
        merge_rulesets([ruleset()], deviations(WEB, seen(CURL)))
