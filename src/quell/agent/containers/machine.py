"""The machine itself as a sighting."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from quell.agent import proc
from quell.agent.containers import bounds
from quell.model.sighting import NodeSeen

#: Interfaces that container runtimes and hypervisors make: their addresses are the same on every machine.
_INNER = ("docker", "podman", "cni", "br-", "veth", "virbr", "cali", "cilium", "flannel", "nerdctl", "lxc")
_MOST_ADDRESSES = 64
_RTM_NEWADDR, _RTM_GETADDR, _NLMSG_DONE, _NLMSG_ERROR = 20, 22, 3, 2
_REQUEST, _DUMP = 0x01, 0x300
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPE_SITE = 200  # rtnetlink(7): greater ones reach no further than the link or the machine
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBi")  # struct ifaddrmsg
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_SECONDS = 1.0


def machine(node: str, *, kubernetes: bool) -> NodeSeen:
    """node: the machine's name in rules. What cannot be read is left out."""
    return NodeSeen(
        name=node,
        machine_id=proc.machine_id() or None,
        boot_id=proc.boot_id(),
        addresses=addresses(),
        kubernetes=kubernetes,
        os=system(),
        kernel=os.uname().release,
    )


def system(path: Path = Path("/etc/os-release")) -> str | None:
    """The operating system's name for people, os-release(5)."""
    try:
        lines = bounds.content(str(path), 64 << 10).decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "PRETTY_NAME":
            return bounds.text(value.strip().strip("\"'"))
    return None


def addresses() -> tuple[str, ...]:
    """By which other machines reach this one: none of loopback, of one link only, or of interfaces for containers."""
    try:
        return _addresses()
    except (OSError, struct.error):
        return ()


def _addresses() -> tuple[str, ...]:
    found: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as link:
        link.settimeout(_ANSWER_SECONDS)
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        link.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            answer = link.recv(64 << 10)
            start = 0
            while start + _HEADER.size <= len(answer):
                length, kind, _, _, _ = _HEADER.unpack_from(answer, start)
                if kind in {_NLMSG_DONE, _NLMSG_ERROR} or length < _HEADER.size:
                    return tuple(found[:_MOST_ADDRESSES])
                if kind == _RTM_NEWADDR:
                    found += _of(answer[start + _HEADER.size : start + length])
                start += (length + 3) & ~3


def _of(message: bytes) -> list[str]:
    family, _, _, scope, index = _ADDRESS.unpack_from(message)
    try:
        interface = socket.if_indextoname(index)
    except OSError:
        return []  # it went meanwhile
    if scope > _SCOPE_SITE or interface.startswith(_INNER) or family not in {socket.AF_INET, socket.AF_INET6}:
        return []
    raw: dict[int, bytes] = {}
    start = _ADDRESS.size
    while start + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if length < _ATTRIBUTE.size:
            break
        raw[kind] = message[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    # On a point-to-point link IFA_ADDRESS is the other end.
    own = raw.get(_IFA_LOCAL) or raw.get(_IFA_ADDRESS)
    return [socket.inet_ntop(family, own)] if own else []
