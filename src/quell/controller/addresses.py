"""Where an endpoint may lie: the guard against requests forged through a webhook's address. SEMANTICS section 7.

Names are resolved here, each address is judged, and the connection goes to the very address that was judged: a name
that resolves differently a moment later changes nothing. Host header and TLS server name stay those of the URL.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Where clouds answer with credentials, beside the link-local 169.254.169.254.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
    )
)
#: IPv6 addresses that carry an IPv4 address in their last four bytes.
_CARRIERS = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, RFC 4291
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
        "64:ff9b:1::/48",  # NAT64 for local use, RFC 8215
    )
)
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")


class AddressRefused(Exception):
    """The endpoint's name leads only to addresses that may not be connected to."""


def refusal(address: IPAddress) -> str | None:
    """Why Quell does not connect to an address unless an operator allows it; None if it does.

    Private networks (RFC 1918 and 4193) are fine: receivers live there. An address that another one carries (mapped,
    translated, 6to4, Teredo) is judged as well.
    """
    if address in _METADATA:
        return "a cloud's metadata service"
    for carried in _carried(address):
        if reason := refusal(carried):
            return f"{reason}, as {carried}"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_unspecified or (isinstance(address, ipaddress.IPv4Address) and address in _THIS_NETWORK):
        return "unspecified"
    if address.is_multicast:
        return "multicast"
    if isinstance(address, ipaddress.IPv4Address) and address.is_reserved:
        return "reserved"
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return "site-local"
    return None


def _carried(address: IPAddress) -> Iterable[ipaddress.IPv4Address]:
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if int(address) > 1 and any(address in network for network in _CARRIERS):  # :: and ::1 are themselves
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


class Resolver:
    """Looks names up in threads of its own, one a name at a time.

    The few threads of the event loop are everybody's, and a name server that does not answer holds one for half a
    minute: endpoints with such names would keep all others from being connected to.
    """

    def __init__(self) -> None:
        self._looking: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def addresses(self, host: str, port: int) -> list[str]:
        """In the resolver's order, as texts. Raises OSError, UnicodeError. Whoever stops waiting leaves it to the next."""
        key = (host, port)
        found = self._looking.get(key)
        if found is None:
            loop = asyncio.get_running_loop()
            found = self._looking[key] = loop.create_future()
            found.add_done_callback(lambda future: future.cancelled() or future.exception())  # somebody may have gone
            # A daemon: nobody waits for a name server when the process ends.
            threading.Thread(target=self._look, args=(loop, key), name=f"resolve {host}", daemon=True).start()
        return await asyncio.shield(found)

    def _look(self, loop: asyncio.AbstractEventLoop, key: tuple[str, int]) -> None:
        found: list[str] | OSError | UnicodeError
        try:
            found = [str(where[0]) for *_, where in socket.getaddrinfo(*key, type=socket.SOCK_STREAM)]
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._found, key, found)

    def _found(self, key: tuple[str, int], found: list[str] | OSError | UnicodeError) -> None:
        future = self._looking.pop(key)
        if isinstance(found, list):
            future.set_result(found)
        else:
            future.set_exception(found)


async def permitted(
    host: str, port: int, *, allowed: Sequence[IPNetwork] = (), resolver: Resolver | None = None
) -> list[str]:
    """The addresses of a host that may be connected to, in the resolver's order.

    allowed: networks an operator has opened. Raises OSError or UnicodeError if the name does not resolve, AddressRefused
    if nothing of what it resolves to is permitted.
    """
    good: list[str] = []
    refused: list[str] = []
    for text in await (resolver or Resolver()).addresses(host, port):
        address = ipaddress.ip_address(text.partition("%")[0])
        reason = None if any(address in network for network in allowed) else refusal(address)
        if reason is None:
            good.append(text)
        else:
            refused.append(f"{text} is {reason}")
    if not good:
        raise AddressRefused(f"{host}: {'; '.join(dict.fromkeys(refused))}")
    return good


EVERYWHERE: tuple[IPNetwork, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
