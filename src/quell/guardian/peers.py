"""Addresses that a process was seen to talk to, kept short, as the texts of networks.

Up to SINGLE stand by themselves. Where there are more, those that share a network of the size that one segment usually has
(/24, IPv6 /64) become that network. Where that is not enough, private addresses become the private block that they are
of and public ones their segments; and of ingress only, public ones become everybody: what is reached from so many places
is open to the public. What a process connects to is never widened that far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple

from quell.guardian.connections import PRIVATE, Address
from quell.model.policy import Direction

#: Addresses that stand by themselves.
SINGLE = 16
_SEGMENT = {4: 24, 6: 64}
_EVERYBODY = {4: "0.0.0.0/0", 6: "::/0"}
_SEEN = 8192


class Wider(NamedTuple):
    """The networks that one may be joined to, itself where it is as wide."""

    segment: str
    #: None: it is public.
    block: str | None
    everybody: str


def single(ip: Address) -> str:
    return f"{ip}/{ip.max_prefixlen}"


def holds(networks: Sequence[str], ip: Address) -> bool:
    """networks: as joined() makes them."""
    own = single(ip)
    if own in networks:
        return True
    segment, block, everybody = wider(own)
    return segment in networks or everybody in networks or (block is not None and block in networks)


def joined(networks: Sequence[str], direction: Direction) -> list[str]:
    """The same addresses, and where there are many more than the same, in the order in which they came."""
    found = list(networks)
    if len(found) > SINGLE:
        crowded = {segment for segment, count in Counter(wider(each).segment for each in found).items() if count > 1}
        found = _distinct(segment if (segment := wider(each).segment) in crowded else each for each in found)
    if len(found) > SINGLE:
        found = _distinct(wider(each).block or wider(each).segment for each in found)
    if len(found) > SINGLE and direction is Direction.INGRESS:
        found = _distinct(wider(each).block or wider(each).everybody for each in found)
    return found


def address_in(text: str) -> str:
    """One address of the network."""
    found = ip_network(text)
    return str(found.network_address if found.num_addresses == 1 else found.network_address + 1)


@lru_cache(maxsize=_SEEN)
def wider(text: str) -> Wider:
    found = ip_network(text)
    length = _SEGMENT[found.version]
    segment = found if found.prefixlen <= length else found.supernet(new_prefix=length)
    blocks = (block for block in PRIVATE if block.version == found.version and found.network_address in block)
    block = next((str(block) for block in blocks if block.prefixlen <= found.prefixlen), None)
    return Wider(str(segment), block, _EVERYBODY[found.version])


def _distinct(networks: Iterable[str]) -> list[str]:
    """Without those that are within another."""
    found = dict.fromkeys(networks)
    return [
        each
        for each in found
        if not any(other in found for other in wider(each) if other is not None and other != each)
    ]
