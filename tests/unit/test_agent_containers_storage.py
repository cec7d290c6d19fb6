"""containers/storage as podman and CRI-O leave it on the disk; the files here are in their form."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.told import telling

from quell.agent.containers.podman import details
from quell.agent.containers.storage import Roots, Storage
from quell.model.sighting import ContainerSeen

A, B, C, POD = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
IMAGE = "25" * 32
UID = "6a1c3d52-9f4e-4c3b-8f49-3d1e6c1f7a10"


class Store:
    """The two roots of a store, with what a runtime writes there."""

    def __init__(self, folder: Path, driver: str = "overlay") -> None:
        self.roots = Roots(graph=str(folder / "graph"), run=str(folder / "run"))
        self.graph, self.run = (Path(root) / f"{driver}-containers" for root in (self.roots.graph, self.roots.run))
        #: Knows no container, so nothing is said of labels.
        self.podman = folder / "podman"
        self.answers()

    def answers(self, *lines: object, fails: int = 0) -> None:
        """What the podman program says, from its so many-th call on; what it was asked is in the file `asked`."""
        text = "\n".join(json.dumps(line) for line in lines)
        asked = self.podman.with_name("asked")
        script = f"#!/bin/sh\necho \"$@\" >> {asked}\n[ $(wc -l < {asked}) -gt {fails} ] || exit 125\ncat <<'END'\n{text}\nEND\n"
        fresh = self.podman.with_suffix(".new")
        fresh.write_text(script)
        fresh.chmod(0o755)
        fresh.rename(self.podman)

    def lists(self, *entries: object, name: str = "containers.json") -> None:
        self.write(json.dumps(entries), name)

    def write(self, text: str, name: str = "containers.json") -> None:
        self.graph.mkdir(parents=True, exist_ok=True)
        fresh = self.graph / f".tmp-{name}"
        fresh.write_text(text)
        fresh.rename(self.graph / name)

    def starts(self, identity: str, pid: object) -> None:
        """As runc does it: the file comes into place whole."""
        userdata = self.run / identity / "userdata"
        userdata.mkdir(parents=True, exist_ok=True)
        (userdata / ".pidfile").write_text(str(pid))
        (userdata / ".pidfile").rename(userdata / "pidfile")

    def runtime(self, folders: object) -> list[Storage]:
        return [Storage(folders, self.roots, str(self.podman))]  # type: ignore[arg-type]


def podman(identity: str, name: str, image: str = "docker.io/library/nginx:1.27") -> dict[str, object]:
    metadata = {"image-name": image, "image-id": IMAGE, "name": name, "created-at": 1795372720}
    return {"id": identity, "names": [name], "image": IMAGE, "layer": "e6", "metadata": json.dumps(metadata)}


def crio(identity: str, kind: str, pod: str = "web-1", namespace: str = "shop") -> dict[str, object]:
    name = f"k8s_{kind}_{pod}_{namespace}_{UID}_0"
    metadata = {
        "pod-name": f"k8s_{pod}_{namespace}_{UID}_0",
        "pod-id": POD,
        "image-name": "quay.io/shop/web:3",
        "image-id": IMAGE,
        "name": name,
        "metadata-name": kind,
        "created-at": 1795372720,
    }
    return {"id": identity, "names": [name], "image": IMAGE, "metadata": json.dumps(metadata)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as running:
        time.sleep(0.05)  # the file that names it is written after it started, by more than a clock tick
        yield running
        running.kill()


def test_podmans_containers_come_start_end_and_go(store: Store, process: subprocess.Popen[bytes]) -> None:
    async def scenario() -> None:
        async with telling(store.runtime) as told:
            assert told.containers == {}  # there is no store yet
            store.lists(podman(A, "web"))
            seen = await told.of(A)
            assert seen == ContainerSeen(
                id=A,
                name="web",
                image="docker.io/library/nginx:1.27",
                image_id=f"sha256:{IMAGE}",
                node="here",
                runtime="podman",
                running=False,
            )
            store.starts(A, process.pid)
            seen = await told.of(A, lambda seen: seen.running)
            assert seen.pid == process.pid
            assert seen.host_network is True
            assert seen.started is not None
            assert 0 <= time.time() - seen.started < 60
            process.kill()
            seen = await told.of(A, lambda seen: not seen.running)
            assert seen.pid is None
            store.lists()
            await told.until(lambda: A not in told.containers)

    asyncio.run(scenario())


def test_what_is_there_at_the_start_is_told_at_once(store: Store, process: subprocess.Popen[bytes]) -> None:
    store.lists(podman(A, "web"))
    store.lists(podman(B, "job"), name="volatile-containers.json")
    store.starts(A, process.pid)

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            first = told.messages[0]
            assert first.complete
            assert {each.id for each in first.seen if isinstance(each, ContainerSeen)} == {A, B}
            assert told.containers[A].pid == process.pid
            assert told.node is not None
            assert told.node.name == "here"
            assert not told.node.kubernetes

    asyncio.run(scenario())


def test_a_number_that_another_process_has_by_now_is_not_believed(
    store: Store, process: subprocess.Popen[bytes]
) -> None:
    store.lists(podman(A, "web"), podman(B, "job"), podman(C, "db"))
    store.starts(A, process.pid)
    long_ago = time.time() - 3600
    os.utime(store.run / A / "userdata" / "pidfile", (long_ago, long_ago))
    store.starts(B, "not a number")
    store.starts(C, -1)

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            for identity in (A, B, C):
                assert (told.containers[identity].running, told.containers[identity].pid) == (False, None)

    asyncio.run(scenario())


def test_podman_is_asked_once_for_labels_and_networks(store: Store) -> None:
    store.answers(
        {"id": A, "labels": {"app": "web"}, "network": "bridge"},
        {"id": B, "labels": None, "network": f"container:{A}", "pod": POD},
        {"id": C, "labels": {"not": "asked about"}, "network": "host"},
        fails=1,  # the database may be a moment behind the store
    )
    store.lists(podman(A, "web"), podman(B, "side"))

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            assert (await told.of(A, lambda seen: seen.labels is not None)).labels == {"app": "web"}
            seen = await told.of(B, lambda seen: seen.labels is not None)
            assert (seen.labels, seen.sandbox, seen.podman_pod, seen.pod_uid) == ({}, A, POD, None)
            # It starts and ends: the labels stay without another question.
            store.starts(A, 1)
            store.lists(podman(A, "renamed"), podman(B, "side"))
            assert (await told.of(A, lambda seen: seen.name == "renamed")).labels == {"app": "web"}
            assert set(told.containers) == {A, B}
            asked = store.podman.with_name("asked").read_text().splitlines()
            assert len(asked) == 2
            assert {A, B} <= set(asked[1].split())

    asyncio.run(scenario())


def test_the_first_list_has_labels(store: Store) -> None:
    store.answers({"id": A, "labels": {"app": "web"}, "network": "none"})
    store.lists(podman(A, "web"))

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            (first,) = told.messages
            assert first.complete
            assert told.containers[A].labels == {"app": "web"}

    asyncio.run(scenario())


def test_a_podman_that_hangs_is_not_waited_for_and_not_left_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quell.agent.containers.census._SETTLE_SECONDS", 0.5)
    number = store.podman.with_name("number")
    store.podman.write_text(f"#!/bin/sh\necho $$ > {number}.new && mv {number}.new {number}\nexec sleep 60\n")
    store.lists(podman(A, "web"))

    async def scenario() -> int:
        async with telling(store.runtime) as told:
            assert told.containers[A].labels is None
            await told.until(number.exists)
            return int(number.read_text())

    pid = asyncio.run(scenario())
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("answer", [b"", b"\xff\n", b"{}\n", b"[" * 100_000, b'{"id": 1}', b'{"id":"x","labels":[]}'])
def test_a_malformed_answer_of_podmans_says_nothing(answer: bytes) -> None:
    good = json.dumps({"id": A, "labels": {"a": "b"}, "network": "none"}).encode()
    assert details(answer, {A}) == {}
    assert set(details(answer + b"\n" + good, {A})) == {A}


def test_crios_pods_are_known_by_the_names_that_the_kubelet_gave(store: Store) -> None:
    store.lists(crio(POD, "POD"), crio(A, "app"), crio(B, "strange_name_with_many_parts"))

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            assert told.containers[A] == ContainerSeen(
                id=A,
                name="app",
                image="quay.io/shop/web:3",
                image_id=f"sha256:{IMAGE}",
                node="here",
                runtime="cri-o",
                namespace="shop",
                pod_name="web-1",
                pod_uid=UID,
                sandbox=POD,
                running=False,
            )
            assert (told.containers[POD].name, told.containers[POD].sandbox) == (None, None)
            assert told.containers[B].namespace is None
            assert told.node is not None
            assert told.node.kubernetes
            assert not store.podman.with_name("asked").exists()

    asyncio.run(scenario())


def test_podmans_containers_cannot_pose_as_pods(store: Store) -> None:
    store.lists(podman(A, f"k8s_app_web-1_kube-system_{UID}_0"))

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            assert (told.containers[A].namespace, told.containers[A].runtime) == (None, "podman")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "text", ["", "{", "null", "{}", '"x"', "[" * 50_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_a_list_that_cannot_be_read_changes_nothing(store: Store, text: str) -> None:
    store.lists(podman(A, "web"))

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            store.write(text)
            store.lists(podman(B, "job"), name="volatile-containers.json")
            await told.of(B)
            assert set(told.containers) == {A, B}
            store.lists(podman(C, "db"))
            await told.of(C)
            await told.until(lambda: set(told.containers) == {B, C})

    asyncio.run(scenario())


def test_entries_that_are_nothing_of_a_runtimes_are_left_out(store: Store) -> None:
    store.lists(
        {"id": B, "names": ["alpine-working-container"], "image": IMAGE},  # buildah's
        {"id": "short", "metadata": "{}"},
        {"id": "../../../etc", "metadata": "{}"},
        {"id": C, "metadata": "{not json"},
        {"id": 7},
        None,
        [],
        podman(A, "x" * 5000, image="y" * 5000),
    )

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            assert set(told.containers) == {A}
            assert (told.containers[A].name, told.containers[A].image) == (None, None)

    asyncio.run(scenario())


def test_a_store_of_another_driver_that_comes_goes_and_comes_again(tmp_path: Path) -> None:
    store = Store(tmp_path, driver="vfs")

    async def scenario() -> None:
        async with telling(store.runtime) as told:
            for _ in range(2):
                store.lists(podman(A, "web"))
                await told.of(A)
                (store.graph / "containers.json").unlink()
                store.graph.rmdir()
                await told.until(lambda: not told.containers)

    asyncio.run(scenario())


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "storage.conf"
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    assert Roots.configured() == Roots()
    for text, roots in (
        ('[storage]\ngraphroot = "/g"\nrunroot = "/r"\n', Roots(graph="/g", run="/r")),
        ('[storage]\ngraphroot = "/g"\n', Roots(graph="/g")),
        ("[storage]\ngraphroot = 7\n", Roots()),
        ("storage = 7\n", Roots()),
        ("[storage\n", Roots()),
    ):
        conf.write_text(text)
        assert Roots.configured() == roots


def test_without_a_podman_program_it_says_that_labels_are_not_seen(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    folders: object = None
    assert Storage(folders, store.roots).limits() == ()  # type: ignore[arg-type]
    store.lists(podman(A, "web"))
    (limit,) = Storage(folders, store.roots).limits()  # type: ignore[arg-type]
    assert "labels" in limit
