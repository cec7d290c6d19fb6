"""Quarantine of real network namespaces: traffic of every kind stops, what was there before comes back."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux import namespace
from quell.agent.linux.addresses import gateways
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.linux.namespace import within
from quell.agent.linux.nftables import INET, Message, Nftables, ours
from quell.agent.linux.tables import Openings, closing
from quell.agent.proc import HZ, read_process
from quell.agent.protected import Protected
from quell.agent.quarantine import sweep
from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import NetworkTarget, Process

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
]

DONE, GONE, REFUSED = OutcomeStatus.DONE, OutcomeStatus.GONE, OutcomeStatus.REFUSED
ETHERTYPE = 0x88B5  # kept for local experiments (IEEE 802)
#: Seconds in which a packet between two namespaces of one machine comes, or does not come any more.
ARRIVES, STAYS_AWAY = 2.0, 0.15

_count = iter(range(1, 1_000_000))


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Pair:
    """Two namespaces joined by a cable, and a process in the first."""

    def __init__(self) -> None:
        number = next(_count)
        self.names = (f"quell-{os.getpid()}-{number}a", f"quell-{os.getpid()}-{number}b")
        self.victim: subprocess.Popen[bytes] | None = None
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            first, second = self.names
            for name in self.names:
                ip("netns", "add", name)
                self._cleanup.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
                ip("-n", name, "link", "set", "lo", "up")
            ip("-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second)
            for name, host in zip(self.names, "12", strict=True):
                ip("-n", name, "address", "add", f"10.77.0.{host}/24", "dev", "eth0")
                ip("-n", name, "address", "add", f"fd77::{host}/64", "dev", "eth0", "nodad")
                ip("-n", name, "link", "set", "eth0", "up")
            self.victim = self.run("sleep", "300")
            self.files = [os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in self.names]
            for file in self.files:
                self._cleanup.callback(os.close, file)
            self.inode = os.fstat(self.files[0]).st_ino
            time.sleep(2.5 / HZ)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        """A process in the first namespace."""
        process = subprocess.Popen(["nsenter", f"--net=/run/netns/{self.names[0]}", *command], stdin=subprocess.DEVNULL)
        self._cleanup.callback(self.end, process)
        deadline = time.monotonic() + 5
        while (facts := read_process(process.pid)) and facts.process.name == "nsenter" and time.monotonic() < deadline:
            time.sleep(0.001)
        return process

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def socket(self, side: int, *arguments: int) -> socket.socket:
        """A socket that lives in one of the two namespaces."""
        made = within(self.files[side], lambda: socket.socket(*arguments))
        self._cleanup.callback(made.close)
        made.settimeout(ARRIVES)
        return made

    def forget_victim(self) -> None:
        assert self.victim is not None
        self.end(self.victim)

    @property
    def process(self) -> Process:
        assert self.victim is not None
        facts = read_process(self.victim.pid)
        assert facts is not None
        return facts.process

    def ruleset(self) -> str:
        if shutil.which("nft") is None:
            pytest.skip("needs nft to compare rules")
        listing = ["nsenter", f"--net=/run/netns/{self.names[0]}", "nft", "list", "ruleset"]
        return subprocess.run(listing, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[Executor]:
    executor = new_executor(tmp_path)
    yield executor
    executor.ledger.close()


def new_executor(path: Path, **options: Any) -> Executor:
    return Executor(LinuxKernel(), Ledger(path / "ledger"), Protected.load(), **options)


def order(action: Quarantine | ReleaseQuarantine, target: NetworkTarget) -> Command:
    now = time.time()
    return Command(
        id=f"test/{next(_count)}", agent="a", action=action, target=target, issued=now, expires=now + 30, nonce="n"
    )


def target(pair: Pair, **more: Any) -> NetworkTarget:
    values: dict[str, Any] = {"node": "n", "key": f"netns:{pair.inode}", "process": pair.process, "seen": time.time()}
    return NetworkTarget(**(values | more))


def isolate(executor: Executor, pair: Pair, action: Quarantine | None = None, **more: Any) -> Outcome:
    return executor.execute(order(action or Quarantine(), target(pair, **more)))


def release(executor: Executor, pair: Pair) -> Outcome:
    return executor.execute(order(ReleaseQuarantine(), NetworkTarget(node="n", key=f"netns:{pair.inode}")))


class Datagrams:
    """UDP both ways, over IPv4 or IPv6, from sockets that are open all the time."""

    def __init__(self, pair: Pair, family: int) -> None:
        addresses = ("10.77.0.1", "10.77.0.2") if family == socket.AF_INET else ("fd77::1", "fd77::2")
        self.sockets = [pair.socket(side, family, socket.SOCK_DGRAM) for side in (0, 1)]
        for each, address in zip(self.sockets, addresses, strict=True):
            each.bind((address, 7777))
        self.addresses = addresses

    def send(self, sender: int) -> bytes:
        """A packet with a mark, which is returned; b"" where the kernel refuses to send it."""
        mark = os.urandom(8)
        try:
            self.sockets[sender].sendto(mark, (self.addresses[1 - sender], 7777))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOBUFS, errno.EHOSTUNREACH):
                raise
            return b""
        return mark


class Frames:
    """Raw Ethernet frames both ways by packet sockets, which no filter on IP sees."""

    def __init__(self, pair: Pair, device: str = "eth0") -> None:
        self.sockets = [
            pair.socket(side, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) for side in (0, 1)
        ]
        for each in self.sockets:
            each.bind((device, ETHERTYPE))

    def send(self, sender: int) -> bytes:
        mark = os.urandom(8)
        frame = b"\xff" * 6 + b"\x02\0\0\0\0\x01" + struct.pack(">H", ETHERTYPE) + mark + bytes(46)
        try:
            self.sockets[sender].send(frame)
        except OSError:
            return b""
        return mark


Channel = Datagrams | Frames


def passes(channel: Channel, sender: int, wait: float) -> bool:
    mark = channel.send(sender)
    return bool(mark) and arrives(channel.sockets[1 - sender], lambda data: mark in data, wait)


def arrives(receiver: socket.socket, wanted: Callable[[bytes], bool], wait: float) -> bool:
    deadline = time.monotonic() + wait
    while (left := deadline - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            if wanted(receiver.recv(2048)):
                return True
        except TimeoutError:
            return False
    return False


def everything(pair: Pair) -> list[Channel]:
    return [Datagrams(pair, socket.AF_INET), Datagrams(pair, socket.AF_INET6), Frames(pair)]


def all_pass(channels: Sequence[Channel]) -> bool:
    return all(passes(channel, sender, ARRIVES) for channel in channels for sender in (0, 1))


def none_passes(channels: Sequence[Channel]) -> bool:
    sent = [(channel.sockets[1 - sender], channel.send(sender)) for channel in channels for sender in (0, 1)]
    time.sleep(STAYS_AWAY)  # there is nothing to wait for: what shall not come has had its time
    return not any(mark and arrives(receiver, lambda data, mark=mark: mark in data, 0.001) for receiver, mark in sent)


def test_nothing_passes_while_closed_and_all_of_it_again_afterwards(executor: Executor, pair: Pair) -> None:
    channels = everything(pair)
    assert all_pass(channels)
    before = pair.ruleset()
    outcome = isolate(executor, pair)
    assert (outcome.status, outcome.explanation) == (DONE, "")
    assert outcome.facts["namespaces"] == [pair.inode]
    assert outcome.facts["interfaces"] == "eth0"
    assert "limits" not in outcome.facts
    assert none_passes(channels)
    assert isolate(executor, pair).status is DONE, "again is the same"
    assert none_passes(channels)
    outcome = release(executor, pair)
    assert (outcome.status, outcome.facts["namespaces"]) == (DONE, [pair.inode])
    assert all_pass(channels)
    assert pair.ruleset() == before == ""
    assert release(executor, pair).status is DONE


def test_an_open_connection_is_cut_and_goes_on_after_the_release(executor: Executor, pair: Pair) -> None:
    server = pair.socket(1, socket.AF_INET, socket.SOCK_STREAM)
    server.bind(("10.77.0.2", 7778))
    server.listen()
    client = pair.socket(0, socket.AF_INET, socket.SOCK_STREAM)
    client.connect(("10.77.0.2", 7778))
    accepted, _ = server.accept()
    with accepted:
        client.sendall(b"before")
        assert arrives(accepted, lambda data: data == b"before", ARRIVES)
        assert isolate(executor, pair).status is DONE
        client.sendall(b"during")
        accepted.sendall(b"answer")
        assert not arrives(accepted, lambda data: b"during" in data, STAYS_AWAY)
        assert not arrives(client, lambda data: b"answer" in data, STAYS_AWAY)
        assert release(executor, pair).status is DONE
        assert arrives(accepted, lambda data: b"during" in data, 10), "TCP sends it again"
        assert arrives(client, lambda data: b"answer" in data, 10)


def loopback_works(pair: Pair) -> bool:
    receiver = pair.socket(0, socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    sender = pair.socket(0, socket.AF_INET, socket.SOCK_DGRAM)
    with contextlib.suppress(PermissionError):
        sender.sendto(b"to myself", receiver.getsockname())
    return arrives(receiver, lambda data: data == b"to myself", STAYS_AWAY)


def test_loopback_stays_open_unless_strict(executor: Executor, pair: Pair) -> None:
    assert isolate(executor, pair).status is DONE
    assert loopback_works(pair)
    assert isolate(executor, pair, Quarantine(strict=True)).status is DONE
    assert not loopback_works(pair)
    assert isolate(executor, pair).status is DONE
    assert not loopback_works(pair), "the stricter quarantine is still in force"
    assert release(executor, pair).status is DONE
    assert loopback_works(pair)


def test_an_interface_called_like_the_loopback_is_none(executor: Executor, pair: Pair) -> None:
    ip("-n", pair.names[0], "link", "set", "lo", "name", "real")
    ip("-n", pair.names[0], "link", "set", "eth0", "down")
    ip("-n", pair.names[0], "link", "set", "eth0", "name", "lo")
    ip("-n", pair.names[0], "link", "set", "lo", "up")
    ip("-n", pair.names[0], "address", "replace", "fd77::1/64", "dev", "lo", "nodad")
    channel = Datagrams(pair, socket.AF_INET)
    assert passes(channel, 0, ARRIVES)
    assert isolate(executor, pair).facts["interfaces"] == "lo"
    assert none_passes([channel])
    assert loopback_works(pair)


@pytest.mark.parametrize("name", ['a"};flush', "eth*", "a{b}", "-n", "é"])
def test_a_container_cannot_escape_by_the_name_of_its_interface(executor: Executor, pair: Pair, name: str) -> None:
    ip("-n", pair.names[0], "link", "add", "name", name, "type", "veth", "peer", "name", "peer0")
    outcome = isolate(executor, pair)
    assert outcome.status is DONE
    assert set(str(outcome.facts["interfaces"]).split()) == {"eth0", "peer0", name}
    msgspec.json.encode(outcome)
    assert none_passes(everything(pair))
    assert release(executor, pair).status is DONE


def test_a_table_that_somebody_holds_under_our_name_keeps_nothing_open(executor: Executor, pair: Pair) -> None:
    channels = everything(pair)
    holder = within(pair.files[0], Nftables)
    with holder:
        # NFT_TABLE_F_OWNER: only the socket that made it may change or remove it.
        (table, *_) = closing("quell", (), strict=True, link=False, egress=False)
        owned = Message(table.type, table.flags, INET, table.body + struct.pack("=HH", 8, 2) + (2).to_bytes(4, "big"))
        holder.run([owned])
        assert isolate(executor, pair).status is DONE
        assert none_passes(channels)
        assert release(executor, pair).status is DONE
        assert all_pass(channels)


def test_rules_of_others_stay_as_they_are(executor: Executor, pair: Pair) -> None:
    rules = "table inet theirs {\n chain input {\n type filter hook input priority 0; policy accept;\n tcp dport 22 accept\n }\n}\n"
    before = pair.ruleset()
    enter = ["nsenter", f"--net=/run/netns/{pair.names[0]}", "nft", "-f", "-"]
    subprocess.run(enter, input=rules.encode(), check=True)
    theirs = pair.ruleset()
    assert theirs != before
    assert isolate(executor, pair).status is DONE
    assert theirs in pair.ruleset()
    assert release(executor, pair).status is DONE
    assert pair.ruleset() == theirs


def test_a_namespace_outlives_its_process_and_the_agent_and_is_opened_all_the_same(tmp_path: Path, pair: Pair) -> None:
    channels = everything(pair)
    executor = new_executor(tmp_path)
    assert isolate(executor, pair).status is DONE
    executor.ledger.close()
    pair.forget_victim()
    executor = new_executor(tmp_path)
    assert none_passes(channels)
    outcome = release(executor, pair)
    assert (outcome.status, outcome.facts["namespaces"]) == (DONE, [pair.inode])
    assert all_pass(channels)
    executor.ledger.close()


def test_a_namespace_held_by_a_process_alone_is_found(executor: Executor, pair: Pair) -> None:
    channels = everything(pair)
    other = pair.run("sleep", "300")
    assert isolate(executor, pair).status is DONE
    ip("netns", "del", pair.names[0])
    pair.forget_victim()
    assert release(executor, pair).status is DONE
    assert all_pass(channels)
    assert other.poll() is None


def test_a_namespace_that_is_gone_is_gone(executor: Executor) -> None:
    with Pair() as pair:
        assert isolate(executor, pair).status is DONE
        key = f"netns:{pair.inode}"
    outcome = executor.execute(order(ReleaseQuarantine(), NetworkTarget(node="n", key=key)))
    assert outcome.status is GONE
    assert executor.ledger.closed() == ()


def test_the_machines_own_network_is_never_closed(executor: Executor) -> None:
    with subprocess.Popen(["/bin/sleep", "300"]) as process:
        try:
            time.sleep(2.5 / HZ)
            facts = read_process(process.pid)
            assert facts is not None
            own = NetworkTarget(node="n", key="k", process=facts.process, seen=time.time())
            outcome = executor.execute(order(Quarantine(), own))
            assert (outcome.status, outcome.reason) == (REFUSED, Reason.HOST_NETWORK)
            assert within_own_tables() == []
        finally:
            process.kill()


def within_own_tables() -> list[Any]:
    with Nftables() as nftables:
        return ours(nftables.tables())


def test_a_namespace_with_something_protected_in_it_is_not_closed(tmp_path: Path, pair: Pair) -> None:
    guarded = pair.run("sleep", "300")
    executor = new_executor(tmp_path)
    executor.protected.add_process(guarded.pid)
    outcome = isolate(executor, pair)
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.PROTECTED)
    assert str(guarded.pid) in outcome.explanation
    assert all_pass(everything(pair))
    executor.ledger.close()


def test_a_process_that_is_another_by_now_closes_nothing(executor: Executor, pair: Pair) -> None:
    other = msgspec.structs.replace(pair.process, start_ticks=1, start_time=None)
    outcome = isolate(executor, pair, process=other)
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.IDENTITY)
    assert all_pass([Datagrams(pair, socket.AF_INET)])


def test_a_lease_ends_without_a_controller(executor: Executor, pair: Pair) -> None:
    channel = Datagrams(pair, socket.AF_INET)
    assert isolate(executor, pair, Quarantine(ttl=0.2)).status is DONE
    assert none_passes([channel])
    deadline = time.monotonic() + 5
    while not (keys := executor.expired(time.time())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert keys == (f"netns:{pair.inode}",)
    assert executor.release(keys[0])
    assert all_pass([channel])


def test_release_all_needs_no_record(tmp_path: Path, pair: Pair) -> None:
    channel = Datagrams(pair, socket.AF_INET)
    executor = new_executor(tmp_path)
    assert isolate(executor, pair).status is DONE
    executor.ledger.close()
    (tmp_path / "ledger").unlink()

    class Here(LinuxKernel):
        """The machine as far as this test goes: other tests close namespaces of their own meanwhile."""

        def namespaces(self) -> list[int]:
            found = super().namespaces()
            assert pair.inode in found
            return [pair.inode]

    assert sweep(Here()) == (pair.inode,)
    assert all_pass([channel])
    assert sweep(Here()) == ()


class Node:
    """A cable from the pair's first namespace to the machine's own, as a pod has one to its node."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        number = (os.getpid() + next(_count)) % 250
        self._device = f"quell{os.getpid() % 10**6}n{number}"
        self.here, self.there = ((f"10.79.{number}.{host}", f"fd79:{number}::{host}") for host in (1, 2))
        self._sockets = contextlib.ExitStack()

    def __enter__(self) -> Self:
        name = self._pair.names[0]
        ip("link", "add", self._device, "type", "veth", "peer", "name", "eth1", "netns", name)
        for where, device, addresses in (((), self._device, self.here), (("-n", name), "eth1", self.there)):
            for address, length in zip(addresses, ("24", "64"), strict=True):
                ip(*where, "address", "add", f"{address}/{length}", "dev", device, *("nodad",) * (":" in address))
            ip(*where, "link", "set", device, "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.close()
        subprocess.run(["ip", "link", "del", self._device], check=False, capture_output=True)

    def forget_neighbours(self) -> None:
        ip("neigh", "flush", "dev", self._device)
        ip("-n", self._pair.names[0], "neigh", "flush", "dev", "eth1")

    def serve(self, port: int) -> None:
        """In the pod, over IPv4 and IPv6."""
        server = self._pair.socket(0, socket.AF_INET6, socket.SOCK_STREAM)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", port))
        server.listen()

    def probe(self, port: int, address: str, *, side: int | None = None, wait: float = ARRIVES) -> socket.socket | None:
        """A connection to the pod from its node, or from a side of the pair."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family) if side is None else self._pair.socket(side, family, socket.SOCK_STREAM)
        self._sockets.callback(made.close)
        made.settimeout(wait)
        try:
            made.connect((address, port))
        except OSError:
            return None
        return made


@pytest.fixture
def node(pair: Pair) -> Iterator[Node]:
    with Node(pair) as node:
        yield node


def looked(executor: Executor) -> list[str]:
    return executor.look(released=False).reclosed


def test_probes_of_the_node_pass_and_nothing_else(executor: Executor, pair: Pair, node: Node) -> None:
    node.serve(8080)
    node.serve(8081)
    channels = everything(pair)
    before = pair.ruleset()
    cut = node.probe(8081, node.there[0])
    assert cut is not None
    outcome = isolate(executor, pair, probe_ports=(8080,))
    assert (outcome.status, outcome.facts["probe_ports"]) == (DONE, [8080])
    for _ in range(2):
        node.forget_neighbours()
        for address in node.there:
            assert node.probe(8080, address, wait=10) is not None
            assert node.probe(8081, address, wait=0.3) is None
        assert none_passes(channels)
        for address in ("10.77.0.1", "fd77::1"):
            assert node.probe(8080, address, side=1, wait=0.3) is None, "it is not the node"
        # Somebody in the container opens it; what closes it again leaves the same open.
        kernel = LinuxKernel()
        assert kernel.release(pair.files[0])
        assert looked(executor) == [f"netns:{pair.inode}"]
    with contextlib.suppress(OSError):
        cut.sendall(b"x")
    outcome = isolate(executor, pair, Quarantine(strict=True))
    assert "probe_ports" not in outcome.facts
    assert "TCP port 8080" in str(outcome.facts["warning"])
    assert node.probe(8080, node.there[0], wait=0.3) is None
    assert release(executor, pair).status is DONE
    assert node.probe(8081, node.there[1]) is not None
    assert all_pass(channels)
    assert pair.ruleset() == before


def test_a_gateway_that_is_not_the_node_is_found_and_not_let_in(executor: Executor, pair: Pair, node: Node) -> None:
    """A container may set its own routes, and so choose who that is."""
    for address in ("10.77.0.2", "fd77::2"):
        ip("-n", pair.names[0], "route", "add", "default", "via", address)
    toward = tuple(map(ip_address, node.here))
    assert {*map(str, within(pair.files[0], lambda: gateways(toward)))} == {"10.77.0.2", "fd77::2"}
    assert {*node.here} <= {*map(str, namespace.node_addresses())}
    node.serve(8080)
    assert isolate(executor, pair, probe_ports=(8080,)).status is DONE
    ip("-n", pair.names[1], "neigh", "flush", "dev", "eth0")
    for address in ("10.77.0.1", "fd77::1"):
        assert node.probe(8080, address, side=1, wait=0.3) is None
    seen = ["ip", "-n", pair.names[1], "neigh", "show", "10.77.0.1"]
    assert "lladdr" in subprocess.run(seen, check=True, capture_output=True, text=True).stdout
    assert node.probe(8080, node.there[0], wait=10) is not None


def test_a_probed_container_opens_no_connection_to_its_node(executor: Executor, pair: Pair, node: Node) -> None:
    with socket.create_server((node.here[0], 0)) as server:
        assert isolate(executor, pair, probe_ports=(8080,)).status is DONE
        client = pair.socket(0, socket.AF_INET, socket.SOCK_STREAM)
        client.bind((node.there[0], 8080))
        client.settimeout(0.3)
        with pytest.raises(OSError, match=r"time|permitted|Permission"):
            client.connect(server.getsockname())
        datagram = pair.socket(0, socket.AF_INET, socket.SOCK_DGRAM)
        datagram.bind((node.there[0], 8080))
        with pytest.raises(PermissionError):
            datagram.sendto(b"x", (node.here[0], 8080))


@pytest.mark.parametrize(
    "deed",
    [
        "flush ruleset",
        "delete table netdev quell",
        "insert rule inet quell input accept",
        "add element inet quell ports { 22 }",
        "delete chain netdev quell egress0",
        "add chain inet quell input { policy accept; }",
        "add table inet quell { flags dormant; }",
    ],
)
def test_whatever_is_changed_is_undone_and_told(executor: Executor, pair: Pair, deed: str) -> None:
    channels = everything(pair)
    assert isolate(executor, pair, probe_ports=(8080,)).status is DONE
    assert looked(executor) == []
    tamper(pair, deed)
    assert looked(executor) == [f"netns:{pair.inode}"]
    assert none_passes(channels)
    assert looked(executor) == []


def tamper(pair: Pair, deed: str) -> None:
    if shutil.which("nft") is None:
        pytest.skip("needs nft to tamper")
    enter = ["nsenter", f"--net=/run/netns/{pair.names[0]}", "nft", deed]
    subprocess.run(enter, check=True)


def test_what_others_change_of_their_own_is_no_tampering(executor: Executor, pair: Pair) -> None:
    assert isolate(executor, pair, probe_ports=(8080,)).status is DONE
    for deed in ("add table inet theirs", "add chain inet theirs input { type filter hook input priority 0; }"):
        tamper(pair, deed)
        assert looked(executor) == []


def test_an_interface_that_comes_later_is_closed_to_frames_too(executor: Executor, pair: Pair) -> None:
    assert isolate(executor, pair).status is DONE
    first, second = pair.names
    ip("-n", first, "link", "add", "late0", "type", "veth", "peer", "name", "late0", "netns", second)
    for name in pair.names:
        ip("-n", name, "link", "set", "late0", "up")
    frames = Frames(pair, "late0")
    assert passes(frames, 0, ARRIVES), "link layer only, until the agent looks"
    assert looked(executor) == [], "nobody has opened anything"
    assert none_passes([frames])


@pytest.fixture
def control_group() -> Iterator[Callable[[str], Path]]:
    """Makes control groups that have a container's name."""
    root = next(
        (path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()),
        None,
    )
    if root is None:
        pytest.skip("needs control groups of version 2")
    made: list[Path] = []

    def make(name: str) -> Path:
        path = root / f"quell-test-{os.getpid()}" / name
        for each in (path.parent, path):
            if not each.exists():
                each.mkdir()
                made.append(each)
        return path

    yield make
    for path in reversed(made):
        deadline = time.monotonic() + 5
        while (path / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        path.rmdir()


def test_a_container_is_found_by_its_control_group_and_a_private_namespace_hides_nobody(
    tmp_path: Path, control_group: Callable[[str], Path]
) -> None:
    container = os.urandom(32).hex()
    group = control_group(f"docker-{container}.scope")
    with Pair() as pair:
        channels = everything(pair)
        assert pair.victim is not None
        (group / "cgroup.procs").write_text(str(pair.victim.pid))
        hidden = pair.run("unshare", "--net", "sleep", "300")
        deadline = time.monotonic() + 5
        kernel = LinuxKernel()
        while kernel.netns(hidden.pid) == pair.inode and time.monotonic() < deadline:
            time.sleep(0.001)
        (group / "cgroup.procs").write_text(str(hidden.pid))
        assert kernel.members(container_id=container) == [pair.victim.pid, hidden.pid]
        executor = new_executor(tmp_path)
        named = NetworkTarget(node="n", key=container, container_id=container[:12], seen=time.time())
        outcome = executor.execute(order(Quarantine(), named))
        assert outcome.status is DONE
        assert outcome.facts["namespaces"] == [pair.inode, kernel.netns(hidden.pid)]
        assert none_passes(channels)
        assert executor.execute(order(ReleaseQuarantine(), named)).status is DONE
        assert all_pass(channels)
        subject = NetworkTarget(node="n", key="x", container_id=os.urandom(32).hex(), seen=time.time())
        assert executor.execute(order(Quarantine(), subject)).status is GONE
        executor.ledger.close()


@pytest.mark.parametrize(("link", "egress"), [(True, True), (True, False), (False, False)])
def test_probes_pass_on_a_kernel_that_lacks_a_hook_too(pair: Pair, node: Node, link: bool, egress: bool) -> None:
    node.serve(8080)
    node.serve(8081)
    openings = Openings((8080,), tuple(map(ip_address, node.here)))

    def close() -> None:
        with Nftables() as nftables:
            more = {"strict": False, "link": link, "egress": egress}
            nftables.run(closing("quell", ("eth0", "eth1"), openings=openings, **more))

    channels = [Datagrams(pair, socket.AF_INET), Datagrams(pair, socket.AF_INET6)]
    within(pair.files[0], close)
    node.forget_neighbours()
    for address in node.there:
        assert node.probe(8080, address, wait=10) is not None
        assert node.probe(8081, address, wait=0.3) is None
    assert none_passes(channels)


@pytest.mark.parametrize(("link", "egress"), [(True, False), (False, False)])
def test_on_a_kernel_that_lacks_a_hook_ip_and_arp_are_still_closed(pair: Pair, link: bool, egress: bool) -> None:
    channels = [Datagrams(pair, socket.AF_INET), Datagrams(pair, socket.AF_INET6)]
    frames = Frames(pair)
    assert all_pass(channels)

    def close() -> None:
        with Nftables() as nftables:
            nftables.run(closing("quell", ("eth0",), strict=False, link=link, egress=egress))

    within(pair.files[0], close)
    assert none_passes(channels)
    assert passes(frames, 0, ARRIVES), "this is what the outcome's limits tell of"
    assert passes(frames, 1, STAYS_AWAY) is not link
    assert namespace.release(pair.files[0])
    assert all_pass(channels)


def test_interfaces_that_come_and_go_do_not_count_as_a_kernel_that_lacks_something(pair: Pair) -> None:
    asked: list[tuple[bool, bool]] = []

    def close(interfaces: list[str], *, link: bool, egress: bool) -> None:
        asked.append((link, egress))
        if "eth9" not in interfaces:
            subprocess.run(["ip", "link", "add", "eth9", "type", "veth", "peer", "name", "eth8"], check=True)
            raise OSError(errno.ENOENT, "an interface went")

    found, limits = within(pair.files[0], lambda: namespace._close_as_far_as_possible(close, namespace._interfaces))
    assert (sorted(found), limits, asked) == (["eth0", "eth8", "eth9"], (), [(True, True), (True, True)])


def test_a_kernel_that_lacks_something_is_told_of(pair: Pair) -> None:
    def lacking(missing: int) -> Callable[..., None]:
        def close(_: list[str], *, link: bool, egress: bool) -> None:
            if link + egress > missing:
                raise OSError(errno.EOPNOTSUPP, "not supported")

        return close

    for missing, interfaces, word in ((1, ["eth0"], "egress"), (0, [], "netdev")):
        close = lacking(missing)
        found, (limit,) = within(
            pair.files[0], lambda close=close: namespace._close_as_far_as_possible(close, namespace._interfaces)
        )
        assert found == interfaces
        assert word in limit
    with pytest.raises(OSError, match="not supported"):
        within(pair.files[0], lambda: namespace._close_as_far_as_possible(lacking(-1), namespace._interfaces))


def test_the_rehearsal_leaves_the_machines_own_network_alone() -> None:
    assert namespace.rehearse() == ()
    assert within_own_tables() == []


_AGENT = """
import sys
import msgspec
from pathlib import Path
from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.protected import Protected
from quell.model.decision import Command
executor = Executor(LinuxKernel(), Ledger(Path(sys.argv[1])), Protected.load())
print(executor.execute(msgspec.json.decode(sys.stdin.buffer.read(), type=Command)).status)
"""


@pytest.mark.parametrize(
    "fault", ["agent.ledger-after-write", "agent.before-action", "agent.after-action", "agent.ledger-after-write:2"]
)
def test_an_agent_killed_at_any_step_closes_it_in_the_end_and_can_open_it(
    tmp_path: Path, pair: Pair, fault: str
) -> None:
    channel = Datagrams(pair, socket.AF_INET)
    command = order(Quarantine(), target(pair))
    environment = {**os.environ, "QUELL_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", _AGENT, str(tmp_path / "ledger")]
    crashed = subprocess.run(
        arguments, input=msgspec.json.encode(command), env=environment, capture_output=True, check=False
    )
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    executor = new_executor(tmp_path)
    executor.resume()
    assert executor.execute(command).status is DONE
    assert none_passes([channel])
    assert release(executor, pair).status is DONE
    assert all_pass([channel])
    executor.ledger.close()
