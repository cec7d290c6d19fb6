"""The address from which an investigator may reach what is in quarantine. SEMANTICS section 4, docs/quarantine.md."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

#: Addresses that one request may name.
INVESTIGATORS_LIMIT = 8


def read_investigator(text: str) -> str:
    """An IPv4 or IPv6 address as it is written everywhere else. ValueError: it is none that packets come from."""
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"{text[:100]!r} is no IPv4 or IPv6 address (a network or a name cannot be given)") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"{address} stands for {address.ipv4_mapped}: write that")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{address} names an interface: the workload has others; write it without what follows the %")
    if address.is_unspecified or address.is_multicast or address.is_loopback or str(address) == "255.255.255.255":
        raise ValueError(f"nothing comes to a container from {address}")
    return str(address)
