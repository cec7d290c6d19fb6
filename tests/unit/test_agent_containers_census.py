from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest
from tests.told import Told

from quell.agent import proc
from quell.agent.containers import bounds, kubernetes, machine
from quell.agent.containers.census import Census
from quell.agent.containers.folders import Folders
from quell.agent.containers.frames import KINDS, frames
from quell.agent.containers.runtime import Table
from quell.channel.messages import MAX_FRAME, encode
from quell.model.sighting import ContainerSeen, Gone, NodeSeen

A, B = "a" * 64, "b" * 64


class Given:
    """A runtime that says what the test says."""

    def __init__(self, *limits: str) -> None:
        self.table: Table | None = None
        self._limits = limits

    def limits(self) -> tuple[str, ...]:
        return self._limits

    def start(self, table: Table) -> None:
        self.table = table

    def stop(self) -> None:
        self.table = None

    def put(self, seen: ContainerSeen) -> None:
        assert self.table is not None
        self.table.put(seen)

    def drop(self, identity: str) -> None:
        assert self.table is not None
        self.table.drop(identity)

    def settle(self) -> None:
        assert self.table is not None
        self.table.settled(self)


def sleeping() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


class Counted:
    def __init__(self) -> None:
        self.told = Told()
        self.first, self.second = Given("one is not seen"), Given()
        self.census = Census("here", Folders(), (self.first, self.second), self.told.take)

    async def __aenter__(self) -> Self:
        self.census.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.census.stop()


def test_nothing_is_told_before_every_runtime_was_looked_at() -> None:
    async def scenario() -> None:
        async with Counted() as counted:
            counted.census.welcomed()
            counted.first.put(ContainerSeen(id=A, running=False))
            counted.first.settle()
            await asyncio.sleep(0.1)
            assert counted.told.messages == []
            counted.second.put(ContainerSeen(id=B, running=False))
            counted.second.settle()
            (message,) = counted.told.messages
            assert message.complete
            assert set(counted.told.containers) == {A, B}
            assert counted.census.limits() == ("containers: one is not seen",)

    asyncio.run(scenario())


def test_a_runtime_that_does_not_answer_holds_the_others_up_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quell.agent.containers.census._SETTLE_SECONDS", 0.2)

    async def scenario() -> None:
        async with Counted() as counted:
            counted.census.welcomed()
            counted.first.put(ContainerSeen(id=A, running=False))
            counted.first.settle()
            await counted.told.of(A)

    asyncio.run(scenario())


def test_every_link_begins_with_everything_and_goes_on_with_changes() -> None:
    async def scenario() -> None:
        async with Counted() as counted:
            told = counted.told
            for runtime in (counted.first, counted.second):
                runtime.settle()
            counted.first.put(ContainerSeen(id=A, name="before", running=False))
            await asyncio.sleep(0.1)
            assert told.messages == []  # there is no link
            counted.census.welcomed()
            assert told.messages[-1].complete
            counted.first.put(ContainerSeen(id=A, name="after", running=False))
            await told.of(A, lambda seen: seen.name == "after")
            assert not told.messages[-1].complete
            counted.first.put(ContainerSeen(id=A, name="after", running=False))
            counted.first.put(ContainerSeen(id=B, running=False))
            counted.first.drop(B)  # came and went before it was told
            counted.first.drop("never told")
            counted.first.drop(A)
            await told.until(lambda: A not in told.containers)
            assert len(told.messages) == 3
            counted.census.welcomed()
            assert told.messages[-1].complete
            assert told.containers == {}

    asyncio.run(scenario())


def test_a_process_in_another_container_is_not_believed(tmp_path: Path) -> None:
    places = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
    root = next((place for place in places if os.access(place / "cgroup.procs", os.W_OK)), None)
    if root is None or os.geteuid() != 0:
        pytest.skip("a control group is needed, which root can make")
    identity = os.urandom(32).hex()
    group = root / f"libpod-{identity}"
    group.mkdir()

    async def scenario() -> None:
        async with Counted() as counted:
            for runtime in (counted.first, counted.second):
                runtime.settle()
            counted.census.welcomed()
            with sleeping() as process:
                try:
                    (group / "cgroup.procs").write_text(str(process.pid))
                    assert counted.first.table is not None
                    for claimed in (identity, A):
                        counted.first.table.put(ContainerSeen(id=claimed, pid=process.pid), written=2e9)
                    assert (await counted.told.of(identity)).pid == process.pid
                    assert (await counted.told.of(A)).running is False
                finally:
                    process.kill()
            await counted.told.of(identity, lambda seen: not seen.running)

    try:
        asyncio.run(scenario())
    finally:
        group.rmdir()


