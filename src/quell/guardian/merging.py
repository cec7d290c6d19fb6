"""Policies that take in what deviated from them. SEMANTICS section 5: the smallest addition.

Nothing else changes, ids stay, and what is merged once more changes nothing. For rulesets see ruleset_merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from quell.guardian.addition_form import AdditionForm, NodeForm, PortsForm, read_addition
from quell.guardian.additions import next_id
from quell.guardian.connections import domain
from quell.model.details import Deviation
from quell.model.policy import (
    NETWORK_ENTRY_LIMIT,
    Block,
    Expected,
    Names,
    NetworkRule,
    Policy,
    Ports,
    ProcessNode,
)


def merge(policy: Policy, deviations: Iterable[Deviation]) -> Policy:
    """The policy, which now expects what deviated. A part that the policy does not compare needs nothing.

    ValueError: one of them is another policy's, has no addition (a switch forbids it, or something was not known), or
    builds on a process that the policy no longer has. It is said which, and nothing is merged.
    """
    expected = policy.expected
    for deviation in deviations:
        try:
            check_owner(deviation, policy)
            expected = _grown(expected, read_addition(deviation.addition))
        except ValueError as error:
            raise ValueError(f"deviation {deviation.checksum} ({deviation.message}): {error}") from error
    return msgspec.structs.replace(policy, expected=expected)


def check_owner(deviation: Deviation, policy: Policy) -> None:
    """ValueError: it is about another policy."""
    named = {deviation.policy, deviation.policy_uid or ""} - {""}
    if named.isdisjoint({policy.name, policy.uid} - {""}):
        raise ValueError(f"it is about policy {deviation.policy}, not about {policy.name}")


def _grown(expected: Expected, addition: AdditionForm) -> Expected:
    if addition.rules or addition.without:
        raise ValueError("its addition is for a ruleset")
    final: dict[str, str] = {}
    processes = expected.processes
    if processes is not None:
        tree = _Tree(processes)
        for item in addition.process_policy:
            if item.policy_node is not None:
                tree.grow(item.policy_node.id, item.policy_node.listening_sockets, item.policy_node.children, final)
            else:
                tree.put(item, None, final)
        processes = tree.written()
    ingress = _listed(expected.ingress, [each.read() for each in addition.network_policy.ingress], processes, final)
    egress = _listed(expected.egress, [each.read() for each in addition.network_policy.egress], processes, final)
    return msgspec.structs.replace(expected, processes=processes, ingress=ingress, egress=egress)


# ---- processes


class _Grown:
    """A node while things are added to it."""

    def __init__(self, written: ProcessNode, users: tuple[str, ...]) -> None:
        """users: its own or those it inherits."""
        self.written = written
        self.users = users
        self.listening = list(written.listening)
        self.children: list[_Grown] = []

    def is_like(self, form: NodeForm, users: tuple[str, ...]) -> bool:
        return (self.written.name, set(self.written.exe), set(self.users)) == (form.name, set(form.exe), set(users))

    def result(self) -> ProcessNode:
        children = tuple(child.result() for child in self.children)
        return msgspec.structs.replace(self.written, listening=tuple(self.listening), children=children)


class _Tree:
    def __init__(self, roots: Sequence[ProcessNode]) -> None:
        self._by_id: dict[str, _Grown] = {}
        self._roots = [self._taken(root, ()) for root in roots]

    def written(self) -> tuple[ProcessNode, ...]:
        return tuple(root.result() for root in self._roots)

    def grow(
        self, identifier: str, sockets: Iterable[PortsForm], children: Iterable[NodeForm], final: dict[str, str]
    ) -> None:
        """final: id in the addition -> id in the policy, which is added to."""
        node = self._by_id.get(identifier)
        if node is None:
            raise ValueError(f"the policy has no process {identifier!r} any more")
        self._listen(node, sockets)
        for child in children:
            self.put(child, node, final)

    def put(self, form: NodeForm, parent: _Grown | None, final: dict[str, str]) -> None:
        """Below the parent, or as a root, unless it is there already."""
        siblings = self._roots if parent is None else parent.children
        inherited = () if parent is None else parent.users
        users = form.euser or inherited
        node = next((each for each in siblings if each.is_like(form, users)), None)
        if node is None:
            written = ProcessNode(
                id=self._free(form), name=form.name, exe=form.exe, euser=() if users == inherited else form.euser
            )
            node = _Grown(written, users)
            self._by_id[written.id] = node
            siblings.append(node)
        final[form.id] = node.written.id
        self._listen(node, form.listening_sockets)
        for child in form.children:
            self.put(child, node, final)

    def _taken(self, written: ProcessNode, inherited: tuple[str, ...]) -> _Grown:
        node = _Grown(written, written.euser or inherited)
        self._by_id.setdefault(written.id, node)
        node.children = [self._taken(child, node.users) for child in written.children]
        return node

    def _listen(self, node: _Grown, sockets: Iterable[PortsForm]) -> None:
        for form in sockets:
            ports = form.read()
            if not any(_covers(each, ports) for each in node.listening):
                node.listening.append(ports)

    def _free(self, form: NodeForm) -> str:
        if form.id not in self._by_id:
            return form.id
        return next_id(form.id.rpartition("_")[0] or form.name, self._by_id.__contains__)


# ---- connections


def _listed(
    rules: tuple[NetworkRule, ...] | None,
    added: Iterable[NetworkRule],
    processes: tuple[ProcessNode, ...] | None,
    final: dict[str, str],
) -> tuple[NetworkRule, ...] | None:
    if rules is None:
        return None
    known = set() if processes is None else _ids(processes)
    for rule in added:
        named = tuple(final.get(each, each) for each in rule.processes)
        if missing := [each for each in named if each not in known]:
            raise ValueError(f"the policy has no process {missing[0]!r} any more")
        rules = _with(rules, msgspec.structs.replace(rule, processes=named))
    return rules


def _with(rules: tuple[NetworkRule, ...], added: NetworkRule) -> tuple[NetworkRule, ...]:
    """In a rule from which it differs in one thing only, else as one more."""
    if any(_allows(rule, added) for rule in rules):
        return rules
    for place, rule in enumerate(rules):
        wider = _widened(rule, added)
        if wider is not None:
            return (*rules[:place], wider, *rules[place + 1 :])
    return (*rules, added)


def _widened(rule: NetworkRule, added: NetworkRule) -> NetworkRule | None:
    """A rule for what either allows and nothing else; None: there is none, or it would be too long."""
    same_peers = set(rule.peers) == set(added.peers)
    same_ports = set(rule.ports) == set(added.ports)
    same_processes = set(rule.processes) == set(added.processes)
    wider = None
    if same_ports and same_processes:
        wider = msgspec.structs.replace(rule, peers=_united(rule.peers, added.peers))
    elif same_peers and same_ports and rule.processes and added.processes:
        wider = msgspec.structs.replace(rule, processes=(*dict.fromkeys((*rule.processes, *added.processes)),))
    elif same_peers and same_processes:
        wider = msgspec.structs.replace(rule, ports=(*dict.fromkeys((*rule.ports, *added.ports)),))
    if wider is None or max(map(len, (wider.peers, wider.ports, wider.processes))) > NETWORK_ENTRY_LIMIT:
        return None
    return wider


def _united(peers: tuple[Block | Names, ...], added: tuple[Block | Names, ...]) -> tuple[Block | Names, ...]:
    return tuple(dict.fromkeys((*peers, *added)))


def _allows(rule: NetworkRule, added: NetworkRule) -> bool:
    """Whether it certainly allows all that the other would."""
    return (
        (not rule.processes or (bool(added.processes) and set(added.processes) <= set(rule.processes)))
        and all(any(_covers(each, ports) for each in rule.ports) for ports in added.ports)
        and all(_is_listed(peer, rule.peers) for peer in added.peers)
    )


def _is_listed(peer: Block | Names, peers: tuple[Block | Names, ...]) -> bool:
    if isinstance(peer, Block):
        return peer in peers
    listed = {domain(name) for each in peers if isinstance(each, Names) for name in each.names}
    return all(domain(name) in listed for name in peer.names)


def _covers(known: Ports, ports: Ports) -> bool:
    first, last = ports.port, ports.port if ports.end is None else ports.end
    return known.protocol == ports.protocol and known.port <= first and last <= (known.end or known.port)


def _ids(processes: Iterable[ProcessNode]) -> set[str]:
    found: set[str] = set()
    for node in processes:
        found |= {node.id} | _ids(node.children)
    return found
