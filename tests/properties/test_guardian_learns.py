"""What is learned allows what it was learned from; what is merged allows what deviated; and neither anything else."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.guardian import (
    chains,
    connects,
    labels,
    listens,
    network_rules,
    policy,
    ruleset,
    ruleset_rules,
    seen,
    trees,
    workload,
)

from quell.documents.load import load_text
from quell.documents.write import dump_yaml
from quell.guardian import fingerprint as fingerprints
from quell.guardian.conversations import EPHEMERAL
from quell.guardian.fingerprint import Fingerprint, Kind
from quell.guardian.guard import Guard
from quell.guardian.learning import policy_from
from quell.guardian.merging import merge
from quell.guardian.replay import replay
from quell.guardian.ruleset_merging import merge_rulesets
from quell.model.details import Deviation
from quell.model.observation import Observation, Seen
from quell.model.policy import Direction, Expected, Policy, PolicyType, Ruleset
from quell.model.rule import Source
from quell.model.subject import Pod, Subject

_names = st.sampled_from(("a", "b", "[", "w*", *(f"worker-{n}" for n in range(12))))
_facts = st.tuples(_names, st.sampled_from(("/a", "/b[1]")), st.sampled_from(("u", "v")))
_chains = st.lists(_facts, min_size=1, max_size=4).map(tuple)
_ports = st.sampled_from((80, 443, *range(EPHEMERAL[0], EPHEMERAL[0] + 5), EPHEMERAL[1]))
_protocols = st.sampled_from(("TCP", "UDP"))
_ips = st.builds(
    "{}.{}.{}".format, st.sampled_from(("10.0", "192.168", "8.8")), st.integers(0, 5), st.integers(1, 9)
) | (st.builds("2001:db8:{}::{}".format, st.integers(0, 9), st.integers(1, 3)))
_connections = st.builds(
    lambda chain, **peer: connects(*chain, **peer),
    _chains,
    ip=_ips,
    port=_ports,
    direction=st.sampled_from(Direction),
    dns=st.none() | st.sampled_from(("a.example", "B.example.")),
    protocol=_protocols,
)
observations = st.one_of(
    st.builds(lambda chain, what: seen(*chain, what=what), _chains, st.sampled_from((Seen.EXECUTED, Seen.RUNNING))),
    st.builds(lambda chain, port, protocol: listens(*chain, port=port, protocol=protocol), _chains, _ports, _protocols),
    _connections,
)
#: Many peers of one process, so that they are joined.
crowds = st.lists(
    st.builds(
        lambda ip, direction: connects(("a", "/a", "u"), ip=ip, direction=direction), _ips, st.sampled_from(Direction)
    ),
    max_size=60,
)
seen_once = st.builds(lambda some, more: [*some, *more], st.lists(observations, max_size=25), crowds)


def learned(some: list[Observation]) -> Fingerprint:
    made = Fingerprint(kind=Kind.IMAGE, name=workload().image or "")
    for each in some:
        fingerprints.add(made, each)
    return made


def deviations(written: Policy, some: list[Observation], rulesets: tuple[Ruleset, ...] = ()) -> list[Deviation]:
    [watch] = Guard([written], rulesets).watches(workload())
    return [found for each in some if (found := watch.compare(each)) is not None]


@given(seen_once)
def test_a_learned_policy_allows_everything_that_it_was_learned_from(some: list[Observation]) -> None:
    made = learned(some)
    assert made.dropped == made.incomplete == 0
    written = policy_from([made], "web")
    assert deviations(written, some) == []
    assert deviations(written, list(replay(made))) == []


@given(seen_once)
def test_what_is_new_changes_the_policy_and_what_is_not_new_does_not(some: list[Observation]) -> None:
    made = Fingerprint(kind=Kind.IMAGE, name="web")
    before = policy_from([made], "web")
    for each in some:
        is_new = fingerprints.add(made, each)
        after = policy_from([made], "web")
        assert is_new is (after != before)
        before = after
    assert made.count == len(some)
    for each in replay(msgspec.json.decode(msgspec.json.encode(made), type=Fingerprint)):
        assert not fingerprints.add(made, each)


@given(seen_once, seen_once)
def test_fingerprints_learned_together_allow_what_either_saw(one: list[Observation], other: list[Observation]) -> None:
    written = policy_from([learned(one), learned(other)], "web")
    assert deviations(written, [*one, *other]) == []
    assert deviations(policy_from([learned([*one, *other])], "web"), [*one, *other]) == []


@given(seen_once, _chains)
def test_one_new_program_is_exactly_one_deviation(
    some: list[Observation], chain: tuple[tuple[str, str, str], ...]
) -> None:
    written = policy_from([learned([*some, seen(*chain)])], "web")
    new = ("nc", "/usr/bin/nc", "u")
    again = [seen(*chain, new, pid=n) for n in (7, 8)] + [seen(*chain, chain[-1], new, new, what=Seen.RUNNING)]
    found = deviations(written, again)
    assert len(found) == 3
    assert len({each.checksum for each in found}) == 1


@given(seen_once)
def test_a_learned_policy_is_a_document(some: list[Observation]) -> None:
    written = policy_from([learned(some)], "web")
    [read] = load_text(dump_yaml([written])).policies
    assert msgspec.structs.replace(read, source=Source()) == written


@given(
    trees(),
    st.lists(network_rules, max_size=3),
    st.lists(network_rules, max_size=3),
    st.lists(observations, max_size=6),
)
def test_a_policy_allows_what_was_merged_into_it_and_nothing_that_was_there_has_changed(
    roots: tuple[object, ...], ingress: list[object], egress: list[object], some: list[Observation]
) -> None:
    expected = Expected(processes=roots, ingress=tuple(ingress), egress=tuple(egress))  # type: ignore[arg-type]
    written = policy(expected=expected)
    found = deviations(written, some)
    grown = merge(written, found)
    assert deviations(grown, some) == []
    assert merge(grown, found) == grown
    assert _ids(written) <= _ids(grown)
    assert msgspec.structs.replace(grown, expected=written.expected) == written


def _ids(written: Policy) -> set[str]:
    def below(nodes: object) -> set[str]:
        return {each for node in nodes for each in ({node.id} | below(node.children))}  # type: ignore[attr-defined]

    return below(written.expected.processes or ())


@given(trees(), chains, st.lists(chains, min_size=1, max_size=20))
def test_merging_one_chain_allows_no_other_that_does_not_end_on_what_was_added(
    roots: tuple[object, ...], chain: tuple[tuple[str, str, str], ...], others: list[tuple[tuple[str, str, str], ...]]
) -> None:
    written = policy(expected=Expected(processes=roots))  # type: ignore[arg-type]
    found = deviations(written, [seen(*chain)])
    grown = merge(written, found)
    added = {
        (node["name"], *node["exe"], *node["euser"])
        for told in found
        for node in _nodes(told.addition["processPolicy"])
    }
    for other in [*others, *((*each, chain[-1]) for each in others)]:
        if deviations(written, [seen(*other)]) and not deviations(grown, [seen(*other)]):
            assert other[-1] in added


def _nodes(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for item in items:
        node = item.get("policyNode", item)
        found += [*([] if node is not item else [node]), *_nodes(node.get("children", []))]
    return found


@given(
    st.lists(st.lists(ruleset_rules, max_size=5), min_size=1, max_size=2),
    st.sampled_from(("web", "db")),
    labels,
    labels,
)
def test_a_ruleset_allows_what_was_merged_into_it(
    rules: list[list[object]], image: str, pod: dict[str, str], namespace: dict[str, str]
) -> None:
    sets = tuple(ruleset(*each, name=f"r{n}") for n, each in enumerate(rules))  # type: ignore[arg-type]
    written = policy(
        type_=PolicyType.CLUSTER, scope=(), rulesets=tuple(each.name for each in sets), expected=Expected()
    )
    here = workload(image=image, pod=Pod(labels=pod), namespace="shop", namespace_labels=namespace)
    there = workload(image=image, pod=Pod(labels=pod), namespace="dev", namespace_labels=namespace)

    def denied(subject: Subject, sets: tuple[Ruleset, ...]) -> Deviation | None:
        [watch] = Guard([written], sets).watches(subject)
        return watch.compare_container(subject)

    found = denied(here, sets)
    if found is None or not found.addition:
        return
    grown = merge_rulesets(sets, [found])
    assert denied(here, grown) is None
    assert merge_rulesets(grown, [found]) == grown
    before, after = denied(there, sets), denied(there, grown)
    assert (before and before.matched.keys()) == (after and after.matched.keys()), "another namespace is as it was"
