"""Addresses and gateways of the network namespace this thread is in, by rtnetlink (linux/rtnetlink.h)."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from quell.agent.linux.netlink import attributes

IPAddress = IPv4Address | IPv6Address

_GETADDR, _GETROUTE = 22, 26
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_ADDRESS, _LOCAL = 1, 2  # IFA_*
_DESTINATION, _GATEWAY, _MULTIPATH, _VIA = 1, 5, 9, 18  # RTA_*
_UNICAST = 1


def own_addresses() -> tuple[IPAddress, ...]:
    """Those of its interfaces, the loopback's left out: nothing that comes from elsewhere has such a one."""
    found: dict[IPAddress, None] = {}
    for payload in _dump(_GETADDR):
        told = dict(attributes(payload[8:]))
        # On a cable between two points IFA_ADDRESS is the other one's.
        address = _address(told.get(_LOCAL) or told.get(_ADDRESS) or b"")
        if address is not None and not address.is_loopback:
            found[address] = None
    return tuple(found)


def gateways(toward: Collection[IPAddress]) -> tuple[IPAddress, ...]:
    """Next hops of its routes to any of these addresses, the default ones among them."""
    found: dict[IPAddress, None] = {}
    for payload in _dump(_GETROUTE):
        family, prefix, _, _, _, _, _, kind, _ = struct.unpack_from("=BBBBBBBBI", payload)
        if kind != _UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        if any(each in _destination(family, prefix, payload[12:]) for each in toward):
            for address in _hops(payload[12:]):
                found[address] = None
    return tuple(found)


def _destination(family: int, prefix: int, data: bytes) -> IPv4Network | IPv6Network:
    nowhere = bytes(4 if family == socket.AF_INET else 16)
    packed = next((value for kind, value in attributes(data) if kind == _DESTINATION), nowhere)
    return ipaddress.ip_network((packed, prefix), strict=False)


def _hops(data: bytes) -> Iterator[IPAddress]:
    for kind, value in attributes(data):
        address = None
        if kind == _GATEWAY:
            address = _address(value)
        elif kind == _VIA:
            address = _address(value[2:])
        elif kind == _MULTIPATH:
            at = 0
            while at + 8 <= len(value):
                (length,) = struct.unpack_from("=H", value, at)
                yield from _hops(value[at + 8 : at + length])
                at += max(8, (length + 3) & ~3)
        if address is not None:
            yield address


def _address(packed: bytes) -> IPAddress | None:
    return ipaddress.ip_address(packed) if len(packed) in (4, 16) else None


def _dump(asked: int) -> Iterator[bytes]:
    """The payload of each message of the answer. OSError: the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
        asking.bind((0, 0))
        # struct nlmsghdr, then struct rtmsg or ifaddrmsg, all of it zero: every family.
        asking.send(struct.pack("=IHHII", 28, asked, _REQUEST | _DUMP, 1, 0) + bytes(12))
        while True:
            data, at = asking.recv(1 << 17), 0
            while at + 16 <= len(data):
                length, kind, _, _, _ = struct.unpack_from("=IHHII", data, at)
                payload = data[at + 16 : at + length]
                at += max(16, (length + 3) & ~3)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", payload)
                    raise OSError(-code, os.strerror(-code))
                yield payload
