"""What Falco's marked alerts are observations of, and what of its fields says of a process's ancestors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quell.detectors import DETECTORS
from quell.detectors.context import Skipped
from quell.detectors.falco_lineage import lineage_in, lineage_of
from quell.detectors.falco_observation import read_alert
from quell.errors import EventError
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import Direction
from quell.model.subject import Ancestor, Container, Process

FULL = "3f1d6c1b2a4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8"
FIELDS: dict[str, Any] = {
    "container.full_id": FULL,
    "container.id": FULL[:12],
    "container.image.repository": "docker.io/library/nginx",
    "container.image.tag": "1.27",
    "evt.hostname": "node-1",
    "evt.time": 1795362011204000000,
    "evt.type": "execve",
    "k8s.ns.name": "shop",
    "proc.aexepath[2]": "/usr/sbin/nginx",
    "proc.aexepath[3]": "/usr/bin/containerd-shim-runc-v2",
    "proc.aname[2]": "nginx",
    "proc.aname[3]": "containerd-shim",
    "proc.apid[2]": 4000,
    "proc.apid[3]": "3900",
    "proc.cmdline": "sh -c id",
    "proc.exepath": "/bin/sh",
    "proc.name": "sh",
    "proc.pexepath": "/usr/sbin/nginx",
    "proc.pid": 4711,
    "proc.pid.ts": 1795362011101000000,
    "proc.pname": "nginx",
    "proc.ppid": 4010,
    "proc.vpid": 31,
    "user.name": "www-data",
    "user.uid": 33,
}
LINEAGE = (
    Ancestor("nginx", "/usr/sbin/nginx", None, 4010),
    Ancestor("nginx", "/usr/sbin/nginx", None, 4000),
    Ancestor("containerd-shim", "/usr/bin/containerd-shim-runc-v2", None, 3900),
)
TALK = {
    "evt.type": "connect",
    "fd.cip": "10.0.3.7",
    "fd.cport": 51044,
    "fd.l4proto": "tcp",
    "fd.lip": "10.0.3.7",
    "fd.rip": "192.0.2.80",
    "fd.rip.name": "api.example.com",
    "fd.rport": 443,
    "fd.sip": "192.0.2.80",
    "fd.sip.name": "api.example.com",
    "fd.sport": 443,
}


def alert(*absent: str, tags: Any = ("quell_observation",), **more: Any) -> bytes:
    fields = {name: value for name, value in (FIELDS | more).items() if name not in absent}
    return json.dumps(
        {
            "hostname": "falco-x",
            "output": "seen",
            "output_fields": fields,
            "priority": "Debug",
            "rule": "Quell sees it",
            "source": "syscall",
            "tags": list(tags) if isinstance(tags, tuple) else tags,
            "time": "2026-11-22T15:40:11.204000000Z",
        }
    ).encode()


def seen(line: bytes) -> Observation:
    found = read_alert(line, received=1.0)
    assert isinstance(found, Observation)
    return found


def test_an_execution_in_a_container() -> None:
    found = seen(alert())
    assert (found.seen, found.time, found.inside) == (Seen.EXECUTED, 1795362011.204, 2)
    subject = found.subject
    assert (subject.node, subject.namespace, subject.image) == ("node-1", "shop", "docker.io/library/nginx:1.27")
    assert subject.container == Container(id=FULL)
    assert subject.process == Process(
        pid=4711,
        start_time=1795362011101000000 / 1e9,
        name="sh",
        exe="/bin/sh",
        cmdline="sh -c id",
        ppid=4010,
        uid=33,
        user="www-data",
        ancestors=("nginx", "nginx", "containerd-shim"),
        lineage=LINEAGE,
    )


@pytest.mark.parametrize("tags", ["quell_observation", "network,quell_observation", ("a", "quell_observation", "b")])
def test_marked_as_falco_or_a_forwarder_writes_it(tags: Any) -> None:
    assert seen(alert(tags=tags)).seen is Seen.EXECUTED


@pytest.mark.parametrize("tags", [(), None, ("quell_observations",), "my_quell_observation"])
def test_what_is_not_marked_is_an_event_like_any_other(tags: Any) -> None:
    line = alert(tags=tags, **{"proc.cmdline": "echo quell_observation"})
    assert read_alert(line, received=1.0) is None
    assert DETECTORS["falco"].decode(line, id=None, received=1.0).name == "Quell sees it"


@pytest.mark.parametrize(
    ("more", "peer"),
    [
        ({}, Peer(direction=Direction.EGRESS, ip="192.0.2.80", port=443, dns="api.example.com")),
        ({"fd.sip.name": "192.0.2.80", "fd.rip.name": "<NA>"}, Peer(direction=Direction.EGRESS, ip="192.0.2.80", port=443)),
        ({"evt.type": "accept4", "fd.cip.name": ""}, Peer(direction=Direction.INGRESS, ip="10.0.3.9", port=443)),
        ({"evt.type": "sendto", "fd.is_server": False}, Peer(direction=Direction.EGRESS, ip="192.0.2.80", port=443, dns="api.example.com")),
        ({"evt.type": "recvfrom", "fd.is_server": "true"}, Peer(direction=Direction.INGRESS, ip="10.0.3.9", port=443)),
        ({"fd.l4proto": "udp", "fd.sip": "::ffff:192.0.2.81"}, Peer(direction=Direction.EGRESS, ip="192.0.2.81", port=443, protocol="UDP", dns="api.example.com")),
        ({"fd.sip": "2001:DB8::1", "fd.sport": "8443"}, Peer(direction=Direction.EGRESS, ip="2001:db8::1", port=8443, dns="api.example.com")),
    ],
)  # fmt: skip
def test_a_connection(more: dict[str, Any], peer: Peer) -> None:
    taken = {"fd.cip": "10.0.3.9", "fd.cport": 51044, "fd.rip": "10.0.3.9", "fd.rip.name": ""}
    taking = more.get("evt.type") in ("accept4", "recvfrom")
    found = seen(alert(**(TALK | (taken | {"fd.lip": "192.0.2.80"} if taking else {}) | more)))
    assert (found.seen, found.peer) == (Seen.CONNECTED, peer)
    assert found.inside == 2


def test_the_end_a_process_has_may_be_told_by_addresses_alone() -> None:
    assert seen(alert(**(TALK | {"evt.type": "sendmsg"}))).peer == Peer(
        direction=Direction.EGRESS, ip="192.0.2.80", port=443, dns="api.example.com"
    )
    with pytest.raises(EventError, match="is_server"):
        read_alert(alert(**(TALK | {"evt.type": "sendmsg", "fd.lip": None})), received=1.0)


def test_a_socket_that_listens() -> None:
    found = seen(alert(**{"evt.type": "listen", "fd.sport": 80, "fd.sip": "0.0.0.0", "fd.l4proto": "tcp"}))  # noqa: S104
    assert (found.seen, found.protocol, found.address, found.port) == (Seen.LISTENING, "TCP", "", 80)


@pytest.mark.parametrize(
    "more", [{"fd.sip": "127.0.0.1"}, {"fd.sip": "::1"}, {"fd.sip": "10.0.3.7"}, {"fd.sip": "::ffff:127.0.0.1"}]
)
def test_a_connection_within_the_namespace_does_not_count(more: dict[str, Any]) -> None:
    assert isinstance(read_alert(alert(**(TALK | more)), received=1.0), Skipped)


@pytest.mark.parametrize(
    ("absent", "more", "said"),
    [
        (("proc.pid",), {}, "proc.pid"),
        ((), {"proc.pid": "<NA>"}, "proc.pid"),
        (("proc.name",), {}, "proc.name"),
        (("container.id", "container.full_id"), {}, "container.id"),
        ((), {"container.id": "host", "container.full_id": ""}, "container.id"),
        ((), {"evt.type": "openat"}, "evt.type"),
        (("evt.type",), {}, "evt.type"),
        (("fd.sport", "fd.rport"), TALK, "fd.sport"),
        (("fd.sip", "fd.rip"), TALK, "fd.sip"),
        ((), TALK | {"fd.sip": "somewhere"}, "fd.sip"),
        ((), TALK | {"fd.l4proto": "icmp"}, "fd.l4proto"),
        ((), {"evt.type": "listen", "fd.l4proto": "tcp"}, "fd.sport"),
    ],
)
def test_what_an_observation_needs_is_said(absent: tuple[str, ...], more: dict[str, Any], said: str) -> None:
    with pytest.raises(EventError, match=said.replace(".", r"\.")):
        read_alert(alert(*absent, **more), received=1.0)


def test_without_a_time_it_is_none() -> None:
    line = alert("evt.time").replace(b'"time": "2026-11-22T15:40:11.204000000Z"', b'"time": "then"')
    with pytest.raises(EventError, match="when it happened"):
        read_alert(line, received=1.0)


@pytest.mark.parametrize(
    ("absent", "more", "inside"),
    [
        ((), {"proc.vpid": 1}, 0),
        ((), {"proc.pname": "conmon", "proc.pexepath": ""}, 0),
        ((), {"proc.pname": "shim", "proc.pexepath": "/usr/libexec/conmon"}, 0),
        # The kernel keeps fifteen characters of a name.
        (("proc.aexepath[3]",), {"proc.aname[3]": "containerd-shim"}, 2),
        # Not known to be outside: all that is known counts as inside, and nobody knows what is above.
        (("proc.aexepath[3]",), {"proc.aname[3]": "systemd"}, 3),
        (("proc.pname", "proc.pexepath"), {}, 0),
    ],
)
def test_how_many_ancestors_are_in_the_container(absent: tuple[str, ...], more: dict[str, Any], inside: int) -> None:
    assert seen(alert(*absent, **more)).inside == inside


def test_an_alert_has_the_lineage_that_its_fields_give() -> None:
    event = DETECTORS["falco"].decode(alert(tags=()), id=None, received=1.0)
    assert event.subject.process is not None
    assert event.subject.process.lineage == LINEAGE
    # Names alone are in the ancestors already.
    absent = [name for name in FIELDS if name.startswith(("proc.aexe", "proc.apid", "proc.pexe"))]
    event = DETECTORS["falco"].decode(alert(*absent, tags=()), id=None, received=1.0)
    assert event.subject.process is not None
    assert (event.subject.process.lineage, event.subject.process.ancestors) == (
        (),
        ("nginx", "nginx", "containerd-shim"),
    )


@pytest.mark.parametrize(
    ("fields", "lineage"),
    [
        ({}, ()),
        ({"proc.pname": "<NA>", "proc.aname[2]": "b"}, ()),
        ({"proc.pname": "a", "proc.aname[3]": "c"}, (Ancestor("a"),)),
        ({"proc.aname[1]": "a", "proc.aname[2]": "b"}, (Ancestor("a"), Ancestor("b"))),
        ({"proc.pexepath": "/usr/bin/containerd-shim-runc-v2"}, (Ancestor("containerd-shim", "/usr/bin/containerd-shim-runc-v2"),)),
        ({"proc.pname": "a", "proc.ppid": -1}, (Ancestor("a"),)),
        ({"proc.pname": "a", "proc.ppid": "0x1"}, (Ancestor("a"),)),
        ({"proc.pname": "a", "proc.ppid": True}, (Ancestor("a"),)),
        ({"proc.pname": 7, "proc.aname[x]": "b", "proc.aname[999]": "c"}, ()),
    ],
)  # fmt: skip
def test_ancestors_up_to_the_first_that_is_not_known(fields: dict[str, Any], lineage: tuple[Ancestor, ...]) -> None:
    assert lineage_in(fields) == lineage
    assert lineage_of(json.dumps({"output_fields": fields | {"proc.apid[9]": 1}}).encode()) == lineage


def test_a_lineage_has_an_end() -> None:
    fields = {f"proc.aname[{number}]": "x" for number in range(1, 99)}
    assert len(lineage_in(fields)) == 32
