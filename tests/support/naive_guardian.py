"""What SEMANTICS section 5 says of process trees, network rules and rulesets, as plainly as it can be written down.

It shares nothing with quell.guardian and tries every path; for comparison with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from quell.model.observation import Peer
from quell.model.policy import Block, NetworkRule, Operator, ProcessNode, RulesetRule
from quell.model.subject import Subject

Step = tuple[str | None, str | None, str | None]


def any_of(value: str | None, globs: Sequence[str]) -> bool:
    return value is not None and any(value == each or fnmatchcase(value, each) for each in globs)


def fits(node: ProcessNode, users: Sequence[str], step: Step) -> bool:
    name, exe, user = step
    return any_of(name, [node.name]) and (not node.exe or any_of(exe, node.exe)) and (not users or any_of(user, users))


def ends(roots: Sequence[ProcessNode], steps: Sequence[Step]) -> set[str]:
    """Ids of the nodes on which some path for the chain ends."""
    return {node.id for root in roots for node in _paths(root, root.euser, steps)}


def _paths(node: ProcessNode, users: Sequence[str], steps: Sequence[Step]) -> Iterator[ProcessNode]:
    """Where a path can end that has steps[0] on this node."""
    if not fits(node, users, steps[0]):
        return
    if len(steps) == 1:
        yield node
        return
    rest = steps[1:]
    if None not in rest[0][:2] and rest[0][:2] == steps[0][:2]:
        yield from _paths(node, users, rest)
    for child in node.children:
        yield from _paths(child, child.euser or users, rest)


def connects(rules: Sequence[NetworkRule], peer: Peer, nodes: set[str]) -> bool:
    return any(
        (not rule.processes or set(rule.processes) & nodes)
        and any(
            each.protocol == peer.protocol and each.port <= peer.port <= (each.end or each.port) for each in rule.ports
        )
        and any(_is_peer(each, peer) for each in rule.peers)
        for rule in rules
    )


def _is_peer(listed: object, peer: Peer) -> bool:
    if isinstance(listed, Block):
        ip = ip_address(peer.ip)
        return ip in ip_network(listed.cidr) and not any(ip in ip_network(each) for each in listed.exceptions)
    names = getattr(listed, "names", ())
    return any_of(peer.dns, names)


def is_denied(rules: Sequence[RulesetRule], target: str, value: str, subject: Subject) -> bool:
    """All selectors are on labels of pods and namespaces that are known."""
    rules = [rule for rule in rules if rule.target == target]
    if not rules:
        return False
    holding = [rule for rule in rules if all(_selects(each, subject) for each in rule.selectors)]
    for scoped in (True, False):
        for exact in (True, False):
            verbs = {
                rule.allow
                for rule in holding
                if bool(rule.selectors) is scoped
                for pattern in rule.values
                if (value == pattern if exact else set(pattern) & set("*?[") and fnmatchcase(value, pattern))
            }
            if verbs:
                return False in verbs
    return True


def _selects(selector: object, subject: Subject) -> bool:
    labels = subject.pod.labels if selector.kind == "podSelector" and subject.pod else subject.namespace_labels  # type: ignore[attr-defined]
    for each in selector.requirements:  # type: ignore[attr-defined]
        value = (labels or {}).get(each.key)
        if each.operator is Operator.IN and not any_of(value, each.values):
            return False
        if each.operator is Operator.NOT_IN and (value is None or any_of(value, each.values)):
            return False
        if each.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and (value is not None) is not (
            each.operator is Operator.EXISTS
        ):
            return False
    return True
