"""An investigator under quarantine: may reach the workload and gets answers, nobody else does, nothing else leaves."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.system.test_isolation import (
    ARRIVES,
    DONE,
    STAYS_AWAY,
    Node,
    Pair,
    all_pass,
    arrives,
    everything,
    ip,
    isolate,
    looked,
    loopback_works,
    new_executor,
    none_passes,
    order,
    release,
    tamper,
    target,
)

from quell.agent.executor import Executor
from quell.agent.linux import namespace
from quell.agent.linux.addresses import gateways, own_addresses
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.linux.namespace import within
from quell.agent.linux.nftables import Nftables
from quell.agent.linux.tables import Openings, closing
from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import Reason

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
]

WORKLOAD = ("10.77.0.1", "fd77::1")
INVESTIGATOR = ("10.77.0.2", "fd77::2")
OTHER = ("10.77.0.3", "fd77::3")
#: Beyond a gateway.
FAR = ("192.0.2.7", "2001:db8::7")
BOTH = Quarantine(investigator=INVESTIGATOR)
PORT = 8080
#: Seconds for a connection, whose first segment may be lost while neighbours look for each other.
CONNECTS, IS_REFUSED = 10.0, 0.3


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The second namespace has two addresses: the investigator's and somebody else's."""
    with Pair() as pair:
        for address in OTHER:
            length = "64" if ":" in address else "24"
            ip(
                "-n",
                pair.names[1],
                "address",
                "add",
                f"{address}/{length}",
                "dev",
                "eth0",
                *("nodad",) * (":" in address),
            )
        yield pair


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    executor = new_executor(tmp_path)
    yield executor
    executor.ledger.close()


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(pair: Pair, side: int, port: int) -> socket.socket:
    """On every address, over IPv4 and IPv6."""
    server = pair.socket(side, socket.AF_INET6, socket.SOCK_STREAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    server.listen()
    return server


def connect(
    pair: Pair, side: int, source: str, to: str, port: int = PORT, *, source_port: int = 0, wait: float = IS_REFUSED
) -> socket.socket | None:
    made = pair.socket(side, family(to), socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(wait)
    try:
        made.bind((source, source_port))
        made.connect((to, port))
    except OSError:
        made.close()
        return None
    return made


def open_to(pair: Pair, source: str, to: str, **more: Any) -> socket.socket | None:
    """From the second namespace to the workload."""
    return connect(pair, 1, source, to, **more)


def forget_neighbours(pair: Pair) -> None:
    for name in pair.names:
        ip("-n", name, "neigh", "flush", "dev", "eth0")


def talks(one: socket.socket, other: socket.socket, wait: float = ARRIVES) -> bool:
    """Both ways."""
    for sender, receiver in ((one, other), (other, one)):
        mark = os.urandom(8)
        with contextlib.suppress(OSError):
            sender.sendall(mark)
        if not arrives(receiver, lambda data, mark=mark: mark in data, wait):
            return False
    return True


def hears(sender: socket.socket, receiver: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        sender.sendall(b"said")
    return arrives(receiver, lambda data: b"said" in data, STAYS_AWAY)


def test_an_investigator_connects_and_nobody_else_does(executor: Executor, pair: Pair) -> None:
    server = serve(pair, 0, PORT)
    channels = everything(pair)
    before = pair.ruleset()
    outcome = isolate(executor, pair, BOTH)
    assert (outcome.status, outcome.facts["investigators"]) == (DONE, "10.77.0.2 fd77::2")
    assert "warning" not in outcome.facts
    for _ in range(2):
        forget_neighbours(pair)
        for here, there, other in zip(WORKLOAD, INVESTIGATOR, OTHER, strict=True):
            client = open_to(pair, there, here, wait=CONNECTS)
            assert client is not None
            accepted, _ = server.accept()
            with accepted:
                assert talks(client, accepted)
                assert isolate(executor, pair, BOTH).status is DONE, "again is the same"
                assert talks(client, accepted), "and cuts nothing"
            assert open_to(pair, other, here) is None
        assert none_passes(channels), "it is closed to all else from that address too"
        # Somebody in the container opens it; what closes it again lets the same in.
        assert LinuxKernel().release(pair.files[0])
        assert looked(executor) == [f"netns:{pair.inode}"]
    assert loopback_works(pair)
    assert release(executor, pair).status is DONE
    assert open_to(pair, OTHER[0], WORKLOAD[0], wait=CONNECTS) is not None
    assert all_pass(channels)
    assert pair.ruleset() == before == ""


@pytest.mark.parametrize(("here", "there"), [*zip(WORKLOAD, INVESTIGATOR, strict=True)])
def test_the_workload_opens_nothing_to_an_investigator(executor: Executor, pair: Pair, here: str, there: str) -> None:
    serve(pair, 0, PORT)
    serve(pair, 1, 9000)
    assert connect(pair, 0, here, there, 9000, wait=CONNECTS) is not None
    assert isolate(executor, pair, BOTH).status is DONE
    assert open_to(pair, there, here, wait=CONNECTS) is not None
    for source_port in (0, PORT + 1):
        assert connect(pair, 0, here, there, 9000, source_port=source_port) is None
    datagram = pair.socket(0, family(here), socket.SOCK_DGRAM)
    with pytest.raises(PermissionError):
        datagram.sendto(b"x", (there, 9000))
    # Segments of no connection: they open none, and the kernel's tracking knows them for that.
    raw = pair.socket(0, family(here), socket.SOCK_RAW, socket.IPPROTO_TCP)
    for flags in (0x02, 0x10, 0x18, 0x04, 0x12):
        segment = struct.pack(">HHIIBBHHH", PORT, 9000, 1, 1, 5 << 4, flags, 512, 0, 0)
        with pytest.raises(PermissionError):
            raw.sendto(segment, (there, 0))


@pytest.mark.parametrize(("here", "there"), [*zip(WORKLOAD, INVESTIGATOR, strict=True)])
def test_what_the_workload_had_opened_to_that_address_is_cut(
    executor: Executor, pair: Pair, here: str, there: str
) -> None:
    server = serve(pair, 1, 9000)
    client = connect(pair, 0, here, there, 9000, wait=CONNECTS)
    assert client is not None
    accepted, _ = server.accept()
    with accepted:
        assert talks(client, accepted)
        assert isolate(executor, pair, BOTH).status is DONE
        for _ in range(2):
            assert not hears(client, accepted)
            assert not hears(accepted, client)
            assert isolate(executor, pair, BOTH).status is DONE
        assert release(executor, pair).status is DONE
        assert arrives(accepted, lambda data: b"said" in data, 10), "TCP sends it again"
        assert arrives(client, lambda data: b"said" in data, 10)


def test_ping_is_answered_and_not_asked(executor: Executor, pair: Pair) -> None:
    def ping(side: int, source: str, to: str) -> bool:
        question, answer, protocol = (128, 129, socket.IPPROTO_ICMPV6) if ":" in to else (8, 0, socket.IPPROTO_ICMP)
        raw = pair.socket(side, family(to), socket.SOCK_RAW, protocol)
        raw.bind((source, 0))
        mark = os.urandom(16)
        body = struct.pack(">HH", os.getpid() & 0xFFFF, 1) + mark
        total = sum(struct.unpack(f">{len(body) // 2}H", body)) + (question << 8)
        total = (total >> 16) + (total & 0xFFFF)
        checksum = ~(total + (total >> 16)) & 0xFFFF
        try:
            raw.sendto(struct.pack(">BBH", question, 0, checksum) + body, (to, 0))
        except PermissionError:
            return False
        start = 0 if ":" in to else 20  # an IPv4 raw socket gives the IP header too
        return arrives(raw, lambda data: data[start] == answer and mark in data, ARRIVES if side else STAYS_AWAY)

    for here, there in zip(WORKLOAD, INVESTIGATOR, strict=True):
        assert ping(1, there, here)
    assert isolate(executor, pair, BOTH).status is DONE
    for here, there, other in zip(WORKLOAD, INVESTIGATOR, OTHER, strict=True):
        assert ping(1, there, here)
        assert not ping(0, here, there)
        assert not ping(1, other, here)


def test_frames_of_the_workload_open_no_connection_either(executor: Executor, pair: Pair) -> None:
    """A packet socket passes by all rules on IP; those on the interface see it."""
    server = serve(pair, 1, 9000)
    there = INVESTIGATOR[0]

    def frame(flags: int) -> bytes:
        mark = os.urandom(8)
        segment = struct.pack(">HHIIBBHHH", PORT, 9000, 1, 1, 5 << 4, flags, 512, 0, 0) + mark
        addresses = socket.inet_aton(WORKLOAD[0]) + socket.inet_aton(there)
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, 6, 0) + addresses
        sender.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x08\x00" + header + segment)
        return mark

    ether = socket.htons(0x0800)
    sender, receiver = (pair.socket(side, socket.AF_PACKET, socket.SOCK_RAW, ether) for side in (0, 1))
    for each in (sender, receiver):
        each.bind(("eth0", 0x0800))
    mark = frame(0x02)
    assert arrives(receiver, lambda data: mark in data, ARRIVES)
    assert isolate(executor, pair, Quarantine(investigator=(there,))).status is DONE
    with contextlib.suppress(OSError):
        mark = frame(0x02)
        assert not arrives(receiver, lambda data: mark in data, STAYS_AWAY)
    server.settimeout(STAYS_AWAY)
    with pytest.raises(TimeoutError):
        server.accept()


def test_it_comes_and_goes_with_what_is_ordered(executor: Executor, pair: Pair) -> None:
    server = serve(pair, 0, PORT)
    here, there, other = WORKLOAD[0], INVESTIGATOR[0], OTHER[0]
    assert "investigators" not in isolate(executor, pair).facts
    assert open_to(pair, there, here) is None
    assert isolate(executor, pair, Quarantine(investigator=(there,))).status is DONE
    client = open_to(pair, there, here, wait=CONNECTS)
    assert client is not None
    accepted, _ = server.accept()
    with accepted:
        assert talks(client, accepted)
        assert isolate(executor, pair, Quarantine(investigator=(other,))).facts["investigators"] == other
        assert not hears(client, accepted)
        assert not hears(accepted, client)
    assert open_to(pair, there, here) is None
    assert open_to(pair, other, here, wait=CONNECTS) is not None
    outcome = isolate(executor, pair, Quarantine(strict=True, investigator=(other,)))
    assert outcome.facts["warning"] == f"{other} may not reach it, because it is strict"
    assert open_to(pair, other, here) is None
    assert release(executor, pair).status is DONE
    assert open_to(pair, there, here, wait=CONNECTS) is not None


def test_two_quarantines_of_one_namespace_let_both_in_until_one_ends(executor: Executor, pair: Pair) -> None:
    serve(pair, 0, PORT)
    here = WORKLOAD[0]
    for key, address in (("one", INVESTIGATOR[0]), ("two", OTHER[0])):
        command = order(Quarantine(investigator=(address,)), target(pair, key=key))
        assert executor.execute(command).status is DONE
    for address in (INVESTIGATOR[0], OTHER[0]):
        assert open_to(pair, address, here, wait=CONNECTS) is not None
    assert executor.execute(order(ReleaseQuarantine(), target(pair, key="one"))).status is DONE
    assert open_to(pair, INVESTIGATOR[0], here) is None
    assert open_to(pair, OTHER[0], here, wait=CONNECTS) is not None
    assert executor.execute(order(ReleaseQuarantine(), target(pair, key="two"))).status is DONE
    assert open_to(pair, INVESTIGATOR[0], here, wait=CONNECTS) is not None


def test_one_that_comes_over_a_gateway(executor: Executor, pair: Pair) -> None:
    """The way back goes over the route that the workload has; the gateway itself may not connect."""
    serve(pair, 0, PORT)
    [link_local] = [each for each in within(pair.files[1], own_addresses) if each.version == 6 and each.is_link_local]
    hops = (INVESTIGATOR[0], str(link_local))  # of IPv6 as a router announces itself
    for address, hop, network in zip(FAR, hops, ("192.0.2.0/24", "2001:db8::/64"), strict=True):
        ip("-n", pair.names[1], "address", "add", address, "dev", "lo", *("nodad",) * (":" in address))
        ip("-n", pair.names[0], "route", "add", network, "via", hop, "dev", "eth0")
    found = within(pair.files[0], lambda: gateways(tuple(map(ip_address, FAR))))
    assert {*map(str, found)} == {*hops}
    assert within(pair.files[0], lambda: gateways(tuple(map(ip_address, OTHER)))) == ()
    assert isolate(executor, pair, Quarantine(investigator=FAR)).status is DONE
    forget_neighbours(pair)
    for address, gateway, here in zip(FAR, INVESTIGATOR, WORKLOAD, strict=True):
        assert open_to(pair, address, here, wait=CONNECTS) is not None
        assert open_to(pair, gateway, here) is None


def test_one_that_comes_over_the_node(executor: Executor, pair: Pair) -> None:
    """As into a container on a bridge: the node passes packets on, and looks for the container by its own addresses."""
    with Node(pair) as node, contextlib.ExitStack() as cleanup:
        node.serve(PORT)
        for address, hop in zip(FAR, node.here, strict=True):
            host = f"{address}/{'128' if ':' in address else '32'}"
            ip("address", "add", host, "dev", "lo", *("nodad",) * (":" in address))
            cleanup.callback(ip, "address", "del", host, "dev", "lo")
            ip("-n", pair.names[0], "route", "add", "default", "via", hop)
        assert isolate(executor, pair, Quarantine(investigator=FAR)).status is DONE
        node.forget_neighbours()
        for address, here, hop in zip(FAR, node.there, node.here, strict=True):
            for source, expected in ((address, True), (hop, False)):
                with socket.socket(family(here), socket.SOCK_STREAM) as client:
                    client.bind((source, 0))
                    client.settimeout(CONNECTS if expected else IS_REFUSED)
                    assert (client.connect_ex((here, PORT)) == 0) is expected, source


def test_probes_and_an_investigator_at_once(executor: Executor, pair: Pair) -> None:
    """Also where the node's own address is an investigator's: its probes go on, and it may do more."""
    with Node(pair) as node:
        for port in (PORT, PORT + 1):
            node.serve(port)
        for admitted in (INVESTIGATOR, (*INVESTIGATOR, *node.here)):
            outcome = isolate(executor, pair, Quarantine(investigator=admitted), probe_ports=(PORT,))
            assert outcome.facts["probe_ports"] == [PORT]
            assert "warning" not in outcome.facts
            node.forget_neighbours()
            forget_neighbours(pair)
            for there in node.there:
                assert node.probe(PORT, there, wait=CONNECTS) is not None
                may = node.here[0] in admitted
                more = node.probe(PORT + 1, there, wait=CONNECTS if may else IS_REFUSED)
                assert (more is not None) is may
            for address, here, other in zip(INVESTIGATOR, WORKLOAD, OTHER, strict=True):
                assert open_to(pair, address, here, port=PORT + 1, wait=CONNECTS) is not None
                assert open_to(pair, other, here) is None


@pytest.mark.parametrize(
    "deed",
    [
        "add element inet quell investigator4 { 10.77.0.9 }",
        "add element netdev quell investigator6 { fd77::9 }",
        "flush chain inet quell answers",
        "delete chain inet quell answers",
    ],
)
def test_whoever_widens_it_is_noticed(executor: Executor, pair: Pair, deed: str) -> None:
    serve(pair, 0, PORT)
    assert isolate(executor, pair, BOTH).status is DONE
    assert open_to(pair, INVESTIGATOR[0], WORKLOAD[0], wait=CONNECTS) is not None
    assert looked(executor) == [], "a connection is no change"
    tamper(pair, deed)
    assert looked(executor) == [f"netns:{pair.inode}"]
    assert looked(executor) == []
    assert open_to(pair, OTHER[0], WORKLOAD[0]) is None


@pytest.mark.parametrize(("link", "egress"), [(True, True), (True, False), (False, False)])
def test_on_a_kernel_that_lacks_a_hook_it_is_the_same(pair: Pair, link: bool, egress: bool) -> None:
    serve(pair, 0, PORT)
    serve(pair, 1, 9000)
    openings = Openings(investigators=tuple(map(ip_address, INVESTIGATOR)))

    def close() -> None:
        with Nftables() as nftables:
            nftables.run(closing("quell", ("eth0",), strict=False, link=link, egress=egress, openings=openings))

    within(pair.files[0], close)
    forget_neighbours(pair)
    for here, there, other in zip(WORKLOAD, INVESTIGATOR, OTHER, strict=True):
        assert open_to(pair, there, here, wait=CONNECTS) is not None
        assert open_to(pair, other, here) is None
        assert connect(pair, 0, here, there, 9000) is None


def test_a_kernel_that_cannot_tell_answers_apart_lets_nobody_in(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Nftables.run

    def lacking(self: Nftables, messages: Any) -> None:
        if any(b"ct\0" in message.body for message in messages):
            raise OSError(namespace.errno.ENOENT, "no such expression")
        run(self, messages)

    monkeypatch.setattr(Nftables, "run", lacking)
    serve(pair, 0, PORT)
    done = namespace.isolate(pair.files[0], strict=False, investigators=INVESTIGATOR)
    assert (done.investigators, done.interfaces, done.limits) == ((), ("eth0",), ())
    assert open_to(pair, INVESTIGATOR[0], WORKLOAD[0]) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.0/8", "somebody", "::", "ff02::1"])
def test_an_address_that_is_none_is_refused(executor: Executor, pair: Pair, address: str) -> None:
    outcome = isolate(executor, pair, Quarantine(investigator=(address,)))
    assert outcome.reason is Reason.UNSUPPORTED
    assert looked(executor) == []
