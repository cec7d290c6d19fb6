"""The guardian against a search of every path, and rulesets against the sentence that says what they mean."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st
from tests.guardian import (
    EXES,
    NAMES,
    USERS,
    chains,
    connects,
    hosts,
    labels,
    network_rules,
    policy,
    ruleset,
    ruleset_rules,
    seen,
    trees,
    workload,
)
from tests.support import naive_guardian as naive

from quell.guardian.chain import Chain
from quell.guardian.guard import Guard
from quell.guardian.processes import Tree
from quell.guardian.room import Room
from quell.model.observation import Peer
from quell.model.policy import (
    Direction,
    Expected,
    NetworkRule,
    PolicyType,
    ProcessNode,
    RulesetRule,
)
from quell.model.subject import Pod

unsure = st.lists(
    st.tuples(
        st.none() | st.sampled_from(NAMES), st.none() | st.sampled_from(EXES), st.none() | st.sampled_from(USERS)
    ),
    min_size=1,
    max_size=3,
).map(tuple)


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


ips = st.sampled_from(("10.0.0.1", "10.0.0.2", "8.8.8.8", "fd00::1", "2001:db8::1"))
peers = st.builds(
    Peer,
    direction=st.just(Direction.EGRESS),
    ip=ips,
    port=st.integers(1, 4),
    protocol=st.sampled_from(("TCP", "UDP")),
    dns=st.sampled_from(hosts),
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
