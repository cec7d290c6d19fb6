"""Services and network namespaces of a test's own, in which it starts processes, and what an agent tells of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from quell.agent.connector import Connector, ConnectorError
from quell.agent.events import Notices
from quell.agent.observing import Observing
from quell.agent.sensor import Sensor
from quell.agent.subjects import Subjects
from quell.agent.watchlist import WatchList
from quell.channel.messages import Observations, Observe, decode_from_agent
from quell.model.observation import Observation, Seen
from quell.model.subject import Process, Subject

MACHINE = Subject(node="here", machine_id="m-1")
_HIERARCHIES = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup"))
_count = iter(range(1, 1_000_000))


class Service:
    """A control group named like a service, and processes in it."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.group = root / name
        self.cgroup = f"systemd:/{name}"

    @contextmanager
    def started(self, *words: str | Path, netns: str = "", **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """The words are executed in the group, by a shell that executed nothing else there; killed at the end."""
        where = f"ip netns exec {netns} " if netns else ""
        script = f'echo $$ > {self.group}/cgroup.procs; exec {where}"$@"'
        with subprocess.Popen(
            ["sh", "-c", script, "sh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def pids(self) -> list[int]:
        return [int(line) for line in (self.group / "cgroup.procs").read_text().split()]


@contextmanager
def service(name: str = "") -> Iterator[Service]:
    root = next((place for place in _HIERARCHIES if (place / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("no control group hierarchy here")
    made = Service(root, name or f"quell-{os.getpid()}-{next(_count)}.service")
    made.group.mkdir()
    try:
        yield made
    finally:
        deadline = time.monotonic() + 10
        while made.group.exists() and time.monotonic() < deadline:
            for pid in made.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            with contextlib.suppress(OSError):  # busy until the last process in it is reaped
                made.group.rmdir()


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@contextmanager
def joined_namespaces() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces with a cable: 10.77.0.1 and fd77::1 in the first, .2 and ::2 in the second."""
    names = (f"quell-o-{os.getpid()}-{next(_count)}", f"quell-o-{os.getpid()}-{next(_count)}")
    with contextlib.ExitStack() as cleanup:
        for name in names:
            ip("netns", "add", name)
            cleanup.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
        near, far = names
        ip("-n", near, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", far)
        for name, host in ((near, "1"), (far, "2")):
            ip("-n", name, "address", "add", f"10.77.0.{host}/24", "dev", "eth0")
            ip("-n", name, "address", "add", f"fd77::{host}/64", "dev", "eth0", "nodad")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names


class Watching:
    """A sensor that observes, on this thread's loop, and what it told so far."""

    def __init__(self) -> None:
        self.told: list[Observation] = []
        self.lost = 0
        self.events: list[bytes] = []
        subjects = Subjects(MACHINE)
        notices = Notices(MACHINE, self._emit, time.time)
        self.observing = Observing(subjects, notices, self._roused)
        self.sensor = Sensor(Connector(), WatchList([]), subjects, self._emit, notices, self.observing)

    def _emit(self, _identity: str, raw: bytes) -> None:
        self.events.append(raw)

    def _roused(self) -> None:
        asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        while (frame := self.observing.frame()) is not None:
            message = decode_from_agent(frame)
            assert isinstance(message, Observations)
            self.told += message.observations
            self.lost += message.lost

    def of(self, pid: int, *seen: Seen) -> list[Observation]:
        return [each for each in self.told if process_of(each).pid == pid and (not seen or each.seen in seen)]

    def named(self, unit: Service, name: str, *seen: Seen) -> list[Observation]:
        """Of this service: others may run such programs at the same time."""
        told = [each for each in self.told if each.subject.service == unit.name and process_of(each).name == name]
        return [each for each in told if not seen or each.seen in seen]

    async def until(self, found: Callable[[], Sequence[Observation]], seconds: float = 20.0) -> Observation:
        """The first of what is found, once there is any."""
        await self.reaches(lambda: bool(found()), seconds)
        return found()[0]

    async def reaches(self, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not in time; told: {self.told}, {self.sensor.counts}"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def watching(*, sockets: float | None = None) -> AsyncIterator[Watching]:
    """Observes from before the body's first step on, until its end."""
    try:
        watching = Watching()
    except ConnectorError as error:
        pytest.skip(str(error))
    watching.sensor.start()
    watching.observing.ask(Observe(executions=True, sockets=sockets))
    try:
        yield watching
    finally:
        watching.sensor.stop()
        watching.observing.stop()


def process_of(observation: Observation) -> Process:
    return observation.subject.process or Process()
