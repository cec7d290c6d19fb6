"""The connections that a policy expects, compiled. SEMANTICS section 5, networkPolicy and the disable* switches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from quell.guardian.processes import covers
from quell.guardian.room import Room
from quell.guardian.values import Listed
from quell.matching.selectors import Truth
from quell.model.observation import Peer
from quell.model.policy import Block, Direction, Expected, Names, NetworkRule

Address = IPv4Address | IPv6Address

#: What is not public: RFC 1918, RFC 4193, link-local, loopback, and addresses shared by carriers (RFC 6598).
PRIVATE = tuple(
    ip_network(block)
    for block in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
        "::1/128",
    )
)


@lru_cache(maxsize=8192)
def address(text: str) -> Address | None:
    """An IPv4 address within IPv6 is that one; a zone says nothing here. None: it is no address."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def is_private(ip: Address) -> bool:
    return any(ip.version == block.version and ip in block for block in PRIVATE)


def domain(name: str) -> str:
    """A name in DNS, where case and the last dot say nothing."""
    return name.rstrip(".").casefold()


class Connections:
    """What one policy expects of one direction."""

    def __init__(
        self, expected: Expected, direction: Direction, number: Callable[[str], int | None], room: Room
    ) -> None:
        """number: of a node by its id; None: there is no such node. ValueError: a network or glob cannot be read."""
        rules = expected.ingress if direction is Direction.INGRESS else expected.egress
        self._rules = None if rules is None else tuple(_Rule(rule, number) for rule in rules)
        self._closed = direction in expected.no_connections
        self._closed_private = direction in expected.no_private_connections
        self._closed_public = direction in expected.no_public_connections
        self._memo: dict[tuple[object, ...], Truth] = {}
        self._room = room
        room.share(self._memo.clear)

    def forbids(self, peer: Peer) -> tuple[str, Truth]:
        """The switch that forbids it, and whether it is proved to; ("", False): none does."""
        if self._closed:
            return "disableConnections", True
        if self._closed_private or self._closed_public:
            ip = address(peer.ip)
            if ip is None:
                return "disablePrivateConnections" if self._closed_private else "disablePublicConnections", None
            if is_private(ip):
                return ("disablePrivateConnections", True) if self._closed_private else ("", False)
            return ("disablePublicConnections", True) if self._closed_public else ("", False)
        return "", False

    def expects(self, peer: Peer, nodes: tuple[int, ...]) -> Truth:
        """nodes: that its process may be on. None: a rule might, but the peer's name or address is not known."""
        if self._rules is None:
            return True
        key = (peer.ip, peer.port, peer.protocol, peer.dns, nodes)
        if key in self._memo:
            return self._memo[key]
        truths = {rule.meets(peer, nodes) for rule in self._rules}
        truth = True if True in truths else None if None in truths else False
        self._room.take()
        self._memo[key] = truth
        return truth


class _Rule:
    __slots__ = ("_blocks", "_names", "_nodes", "_ports")

    def __init__(self, rule: NetworkRule, number: Callable[[str], int | None]) -> None:
        self._ports = rule.ports
        self._nodes = frozenset(number(each) for each in rule.processes) if rule.processes else None
        self._blocks = tuple(_Block(peer) for peer in rule.peers if isinstance(peer, Block))
        self._names = Listed(domain(name) for peer in rule.peers if isinstance(peer, Names) for name in peer.names)

    def meets(self, peer: Peer, nodes: Sequence[int]) -> Truth:
        if self._nodes is not None and self._nodes.isdisjoint(nodes):
            return False
        if not any(covers(ports, peer.protocol, peer.port) for ports in self._ports):
            return False
        ip = address(peer.ip)
        if ip is not None and any(block.has(ip) for block in self._blocks):
            return True
        if peer.dns is not None and self._names.takes(domain(peer.dns)):
            return True
        unknown = (ip is None and self._blocks) or (peer.dns is None and not self._names.is_empty)
        return None if unknown else False


class _Block:
    __slots__ = ("_exceptions", "_network")

    def __init__(self, block: Block) -> None:
        self._network = ip_network(block.cidr, strict=False)
        self._exceptions = tuple(ip_network(each, strict=False) for each in block.exceptions)

    def has(self, ip: Address) -> bool:
        return (
            ip.version == self._network.version
            and ip in self._network
            and not any(ip.version == each.version and ip in each for each in self._exceptions)
        )
