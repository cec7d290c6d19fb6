"""What Falco sees of workloads: alerts of the rules that docs/falco.md gives for it, marked by the tag quell_observation.

Such an alert is no event: it is compared with policies and learned from, and not journaled. SEMANTICS section 1.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any

import msgspec
from msgspec import Struct

from quell.detectors.context import Skipped
from quell.detectors.falco import Falco
from quell.detectors.falco_lineage import lineage_in
from quell.detectors.line import read
from quell.errors import EventError
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import Direction
from quell.model.subject import Ancestor

#: The detector whose alerts may be observations.
FALCO = Falco.name
TAG = "quell_observation"
#: Whoever has this nowhere in a request has sent no observation.
MARK = TAG.encode()

_EXECUTED = frozenset(("execve", "execveat"))
_LISTENING = frozenset(("listen",))
_OPENING = frozenset(("connect",))
_TAKING = frozenset(("accept", "accept4"))
_PROTOCOLS = {"tcp": "TCP", "udp": "UDP"}
#: Programs between a machine's service manager and a container: the first ancestor outside of it.
_AROUND = frozenset(
    (
        "conmon",
        "conmonrs",
        "containerd-shim",
        "containerd-shim-runc-v1",
        "containerd-shim-runc-v2",
        "crun",
        "docker-containerd-shim",
        "runc",
    )
)
_COMM = 15  # the kernel keeps so many bytes of a name
_ABSENT = frozenset((None, "", "<NA>", "N/A"))


class _Alert(Struct, kw_only=True):
    tags: list[str] | str | None = None
    output_fields: dict[str, Any] | None = None


_alert = msgspec.json.Decoder(_Alert)
_falco = Falco()


def read_alert(line: bytes, *, received: float) -> Observation | Skipped | None:
    """What an alert saw; Skipped: nothing that counts; None: it is not marked, and an event like any other.

    EventError: it is marked, and lacks what an observation needs.
    """
    if MARK not in line:
        return None
    alert = read(_alert, line)
    # Falco's own form is a list; some forwarders make one text of it.
    tags = alert.tags.replace(",", " ").split() if isinstance(alert.tags, str) else alert.tags or ()
    if TAG not in tags:
        return None
    event = _falco.decode(line, id=None, received=received)
    fields = alert.output_fields or {}
    subject, process = event.subject, event.subject.process
    if event.time is None:
        raise EventError("Expected when it happened - at `$.time`")
    if process is None or process.pid is None:
        raise EventError("Expected the process's number - at `$.output_fields.proc.pid`")
    if process.name is None:
        raise EventError("Expected the process's name - at `$.output_fields.proc.name`")
    if subject.container is None:
        raise EventError("Expected the container that the process is in - at `$.output_fields.container.id`")
    lineage = lineage_in(fields)
    process = msgspec.structs.replace(process, lineage=lineage)
    seen = Observation(
        seen=Seen.EXECUTED,
        time=event.time,
        subject=msgspec.structs.replace(subject, process=process),
        inside=_inside(lineage, fields),
    )
    call = fields.get("evt.type")
    if call in _EXECUTED:
        return seen
    if call in _LISTENING:
        return _listening(seen, fields)
    if call in _OPENING or call in _TAKING or any(fields.get(name) not in _ABSENT for name in ("fd.rip", "fd.cip")):
        return _connected(seen, fields, call)
    raise EventError(
        f"Expected execve, execveat, listen, connect, accept or accept4, got `{call}` - at `$.output_fields.evt.type`"
    )


def _inside(lineage: tuple[Ancestor, ...], fields: dict[str, Any]) -> int:
    """How many ancestors are of the container. All of them, where Falco does not reach out of it: then nobody knows
    what comes above.
    """
    if fields.get("proc.vpid") in (1, "1"):
        return 0
    for place, ancestor in enumerate(lineage):
        if any(_is_around(name) for name in (ancestor.name, (ancestor.exe or "").rpartition("/")[2])):
            return place
    return len(lineage)


def _is_around(name: str) -> bool:
    return name in _AROUND or any(len(each) > _COMM and name == each[:_COMM] for each in _AROUND)


def _listening(seen: Observation, fields: dict[str, Any]) -> Observation:
    port = _port(fields, "fd.sport", "fd.lport")
    address = fields.get("fd.sip") or fields.get("fd.lip")
    bound = "" if address in _ABSENT else _address(address, "fd.sip")
    return msgspec.structs.replace(
        seen,
        seen=Seen.LISTENING,
        protocol=_protocol(fields),
        address="" if bound in ("0.0.0.0", "::") else bound,  # noqa: S104 - read, not bound to
        port=port,
    )


def _connected(seen: Observation, fields: dict[str, Any], call: Any) -> Observation | Skipped:
    ingress = _is_ingress(fields, call)
    side = "c" if ingress else "s"
    ip = _address(_first(fields, f"fd.{side}ip", "fd.rip"), f"fd.{side}ip")
    own = _first(fields, "fd.lip", f"fd.{'s' if ingress else 'c'}ip")
    if ip_address(ip).is_loopback or (own is not None and _address(own, "fd.lip") == ip):
        return Skipped("connections within a network namespace")
    name = _first(fields, f"fd.{side}ip.name", "fd.rip.name")
    peer = Peer(
        direction=Direction.INGRESS if ingress else Direction.EGRESS,
        ip=ip,
        port=_port(fields, "fd.sport", "fd.lport" if ingress else "fd.rport"),
        protocol=_protocol(fields),
        # Falco writes the address where it knows no name.
        dns=None if name is None or name == ip or _is_address(name) else name,
    )
    return msgspec.structs.replace(seen, seen=Seen.CONNECTED, peer=peer)


def _is_ingress(fields: dict[str, Any], call: Any) -> bool:
    """Which end the process has: the one that takes a connection, or the one that opens it."""
    if call in _OPENING or call in _TAKING:
        return call in _TAKING
    told = fields.get("fd.is_server")
    if told not in _ABSENT:
        return str(told).lower() == "true"
    local = fields.get("fd.lip")
    ends = [fields.get("fd.sip") == local, fields.get("fd.cip") == local]
    if local in _ABSENT or ends[0] == ends[1]:
        raise EventError("Expected which end the process has - at `$.output_fields.fd.is_server`")
    return ends[0]


def _first(fields: dict[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := fields.get(name), str) and value not in _ABSENT), None)


def _address(value: Any, name: str) -> str:
    """IPv4 also where it is written as an IPv6 address."""
    try:
        address = ip_address(value if isinstance(value, str) else "")
    except ValueError as error:
        raise EventError(f"Expected an address, got `{str(value)[:64]}` - at `$.output_fields.{name}`") from error
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _port(fields: dict[str, Any], *names: str) -> int:
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
            value = int(value)
        if type(value) is int and 0 < value <= 65535:
            return value
    raise EventError(f"Expected the server's port - at `$.output_fields.{names[0]}`")


def _protocol(fields: dict[str, Any]) -> str:
    told = fields.get("fd.l4proto")
    protocol = _PROTOCOLS.get(str(told).lower())
    if protocol is None:
        raise EventError(f"Expected tcp or udp, got `{told}` - at `$.output_fields.fd.l4proto`")
    return protocol
