"""Where an endpoint may lie: the guard against requests forged through a webhook's address. SEMANTICS section 7.

Names are resolved here, each address is judged, and the connection goes to the very address that was judged: a name
that resolves differently a moment later changes nothing. Host header and TLS server name stay those of the URL.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

import httpcore

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


async def permitted(host: str, port: int, *, allowed: Sequence[IPNetwork] = ()) -> list[str]:
    """The addresses of a host that may be connected to, in the resolver's order.

    allowed: networks an operator has opened. Raises OSError if the name does not resolve, AddressRefused if nothing
    of what it resolves to is permitted.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    good: list[str] = []
    refused: list[str] = []
    for *_, where in found:
        text = str(where[0])
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


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Opens the connections of an HTTP client, to permitted addresses only."""

    def __init__(self, allowed: Sequence[IPNetwork] = ()) -> None:
        self._allowed = tuple(allowed)
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises AddressRefused, or httpcore's ConnectError and ConnectTimeout."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await permitted(host, port, allowed=self._allowed)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host}: the name did not resolve in time") from error
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._network.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)
