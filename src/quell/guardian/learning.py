"""Policies that expect what was seen, and nothing more than the fingerprint itself joined. docs/guardian.md.

A policy that is learned audits and makes a red flag of severity high: what it does beyond that is a person's decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from quell.guardian.additions import next_id
from quell.guardian.conversations import Listening, Talk
from quell.guardian.fingerprint import Fingerprint, Kind, SeenProcess, united
from quell.guardian.values import literal
from quell.matching.selectors import NAMESPACE_LABEL
from quell.model.action import MakeRedFlag, Severity
from quell.model.policy import (
    Block,
    Direction,
    Expected,
    Names,
    NetworkRule,
    Operator,
    Policy,
    PolicyType,
    Ports,
    ProcessNode,
    Requirement,
    ResponseEntry,
    Ruleset,
    RulesetRule,
    Selector,
    SelectorKind,
)
from quell.model.rule import Mode
from quell.model.subject import Subject

_RESPONSE = (ResponseEntry(action=MakeRedFlag(severity=Severity.HIGH)),)
#: What the names of control groups begin with, and those of services do not.
_CGROUP = "systemd:"
#: Id -> the process that has it.
_Identified = list[tuple[str, SeenProcess]]


def policy_from(fingerprints: Sequence[Fingerprint], name: str, scope: Sequence[Selector] = ()) -> Policy:
    """A container policy for these images, or a linux-service policy for these services.

    scope: selectors beside the one for them. ValueError: there is no fingerprint, or they are not of one kind.
    """
    kinds = {each.kind for each in fingerprints}
    if len(kinds) != 1:
        raise ValueError("a policy is learned from fingerprints of images, or from those of services")
    [kind] = kinds
    identified: _Identified = []
    taken: set[str] = set()
    processes = tuple(_node(each, None, taken, identified) for each in united(fingerprints))
    rules = {direction: tuple(_rules(identified, direction)) for direction in Direction}
    return Policy(
        name=name,
        type=PolicyType.CONTAINER if kind is Kind.IMAGE else PolicyType.LINUX_SERVICE,
        mode=Mode.AUDIT,
        scope=(_scope(kind, [each.name for each in fingerprints]), *scope),
        default=_RESPONSE,
        expected=Expected(processes=processes, ingress=rules[Direction.INGRESS], egress=rules[Direction.EGRESS]),
    )


def ruleset_from(cluster: str, workloads: Iterable[Subject], name: str) -> tuple[Ruleset, Policy]:
    """A cluster policy of this name, and its ruleset: each namespace may run the images that were seen in it.

    workloads: of the cluster, with namespace and image; one without a namespace allows its image everywhere.
    """
    images: dict[str, set[str]] = {}
    for each in workloads:
        if each.image is not None:
            images.setdefault(each.namespace or "", set()).add(each.image)
    alike: dict[tuple[str, ...], list[str]] = {}
    for namespace in sorted(images):
        alike.setdefault(tuple(sorted(images[namespace])), []).append(namespace)
    rules = tuple(
        RulesetRule(
            target="container::image",
            allow=True,
            values=tuple(literal(each) for each in some),
            selectors=_in(namespaces),
        )
        for some, namespaces in _by_scope(alike)
    )
    ruleset = Ruleset(name=f"{name}_ruleset", type=PolicyType.CLUSTER, rules=rules)
    scope = _selector(SelectorKind.CLUSTER, "name", [cluster])
    return ruleset, Policy(
        name=name,
        type=PolicyType.CLUSTER,
        mode=Mode.AUDIT,
        scope=(scope,),
        rulesets=(ruleset.name,),
        default=_RESPONSE,
    )


def _by_scope(alike: dict[tuple[str, ...], list[str]]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """What has no namespace by itself, as its rule has no selector."""
    for images, namespaces in alike.items():
        if "" in namespaces:
            yield images, []
        if named := [each for each in namespaces if each]:
            yield images, named


def _in(namespaces: Sequence[str]) -> tuple[Selector, ...]:
    return (_selector(SelectorKind.NAMESPACE, NAMESPACE_LABEL, namespaces),) if namespaces else ()


def _scope(kind: Kind, names: Sequence[str]) -> Selector:
    if kind is Kind.IMAGE:
        return _selector(SelectorKind.CONTAINER, "image", names)
    are_cgroups = {name.startswith(_CGROUP) for name in names}
    if len(are_cgroups) != 1:
        raise ValueError("some of the services are known by their control group and some by name: take either")
    return _selector(SelectorKind.SERVICE, "cgroup" if True in are_cgroups else "name", names)


def _selector(kind: SelectorKind, key: str, values: Sequence[str]) -> Selector:
    literals = tuple(literal(value) for value in dict.fromkeys(values))
    return Selector(kind=kind, requirements=(Requirement(key=key, operator=Operator.IN, values=literals),))


def _node(seen: SeenProcess, user: str | None, taken: set[str], identified: _Identified) -> ProcessNode:
    """user: the parent's, which is inherited."""
    identifier = next_id(seen.called or seen.name, taken.__contains__)
    taken.add(identifier)
    identified.append((identifier, seen))
    return ProcessNode(
        id=identifier,
        name=seen.name if seen.called else literal(seen.name),
        exe=(literal(seen.exe),),
        euser=() if seen.user == user else (literal(seen.user),),
        listening=tuple(_ports(each) for each in seen.listening),
        children=tuple(_node(child, seen.user, taken, identified) for child in seen.children),
    )


def _rules(identified: _Identified, direction: Direction) -> Iterator[NetworkRule]:
    """One for the same peers of the same processes, and one for the same peers and ports of several processes."""
    processes: dict[tuple[tuple[Block | Names, ...], Ports], list[str]] = {}
    for identifier, seen in identified:
        for talk in seen.talks:
            if talk.direction is direction:
                processes.setdefault((_peers(talk), _ports(talk)), []).append(identifier)
    ports: dict[tuple[tuple[Block | Names, ...], tuple[str, ...]], list[Ports]] = {}
    for (peers, port), identifiers in processes.items():
        ports.setdefault((peers, tuple(identifiers)), []).append(port)
    for (peers, named), several in ports.items():
        yield NetworkRule(peers=peers, ports=tuple(several), processes=named)


def _peers(talk: Talk) -> tuple[Block | Names, ...]:
    blocks = sorted(talk.networks, key=lambda text: (ip_network(text).version, ip_network(text)))
    names = (Names(names=tuple(literal(name) for name in sorted(talk.names))),) if talk.names else ()
    return (*(Block(cidr=text) for text in blocks), *names)


def _ports(known: Listening | Talk) -> Ports:
    return Ports(port=known.port, protocol=known.protocol, end=known.end)
