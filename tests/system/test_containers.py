"""Real containers as the agent tells of them: podman as root, the agent as a process, a link."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.system.podman import IMAGE, Podman, missing, podman
from tests.told import Told, telling
from tests.unit.test_agent_runtime import ENVIRONMENT, Controller, command_line, controller

from quell.agent import proc
from quell.agent.containers.docker import Docker
from quell.agent.containers.unixhttp import get
from quell.channel.messages import Seen
from quell.model.sighting import ContainerSeen

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


class Link(Told):
    """What an agent has told over its link so far."""

    def __init__(self, script: Controller) -> None:
        super().__init__()
        self._script = script
        self._taken = 0

    def listen(self) -> None:
        heard = self._script.heard[self._taken :]
        self._taken += len(heard)
        for message in heard:
            if isinstance(message, Seen):
                self.take(message)

    async def follow(self) -> None:
        while True:
            self.listen()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def agent(folder: Path, environment: dict[str, str], *options: str) -> AsyncIterator[tuple[Controller, Link]]:
    async with controller(folder) as script:
        link = Link(script)
        following = asyncio.create_task(link.follow())
        words = command_line(folder, script.port, "--no-sensor", *options)
        process = await asyncio.create_subprocess_exec(
            *words, env={**ENVIRONMENT, **environment, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]}
        )
        try:
            await script.linked()
            yield script, link
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
            following.cancel()


def inspected(containers: Podman, identity: str) -> dict[str, object]:
    found: list[dict[str, object]] = json.loads(containers("container", "inspect", identity))
    return found[0]


async def of(containers: Podman, *words: str) -> str:
    return await asyncio.to_thread(containers, *words)


def test_a_container_from_its_start_to_its_removal(containers: Podman, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with agent(tmp_path / "a", containers.environment) as (_, link):
            await link.until(lambda: link.messages)
            assert link.messages[0].complete
            assert link.node is not None
            assert (link.node.name, link.node.machine_id) == ("here", proc.machine_id())
            before = time.time()
            identity = await asyncio.to_thread(containers.run, "web", "--label", "tier=front", "--label", "app=web")
            seen = await link.of(identity, lambda seen: seen.running and seen.labels is not None)
            said = inspected(containers, identity)
            state = said["State"]
            assert isinstance(state, dict)
            assert seen == ContainerSeen(
                id=identity,
                name="web",
                image=IMAGE,
                image_id=f"sha256:{said['Image']}",
                node="here",
                runtime="podman",
                labels={"tier": "front", "app": "web"},
                pid=state["Pid"],
                started=seen.started,
                host_network=False,
            )
            assert seen.started is not None
            assert before - 1 <= seen.started <= time.time()

            assert seen.pid is not None
            os.kill(seen.pid, signal.SIGKILL)
            await link.of(identity, lambda seen: not seen.running and seen.pid is None)
            await of(containers, "start", "web")
            again = await link.of(identity, lambda seen: seen.running)
            assert again.pid != seen.pid
            assert again.labels == seen.labels
            await of(containers, "rm", "--force", "--time", "0", "web")
            await link.until(lambda: identity not in link.containers)

    asyncio.run(scenario())


def test_what_shares_a_network_namespace(containers: Podman, tmp_path: Path) -> None:
    pod = containers("pod", "create", "--name", "shop", "--infra-image", IMAGE, "--network", "none")
    inner = containers.run("inner", "--pod", "shop")
    owner = containers.run("owner")
    guest = containers.run("guest", "--network", f"container:{owner}")
    host = containers.run("host", "--network", "host")
    never = containers("create", "--name", "never", "--network", "none", IMAGE)
    infra = json.loads(containers("pod", "inspect", pod))["InfraContainerID"]

    async def scenario() -> None:
        # All of it was there before the agent.
        async with agent(tmp_path / "a", containers.environment) as (script, link):
            for identity, sandbox in ((inner, infra), (infra, None), (owner, None), (guest, owner), (host, None)):
                seen = await link.of(identity, lambda seen: seen.labels is not None)
                assert (seen.sandbox, seen.running) == (sandbox, True)
                assert seen.podman_pod == (pod if identity in (inner, infra) else None)
                assert seen.pid is not None
                assert seen.host_network is (identity == host)
                if sandbox is not None:
                    other = link.containers[sandbox].pid
                    assert other is not None
                    assert proc.netns(seen.pid) == proc.netns(other)
            assert not link.containers[never].running
            # Another link is told all of it again.
            told, complete = dict(link.containers), len([message for message in link.messages if message.complete])
            assert script.link is not None
            await script.link.close()
            await link.until(lambda: len([message for message in link.messages if message.complete]) > complete)
            assert link.containers == told

    try:
        asyncio.run(scenario())
    finally:
        containers("pod", "rm", "--force", "--time", "0", "shop")
        containers("rm", "--force", "--time", "0", "guest")
        containers("rm", "--force", "--time", "0", "owner", "host", "never")


def test_many_come_and_go_and_none_is_missed(containers: Podman, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with agent(tmp_path / "a", containers.environment) as (_, link):
            made = [await asyncio.to_thread(containers.run, f"many-{number}") for number in range(6)]
            for identity in made:
                assert (await link.of(identity, lambda seen: seen.labels is not None and seen.running)).labels == {}
            await of(containers, "rm", "--force", "--time", "0", *made[:5])
            await link.until(lambda: not set(made[:5]) & set(link.containers))
            assert made[5] in link.containers
            await of(containers, "rm", "--force", "--time", "0", made[5])
            await link.until(lambda: made[5] not in link.containers)

    asyncio.run(scenario())


def test_switched_off(containers: Podman, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with agent(tmp_path / "a", containers.environment, "--no-containers") as (script, link):
            assert "containers: switched off" in script.hellos[0].limits
            identity = await asyncio.to_thread(containers.run, "unseen")
            await of(containers, "rm", "--force", "--time", "0", identity)
            assert link.messages == []

    asyncio.run(scenario())


def test_without_root_it_says_what_it_cannot_see(containers: Podman, tmp_path: Path) -> None:
    """The store's folder is the owner's alone, and the agent is user 0 without the capability to pass over that."""
    script = (
        "from quell.agent.containers.storage import Roots, Storage\n"
        "print(*Storage(None, Roots.configured(), 'podman').limits(), sep='\\n')\n"
    )
    roots = containers.folder
    for folder, owner in ((roots / "graph", 65534), (roots / "graph", 0)):
        os.chown(folder, owner, owner)
        done = subprocess.run(
            ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", sys.executable, "-c", script],
            env={**containers.environment, "PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert ("not seen" in done.stdout) is (owner != 0)


def test_podmans_own_socket_is_not_taken_for_dockers(containers: Podman, tmp_path: Path) -> None:
    """As podman-docker sets it up: /var/run/docker.sock leads to podman's."""
    socket = tmp_path / "docker.sock"
    identity = containers.run("not-dockers")

    async def scenario() -> None:
        service = await asyncio.create_subprocess_exec(
            "podman", "system", "service", "--time", "0", f"unix://{socket}", env=containers.environment
        )
        try:
            # It answers as Docker would, and has the container.
            deadline = time.monotonic() + 30
            listed = b""
            while identity.encode() not in listed:
                assert time.monotonic() < deadline, listed
                await asyncio.sleep(0.05)
                with contextlib.suppress(OSError):
                    _, listed = await get(str(socket), "/containers/json?all=1", most=1 << 20)
            # The first list waits for what Docker's socket says.
            async with telling(lambda folders: [Docker(folders, str(socket))]) as told:
                assert told.messages[0].complete
                assert told.containers == {}
        finally:
            service.terminate()
            await asyncio.wait_for(service.wait(), 20)

    try:
        asyncio.run(scenario())
    finally:
        containers("rm", "--force", "--time", "0", identity)
