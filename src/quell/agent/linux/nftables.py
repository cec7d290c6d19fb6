"""nftables by netlink, as much as closing a network namespace needs. Pure encoding, and one exchange with the kernel.

The binary protocol is spoken directly (linux/netfilter/nf_tables.h): a container names its own interfaces, and such a
name never passes through a parser of rules in a privileged process; nor is a library needed (docs/adr/0008).

The tables are called quell, in three families. inet drops IPv4 and IPv6 on every interface, also on one that comes
later. netdev drops whatever a packet socket sends or receives, ARP and all else below IP, on each interface there is.
arp does what it can where the kernel has no egress hook.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Self

_NETLINK_NETFILTER = 12
_SO_NETNS_COOKIE = 71
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 1, 2, 3, 6
_REQUEST, _ACK, _DUMP, _CREATE, _APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_TYPE = 0x3FFF

INET, ARP, NETDEV = 1, 3, 5

_TABLE_FLAG_OWNER = 0x2
_DROP = 0
# The first of all chains, so that nothing sees a packet before it is dropped.
_PRIORITY = -(2**31) + 1
_IIFTYPE, _OIFTYPE = 8, 9  # NFT_META_IIFTYPE, NFT_META_OIFTYPE
# A device's type cannot be chosen by its name: only the real loopback has it (ARPHRD_LOOPBACK).
_LOOPBACK = 772
_DEVICES = 256  # NFT_NETDEVICE_MAX: devices of one chain

_NAME = "quell"


class Message(NamedTuple):
    """One operation of a batch: type, flags, family, attributes."""

    type: int
    flags: int
    family: int
    body: bytes


class Table(NamedTuple):
    family: int
    name: str
    #: Belongs to one open socket; nobody else can change it.
    owned: bool


class Nftables:
    """An exchange with the nftables of the namespace this thread is in. OSError: the kernel refuses."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def cookie(self) -> int:
        """The kernel's number for the network namespace, never used twice in a boot; 0 before Linux 5.14."""
        try:
            return int.from_bytes(self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return 0

    def tables(self) -> list[Table]:
        """Every table, of every family."""
        request = _message(_SUBSYSTEM << 8 | _GETTABLE, _REQUEST | _DUMP, 0, b"", 1)
        self._socket.send(request)
        found: list[Table] = []
        while True:
            for kind, _, payload in _messages(self._socket.recv(1 << 17)):
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    _raise(payload)
                attributes = dict(_attributes(payload[4:]))
                flags = int.from_bytes(attributes.get(2, b""), "big")
                name = attributes[1].rstrip(b"\0").decode(errors="backslashreplace")
                found.append(Table(payload[0], name, bool(flags & _TABLE_FLAG_OWNER)))

    def run(self, messages: Sequence[Message]) -> None:
        """All of it or nothing: the kernel takes a batch as one transaction."""
        batch = [_message(_BATCH_BEGIN, _REQUEST, 0, b"", 0, resource=_SUBSYSTEM)]
        for number, each in enumerate(messages, 1):
            kind = _SUBSYSTEM << 8 | each.type
            batch.append(_message(kind, each.flags | _REQUEST | _ACK, each.family, each.body, number))
        batch.append(_message(_BATCH_END, _REQUEST, 0, b"", len(messages) + 1, resource=_SUBSYSTEM))
        self._socket.send(b"".join(batch))
        waiting = set(range(1, len(messages) + 1))
        failed = 0
        while waiting:
            for kind, number, payload in _messages(self._socket.recv(1 << 17)):
                if kind != _ERROR:
                    continue
                (code,) = struct.unpack_from("=i", payload)
                if code:
                    failed = failed or -code
                    if number not in waiting:  # of the batch as a whole
                        waiting.clear()
                waiting.discard(number)
        if failed:
            raise OSError(failed, os.strerror(failed))


def ours(tables: Iterable[Table]) -> list[Table]:
    """Those that this module made."""
    return [each for each in tables if each.name == _NAME or each.name.startswith(f"{_NAME}-")]


def removal(tables: Iterable[Table]) -> list[Message]:
    """Take away the tables given; ask ours first. One that belongs to somebody's socket cannot be taken away."""
    return [Message(_DELTABLE, 0, each.family, _string(1, each.name)) for each in tables if not each.owned]


def free_name(tables: Iterable[Table]) -> str:
    """A name for our tables that nobody has taken and locked to keep us out."""
    return f"{_NAME}-{secrets.token_hex(4)}" if any(each.owned for each in ours(tables)) else _NAME


# Most containers have one interface of one name.
@lru_cache(maxsize=64)
def closing(name: str, interfaces: tuple[str, ...], *, strict: bool, link: bool, egress: bool) -> tuple[Message, ...]:
    """The tables that close a namespace. link: with the netdev family; egress: and its hook for what goes out."""
    made = [_table(INET, name)]
    made += [_chain(INET, name, chain, hook) for chain, hook in (("input", 1), ("forward", 2), ("output", 3))]
    if not strict:
        made += [_accept_loopback(name, "input", _IIFTYPE), _accept_loopback(name, "output", _OIFTYPE)]
    if link and interfaces:
        made.append(_table(NETDEV, name))
        for start in range(0, len(interfaces), _DEVICES):
            some = interfaces[start : start + _DEVICES]
            made.append(_chain(NETDEV, name, f"ingress{start}", 0, some))
            if egress:
                made.append(_chain(NETDEV, name, f"egress{start}", 1, some))
    if not (link and egress):
        made.append(_table(ARP, name))
        made += [_chain(ARP, name, chain, hook) for chain, hook in (("input", 0), ("output", 1))]
    return tuple(made)


def _table(family: int, name: str) -> Message:
    return Message(_NEWTABLE, _CREATE, family, _string(1, name))


def _chain(family: int, table: str, name: str, hook: int, devices: Sequence[str] = ()) -> Message:
    """A base chain that drops all."""
    hooked = [_number(1, hook), _number(2, _PRIORITY)]
    if devices:
        hooked.append(_nested(4, *(_string(1, device) for device in devices)))
    body = _string(1, table) + _string(3, name) + _nested(4, *hooked) + _number(5, _DROP) + _string(7, "filter")
    return Message(_NEWCHAIN, _CREATE, family, body)


def _accept_loopback(table: str, chain: str, key: int) -> Message:
    register = 1
    load = _expression("meta", _number(1, register), _number(2, key))
    compare = _expression(
        "cmp", _number(1, register), _number(2, 0), _nested(3, _attribute(1, struct.pack("=H", _LOOPBACK)))
    )
    accept = _expression("immediate", _number(1, 0), _nested(2, _nested(2, _number(1, 1))))
    return Message(
        _NEWRULE, _CREATE | _APPEND, INET, _string(1, table) + _string(2, chain) + _nested(4, load, compare, accept)
    )


def _expression(name: str, *data: bytes) -> bytes:
    return _nested(1, _string(1, name), _nested(2, *data))


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _string(kind: int, text: str) -> bytes:
    return _attribute(kind, os.fsencode(text) + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def _message(kind: int, flags: int, family: int, body: bytes, number: int, *, resource: int = 0) -> bytes:
    # struct nlmsghdr, then struct nfgenmsg, whose last field is in network order.
    head = struct.pack("=IHHII", 20 + len(body), kind, flags, number, 0)
    return head + struct.pack(">BBH", family, 0, resource) + body


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, sequence number and payload of each message of a datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind, _, number, _ = struct.unpack_from("=IHHII", data, at)
        yield kind, number, data[at + 16 : at + length]
        at += max(16, (length + 3) & ~3)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & _TYPE, data[at + 4 : at + length]
        at += max(4, (length + 3) & ~3)


def _raise(payload: bytes) -> None:
    (code,) = struct.unpack_from("=i", payload)
    if code:
        raise OSError(-code, os.strerror(-code))
