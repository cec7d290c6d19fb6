"""The guardian against a search of every path, and rulesets against the sentence that says what they mean."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from tests.guardian import connects, policy, ruleset, seen, selector, workload
from tests.support import naive_guardian as naive

from quell.guardian.chain import Chain
from quell.guardian.guard import Guard
from quell.guardian.processes import Tree
from quell.guardian.room import Room
from quell.model.observation import Peer
from quell.model.policy import (
    Block,
    Direction,
    Expected,
    Names,
    NetworkRule,
    Operator,
    PolicyType,
    Ports,
    ProcessNode,
    RulesetRule,
    Selector,
    SelectorKind,
)
from quell.model.subject import Pod

#: Few values, so that trees and chains meet often.
NAMES, EXES, USERS = ("a", "b", "ab"), ("/a", "/b"), ("u", "v")
facts = st.tuples(st.sampled_from(NAMES), st.sampled_from(EXES), st.sampled_from(USERS))
chains = st.lists(facts, min_size=1, max_size=6).map(tuple)
unsure = st.lists(
    st.tuples(
        st.none() | st.sampled_from(NAMES), st.none() | st.sampled_from(EXES), st.none() | st.sampled_from(USERS)
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@st.composite
def trees(draw: st.DrawFn) -> tuple[ProcessNode, ...]:
    count = itertools.count()

    def nodes(depth: int) -> tuple[ProcessNode, ...]:
        return tuple(
            ProcessNode(
                id=f"n{next(count)}",
                name=draw(st.sampled_from((*NAMES, "a*", "?", "[ab]"))),
                exe=tuple(draw(st.lists(st.sampled_from((*EXES, "/*")), max_size=2))),
                euser=tuple(draw(st.lists(st.sampled_from((*USERS, "*")), max_size=1))),
                children=nodes(depth - 1) if depth else (),
            )
            for _ in range(draw(st.integers(0, 3)))
        )

    return nodes(draw(st.integers(0, 3)))


@given(trees(), st.lists(chains, min_size=1, max_size=8), st.integers(1, 40))
def test_sets_of_nodes_are_what_every_path_gives(
    roots: tuple[ProcessNode, ...], asked: list[tuple[naive.Step, ...]], limit: int
) -> None:
    tree = Tree(roots, Room(limit))
    for chain in asked:
        place = tree.place(Chain(chain, is_whole=True))
        reached = [naive.ends(roots, chain[:length]) for length in range(1, len(chain) + 1)]
        depth = sum(map(bool, reached))
        assert place.is_expected is bool(reached[-1])
        assert place.reached == depth
        assert {tree.id(number) for number in place.nodes} == (reached[depth - 1] if depth else set())
        assert tree.possible(Chain(chain, is_whole=True)) == place, "where nothing is missing, nothing else is possible"


@given(trees(), unsure)
def test_a_missing_fact_proves_nothing_and_rules_nothing_out(
    roots: tuple[ProcessNode, ...], chain: tuple[naive.Step, ...]
) -> None:
    tree = Tree(roots, Room())
    assert tree.place(Chain(chain, is_whole=True)).is_expected is bool(naive.ends(roots, chain))
    values = (NAMES, EXES, USERS)
    filled = [
        itertools.product(*(every if text is None else (text,) for text, every in zip(step, values, strict=True)))
        for step in chain
    ]
    could = any(naive.ends(roots, each) for each in itertools.product(*filled))
    assert tree.possible(Chain(chain, is_whole=True)).is_expected >= could


@given(trees(), chains, chains)
def test_a_chain_whose_beginning_is_not_known_may_be_below_anything(
    roots: tuple[ProcessNode, ...], above: tuple[naive.Step, ...], chain: tuple[naive.Step, ...]
) -> None:
    tree = Tree(roots, Room())
    assert not tree.place(Chain(chain, is_whole=False)).is_expected
    if naive.ends(roots, (*above, *chain)):
        assert tree.possible(Chain(chain, is_whole=False)).is_expected


cidrs = st.sampled_from(("10.0.0.0/8", "10.0.0.0/30", "10.0.0.2/32", "0.0.0.0/0", "fd00::/8", "::/0"))
ips = st.sampled_from(("10.0.0.1", "10.0.0.2", "8.8.8.8", "fd00::1", "2001:db8::1"))
hosts = ("a.example", "b.example")
peers = st.builds(
    Peer,
    direction=st.just(Direction.EGRESS),
    ip=ips,
    port=st.integers(1, 4),
    protocol=st.sampled_from(("TCP", "UDP")),
    dns=st.sampled_from(hosts),
)
ports = st.builds(
    lambda low, width, protocol: Ports(port=low, end=low + width if width else None, protocol=protocol),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from(("TCP", "UDP")),
)
network_rules = st.builds(
    NetworkRule,
    peers=st.lists(
        st.builds(Block, cidr=cidrs, exceptions=st.lists(cidrs, max_size=1).map(tuple))
        | st.builds(Names, names=st.lists(st.sampled_from((*hosts, "*.example")), min_size=1, max_size=2).map(tuple)),
        min_size=1,
        max_size=2,
    ).map(tuple),
    ports=st.lists(ports, min_size=1, max_size=2).map(tuple),
    processes=st.lists(st.sampled_from(("n0", "n1", "n2")), max_size=2).map(tuple),
)


@given(trees(), st.lists(network_rules, max_size=3), chains, st.lists(peers, min_size=1, max_size=4))
def test_connections_are_expected_where_a_rule_names_peer_port_and_process(
    roots: tuple[ProcessNode, ...], rules: list[NetworkRule], chain: tuple[naive.Step, ...], to: list[Peer]
) -> None:
    written = policy(expected=Expected(processes=roots, egress=tuple(rules)))
    [watch] = Guard([written], []).watches(workload())
    nodes = naive.ends(roots, chain)
    for peer in to:
        found = watch.compare(connects(*chain, ip=peer.ip, port=peer.port, dns=peer.dns, protocol=peer.protocol))
        assert (found is None) is naive.connects(rules, peer, nodes)
        assert found is None or not found.unproven


requirements = st.sampled_from(
    (
        ("app", "web", Operator.IN),
        ("app", "d*", Operator.IN),
        ("app", "web", Operator.NOT_IN),
        ("tier", "x", Operator.NOT_IN),
    )
)


def _selector(kind: SelectorKind, requirement: tuple[str, str, Operator]) -> Selector:
    key, value, operator = requirement
    return selector(kind, key, value, operator=operator)


selectors = st.builds(_selector, st.sampled_from((SelectorKind.POD, SelectorKind.NAMESPACE)), requirements)
labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("web", "db", "x")))
ruleset_rules = st.builds(
    RulesetRule,
    target=st.sampled_from(("container::image", "container::containerName")),
    allow=st.booleans(),
    values=st.lists(st.sampled_from(("web", "db", "w*", "*", "?b")), min_size=1, max_size=2).map(tuple),
    selectors=st.lists(selectors, max_size=2).map(tuple),
)


@given(st.lists(ruleset_rules, max_size=6), st.sampled_from(("web", "db")), labels, labels)
def test_rulesets_mean_what_the_sentence_says(
    rules: list[RulesetRule], image: str, pod: dict[str, str], namespace: dict[str, str]
) -> None:
    subject = workload(image=image, pod=Pod(labels=pod), namespace=None, namespace_labels=namespace)
    written = policy(type_=PolicyType.CLUSTER, scope=(), rulesets=("rules",), expected=Expected())
    [watch] = Guard([written], [ruleset(*rules)]).watches(subject)
    found = watch.compare_container(subject)
    values = {"container::image": image, "container::containerName": "web"}
    denied = {target for target, value in values.items() if naive.is_denied(rules, target, value, subject)}
    assert set(found.matched if found else ()) == denied
    assert found is None or not found.unproven


@given(trees(), chains)
def test_a_policy_that_deviates_says_so_the_same_way_however_often(
    roots: tuple[ProcessNode, ...], chain: tuple[naive.Step, ...]
) -> None:
    written = policy(expected=Expected(processes=roots))
    [watch] = Guard([written], []).watches(workload())
    first = watch.compare(seen(*chain))
    assert watch.compare(seen(*chain, pid=7)) == first
    [fresh] = Guard([written], []).watches(workload())
    assert fresh.compare(seen(*chain)) == first
