"""The connections that a policy expects. SEMANTICS section 5, networkPolicy."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from msgspec import Struct

from quell.catalogue.words import nearest
from quell.documents.ports import read_ports
from quell.documents.reader import Value, listed
from quell.model.policy import NETWORK_ENTRY_LIMIT, NETWORK_RULE_LIMIT, Block, Direction, Names, NetworkRule

Rules = tuple[NetworkRule, ...] | None

_EXCEPT_LIMIT = 10
#: Characters of a name in DNS.
_DNS_LIMIT = 253
_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}
_ANY = "for any: ipBlock: {cidr: 0.0.0.0/0}, and ::/0"


class Network(Struct, frozen=True):
    ingress: Rules = None
    egress: Rules = None


class _Ids:
    """Those of processes that rules may name. Only the first few that are unknown are compared with all of them."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._known = dict.fromkeys(ids)
        self._hints = 50

    def check(self, item: Value) -> str:
        text = item.text()
        if text and text not in self._known:
            self._hints -= 1
            near = nearest(text, self._known) if self._known and self._hints >= 0 else ""
            expected = listed(self._known) if self._known else "an id that processPolicy gives to a process"
            item.problem(f'no process has the id "{text}"', expected=expected, got=text, near=near)
        return text


def read_network(value: Value, ids: Iterable[str], *, foreign: bool) -> Network:
    """ids: of the processes that its rules may name. A direction that is not written is not compared."""
    directions = tuple(direction.value for direction in Direction)
    fields = value.fields(directions, ()) if foreign else value.fields((), directions)
    if value.is_mapping and value.is_empty and not foreign:
        value.wrong("ingress or egress", "an empty mapping")

    known = _Ids(ids)

    def rules(direction: Direction) -> Rules:
        if direction not in fields:
            return None
        items = fields[direction].bounded(NETWORK_RULE_LIMIT, "rules")
        return tuple(_rule(item, direction, known, foreign=foreign) for item in items)

    return Network(rules(Direction.INGRESS), rules(Direction.EGRESS))


def _rule(item: Value, direction: Direction, ids: _Ids, *, foreign: bool) -> NetworkRule:
    peers = _PEERS[direction]
    fields = item.fields((peers, "ports"), ("processes",), {peers: _ANY})
    if "ports" in fields and fields["ports"].is_list and fields["ports"].is_empty:
        fields["ports"].wrong("at least one port", "an empty list")
    return NetworkRule(
        peers=_peers(fields[peers]) if peers in fields else (),
        ports=read_ports(fields["ports"]) if "ports" in fields else (),
        processes=_processes(fields["processes"], ids, foreign=foreign) if "processes" in fields else (),
    )


def _processes(value: Value, ids: _Ids, *, foreign: bool) -> tuple[str, ...]:
    named = [ids.check(item) for item in value.bounded(NETWORK_ENTRY_LIMIT, "processes")]
    if value.is_list and not named:
        if foreign:
            value.warn("no process is named, which is read as any: leave processes out to say so", got="an empty list")
        else:
            value.wrong("at least one id; without processes: of any process", "an empty list")
    return tuple(dict.fromkeys(named))


def _peers(value: Value) -> tuple[Block | Names, ...]:
    items = value.bounded(NETWORK_ENTRY_LIMIT, "peers")
    if value.is_list and not items:
        value.wrong(f"at least one peer ({_ANY})", "an empty list")
    return tuple(peer for item in items if (peer := _peer(item)) is not None)


def _peer(item: Value) -> Block | Names | None:
    fields = item.fields((), ("ipBlock", "dnsSelector"))
    if len(fields) == 2 or (item.is_mapping and item.is_empty):
        item.wrong("either ipBlock or dnsSelector", "both" if fields else "neither")
    if "ipBlock" in fields:
        return _block(fields["ipBlock"])
    if "dnsSelector" in fields:
        return _names(fields["dnsSelector"])
    return None


def _names(value: Value) -> Names:
    names = tuple(item.text(limit=_DNS_LIMIT) for item in value.bounded(NETWORK_ENTRY_LIMIT, "names"))
    if value.is_list and not names:
        value.wrong("at least one name", "an empty list")
    return Names(names=names)


def _block(value: Value) -> Block | None:
    fields = value.fields(("cidr",), ("except",))
    block = _network(fields["cidr"]) if "cidr" in fields else None
    exceptions = []
    for item in fields["except"].bounded(_EXCEPT_LIMIT, "exceptions") if "except" in fields else ():
        part = _network(item)
        if part is not None and block is not None and not _is_inside(part, block):
            item.wrong(f"a part of {block}")
        exceptions.append(str(part))
    return None if block is None else Block(cidr=str(block), exceptions=tuple(exceptions))


def _network(value: Value) -> IPv4Network | IPv6Network | None:
    """As Kubernetes reads one: an address with bits beyond the mask means its network, and is warned about."""
    text = value.text()
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "/" not in text or "%" in text or not text.partition("/")[2].isdigit():
        if text:
            whole = f", such as {network}" if network is not None and "/" not in text else ""
            value.wrong(f"a network with the length of its mask{whole or ', such as 10.0.0.0/8'}")
        return None
    try:
        ip_network(text)
    except ValueError:
        value.warn(f"{text} has bits beyond its mask: it means {network}", expected=str(network), got=text)
    return network


def _is_inside(part: IPv4Network | IPv6Network, whole: IPv4Network | IPv6Network) -> bool:
    """A real part: the whole of it excepted would leave nothing."""
    if isinstance(part, IPv4Network) and isinstance(whole, IPv4Network):
        return part != whole and part.subnet_of(whole)
    if isinstance(part, IPv6Network) and isinstance(whole, IPv6Network):
        return part != whole and part.subnet_of(whole)
    return False
