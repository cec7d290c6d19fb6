"""Ports, and ranges of them, of processes and network rules. SEMANTICS section 5."""

from __future__ import annotations

from enum import StrEnum

from quell.documents.reader import Value
from quell.model.policy import NETWORK_ENTRY_LIMIT, Ports

_LAST = 65_535


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"


def read_ports(value: Value) -> tuple[Ports, ...]:
    """The entries of a list, each a port or a range; the protocol is TCP where none is written."""
    items = value.bounded(NETWORK_ENTRY_LIMIT, "ports")
    return tuple(ports for item in items if (ports := _ports(item)) is not None)


def _ports(item: Value) -> Ports | None:
    fields = item.fields(("port",), ("protocol", "endPort"))
    protocol = fields.choice("protocol", Protocol, Protocol.TCP)
    if "port" not in fields:
        return None
    port = fields["port"].integer(0, _LAST)
    if "endPort" not in fields:
        return Ports(port=port, protocol=protocol.value)
    end = fields["endPort"].integer(0, _LAST)
    if end < port:
        fields["endPort"].wrong(f"a port from {port}, where the range begins, to {_LAST}")
    return Ports(port=port, protocol=protocol.value, end=end)
