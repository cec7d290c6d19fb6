"""The smallest addition to a policy that allows what deviated, and the checksum that repeats of it share.

An addition is a piece of the policy's or ruleset's spec: a new process stands under the node that it would be a child
of, {"policyNode": {"id": ..., "children": [...]}}, or by itself where it would be a root. SEMANTICS section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import ip_network
from typing import Any

import msgspec

from quell.guardian.chain import Step
from quell.guardian.connections import address, domain
from quell.guardian.rulesets import Denied
from quell.guardian.values import literal
from quell.model.observation import Peer
from quell.model.policy import Block, Names, NetworkRule, Policy, Ports, ProcessNode
from quell.model.spec import network_spec, ports_spec, process_spec, ruleset_rule_spec

_encode = msgspec.json.Encoder().encode
Spec = dict[str, Any]


def checksum(policy: Policy, *facts: object) -> str:
    """The same for the same facts of the same policy. facts: nothing that changes from one process to the next."""
    return blake2b(_encode((policy.uid or policy.name, facts)), digest_size=16).hexdigest()


def nodes(steps: Sequence[Step], taken: Callable[[str], bool], listening: tuple[Ports, ...] = ()) -> ProcessNode:
    """Nodes for these processes, each below the one before it, all of whose facts are known.

    taken: whether an id is. listening: of the last.
    """
    used: set[str] = set()
    identifiers = []
    for name, _, _ in steps:
        identifier = next_id(name or "", lambda each: taken(each) or each in used)
        used.add(identifier)
        identifiers.append(identifier)
    node: ProcessNode | None = None
    for (name, exe, user), identifier in zip(reversed(steps), reversed(identifiers), strict=True):
        node = ProcessNode(
            id=identifier,
            name=literal(name or ""),
            exe=(literal(exe or ""),),
            euser=(literal(user or ""),),
            listening=listening if node is None else (),
            children=() if node is None else (node,),
        )
    if node is None:
        raise ValueError("no process to make a node of")
    return node


def last(node: ProcessNode) -> ProcessNode:
    """The innermost of such nodes."""
    while node.children:
        node = node.children[0]
    return node


def next_id(name: str, taken: Callable[[str], bool]) -> str:
    """name_0, name_1 and so on: the first that is not taken."""
    number = 0
    while taken(identifier := f"{name}_{number}"):
        number += 1
    return identifier


def process(base: str | None, node: ProcessNode | None, listening: tuple[Ports, ...] = ()) -> Spec:
    """base: the id of the node that it is about; None: the new node is a root. listening: of base."""
    return {"processPolicy": [_under(base, node, listening)]}


def network(peer: Peer, identifier: str | None) -> Spec:
    """identifier: of the node that may do it; None: any process may."""
    return {"networkPolicy": {peer.direction.value: [network_spec(_rule(peer, identifier), peer.direction)]}}


def rules(denied: Sequence[Denied]) -> Spec:
    """What is to be added under "rules", and denies of these values that have to go under "without"; {}: no rule helps."""
    allowing = [ruleset_rule_spec(each.addition) for each in denied if each.addition is not None]
    if len(allowing) < len(denied):
        return {}
    against = [ruleset_rule_spec(rule) for each in denied for rule in each.against]
    return {"rules": allowing, "without": against} if against else {"rules": allowing}


def _under(base: str | None, node: ProcessNode | None, listening: tuple[Ports, ...]) -> Spec:
    if base is None:
        return {} if node is None else process_spec(node)
    found: Spec = {"id": base}
    if listening:
        found["listeningSockets"] = [ports_spec(each) for each in listening]
    if node is not None:
        found["children"] = [process_spec(node)]
    return {"policyNode": found}


def _rule(peer: Peer, identifier: str | None) -> NetworkRule:
    return NetworkRule(
        peers=(_peer(peer),),
        ports=(Ports(port=peer.port, protocol=peer.protocol),),
        processes=() if identifier is None else (identifier,),
    )


def _peer(peer: Peer) -> Block | Names:
    if peer.dns is not None:
        return Names(names=(literal(domain(peer.dns)),))
    ip = address(peer.ip)
    if ip is None:
        raise ValueError(f"{peer.ip!r} is no address")
    return Block(cidr=str(ip_network(ip)))
