"""The sockets of a network namespace as the kernel lists them. See linux/sock_diag.h and linux/inet_diag.h.

A list of all costs a walk through tables whose size is the machine's and not the namespace's. The kernel also tells of
each socket that goes, and counts those that are there, which is cheap to read: where none went and as many are there as
before, none came, and the list would bring nothing new.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct

TCP, UDP = "TCP", "UDP"

_SOCK_DIAG = 4
_BY_FAMILY, _TCP_OF_ANY_FAMILY = 20, 18
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
#: SKNLGRP_INET_TCP_DESTROY, INET_UDP, INET6_TCP, INET6_UDP: the first four groups.
_DESTROYED = 0xF
_ATTRIBUTE_PROTOCOL = 10
_SO_RCVBUFFORCE, _SO_MEMINFO = 33, 55
_MEMINFO_WORDS, _MEMINFO_DROPS = 9, 8
#: struct nlmsghdr.
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
#: struct inet_diag_req_v2, and inet_diag_req, which alone asks for TCP of both families in one walk; without a filter.
_REQUEST = struct.Struct("=BBBBI48x")
_OLD_REQUEST = struct.Struct("=BBBB48xII")
#: struct inet_diag_msg: family and state; from byte 4 its struct inet_diag_sockid (ports, addresses, interface and a
#: cookie that is never used twice in a boot), which tells sockets and their connections apart; the inode.
_PORTS = struct.Struct("!HH")
_ATTRIBUTE = struct.Struct("=HH")
_WORD = struct.Struct("=I")
_ID, _ID_END, _SOURCE, _DESTINATION, _INODE, _MESSAGE = 4, 52, 8, 24, 68, 72
_BUFFER = 65536
#: Memory for what the kernel says between two looks: some 3,000 sockets that went.
_WAITING_BYTES = 4 << 20
#: Sockets of one namespace that are looked at; more are counted as lost.
_MOST = 20_000
#: An IPv4 address in an IPv6 socket (RFC 4291 section 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"

# States of sockets (net/tcp_states.h). Not listed: TIME_WAIT, CLOSE and half-open connections, which anybody can make.
_ESTABLISHED, _SYN_RECV, _TIME_WAIT, _CLOSE, _LISTEN, _NEW_SYN_RECV = 1, 3, 6, 7, 10, 12
_LISTED = 0x1FFF & ~(1 << _SYN_RECV | 1 << _TIME_WAIT | 1 << _CLOSE | 1 << _NEW_SYN_RECV)
#: UDP's sockets have two: with and without a peer.
_LISTED_UDP = 1 << _ESTABLISHED | 1 << _CLOSE


class Socket(NamedTuple):
    protocol: str
    #: TCP's LISTEN, or UDP without a peer.
    listens: bool
    #: Its own address, IPv4 where it is one; "": every one.
    address: str
    port: int
    #: "" and 0 without a peer.
    peer: str
    peer_port: int
    #: 0: no process holds it, or the kernel does not say.
    inode: int
    #: Tells it from every other, and from itself with another peer: a hash, the kernel's own names being long.
    id: int

    @property
    def is_loopback(self) -> bool:
        """Both ends are in the namespace."""
        return self.peer == self.address or self.peer.startswith("127.") or self.peer == "::1"


class Listed(Struct, frozen=True):
    """A list of one protocol's sockets."""

    #: Ids of all of them.
    present: set[int]
    #: Those that were not known.
    fresh: list[Socket]


class Looked(Struct, frozen=True):
    #: By protocol; one that has no new sockets is not in it.
    listed: dict[str, Listed]
    #: Sockets that went since the last look.
    gone: list[Socket]
    #: How many sockets were not told of.
    lost: int


