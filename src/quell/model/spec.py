"""What policies and rulesets hold, as their documents write it: plain values, which load back to equal ones.

Documents are written by it, and so are the additions of deviations, which are pieces of such documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quell.model.policy import (
    Block,
    Direction,
    Expected,
    Names,
    NetworkRule,
    Operator,
    Ports,
    ProcessNode,
    RulesetRule,
    Selector,
    SelectorKind,
)

_LABELS = (SelectorKind.POD, SelectorKind.NAMESPACE)
#: Where a network rule of each direction has its peers.
_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


def expected_spec(expected: Expected) -> dict[str, Any]:
    """processPolicy, networkPolicy and the switches: the fields of a policy's spec that say anything."""
    spec: dict[str, Any] = {}
    if expected.processes is not None:
        spec["processPolicy"] = [process_spec(node) for node in expected.processes]
    network = {
        direction.value: [network_spec(rule, direction) for rule in rules]
        for direction, rules in ((Direction.INGRESS, expected.ingress), (Direction.EGRESS, expected.egress))
        if rules is not None
    }
    if network:
        spec["networkPolicy"] = network
    if expected.no_processes:
        spec["disableProcesses"] = "all"
    for name, directions in (
        ("disableConnections", expected.no_connections),
        ("disablePrivateConnections", expected.no_private_connections),
        ("disablePublicConnections", expected.no_public_connections),
    ):
        if directions:
            spec[name] = directions[0].value if len(directions) == 1 else "all"
    return spec


def process_spec(node: ProcessNode) -> dict[str, Any]:
    """A node of processPolicy, with those below it."""
    spec: dict[str, Any] = {"id": node.id, "name": node.name, "exe": list(node.exe)}
    if node.euser:
        spec["euser"] = list(node.euser)
    if node.listening:
        spec["listeningSockets"] = [ports_spec(ports) for ports in node.listening]
    if node.children:
        spec["children"] = [process_spec(child) for child in node.children]
    return spec


def network_spec(rule: NetworkRule, direction: Direction) -> dict[str, Any]:
    """A rule of networkPolicy."""
    spec: dict[str, Any] = {_PEERS[direction]: [_peer(peer) for peer in rule.peers]}
    if rule.processes:
        spec["processes"] = list(rule.processes)
    spec["ports"] = [ports_spec(ports) for ports in rule.ports]
    return spec


def ports_spec(ports: Ports) -> dict[str, Any]:
    spec: dict[str, Any] = {"protocol": ports.protocol, "port": ports.port}
    if ports.end is not None:
        spec["endPort"] = ports.end
    return spec


def selectors_spec(selectors: Sequence[Selector]) -> dict[str, Any]:
    """Each selector under its kind: podSelector and so on."""
    return {selector.kind.value: selector_spec(selector) for selector in selectors}


def selector_spec(selector: Selector) -> dict[str, Any]:
    """Leading plain requirements in the short form, all others, so that the order stays, as expressions."""
    simple: dict[str, str] = {}
    expressions: list[dict[str, Any]] = []
    for one in selector.requirements:
        if one.operator is Operator.IN and len(one.values) == 1 and not expressions and one.key not in simple:
            simple[one.key] = one.values[0]
        else:
            values = {"values": list(one.values)} if one.values else {}
            expressions.append({"key": one.key, "operator": one.operator.value, **values})
    labels = selector.kind in _LABELS
    names = ("matchLabels", "matchExpressions") if labels else ("matchFields", "matchFieldsExpressions")
    return {name: part for name, part in zip(names, (simple, expressions), strict=True) if part}


def ruleset_rule_spec(rule: RulesetRule) -> dict[str, Any]:
    return {
        "target": rule.target,
        "verb": "allow" if rule.allow else "deny",
        "values": list(rule.values),
        **selectors_spec(rule.selectors),
    }


def _peer(peer: Block | Names) -> dict[str, Any]:
    if isinstance(peer, Block):
        block: dict[str, Any] = {"cidr": peer.cidr}
        if peer.exceptions:
            block["except"] = list(peer.exceptions)
        return {"ipBlock": block}
    return {"dnsSelector": list(peer.names)}
