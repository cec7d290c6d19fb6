"""What the agent tells of workloads' sockets: real services in network namespaces of the test's, joined by a cable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.system.podman import Podman, missing, podman
from tests.system.workloads import Service, Watching, ip, joined_namespaces, process_of, service, watching

from quell.agent import proc
from quell.agent.linux.namespace import within
from quell.agent.linux.sock_diag import Diag
from quell.channel.messages import Observe
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import Direction

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="other network namespaces need root"),
]
PYTHON = os.path.realpath(sys.executable)
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
#: Listens and connects as its arguments say, then does on its input's word what they say next.
TALKS = """
import os, socket, sys
kept = []
def do(word):
    kind, where, port = word.rsplit(",", 2)
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    sort = socket.SOCK_DGRAM if kind.endswith("udp") else socket.SOCK_STREAM
    made = socket.socket(family, sort)
    if kind.startswith("listen"):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if kind == "listen6only":
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((where, int(port)))
        if sort == socket.SOCK_STREAM:
            made.listen()
    elif kind == "send-udp":
        made.sendto(b"x", (where, int(port)))
    else:
        made.connect((where, int(port)))
        if kind == "shortly":
            made.close()
    kept.append(made)
for line in sys.stdin:
    for word in line.split():
        if word == "accept":
            kept.append(kept[0].accept())
        elif word == "close":
            kept.clear()
        elif word == "fork":
            if os.fork() == 0:
                os.close(0)
                os.system("exec sleep 60")
        else:
            do(word)
    print("done", flush=True)
"""


class Talker:
    """A process that does with sockets what it is told to."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def do(self, words: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n"


@contextmanager
def talking(unit: Service, netns: str, words: str = "") -> Iterator[Talker]:
    with unit.started(PYTHON, "-c", TALKS, netns=netns) as process:
        talker = Talker(process)
        talker.do(words)
        yield talker


