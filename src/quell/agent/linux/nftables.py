"""nftables by netlink, as much as closing a network namespace needs. Pure encoding, and one exchange with the kernel.

The binary protocol is spoken directly (linux/netfilter/nf_tables.h): a container names its own interfaces, and such a
name never passes through a parser of rules in a privileged process; nor is a library needed (docs/adr/0008).
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from quell.agent.linux.netlink import attribute, attributes, string

_NETLINK_NETFILTER = 12
_SO_NETNS_COOKIE = 71
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
NEWTABLE, _GETTABLE, _DELTABLE, NEWCHAIN, _GETCHAIN, NEWRULE, _GETRULE = 0, 1, 2, 3, 4, 6, 7
NEWSET, _GETSET, NEWSETELEM, _GETSETELEM, _NEWGEN, _GETGEN = 9, 10, 12, 13, 15, 16
_REQUEST, _ACK, _DUMP, CREATE, APPEND = 0x1, 0x4, 0x300, 0x400, 0x800
_ERROR, _DONE = 2, 3

INET, ARP, NETDEV = 1, 3, 5


_TABLE_FLAG_OWNER = 0x2

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
                told = dict(attributes(payload[4:]))
                flags = int.from_bytes(told.get(2, b""), "big")
                name = told[1].rstrip(b"\0").decode(errors="backslashreplace")
                found.append(Table(payload[0], name, bool(flags & _TABLE_FLAG_OWNER)))

    def generation(self) -> int:
        """A number that is another after each change of any table; 0: the kernel says none."""
        self._socket.send(_message(_SUBSYSTEM << 8 | _GETGEN, _REQUEST, 0, b"", 1))
        for kind, _, payload in _messages(self._socket.recv(1 << 17)):
            if kind & 0xFF == _NEWGEN and kind >> 8 == _SUBSYSTEM:
                for attribute, value in attributes(payload[4:]):
                    if attribute == 1:
                        return int.from_bytes(value[:4], "big")
        return 0

    def contents(self, tables: Iterable[Table]) -> bytes:
        """The same as long as nobody has changed these tables, their chains, rules and sets."""
        digest = hashlib.blake2b(digest_size=16)
        for table in tables:
            digest.update(f"{table.family}/{table.name}\0".encode())
            for asked in (_GETTABLE, _GETCHAIN, _GETRULE):
                self._dump(asked, table, digest.update)
            sets: list[bytes] = []
            elements: list[bytes] = []
            self._dump(_GETSET, table, sets.append)
            for each in sets:
                digest.update(each)
                name = dict(attributes(each)).get(2, b"")
                self._dump(_GETSETELEM, table, elements.append, attribute(2, name))
            # The kernel gives them in no order.
            lists = [value for data in elements for kind, value in attributes(data) if kind == 3]
            for element in sorted(element for each in lists for _, element in attributes(each)):
                digest.update(element)
        return digest.digest()

    def _dump(self, asked: int, table: Table, take: Callable[[bytes], None], more: bytes = b"") -> None:
        request = _message(_SUBSYSTEM << 8 | asked, _REQUEST | _DUMP, table.family, string(1, table.name) + more, 1)
        self._socket.send(request)
        while True:
            for kind, _, payload in _messages(self._socket.recv(1 << 17)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    if int.from_bytes(payload[:4], sys.byteorder, signed=True) == -errno.ENOENT:
                        return
                    _raise(payload)
                found = dict(attributes(payload[4:]))
                # Not every kernel filters by table.
                if payload[0] == table.family and found.get(1, b"").rstrip(b"\0") == os.fsencode(table.name):
                    take(payload[4:])

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
    return [Message(_DELTABLE, 0, each.family, string(1, each.name)) for each in tables if not each.owned]


def free_name(tables: Iterable[Table]) -> str:
    """A name for our tables that nobody has taken and locked to keep us out."""
    return f"{_NAME}-{secrets.token_hex(4)}" if any(each.owned for each in ours(tables)) else _NAME


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


def _raise(payload: bytes) -> None:
    (code,) = struct.unpack_from("=i", payload)
    if code:
        raise OSError(-code, os.strerror(-code))
