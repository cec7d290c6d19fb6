"""The tables that close a network namespace, and what they let through.

The tables are called quell, in three families. inet drops IPv4 and IPv6 on every interface, also on one that comes
later. netdev drops whatever a packet socket sends or receives, ARP and all else below IP, on each interface there is.
arp does what it can where the kernel has no egress hook.

Where ports stay open to the node (Openings), each of the three lets exactly these segments through, and what finds the
neighbour they go to. The rules know no states, because they come before the kernel's own tracking: a segment that would
open a connection is never let out.

An investigator may open connections to every TCP port, and ping. Here an answer cannot be told by its port, so inet asks
the kernel's tracking as well: out goes only what answers a connection that came from there while it was closed, or
before; what the workload itself had opened to that address is cut. netdev cannot ask it, and looks at the segment alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from quell.agent.linux.addresses import IPAddress
from quell.agent.linux.netlink import attribute, nested, number, string
from quell.agent.linux.nftables import (
    APPEND,
    ARP,
    CREATE,
    INET,
    NETDEV,
    NEWCHAIN,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NEWTABLE,
    Message,
)

_DROP, _ACCEPT = 0, 1
# The first of all chains, so that nothing sees a packet before it is dropped.
_PRIORITY = -(2**31) + 1
_IIFTYPE, _OIFTYPE = 8, 9  # NFT_META_IIFTYPE, NFT_META_OIFTYPE
# A device's type cannot be chosen by its name: only the real loopback has it (ARPHRD_LOOPBACK).
_LOOPBACK = 772
_DEVICES = 256  # NFT_NETDEVICE_MAX: devices of one chain
_PROTOCOL, _NFPROTO, _L4PROTO = 1, 15, 16  # NFT_META_*
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_ICMP, _TCP, _ICMP6 = b"\x01", b"\x06", b"\x3a"
# Of each IP version: where a packet has its source and its target, how long they are; ping by its protocol, the question
# and the answer (RFC 792, RFC 4443).
_SOURCE, _TARGET, _LENGTH = {4: 12, 6: 8}, {4: 16, 6: 24}, {4: 4, 6: 16}
_PING = {4: (_ICMP, b"\x08", b"\x00"), 6: (_ICMP6, b"\x80", b"\x81")}
_VERSIONS = (4, 6)
_CT_STATE, _CT_DIRECTION = 0, 1  # NFT_CT_*
_ESTABLISHED = struct.pack("=I", 1 << 1)  # NF_CT_STATE_BIT(IP_CT_ESTABLISHED)
_ORIGINAL, _REPLY = b"\x00", b"\x01"  # IP_CT_DIR_*
_SOLICITATION, _ADVERTISEMENT = b"\x87", b"\x88"  # of a neighbour, RFC 4861
# Ethernet addresses for IPv4 ones, RFC 826.
_ETHERNET_ARP = bytes([0, 1, 8, 0, 6, 4])


class Openings(NamedTuple):
    """What stays open: TCP to these ports, from these addresses of the node; what it answers goes back to them."""

    ports: tuple[int, ...] = ()
    node: tuple[IPAddress, ...] = ()
    #: Through which they are reached; only found as neighbours, never talked to.
    gateways: tuple[IPAddress, ...] = ()
    #: They may connect to every TCP port, and ping.
    investigators: tuple[IPAddress, ...] = ()


# Most containers have one interface of one name.
@lru_cache(maxsize=64)
def closing(
    name: str,
    interfaces: tuple[str, ...],
    *,
    strict: bool,
    link: bool,
    egress: bool,
    openings: Openings | None = None,
) -> tuple[Message, ...]:
    """The tables that close a namespace. link: with the netdev family; egress: and its hook for what goes out."""
    made = [_table(INET, name)]
    made += [_chain(INET, name, chain, hook) for chain, hook in (("input", 1), ("forward", 2), ("output", 3))]
    if not strict:
        made += [_accept_loopback(name, "input", _IIFTYPE), _accept_loopback(name, "output", _OIFTYPE)]
    if openings:
        made += _sets(INET, name, openings)
        made += _let_in(INET, name, "input", openings) + _let_out(INET, name, "output", openings)
        made += _answers_only(name, openings) if openings.investigators else []
    if link and interfaces:
        made.append(_table(NETDEV, name))
        made += _sets(NETDEV, name, openings) if openings else []
        for start in range(0, len(interfaces), _DEVICES):
            some = interfaces[start : start + _DEVICES]
            made.append(_chain(NETDEV, name, f"ingress{start}", 0, some))
            made += _let_in(NETDEV, name, f"ingress{start}", openings) if openings else []
            if egress:
                made.append(_chain(NETDEV, name, f"egress{start}", 1, some))
                made += _let_out(NETDEV, name, f"egress{start}", openings) if openings else []
    if not (link and egress):
        made.append(_table(ARP, name))
        made += [_chain(ARP, name, chain, hook) for chain, hook in (("input", 0), ("output", 1))]
        if openings:
            made += _sets(ARP, name, openings)
            made += _let_in(ARP, name, "input", openings) + _let_out(ARP, name, "output", openings)
    return tuple(made)


def _sets(family: int, table: str, openings: Openings) -> list[Message]:
    """The addresses and ports that the rules look up, of those families the table sees."""
    made: list[Message] = []
    near = (*openings.node, *openings.gateways, *openings.investigators)
    for place, (name, kind, keys) in enumerate(
        (
            ("node4", 7, [each.packed for each in openings.node if each.version == 4]),
            ("near4", 7, [each.packed for each in near if each.version == 4]),
            ("node6", 8, [each.packed for each in openings.node if each.version == 6]),
            ("near6", 8, [each.packed for each in near if each.version == 6]),
            ("ports", 13, [port.to_bytes(2, "big") for port in openings.ports]),
            ("investigator4", 7, [each.packed for each in openings.investigators if each.version == 4]),
            ("investigator6", 8, [each.packed for each in openings.investigators if each.version == 6]),
        ),
        1,
    ):
        if not keys or (family == ARP and name != "near4"):
            continue
        head = string(1, table) + string(2, name)
        body = head + number(4, kind) + number(5, len(keys[0])) + number(10, place)
        made.append(Message(NEWSET, CREATE, family, body))
        elements = [nested(1, nested(1, attribute(1, key))) for key in dict.fromkeys(keys)]
        made.append(Message(NEWSETELEM, CREATE, family, string(1, table) + string(2, name) + nested(3, *elements)))
    return made


def _let_in(family: int, table: str, chain: str, openings: Openings) -> list[Message]:
    """From the node to the open ports, from an investigator to all; and their side of finding the neighbour."""
    if family == ARP:
        return _accepting(family, table, chain, [_arp(family, 14)] if _has(4, openings) else [])
    rules: list[list[bytes]] = [_arp(family, 14)] if family == NETDEV and _has(4, openings) else []
    for version in _VERSIONS:
        if _is_probed(version, openings):
            rules.append([*_from(family, version, "node"), *_tcp(), *_in_set(_TRANSPORT, 2, 2, "ports")])
        if _is_investigated(version, openings):
            asked = _from(family, version, "investigator")
            if family == NETDEV:
                rules.append([*asked, *_tcp()])
            else:
                rules += [[*asked, *_tcp(), *_opens()], [*asked, *_tcp(), *_tracked(_ORIGINAL)]]
            protocol, question, _ = _PING[version]
            rules.append([*asked, *_is(_L4PROTO, protocol), *_holds(_TRANSPORT, 0, question)])
    if _has(6, openings):
        near = [*_from(family, 6, "near"), *_is(_L4PROTO, _ICMP6)]
        rules += [[*near, *_holds(_TRANSPORT, 0, kind)] for kind in (_SOLICITATION, _ADVERTISEMENT)]
    return _accepting(family, table, chain, rules)


def _let_out(family: int, table: str, chain: str, openings: Openings) -> list[Message]:
    """To the node from the open ports, to an investigator from all, but never what opens a connection; and our side of
    finding the neighbour.
    """
    if family == ARP:
        return _accepting(family, table, chain, [_arp(family, 24)] if _has(4, openings) else [])
    rules: list[list[bytes]] = [_arp(family, 24)] if family == NETDEV and _has(4, openings) else []
    for version in _VERSIONS:
        if _is_probed(version, openings):
            ports = _in_set(_TRANSPORT, 0, 2, "ports")
            rules.append([*_to(family, version, "node"), *_tcp(), *ports, *_opens_nothing()])
        if _is_investigated(version, openings):
            answered = _to(family, version, "investigator")
            protocol, _, answer = _PING[version]
            rules.append([*answered, *_tcp(), *_opens_nothing()])
            rules.append([*answered, *_is(_L4PROTO, protocol), *_holds(_TRANSPORT, 0, answer)])
    if _has(6, openings):
        found = [*_ip(family, 6), *_is(_L4PROTO, _ICMP6)]
        # A solicitation goes to many and names whom it looks for; its answer goes to whom has asked.
        rules.append([*found, *_holds(_TRANSPORT, 0, _SOLICITATION), *_in_set(_TRANSPORT, 8, 16, "near6")])
        rules.append([*found, *_holds(_TRANSPORT, 0, _ADVERTISEMENT), *_in_set(_NETWORK, 24, 16, "near6")])
    return _accepting(family, table, chain, rules)


def _answers_only(table: str, openings: Openings) -> list[Message]:
    """Of what goes out to an investigator and has passed the other chain: only what answers a tracked connection.

    The last of all hooks, so that whatever the workload's own rules have made of a packet is seen as it leaves. Tracking
    leaves neighbour discovery alone.
    """
    chain = "answers"
    made = [_chain(INET, table, chain, 4, policy=_ACCEPT), _accept_loopback(table, chain, _OIFTYPE)]
    for version in _VERSIONS:
        if _is_investigated(version, openings):
            there = _to(INET, version, "investigator")
            passed = [[*there, *_tracked(_REPLY)]]
            if version == 6:
                found = [*there, *_is(_L4PROTO, _ICMP6)]
                passed += [[*found, *_holds(_TRANSPORT, 0, kind)] for kind in (_SOLICITATION, _ADVERTISEMENT)]
            made += _accepting(INET, table, chain, passed)
            head = string(1, table) + string(2, chain)
            made.append(Message(NEWRULE, CREATE | APPEND, INET, head + nested(4, *there, _verdict(_DROP))))
    return made


def _has(version: int, openings: Openings) -> bool:
    return any(each.version == version for each in (*openings.node, *openings.investigators))


def _is_probed(version: int, openings: Openings) -> bool:
    return bool(openings.ports) and any(each.version == version for each in openings.node)


def _is_investigated(version: int, openings: Openings) -> bool:
    return any(each.version == version for each in openings.investigators)


def _from(family: int, version: int, name: str) -> list[bytes]:
    source = _in_set(_NETWORK, _SOURCE[version], _LENGTH[version], f"{name}{version}")
    return [*_ip(family, version), *source]


def _to(family: int, version: int, name: str) -> list[bytes]:
    target = _in_set(_NETWORK, _TARGET[version], _LENGTH[version], f"{name}{version}")
    return [*_ip(family, version), *target]


def _accepting(family: int, table: str, chain: str, rules: Iterable[list[bytes]]) -> list[Message]:
    head = string(1, table) + string(2, chain)
    accept = _verdict(_ACCEPT)
    return [Message(NEWRULE, CREATE | APPEND, family, head + nested(4, *rule, accept)) for rule in rules]


def _arp(family: int, offset: int) -> list[bytes]:
    """offset: of the sender's or the target's address, which must be near."""
    seen = [] if family == ARP else _is(_PROTOCOL, b"\x08\x06")
    return [*seen, *_holds(_NETWORK, 0, _ETHERNET_ARP), *_in_set(_NETWORK, offset, 4, "near4")]


def _ip(family: int, version: int) -> list[bytes]:
    if family == INET:
        return _is(_NFPROTO, b"\x02" if version == 4 else b"\x0a")
    return _is(_PROTOCOL, b"\x08\x00" if version == 4 else b"\x86\xdd")


def _tcp() -> list[bytes]:
    return _is(_L4PROTO, _TCP)


def _opens() -> list[bytes]:
    """SYN without ACK."""
    return [*_syn_and_ack(), _compare(b"\x02")]


def _opens_nothing() -> list[bytes]:
    """Not SYN without ACK."""
    return [*_syn_and_ack(), _compare(b"\x02", operator=1)]


def _syn_and_ack() -> list[bytes]:
    mask = _expression(
        "bitwise",
        number(1, 1),
        number(2, 1),
        number(3, 1),
        nested(4, attribute(1, b"\x12")),
        nested(5, attribute(1, b"\x00")),
    )
    return [_payload(_TRANSPORT, 13, 1), mask]


def _tracked(direction: bytes) -> list[bytes]:
    """Of a connection that packets have passed in both directions, or that this one answers: which way it goes."""
    state = _expression("ct", number(1, 1), number(2, _CT_STATE))
    way = _expression("ct", number(1, 1), number(2, _CT_DIRECTION))
    return [state, _compare(_ESTABLISHED), way, _compare(direction)]


def _is(key: int, value: bytes) -> list[bytes]:
    return [_expression("meta", number(1, 1), number(2, key)), _compare(value)]


def _holds(base: int, offset: int, value: bytes) -> list[bytes]:
    return [_payload(base, offset, len(value)), _compare(value)]


def _in_set(base: int, offset: int, length: int, name: str) -> list[bytes]:
    return [_payload(base, offset, length), _expression("lookup", string(1, name), number(2, 1))]


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", number(1, 1), number(2, base), number(3, offset), number(4, length))


def _compare(value: bytes, *, operator: int = 0) -> bytes:
    return _expression("cmp", number(1, 1), number(2, operator), nested(3, attribute(1, value)))


def _verdict(verdict: int) -> bytes:
    return _expression("immediate", number(1, 0), nested(2, nested(2, number(1, verdict))))


def _table(family: int, name: str) -> Message:
    return Message(NEWTABLE, CREATE, family, string(1, name))


def _chain(
    family: int, table: str, name: str, hook: int, devices: Sequence[str] = (), *, policy: int = _DROP
) -> Message:
    """A base chain. policy: what becomes of that which no rule speaks of."""
    hooked = [number(1, hook), number(2, _PRIORITY)]
    if devices:
        hooked.append(nested(4, *(string(1, device) for device in devices)))
    body = string(1, table) + string(3, name) + nested(4, *hooked) + number(5, policy) + string(7, "filter")
    return Message(NEWCHAIN, CREATE, family, body)


def _accept_loopback(table: str, chain: str, key: int) -> Message:
    register = 1
    load = _expression("meta", number(1, register), number(2, key))
    compare = _expression(
        "cmp", number(1, register), number(2, 0), nested(3, attribute(1, struct.pack("=H", _LOOPBACK)))
    )
    return _accepting(INET, table, chain, [[load, compare]])[0]


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *data))