@contextmanager
def apart(netns: str, words: str = "") -> Iterator[Talker]:
    """The same, in no service."""
    with subprocess.Popen(
        ["ip", "netns", "exec", netns, PYTHON, "-c", TALKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            talker = Talker(process)
            talker.do(words)
            yield talker
        finally:
            process.kill()


@pytest.fixture
def unit() -> Iterator[Service]:
    with service() as made:
        yield made


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    with joined_namespaces() as names:
        yield names


def listening(seen: Watching, pid: int) -> set[tuple[str, str, int]]:
    return {(each.protocol, each.address, each.port) for each in seen.of(pid, Seen.LISTENING)}


def peers(seen: Watching, pid: int | None) -> list[Peer]:
    found = [each for each in seen.told if each.seen is Seen.CONNECTED and process_of(each).pid == pid]
    return [each.peer for each in found if each.peer is not None]


def inode(netns: str) -> int:
    return Path(f"/run/netns/{netns}").stat().st_ino


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_listens_tcp_and_udp_of_both_families(unit: Service, namespaces: tuple[str, str]) -> None:
    near, _ = namespaces
    words = (
        "listen,0.0.0.0,80 listen,10.77.0.1,81 listen,::,82 listen6only,fd77::1,83 listen,127.0.0.1,84 "
        "listen-udp,0.0.0.0,53 listen-udp,::,54 send-udp,10.77.0.2,9 listen,0.0.0.0,0"
    )

    async def scenario() -> None:
        with talking(unit, near, words) as server:
            async with watching(sockets=0.1) as seen:
                await seen.reaches(lambda: len(listening(seen, server.pid)) >= 8)
                found = listening(seen, server.pid)
                chosen = next(iter(port for _, _, port in found if port > 1000))
                assert found == {
                    ("TCP", "", 80),
                    ("TCP", "10.77.0.1", 81),
                    ("TCP", "", 82),
                    ("TCP", "fd77::1", 83),
                    ("TCP", "127.0.0.1", 84),
                    ("TCP", "", chosen),
                    ("UDP", "", 53),
                    ("UDP", "", 54),
                }
                (told, *_) = seen.of(server.pid, Seen.LISTENING)
                assert (told.subject.service, told.subject.service_cgroup) == (unit.name, unit.cgroup)
                assert process_of(told).exe == PYTHON
                assert process_of(told).lineage[-1].pid == 1
                assert process_of(told).netns == inode(near)
                # What it opens while it is watched, and nothing of the rest again.
                server.do("listen,0.0.0.0,85")
                await seen.reaches(lambda: ("TCP", "", 85) in listening(seen, server.pid))
                assert len(seen.of(server.pid, Seen.LISTENING)) == 9

    asyncio.run(scenario())


def test_both_ends_of_a_connection(unit: Service, namespaces: tuple[str, str]) -> None:
    near, far = namespaces

    async def scenario() -> None:
        with talking(unit, near, "listen,::,80 listen-udp,0.0.0.0,53") as server, talking(unit, far) as client:
            async with watching(sockets=0.1) as seen:
                client.do("connect,10.77.0.1,80 connect,fd77::1,80 connect-udp,10.77.0.1,53")
                server.do("accept accept connect-udp,fd77::2,5353")
                await seen.reaches(lambda: len(peers(seen, server.pid)) >= 3 and len(peers(seen, client.pid)) >= 3)
                # An IPv4 client of an IPv6 socket has its IPv4 address.
                assert set(peers(seen, server.pid)) == {
                    Peer(direction=INGRESS, ip="10.77.0.2", port=80),
                    Peer(direction=INGRESS, ip="fd77::2", port=80),
                    Peer(direction=EGRESS, ip="fd77::2", port=5353, protocol="UDP"),
                }
                assert set(peers(seen, client.pid)) == {
                    Peer(direction=EGRESS, ip="10.77.0.1", port=80),
                    Peer(direction=EGRESS, ip="fd77::1", port=80),
                    Peer(direction=EGRESS, ip="10.77.0.1", port=53, protocol="UDP"),
                }
                # The same once more is nothing new within the hour; after a new question it is.
                client.do("connect,10.77.0.1,80")
                server.do("accept listen,0.0.0.0,81")
                await seen.reaches(lambda: ("TCP", "", 81) in listening(seen, server.pid))
                assert len(peers(seen, client.pid)) == 3
                told = len(seen.told)
                seen.observing.ask(Observe(executions=True, sockets=0.1))
                await seen.reaches(lambda: len(peers(seen, client.pid)) == 6 and len(peers(seen, server.pid)) == 6)
                assert (
                    next(each.seen for each in seen.told[told:] if process_of(each).pid == client.pid) is Seen.RUNNING
                )

    asyncio.run(scenario())


def test_connections_that_come_and_go_between_two_looks(unit: Service, namespaces: tuple[str, str]) -> None:
    near, far = namespaces

    async def scenario() -> None:
        with talking(unit, near, "listen,0.0.0.0,80") as server, apart(far, "listen,0.0.0.0,443") as outside:
            async with watching(sockets=2.0) as seen:
                await seen.reaches(lambda: ("TCP", "", 80) in listening(seen, server.pid))
                outside.do("shortly,10.77.0.1,80")
                server.do("shortly,10.77.0.2,443 shortly,127.0.0.1,80")
                await seen.reaches(lambda: len(peers(seen, server.pid)) >= 1 and len(peers(seen, None)) >= 1)
                # Whoever took it had it from the one that listens. Who opened it, nobody saw.
                assert peers(seen, server.pid) == [Peer(direction=INGRESS, ip="10.77.0.2", port=80)]
                assert peers(seen, None) == [Peer(direction=EGRESS, ip="10.77.0.2", port=443)]
                (told,) = [each for each in seen.told if each.seen is Seen.CONNECTED and process_of(each).pid is None]
                assert told.subject.service == unit.name
                assert process_of(told).netns == inode(near)
                assert (told.inside, process_of(told).lineage) == (0, ())

    asyncio.run(scenario())


def test_the_loopback_and_what_is_of_no_workload_are_left_out(unit: Service, namespaces: tuple[str, str]) -> None:
    near, far = namespaces

    async def scenario() -> None:
        with talking(unit, near, "listen,0.0.0.0,80") as server, apart(far, "listen,0.0.0.0,443") as outside:
            async with watching(sockets=0.1) as seen:
                server.do("connect,127.0.0.1,80 connect,10.77.0.1,80 connect,10.77.0.2,443")
                await seen.reaches(lambda: len(peers(seen, server.pid)) >= 1)
                server.do("listen,0.0.0.0,81")
                await seen.reaches(lambda: ("TCP", "", 81) in listening(seen, server.pid))
                assert peers(seen, server.pid) == [Peer(direction=EGRESS, ip="10.77.0.2", port=443)]
                assert seen.of(outside.pid) == []
                assert peers(seen, None) == []

    asyncio.run(scenario())


def test_in_the_machine_s_own_namespace_only_what_is_a_service_s(unit: Service) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mine, talking(unit, "", "listen,127.0.0.1,0") as server:
            ports = {mine.getsockname()[1]}
            async with watching(sockets=0.1) as seen:
                await seen.reaches(lambda: len(listening(seen, server.pid)) == 1)
                with socket.create_server(("127.0.0.1", 0)) as later:
                    ports.add(later.getsockname()[1])
                    server.do("listen-udp,127.0.0.1,5999")
                    await seen.reaches(lambda: len(listening(seen, server.pid)) == 2)
                assert not ports & {each.port for each in seen.told if each.subject.service == unit.name}
                assert seen.of(os.getpid()) == []

    asyncio.run(scenario())


def test_the_oldest_that_holds_a_socket_is_whose_it_is_and_a_forked_one_is_found(
    unit: Service, namespaces: tuple[str, str]
) -> None:
    near, far = namespaces
    worker = (
        "import os, socket, time\n"
        "server = socket.create_server(('0.0.0.0', 80))\n"
        "if os.fork() == 0:\n"
        "    connection, _ = server.accept()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "os.wait()\n"
    )

    async def scenario() -> None:
        async with watching(sockets=0.1) as seen:
            with unit.started(PYTHON, "-c", worker, netns=near) as server:
                await seen.reaches(lambda: ("TCP", "", 80) in listening(seen, server.pid))
                with apart(far, "connect,10.77.0.1,80"):
                    assert server.stdout is not None
                    forked = int(server.stdout.readline())
                    await seen.reaches(lambda: len(peers(seen, server.pid)) >= 1 and bool(seen.of(forked)))
                # Which of several workers took it is another each time: it is told of the one that listens.
                assert peers(seen, server.pid) == [Peer(direction=INGRESS, ip="10.77.0.2", port=80)]
                # Nobody had told of this one: it executed nothing.
                assert [each.seen for each in seen.of(forked)] == [Seen.RUNNING]
                assert process_of(seen.of(forked)[0]).lineage[0].pid == server.pid
                assert listening(seen, forked) == set()

    asyncio.run(scenario())


def test_a_namespace_is_looked_at_from_its_first_process_on_and_let_go_of_with_the_last(unit: Service) -> None:
    async def scenario() -> None:
        with joined_namespaces() as (near, far), apart(far, "listen,0.0.0.0,443"):
            # Nothing is due for an hour; but somebody moves in.
            async with watching(sockets=3600.0) as seen:
                await seen.reaches(lambda: seen.observing._looks._sockets is not None)
                netns = inode(near)
                with talking(unit, near) as client:
                    await seen.reaches(lambda: is_open(seen, netns))
                    client.do("shortly,10.77.0.2,443")
                    ip("netns", "del", near)
                # It has moved out, and what it did last is told: as its own, or as nobody's where no look met it at it.
                await seen.until(lambda: [each for each in seen.told if each.seen is Seen.CONNECTED])
                await seen.reaches(lambda: not is_open(seen, netns))
                (told,) = [each for each in seen.told if each.seen is Seen.CONNECTED]
                assert told.peer == Peer(direction=EGRESS, ip="10.77.0.2", port=443)
                assert process_of(told).pid in (client.pid, None)
                # Nothing keeps the namespace: the kernel takes it down, and the other end of the cable with it.
                await seen.reaches(lambda: "eth0" not in ip("-n", far, "link"))

    asyncio.run(scenario())


def is_open(seen: Watching, netns: int) -> bool:
    sockets = seen.observing._looks._sockets
    return sockets is not None and sockets.is_open(netns)


def test_when_nobody_asks_nothing_stays_open(unit: Service, namespaces: tuple[str, str]) -> None:
    near, _ = namespaces

    async def scenario() -> None:
        with talking(unit, near, "listen,0.0.0.0,80") as server:
            async with watching() as seen:
                await seen.until(lambda: seen.of(server.pid))
                before = open_files()
                seen.observing.ask(Observe(executions=True, sockets=0.1))
                await seen.reaches(lambda: ("TCP", "", 80) in listening(seen, server.pid))
                assert open_files() > before
                seen.observing.ask(Observe(executions=True))
                await seen.reaches(lambda: open_files() <= before + 4)  # lineage keeps a few

    asyncio.run(scenario())


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_real_container_in_a_namespace(tmp_path: Path, namespaces: tuple[str, str]) -> None:
    near, far = namespaces

    async def scenario(containers: Podman) -> None:
        async with watching(sockets=0.1) as seen:
            with apart(far, "listen,0.0.0.0,443"):
                identity = await asyncio.to_thread(
                    containers,
                    "run",
                    "--detach",
                    "--name",
                    "talks",
                    f"--network=ns:/run/netns/{near}",
                    "--entrypoint",
                    "/bin/busybox",
                    "localhost/quell-containers:1",
                    "nc",
                    "-ll",
                    "-p",
                    "80",
                    "-e",
                    "/bin/busybox",
                    "cat",
                )
                try:
                    told = await seen.until(
                        lambda: [each for each in seen.told if each.seen is Seen.LISTENING and is_of(each, identity)]
                    )
                    assert (told.protocol, told.address, told.port) == ("TCP", "", 80)
                    assert process_of(told).exe == "/bin/busybox"
                    talk = "busybox timeout 1 busybox nc 10.77.0.2 443; true"
                    await asyncio.to_thread(containers, "exec", "talks", "sh", "-c", talk)
                    told = await seen.until(
                        lambda: [each for each in seen.told if each.seen is Seen.CONNECTED and is_of(each, identity)]
                    )
                    assert told.peer == Peer(direction=EGRESS, ip="10.77.0.2", port=443)
                finally:
                    await asyncio.to_thread(containers, "rm", "--force", "--time", "0", "talks")

    with podman(tmp_path) as containers:
        asyncio.run(scenario(containers))


def is_of(observation: Observation, container: str) -> bool:
    return observation.subject.container is not None and observation.subject.container.id == container


def test_lists_and_news_of_the_kernel_itself() -> None:
    """That a list is not asked for again while nothing came, and is as soon as something did."""

    def work() -> None:
        ip("link", "set", "lo", "up")
        with contextlib.closing(Diag()) as diag:
            assert diag.tells
            known: dict[str, set[int]] = {}
            for name, listed in diag.look(known).listed.items():
                known[name] = listed.present
            assert diag.look(known).listed == {}
            with socket.create_server(("127.0.0.1", 0)) as server:
                looked = diag.look(known)
                (fresh,) = looked.listed["TCP"].fresh
                assert (fresh.listens, fresh.port, fresh.inode) == (
                    True,
                    server.getsockname()[1],
                    os.fstat(server.fileno()).st_ino,
                )
                assert list(looked.listed) == ["TCP"]
                known["TCP"] = looked.listed["TCP"].present
                assert diag.look(known).listed == {}
                assert set(diag.look(known, anyway=True).listed) == {"TCP", "UDP"}
                with socket.create_connection(server.getsockname()) as client:
                    assert {each.port for each in diag.look(known).listed["TCP"].fresh} >= {client.getsockname()[1]}
                    port = client.getsockname()[1]
                deadline = time.monotonic() + 10
                gone: list[int] = []
                while port not in gone:
                    gone += [each.port for each in diag.look(known).gone]
                    assert time.monotonic() < deadline
                for _ in range(30):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                        sender.connect(("127.0.0.1", 9))
                lost = 0
                diag._news.setsockopt(socket.SOL_SOCKET, 33, 2048)
                while not lost:
                    with socket.create_connection(server.getsockname()):
                        pass
                    for _ in range(20):
                        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                            sender.connect(("127.0.0.1", 9))
                    looked = diag.look(known)
                    lost += looked.lost
                    assert time.monotonic() < deadline
                # What went without a word may have made room for something: everything is listed.
                assert set(looked.listed) == {"TCP", "UDP"}

    within(None, work)
    assert proc.netns(os.getpid()) == Path("/proc/self/ns/net").stat().st_ino
