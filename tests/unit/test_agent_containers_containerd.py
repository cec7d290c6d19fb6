"""Bundles as containerd's shims have them; the specifications here are in the form its CRI plug-in writes."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.told import telling

from quell.agent.containers.containerd import Containerd
from quell.agent.containers.folders import Folders
from quell.model.sighting import ContainerSeen

A, B, POD = "a" * 64, "b" * 64, "d" * 64
UID = "6a1c3d52-9f4e-4c3b-8f49-3d1e6c1f7a10"


class State:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "containerd"

    def bundle(self, identity: str, spec: object, namespace: str = "k8s.io") -> Path:
        bundle = self.folder / "io.containerd.runtime.v2.task" / namespace / identity
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text(spec if isinstance(spec, str) else json.dumps(spec))
        return bundle

    def runtime(self, folders: Folders) -> list[Containerd]:
        return [Containerd(folders, (str(self.folder),))]


def spec(kind: str = "container", *, own_network: bool = True, **more: str) -> dict[str, object]:
    annotations = {
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.sandbox-id": POD,
        "io.kubernetes.cri.sandbox-name": "web-1",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": UID,
        **more,
    }
    if kind == "container":
        annotations |= {
            "io.kubernetes.cri.container-name": "app",
            "io.kubernetes.cri.image-name": "registry.k8s.io/web:3",
        }
    namespaces = [{"type": "pid"}, {"type": "mount"}] + ([{"type": "network", "path": "/x"}] if own_network else [])
    return {"ociVersion": "1.2.0", "annotations": annotations, "linux": {"namespaces": namespaces}}


def starts(bundle: Path, pid: int) -> None:
    (bundle / ".init.pid").write_text(str(pid))
    (bundle / ".init.pid").rename(bundle / "init.pid")


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as running:
        yield running
        running.kill()


def test_a_pods_containers_come_start_end_and_go(state: State, process: subprocess.Popen[bytes]) -> None:
    async def scenario() -> None:
        async with telling(state.runtime) as told:
            state.bundle(POD, spec("sandbox"))
            bundle = state.bundle(A, spec())
            starts(bundle, process.pid)
            seen = await told.of(A, lambda seen: seen.pid is not None)
            assert seen == ContainerSeen(
                id=A,
                name="app",
                image="registry.k8s.io/web:3",
                node="here",
                runtime="containerd",
                namespace="shop",
                pod_name="web-1",
                pod_uid=UID,
                pid=process.pid,
                started=seen.started,
                sandbox=POD,
                host_network=True,
            )
            sandbox = await told.of(POD)
            assert (sandbox.name, sandbox.sandbox, sandbox.pod_uid) == (None, None, UID)
            await told.until(lambda: told.node is not None and told.node.kubernetes)
            process.kill()
            await told.of(A, lambda seen: not seen.running)
            shutil.rmtree(bundle)
            await told.until(lambda: A not in told.containers)
            # The same id again, as a restarted nerdctl container has it.
            state.bundle(A, spec())
            await told.of(A, lambda seen: seen.running)

    asyncio.run(scenario())


def test_the_network_by_the_specification_where_there_is_no_process(state: State) -> None:
    """As with shims of virtual machines, whose processes are not on this machine."""
    state.bundle(A, spec(own_network=False))
    state.bundle(B, spec())

    async def scenario() -> None:
        async with telling(state.runtime) as told:
            assert (told.containers[A].host_network, told.containers[A].running) == (True, True)
            assert told.containers[B].host_network is False

    asyncio.run(scenario())


def test_pods_are_believed_in_kubernetes_own_namespace_only(state: State) -> None:
    forged = {"io.kubernetes.cri.sandbox-namespace": "kube-system", "nerdctl/name": "web"}
    state.bundle(A, spec(**forged), namespace="default")
    state.bundle(B, spec(**forged), namespace="moby")  # Docker tells of its own

    async def scenario() -> None:
        async with telling(state.runtime) as told:
            assert set(told.containers) == {A}
            seen = told.containers[A]
            assert (seen.name, seen.namespace, seen.pod_uid, seen.sandbox) == ("web", None, None, None)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 50_000, '{"annotations": 7}', '{"annotations": {"a": 7}}', " " * (2 << 20) + "{}"]
)
def test_a_malformed_bundle_is_left_out(state: State, text: str) -> None:
    state.bundle(A, text)
    state.bundle("no-id", spec())

    async def scenario() -> None:
        async with telling(state.runtime) as told:
            state.bundle(B, spec())
            await told.of(B)
            assert set(told.containers) == {B}

    asyncio.run(scenario())
