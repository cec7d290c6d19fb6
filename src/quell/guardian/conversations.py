"""The sockets of one process that was seen, and whom it talks to: each list bounded, and joined where it grows.

Ports of the range that the kernel gives out by itself are that range from the third one on: they are others at each start.
"""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from quell.guardian import peers
from quell.guardian.connections import address, domain
from quell.model.observation import Peer
from quell.model.policy import Direction

#: Ports that one process listens on; pairs of direction and server's port that it has connections of; and for one such
#: pair, networks and names of peers.
PORTS, TALKS, NETWORKS, NAMES = 64, 128, 256, 64
#: The kernel's ip_local_port_range, as it is unless somebody changes it.
EPHEMERAL = (32768, 60999)
#: So many ports of it are all of it.
ALIKE = 3


class Learned(Enum):
    NEW = auto()
    KNOWN = auto()
    #: There is no room.
    DROPPED = auto()


class Listening(Struct, kw_only=True, omit_defaults=True):
    port: int
    protocol: str = "TCP"
    #: The last of the range, itself included; None: the one port.
    end: int | None = None


class Talk(Struct, kw_only=True, omit_defaults=True):
    """Connections in one direction with one port of the server."""

    direction: Direction
    port: int
    protocol: str = "TCP"
    end: int | None = None
    #: Of peers without a name, such as 10.0.0.9/32.
    networks: list[str] = []
    names: list[str] = []
    #: The address of one that had a name.
    ip: str = ""


def listen(known: list[Listening], protocol: str, port: int) -> Learned:
    if any(_covers(each, protocol, port, port) for each in known):
        return Learned.KNOWN
    if len(known) >= PORTS:
        return Learned.DROPPED
    absorb_socket(known, Listening(port=port, protocol=protocol))
    return Learned.NEW


def talk(known: list[Talk], peer: Peer) -> Learned:
    """peer: with a name or an address."""
    for each in known:
        if each.direction is peer.direction and _covers(each, peer.protocol, peer.port, peer.port):
            return _take(each, peer)
    if len(known) >= TALKS:
        return Learned.DROPPED
    made = Talk(direction=peer.direction, port=peer.port, protocol=peer.protocol)
    _take(made, peer)
    absorb_talk(known, made)
    return Learned.NEW


def absorb_socket(known: list[Listening], other: Listening) -> None:
    """Takes in one of another process, without a bound."""
    first, last = other.port, other.port if other.end is None else other.end
    if any(_covers(each, other.protocol, first, last) for each in known):
        return
    alike = [each for each in known if each.protocol == other.protocol and _is_ephemeral(each)]
    if _is_ephemeral(other) and (other.end is not None or len(alike) + 1 >= ALIKE):
        known[:] = [each for each in known if not any(each is one for one in alike)]
        known.append(Listening(port=EPHEMERAL[0], protocol=other.protocol, end=EPHEMERAL[1]))
    else:
        known.append(Listening(port=other.port, protocol=other.protocol, end=other.end))


def absorb_talk(known: list[Talk], other: Talk) -> None:
    """Takes in one of another process, without a bound."""
    first, last = other.port, other.port if other.end is None else other.end
    same = [each for each in known if each.direction is other.direction and each.protocol == other.protocol]
    found = next((each for each in same if _covers(each, other.protocol, first, last)), None)
    alike = [] if found is not None else [each for each in same if _is_ephemeral(each)]
    if found is None:
        found = Talk(direction=other.direction, port=other.port, protocol=other.protocol, end=other.end)
        if _is_ephemeral(other) and (other.end is not None or len(alike) + 1 >= ALIKE):
            found.port, found.end = EPHEMERAL
            known[:] = [each for each in known if not any(each is one for one in alike)]
            for each in alike:
                _unite(found, each)
        known.append(found)
    _unite(found, other)


def _unite(found: Talk, other: Talk) -> None:
    found.networks = peers.joined([*dict.fromkeys((*found.networks, *other.networks))], found.direction)
    found.names = [*dict.fromkeys((*found.names, *other.names))]
    found.ip = found.ip or other.ip


def _take(known: Talk, peer: Peer) -> Learned:
    if peer.dns is not None:
        name = domain(peer.dns)
        if name in known.names:
            return Learned.KNOWN
        if len(known.names) >= NAMES:
            return Learned.DROPPED
        known.names.append(name)
        known.ip = peer.ip
        return Learned.NEW
    ip = address(peer.ip)
    if ip is None or len(known.networks) >= NETWORKS:
        return Learned.KNOWN if ip is not None and peers.holds(known.networks, ip) else Learned.DROPPED
    if peers.holds(known.networks, ip):
        return Learned.KNOWN
    known.networks = peers.joined([*known.networks, peers.single(ip)], known.direction)
    return Learned.NEW


def _covers(known: Listening | Talk, protocol: str, first: int, last: int) -> bool:
    end = known.port if known.end is None else known.end
    return known.protocol == protocol and known.port <= first and last <= end


def _is_ephemeral(known: Listening | Talk) -> bool:
    return known.port >= EPHEMERAL[0] and (known.port if known.end is None else known.end) <= EPHEMERAL[1]