def test_no_handle_is_left_open() -> None:
    async def scenario() -> None:
        async with Counted() as counted:
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            with sleeping() as process:
                assert counted.first.table is not None
                for _ in range(3):
                    counted.first.table.put(ContainerSeen(id=A, pid=process.pid), written=2e9)
                    counted.first.table.put(ContainerSeen(id=B, pid=process.pid), written=0.0)
                assert len(os.listdir("/proc/self/fd")) == before + 1  # noqa: PTH208
                counted.first.drop(A)
                assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
                process.kill()

    asyncio.run(scenario())


def test_a_large_inventory_comes_in_frames_of_which_the_first_is_complete() -> None:
    labels = {f"label-{number}": "v" * 200 for number in range(50)}
    seen = [NodeSeen(name="here")] + [
        ContainerSeen(id=f"{number:064x}", name=f"name-{number}", labels=labels) for number in range(500)
    ]
    parts = list(frames(seen))
    assert len(parts) > 4
    assert [part.complete for part in parts] == [True] + [False] * (len(parts) - 1)
    assert parts[0].kinds == KINDS
    assert all(len(encode(part)) <= MAX_FRAME for part in parts)
    assert [each for part in parts for each in part.seen] == seen


def test_an_empty_inventory_is_said_and_no_change_is_not() -> None:
    assert [(part.complete, part.seen) for part in frames([])] == [(True, ())]
    assert list(frames([], complete=False)) == []
    gone = [Gone(kind="container", key=f"{number:064x}") for number in range(20_000)]
    parts = list(frames([], gone, complete=False))
    assert [each for part in parts for each in part.gone] == gone
    assert all(len(encode(part)) <= MAX_FRAME for part in parts)


def test_the_largest_container_there_can_be_fits_into_a_frame() -> None:
    labels = bounds.labels({f"{number:03}" + "ö" * 300: "ü" * 1024 for number in range(500)})
    assert labels
    assert sum(len(key.encode()) + len(value.encode()) for key, value in labels.items()) <= 16 << 10
    text = bounds.text("ö" * 1024)
    seen = ContainerSeen(
        id=A, name=text, image=text, labels=labels, namespace=text, pod_name=text, pod_uid=text, node="n" * 255
    )
    (message,) = frames([seen])
    assert len(encode(message)) < MAX_FRAME // 8


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("k8s_app_web-1_shop_uid-1_0", ("app", "web-1", "shop", "uid-1")),
        ("k8s_POD_web-1_shop_uid-1_12", (None, "web-1", "shop", "uid-1")),
        ("k8s_app_web-1_shop_uid-1_x", None),
        ("k8s_app_web_1_shop_uid-1_0", None),
        ("k8s__web-1_shop_uid-1_0", None),
        ("k9s_app_web-1_shop_uid-1_0", None),
        ("web", None),
        ("", None),
    ],
)
def test_names_that_a_kubelet_gives(name: str, parts: tuple[str, ...] | None) -> None:
    found = kubernetes.named(name)
    assert (found and (found.container, found.pod, found.namespace, found.uid)) == parts


def test_the_machine() -> None:
    node = machine.machine("here", kubernetes=True)
    assert (node.name, node.boot_id, node.kernel) == ("here", proc.boot_id(), os.uname().release)
    assert node.kubernetes
    for address in node.addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        assert not address.startswith(("127.", "fe80:", "169.254."))
        # An address of the machine's own can be bound.
        with socket.socket(family, socket.SOCK_DGRAM) as own:
            own.bind((address, 0))


def test_the_operating_systems_name(tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    assert machine.system(file) is None
    for text, name in (
        ('ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', "Debian GNU/Linux 12 (bookworm)"),
        ("PRETTY_NAME='Alpine Linux v3.20'", "Alpine Linux v3.20"),
        ("NAME=x", None),
        ("PRETTY_NAME=" + "x" * 5000, None),
        ("\0\0", None),
    ):
        file.write_text(text)
        assert machine.system(file) == name


def test_no_pipe_is_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert bounds.content(str(pipe)) == b""
    with pytest.raises(OSError, match="directory"):
        bounds.content(str(tmp_path))
    (tmp_path / "long").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="longer than 10 bytes"):
        bounds.content(str(tmp_path / "long"), 10)
