"""Docker's Engine API: a server that speaks real HTTP over a real Unix socket, with answers in the documented form."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.told import telling

from quell.agent.containers.docker import Docker
from quell.agent.containers.folders import Folders
from quell.agent.containers.unixhttp import HttpError, get
from quell.model.sighting import ContainerSeen

A, B, C = "a" * 64, "b" * 64, "c" * 64
IMAGE = "sha256:" + "25" * 32
UID = "6a1c3d52-9f4e-4c3b-8f49-3d1e6c1f7a10"


class Engine:
    """dockerd as an API client sees it."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "docker.sock"
        self.containers: dict[str, object] = {}
        self.components = [{"Name": "Engine", "Version": "27.3.1"}, {"Name": "containerd", "Version": "1.7"}]
        self.listeners: list[asyncio.StreamWriter] = []
        self.requests: list[str] = []

    def add(self, identity: str, name: str, *, pid: int = 0, network: str = "bridge", **labels: str) -> None:
        self.containers[identity] = {
            "Id": identity,
            "Created": "2026-11-22T18:38:40.633520112Z",
            "Path": "sleep",
            "State": {
                "Status": "running" if pid else "exited",
                "Running": bool(pid),
                "Paused": False,
                "Pid": pid,
                "ExitCode": 0,
                "StartedAt": "2126-11-22T18:38:40.740946721Z" if pid else "0001-01-01T00:00:00Z",
                "FinishedAt": "0001-01-01T00:00:00Z",
            },
            "Image": IMAGE,
            "Name": f"/{name}",
            "HostConfig": {"NetworkMode": network, "Binds": None},
            "Config": {"Hostname": identity[:12], "Image": "nginx:1.27", "Labels": labels},
        }

    def happens(self, action: str, identity: str) -> None:
        event = {"Type": "container", "Action": action, "Actor": {"ID": identity, "Attributes": {"image": "nginx"}}}
        text = json.dumps(event).encode() + b"\n"
        for listener in self.listeners:
            # In two chunks: an event ends with its line, not with a chunk.
            for part in (text[:9], text[9:]):
                listener.write(b"%x\r\n%s\r\n" % (len(part), part))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, version = head.split(b"\r\n")[0].decode().split()
        assert (method, version) == ("GET", "HTTP/1.1")
        assert b"\r\nHost: " in head
        self.requests.append(target)
        url = urlsplit(target)
        if url.path == "/events":
            filters = json.loads(parse_qs(url.query)["filters"][0])
            assert filters["type"] == ["container"]
            assert {"start", "die", "destroy"} <= set(filters["event"])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.listeners.append(writer)
            return
        body = self.answer(url.path)
        status = b"404 Not Found" if body is None else b"200 OK"
        text = json.dumps({"message": "No such container"} if body is None else body).encode()
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
        writer.close()

    def answer(self, path: str) -> object:
        if path == "/version":
            return {"Version": "27.3.1", "ApiVersion": "1.47", "Components": self.components}
        if path == "/containers/json":
            return [{"Id": identity, "Names": ["/x"], "State": "running"} for identity in self.containers]
        return self.containers.get(path.removeprefix("/containers/").removesuffix("/json"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self.serve, self.socket)
        try:
            yield
        finally:
            server.close()
            for listener in self.listeners:
                listener.close()
            self.listeners.clear()
            with suppress(FileNotFoundError):
                self.socket.unlink()

    def runtime(self, folders: Folders) -> list[Docker]:
        return [Docker(folders, str(self.socket))]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as running:
        yield running
        running.kill()


def test_containers_come_start_end_and_go(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    engine.add(A, "web", pid=process.pid, tier="front")

    async def scenario() -> None:
        async with engine.running(), telling(engine.runtime) as told:
            seen = told.containers[A]
            assert seen == ContainerSeen(
                id=A,
                name="web",
                image="nginx:1.27",
                image_id=IMAGE,
                node="here",
                runtime="docker",
                labels={"tier": "front"},
                pid=process.pid,
                started=seen.started,
                host_network=True,
            )
            engine.add(B, "job", network=f"container:{A}")
            engine.happens("create", B)
            seen = await told.of(B)
            assert (seen.running, seen.sandbox, seen.started) == (False, A, None)
            engine.add(B, "job", pid=process.pid, network=f"container:{A}")
            engine.happens("start", B)
            await told.of(B, lambda seen: seen.running)
            # Its end is seen by its process, whether or not dockerd says it.
            process.kill()
            await told.of(A, lambda seen: not seen.running)
            await told.of(B, lambda seen: not seen.running)
            del engine.containers[B]
            engine.happens("destroy", B)
            await told.until(lambda: B not in told.containers)

    asyncio.run(scenario())


def test_dockerd_comes_later_goes_and_comes_again(engine: Engine) -> None:
    async def scenario() -> None:
        async with telling(engine.runtime) as told:
            assert told.messages[0].complete
            engine.add(A, "web")
            async with engine.running():
                await told.of(A)
            # While it is away what it said stands; when it is back it says anew.
            engine.add(B, "job")
            del engine.containers[A]
            assert A in told.containers
            async with engine.running():
                await told.of(B)
                await told.until(lambda: A not in told.containers)

    asyncio.run(scenario())


def test_pods_by_the_names_that_the_kubelet_gave_never_by_labels(engine: Engine) -> None:
    engine.add(A, f"k8s_app_web-1_shop_{UID}_2", network=f"container:{C}")
    engine.add(B, "mine", **{"io.kubernetes.pod.namespace": "kube-system", "io.kubernetes.pod.uid": UID})

    async def scenario() -> None:
        async with engine.running(), telling(engine.runtime) as told:
            seen = told.containers[A]
            assert (seen.name, seen.pod_name, seen.namespace, seen.pod_uid) == ("app", "web-1", "shop", UID)
            assert seen.sandbox == C
            assert told.containers[B].namespace is None
            assert told.containers[B].pod_uid is None

    asyncio.run(scenario())


def test_podman_under_dockers_name_is_left_to_podman(engine: Engine) -> None:
    engine.components = [{"Name": "Podman Engine", "Version": "4.3.1"}]
    engine.add(A, "web")

    async def scenario() -> None:
        async with engine.running(), telling(engine.runtime) as told:
            assert told.containers == {}
            assert engine.requests == ["/version"]

    asyncio.run(scenario())


def test_labels_are_bounded(engine: Engine) -> None:
    many = {f"label-{number}": "x" for number in range(1000)}
    engine.add(A, "many", **many)
    engine.add(B, "long", app="web", **{"k" * 5000: "v", "long": "v" * 100_000})
    engine.containers[C] = {"Id": C, "Config": {"Labels": {"not": ["text"]}}}

    async def scenario() -> None:
        async with engine.running(), telling(engine.runtime) as told:
            assert len(told.containers[A].labels or {}) == 64
            assert told.containers[B].labels == {"app": "web"}
            assert C not in told.containers

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\0",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b" " * (2 << 20),
    ],
)
def test_something_else_behind_the_socket_is_survived(engine: Engine, answer: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        with suppress(OSError):
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def scenario() -> None:
        server = await asyncio.start_unix_server(other, engine.socket)
        async with telling(engine.runtime) as told:
            assert told.messages[0].complete
            server.close()
            engine.socket.unlink(missing_ok=True)
            engine.add(A, "web")
            async with engine.running():
                await told.of(A)

    asyncio.run(scenario())


def test_an_answer_longer_than_asked_for_is_refused(engine: Engine) -> None:
    async def scenario() -> None:
        async with engine.running():
            assert (await get(str(engine.socket), "/version", most=10_000))[0] == 200
            with pytest.raises(HttpError, match="longer than 10 bytes"):
                await get(str(engine.socket), "/version", most=10)

    asyncio.run(scenario())