class Diag:
    """The network namespace of the thread that makes it. While it is open the namespace lives: close it in time."""

    def __init__(self) -> None:
        """OSError: the kernel has no such thing, or refuses."""
        with contextlib.ExitStack() as undo:
            self._counts = [_open("sockstat", undo)]
            with contextlib.suppress(FileNotFoundError):  # no IPv6
                self._counts.append(_open("sockstat6", undo))
            self._list = undo.enter_context(_netlink())
            self._news = undo.enter_context(_netlink())
            self._news.setblocking(False)
            with contextlib.suppress(OSError):  # the limit for everybody has to do
                self._news.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _WAITING_BYTES)
            #: Whether the kernel tells of sockets that go.
            self.tells = True
            try:
                self._news.bind((0, _DESTROYED))
            except OSError:
                self.tells = False
            #: Ports that the kernel gives to sockets which ask for none, the last one included.
            self.ephemeral = _ephemeral()
            self._dropped = 0
            #: What was counted before the last list, by protocol.
            self._counted: dict[str, bytes] = {}
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def look(self, known: Mapping[str, Collection[int]], *, anyway: bool = False) -> Looked:
        """What went, and what is there if anything may have come, or anyway. OSError: the kernel does not answer.

        known: ids by protocol, of sockets that need not be told again.
        """
        gone = self._gone()
        lost = self._lost()
        counted = self._count()
        if anyway or lost or not self.tells:
            self._counted = {}
        went = {each.protocol for each in gone}
        listed = {}
        for protocol in (TCP, UDP):
            if protocol in went or self._counted.get(protocol) != counted.get(protocol, b""):
                # Only what was counted before a list that came is counted: else what it lacked would never be asked for.
                self._counted.pop(protocol, None)
                listed[protocol], more = self._sockets(protocol, known.get(protocol, ()))
                lost += more
                self._counted[protocol] = counted.get(protocol, b"")
        return Looked(listed=listed, gone=gone, lost=lost)

    def _gone(self) -> list[Socket]:
        sockets: list[Socket] = []
        while self.tells:
            try:
                message = self._news.recv(_BUFFER)
            except BlockingIOError:
                break
            except OSError:
                continue  # ENOBUFS, said once when something was dropped; _lost() has the number
            sockets += [_socket(message, at, _protocol(message, at, end)) for at, end in _entries(message)]
        return sockets

    def _lost(self) -> int:
        memory = self._news.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
        dropped: int = _WORD.unpack_from(memory, 4 * _MEMINFO_DROPS)[0]
        fresh = (dropped - self._dropped) & 0xFFFFFFFF
        self._dropped = dropped
        return fresh

    def _count(self) -> dict[str, bytes]:
        """The numbers of sockets in use, IPv4's and IPv6's, as texts."""
        found = {TCP: b"", UDP: b""}
        for file in self._counts:
            for line in os.pread(file, 1024, 0).splitlines():
                name, _, rest = line.partition(b":")
                if name in (b"TCP", b"TCP6", b"UDP", b"UDP6"):
                    found[name[:3].decode()] += rest.split()[1] + b" "
        return found

    def _sockets(self, protocol: str, known: Collection[int]) -> tuple[Listed, int]:
        present: set[int] = set()
        fresh: list[Socket] = []
        over = 0
        for message in self._messages(protocol):
            for at, _ in _entries(message):
                if len(present) >= _MOST:
                    over += 1
                    continue
                identity = hash(message[at + _ID : at + _ID_END])
                present.add(identity)
                if identity not in known:
                    fresh.append(_socket(message, at, protocol))
        return Listed(present, fresh), over

    def _messages(self, protocol: str) -> Iterator[bytes]:
        if protocol == TCP:
            yield from self._ask(_TCP_OF_ANY_FAMILY, _OLD_REQUEST.pack(socket.AF_INET, 0, 0, 0, _LISTED, 0))
            return
        for family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(FileNotFoundError):  # no IPv6
                yield from self._ask(_BY_FAMILY, _REQUEST.pack(family, socket.IPPROTO_UDP, 0, 0, _LISTED_UDP))

    def _ask(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._list.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, 0, 0) + body)
        while True:
            message = self._list.recv(_BUFFER)
            yield message
            if _ends(message):
                return


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)


def _open(name: str, undo: contextlib.ExitStack) -> int:
    file = os.open(f"/proc/thread-self/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, file)
    return file


def _ephemeral() -> tuple[int, int]:
    with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:  # noqa: PTH123 - of the thread's namespace
        first, last = file.read().split()
    return int(first), int(last)


def _entries(message: bytes) -> Iterator[tuple[int, int]]:
    """Where each inet_diag_msg of a netlink message stands, and its end. OSError: the kernel refuses instead."""
    at, length = 0, len(message)
    while at + _HEADER.size <= length:
        size, kind, _, _, _ = _HEADER.unpack_from(message, at)
        body = at + _HEADER.size
        if kind == _NLMSG_ERROR:
            number = -_ERROR.unpack_from(message, body)[0]
            raise OSError(number, os.strerror(number))
        if kind in (_BY_FAMILY, _TCP_OF_ANY_FAMILY) and size >= _HEADER.size + _MESSAGE:
            yield body, at + size
        at += (max(size, _HEADER.size) + 3) & ~3


def _ends(message: bytes) -> bool:
    """Whether this is the last message of a list; one of its end comes alone or behind others."""
    at, length = 0, len(message)
    while at + _HEADER.size <= length:
        size, kind, _, _, _ = _HEADER.unpack_from(message, at)
        if kind == _NLMSG_DONE:
            return True
        at += (max(size, _HEADER.size) + 3) & ~3
    return False


def _socket(message: bytes, at: int, protocol: str) -> Socket:
    family, state = message[at], message[at + 1]
    port, peer_port = _PORTS.unpack_from(message, at + _ID)
    source = _text(family, message[at + _SOURCE : at + _SOURCE + 16])
    listens = state == _LISTEN if protocol == TCP else not peer_port
    return Socket(
        protocol=protocol,
        listens=listens,
        address="" if source in ("0.0.0.0", "::") else source,  # noqa: S104 - read, not bound to
        port=port,
        peer=_text(family, message[at + _DESTINATION : at + _DESTINATION + 16]) if peer_port else "",
        peer_port=peer_port,
        inode=_WORD.unpack_from(message, at + _INODE)[0],
        id=hash(message[at + _ID : at + _ID_END]),
    )


def _protocol(message: bytes, at: int, end: int) -> str:
    """What an attribute says behind a socket that went."""
    at += _MESSAGE
    while at + _ATTRIBUTE.size < end:
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _ATTRIBUTE_PROTOCOL:
            return UDP if message[at + _ATTRIBUTE.size] == socket.IPPROTO_UDP else TCP
        at += (max(size, _ATTRIBUTE.size) + 3) & ~3
    return TCP


def _text(family: int, address: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[:4])
    if address.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)
