"""One policy compiled, and what of an observation deviates from it. SEMANTICS section 5."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from quell.guardian import additions, sentences
from quell.guardian.additions import Spec, checksum
from quell.guardian.chain import Chain, Step, chain_of, folded, gap
from quell.guardian.connections import Connections, address
from quell.guardian.processes import Place, Tree
from quell.guardian.room import Room
from quell.guardian.rulesets import CONTAINER, PROCESS, Denied, Rules
from quell.matching.selectors import Truth
from quell.model.details import Connection, Deviation, Endpoint
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import PROCESS_DEPTH_LIMIT, Direction, Policy, Ports, RulesetRule
from quell.model.subject import Subject

#: Deviations that one policy remembers, so that a process that goes on deviating costs next to nothing; and the longest,
#: in characters.
_REMEMBERED, _LONGEST = 256, 4096


class Comparison:
    def __init__(self, policy: Policy, rules: Sequence[RulesetRule], room: Room) -> None:
        """rules: of its rulesets. ValueError: a pattern or a network cannot be read."""
        self.policy = policy
        expected = policy.expected
        self._closed = expected.no_processes
        self._tree = None if expected.processes is None else Tree(expected.processes, room)
        number = _no_number if self._tree is None else self._tree.number
        self._connections = {each: Connections(expected, each, number, room) for each in Direction}
        self._rules = Rules(rules, room)
        self._judges_processes = self._rules.speak_of(PROCESS)
        self._made: dict[tuple[object, ...], Deviation] = {}

    def compare(self, observation: Observation) -> Deviation | None:
        """None: it is expected, or the policy says nothing about such things."""
        subject = observation.subject
        process = subject.process
        if process is None:
            return None
        match observation.seen:
            case Seen.EXECUTED | Seen.RUNNING:
                found = self._process(chain_of(process, observation.inside))
                if found is None and self._judges_processes:
                    return self.compare_rules(PROCESS, subject)
                return found
            case Seen.LISTENING:
                return self._listening(observation, chain_of(process, observation.inside))
            case Seen.CONNECTED:
                peer = observation.peer
                return None if peer is None else self._connected(subject, peer, chain_of(process, observation.inside))

    def compare_rules(self, kind: str, subject: Subject) -> Deviation | None:
        """kind: CONTAINER or PROCESS."""
        denied = self._rules.denied(kind, subject)
        return self._denied(kind, denied, subject) if denied else None

    # ---- processes and their sockets

    def _process(self, chain: Chain) -> Deviation | None:
        if self._closed:
            return self._remembered((chain,), lambda: self._forbidden(chain))
        tree = self._tree
        if tree is None:
            return None
        place = tree.place(chain)
        return None if place.is_expected else self._remembered((chain,), lambda: self._unexpected(tree, chain, place))

    def _listening(self, observation: Observation, chain: Chain) -> Deviation | None:
        tree = self._tree
        if tree is None or self._closed:
            return self._process(chain)
        place = tree.place(chain)
        protocol, port = observation.protocol, observation.port
        if place.is_expected and tree.listens(place.nodes, protocol, port):
            return None
        ports = Ports(port=port, protocol=protocol)
        return self._remembered((chain, protocol, port), lambda: self._open(tree, chain, place, ports))

    def _forbidden(self, chain: Chain) -> Deviation:
        steps = folded(chain.steps)
        message = sentences.forbidden(steps[-1], self.policy.name)
        return self._deviation("process", message, checksum(self.policy, "process", steps))

    def _unexpected(self, tree: Tree, chain: Chain, place: Place) -> Deviation:
        base, steps = _base(tree, place), _new(chain, place)
        return self._deviation(
            "process",
            sentences.unexpected(chain.steps[-1], _parent(chain), self.policy.name),
            checksum(self.policy, "process", chain.is_whole, base, steps),
            addition=additions.process(base, additions.nodes(steps, tree.has)) if _is_known(tree, chain, place) else {},
            unproven=gap(chain) if _is_doubtful(chain) and tree.possible(chain).is_expected else "",
        )

    def _open(self, tree: Tree, chain: Chain, place: Place, ports: Ports) -> Deviation:
        """A port that is not listed, of a process that is or is not."""
        base, steps = _base(tree, place), _new(chain, place)
        addition: Spec = {}
        if place.is_expected:
            addition = additions.process(base, None, (ports,))
        elif _is_known(tree, chain, place):
            addition = additions.process(base, additions.nodes(steps, tree.has, (ports,)))
        could = False
        if _is_doubtful(chain):
            possible = tree.possible(chain)
            could = possible.is_expected and tree.listens(possible.nodes, ports.protocol, ports.port)
        return self._deviation(
            "process",
            sentences.listening(chain.steps[-1], ports, self.policy.name),
            checksum(self.policy, "listening", chain.is_whole, base, steps, ports.protocol, ports.port),
            addition=addition,
            unproven=gap(chain) if could else "",
        )

    # ---- connections

    def _connected(self, subject: Subject, peer: Peer, chain: Chain) -> Deviation | None:
        connections, tree = self._connections[peer.direction], self._tree
        place = Place((), 0, is_expected=False) if tree is None else tree.place(chain)
        switch, forbidden = connections.forbids(peer)
        expected: Truth = connections.expects(peer, place.nodes if place.is_expected else ())
        if expected and not switch:
            return None
        made = self._remembered(
            (chain, peer), lambda: self._unlisted(peer, chain, place, switch, forbidden=forbidden, expected=expected)
        )
        return msgspec.structs.replace(made, connection=_connection(subject, peer))

    def _unlisted(
        self, peer: Peer, chain: Chain, place: Place, switch: str, *, forbidden: Truth, expected: Truth
    ) -> Deviation:
        """switch: that forbids it, or does if forbidden is not None. expected: by the rules."""
        tree = self._tree
        base = None if tree is None else _base(tree, place)
        steps = () if tree is None else _new(chain, place)
        unproven = ""
        if forbidden is not True:
            unproven = self._doubt(peer, chain, expected)
        return self._deviation(
            peer.direction.value,
            sentences.connected(chain.steps[-1], peer, self.policy.name, switch),
            checksum(
                self.policy,
                peer.direction,
                switch,
                chain.is_whole,
                base,
                steps,
                peer.dns or peer.ip,
                peer.protocol,
                peer.port,
            ),
            addition={} if switch else self._network_addition(peer, chain, place),
            unproven=unproven,
        )

    def _doubt(self, peer: Peer, chain: Chain, expected: Truth) -> str:
        """What is not known that could make it expected."""
        if expected is not False:
            return f"the name or address of {peer.ip or 'the peer'} is not known"
        if self._tree is None or not _is_doubtful(chain):
            return ""
        possible = self._tree.possible(chain)
        could = possible.is_expected and self._connections[peer.direction].expects(peer, possible.nodes) is not False
        return gap(chain) if could else ""

    def _network_addition(self, peer: Peer, chain: Chain, place: Place) -> Spec:
        if peer.dns is None and address(peer.ip) is None:
            return {}
        tree = self._tree
        if tree is None:
            return additions.network(peer, None)
        base = _base(tree, place)
        if place.is_expected and base is not None:
            return additions.process(base, None) | additions.network(peer, base)
        if not _is_known(tree, chain, place):
            return {}
        new = additions.nodes(_new(chain, place), tree.has)
        return additions.process(base, new) | additions.network(peer, additions.last(new).id)

    # ---- rulesets

    def _denied(self, kind: str, denied: Sequence[Denied], subject: Subject) -> Deviation:
        what = "container" if kind == CONTAINER else "process"
        facts = [(each.target, each.value) for each in denied]
        proved = any(each.is_proved for each in denied)
        unknown = next((each.target for each in denied if not each.is_proved), "")
        return self._deviation(
            what,
            sentences.denied(denied, subject, self.policy.name),
            checksum(self.policy, "rules", what, facts, subject.namespace),
            addition=additions.rules(denied),
            unproven="" if proved else f"what the rules for {unknown} ask about is not known",
            matched={each.target: each.patterns for each in denied},
        )

    # ----

    def _remembered(self, facts: tuple[object, ...], make: Callable[[], Deviation]) -> Deviation:
        made = self._made.get(facts)
        if made is None:
            made = make()
            if len(made.message) + len(str(made.addition)) <= _LONGEST:
                if len(self._made) >= _REMEMBERED:
                    self._made.clear()
                self._made[facts] = made
        return made

    def _deviation(
        self,
        what: str,
        message: str,
        checksum: str,
        *,
        addition: Spec | None = None,
        unproven: str = "",
        matched: dict[str, tuple[str, ...]] | None = None,
    ) -> Deviation:
        policy = self.policy
        return Deviation(
            policy=policy.name,
            policy_uid=policy.uid or None,
            policy_type=policy.type.value,
            mode=policy.mode.value,
            what=what,
            message=message,
            checksum=checksum,
            addition=addition or {},
            unproven=unproven,
            matched=matched or {},
        )


def _no_number(_: str) -> int | None:
    return None


def _base(tree: Tree, place: Place) -> str | None:
    """The id of the node that the last expected process is on; of several the first."""
    return tree.id(place.nodes[0]) if place.nodes else None


def _new(chain: Chain, place: Place) -> tuple[Step, ...]:
    """The processes that are not expected: copies that executed nothing are one."""
    return folded(chain.steps[place.reached :])


def _parent(chain: Chain) -> Step | None:
    return chain.steps[-2] if len(chain.steps) > 1 else None


def _is_known(tree: Tree, chain: Chain, place: Place) -> bool:
    """Whether the processes that are not expected could be written down, as far as it is known and as deep as it may be."""
    depth = tree.depth(place.nodes[0]) if place.nodes else 0
    return (
        chain.is_whole
        and all(None not in step for step in chain.steps[place.reached :])
        and depth + len(_new(chain, place)) <= PROCESS_DEPTH_LIMIT
    )


def _is_doubtful(chain: Chain) -> bool:
    return bool(gap(chain))


def _connection(subject: Subject, peer: Peer) -> Connection:
    container, pod = subject.container, subject.pod
    own = Endpoint(
        port=peer.port if peer.direction is Direction.INGRESS else None,
        workload=None if container is None else container.id,
        name=pod.name if pod is not None and pod.name else container.name if container is not None else subject.service,
        image=subject.image,
        namespace=subject.namespace,
        service=subject.service,
    )
    if peer.direction is Direction.INGRESS:
        return Connection(client=Endpoint(ip=peer.ip, name=peer.dns), server=own, protocol=peer.protocol, fqdn=None)
    server = Endpoint(ip=peer.ip, port=peer.port, name=peer.dns)
    return Connection(client=own, server=server, protocol=peer.protocol, fqdn=peer.dns)
