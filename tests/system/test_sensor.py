"""The sensor against real executions: every way in which a watched program may come along is seen, and by its process."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from tests.unit.test_agent_sensor_parts import is_kept

from quell.agent import proc
from quell.agent.connector import Connector, ConnectorError
from quell.agent.events import Notices
from quell.agent.observing import Observing
from quell.agent.sensor import Sensor
from quell.agent.subjects import Subjects
from quell.agent.watchlist import WatchList
from quell.detectors import DETECTORS
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Subject

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the process connector and others' /proc need root"),
]
needs_nc = pytest.mark.skipif(shutil.which("nc") is None, reason="netcat-openbsd is not installed")
MACHINE = Subject(node="here", machine_id="m-1")
LISTEN = ["-l", "127.0.0.1", "0"]


def own_name() -> str:
    return Path("/proc/self/comm").read_text().strip()


def real(path: str | None) -> str:
    return os.path.realpath(path or "")


class Running:
    """A sensor on this thread's loop, and what it told."""

    def __init__(self, watch_list: WatchList, connector: Connector) -> None:
        self.events: list[Event] = []
        notices = Notices(MACHINE, self._emit, time.time)
        subjects = Subjects(MACHINE)
        self.observing = Observing(subjects, notices, lambda: None)
        self.sensor = Sensor(connector, watch_list, subjects, self._emit, notices, self.observing)

    def _emit(self, identity: str, raw: bytes) -> None:
        self.events.append(DETECTORS["sensor"].decode(raw, id=identity, received=time.time()))

    async def until(self, is_it: Callable[[Event], bool], seconds: float = 5.0) -> Event:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for event in self.events:
                if is_it(event):
                    return event
            await asyncio.sleep(0.002)
        raise AssertionError(f"not seen; seen: {[event.raw for event in self.events]}, {self.sensor.counts}")

    def told_of(self, pid: int) -> list[Event]:
        """Others may run watched programs at the same time."""
        return [event for event in self.events if event.subject.process and event.subject.process.pid == pid]

    async def of(self, pid: int) -> Event:
        await self.reaches(lambda: bool(self.told_of(pid)))
        return self.told_of(pid)[0]

    async def looked_at(self, pid: int) -> None:
        """Until the sensor has seen this execution, whatever it made of it."""
        await self.reaches(lambda: is_kept(self.sensor, pid))

    async def reaches(self, holds: Callable[[], bool], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.sensor.counts
            await asyncio.sleep(0.002)


@asynccontextmanager
async def sensing(watch_list: WatchList | None = None, connector: Connector | None = None) -> AsyncIterator[Running]:
    try:
        running = Running(watch_list or WatchList.load(), connector or Connector())
    except ConnectorError as error:
        pytest.skip(str(error))
    running.sensor.start()
    try:
        yield running
    finally:
        running.sensor.stop()
        running.observing.stop()


@contextmanager
def started(*arguments: str | Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(  # type: ignore[call-overload]
        arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@needs_nc
def test_netcat_and_all_facts_of_it() -> None:
    async def scenario() -> None:
        async with sensing() as running:
            with started("nc", *LISTEN) as process:
                event = await running.of(process.pid)
                assert (event.category, event.kind) == (Category.SECURITY_EVENT, Kind.INCIDENT)
                assert (event.name, event.catalogue_name) == ("Host.Suspicious.Process", "Host.Suspicious.Process")
                assert event.level is Level.WARNING
                assert event.time is not None
                assert 0 <= event.received - event.time < 1
                subject, found = event.subject, event.subject.process
                assert (subject.node, subject.machine_id, subject.container) == ("here", "m-1", None)
                assert found is not None
                stat = proc.read_stat(process.pid)
                assert stat is not None
                assert (found.start_ticks, found.boot_id) == (stat.start_ticks, proc.boot_id())
                assert found.exe == real(shutil.which("nc"))
                assert (found.name, found.cmdline) == ("nc", "nc -l 127.0.0.1 0")
                assert (found.uid, found.user, found.pgid) == (0, "root", os.getpgid(process.pid))
                assert found.ppid == os.getpid()
                assert found.ancestors[0] == own_name()
                assert [each.name for each in found.lineage] == list(found.ancestors)
                assert (found.lineage[0].pid, found.lineage[0].user) == (os.getpid(), "root")
                assert found.lineage[0].exe == real(sys.executable)
                assert found.lineage[-1].pid == 1
                assert found.content is None

    asyncio.run(scenario())


@needs_nc
def test_the_kept_handle_reaches_the_process() -> None:
    async def scenario() -> None:
        async with sensing() as running:
            with started("nc", *LISTEN) as process:
                await running.of(process.pid)
                pidfd = running.sensor.kept(process.pid)
                assert pidfd is not None
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
                assert process.wait(5) == -signal.SIGKILL
            assert running.sensor.kept(os.getpid()) is None

    asyncio.run(scenario())


@needs_nc
def test_a_renamed_copy(tmp_path: Path) -> None:
    copy = shutil.copy(shutil.which("nc") or "", tmp_path / "harmless")

    async def scenario() -> None:
        async with sensing() as running:
            with started(copy, *LISTEN) as process:
                event = await running.of(process.pid)
                assert event.subject.process is not None
                assert event.subject.process.name == "harmless"
                assert b"copy of /usr/bin/nc" in event.raw

    asyncio.run(scenario())


@pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")
def test_an_applet_of_busybox() -> None:
    async def scenario() -> None:
        async with sensing() as running:
            with started("busybox", "nc", "-l", "-p", "0", "127.0.0.1") as process:
                assert b"name nc" in (await running.of(process.pid)).raw
            with started("busybox", "sleep", "60") as process:
                await running.looked_at(process.pid)
                assert not running.told_of(process.pid)

    asyncio.run(scenario())


def test_a_program_from_memory() -> None:
    script = (
        "import os, shutil; fd = os.memfd_create('x'); os.write(fd, open(shutil.which('sleep'), 'rb').read());"
        "os.execve(f'/proc/self/fd/{fd}', ['systemd', '60'], {})"
    )

    async def scenario() -> None:
        async with sensing() as running:
            with started(sys.executable, "-c", script) as process:
                event = await running.of(process.pid)
                assert event.subject.process is not None
                assert (event.subject.process.content, event.subject.process.exe) == ("memfd", "/memfd:x")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("file", "head", "by_interpreter"),
    [("nc.py", "", True), ("ncat", f"#!{sys.executable}\n", False), ("xmrig.sh", "#!/bin/sh\n", False)],
)
def test_a_script_by_its_own_name(tmp_path: Path, file: str, head: str, by_interpreter: bool) -> None:
    script = tmp_path / file
    body = "read line\n" if "sh" in head else "import sys\nsys.stdin.readline()\n"
    script.write_text(head + body)
    script.chmod(0o755)

    async def scenario() -> None:
        async with sensing() as running:
            arguments = [sys.executable, "-u", script] if by_interpreter else [script]
            with started(*arguments) as process:
                event = await running.of(process.pid)
                assert event.subject.process is not None
                assert file in (event.subject.process.cmdline or "")

    asyncio.run(scenario())


@needs_nc
def test_in_a_container() -> None:
    identity = secrets.token_hex(32)
    places = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")]
    root = next((place for place in places if (place / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("no control group hierarchy here")
    group = root / identity
    group.mkdir()

    async def scenario() -> None:
        async with sensing() as running:
            with started("sh", "-c", f"echo $$ > {group}/cgroup.procs; exec nc -l 127.0.0.1 0") as process:
                event = await running.of(process.pid)
                assert event.name == "Container.Suspicious.Process"
                assert event.subject.container is not None
                assert event.subject.container.id == identity

    try:
        asyncio.run(scenario())
    finally:
        deadline = time.monotonic() + 5
        while group.exists() and time.monotonic() < deadline:
            with suppress(OSError):  # busy until the last process in it is reaped
                group.rmdir()


def test_an_exception_is_silent(tmp_path: Path) -> None:
    program = shutil.copy(shutil.which("sleep") or "", tmp_path / "watched")
    text = '[[watch]]\nname = "w"\nnames = ["watched"]\n[[watch.allow]]\nuser = "root"\nparent = "{parent}"\n'

    async def scenario() -> None:
        this = own_name()
        for parent, told in ((this, False), ("another", True), (real(sys.executable), False)):
            async with sensing(WatchList.parse(text.format(parent=parent))) as running:
                with started(program, "60") as process:
                    if told:
                        await running.of(process.pid)
                    else:
                        await running.looked_at(process.pid)
                        assert running.events == []

    asyncio.run(scenario())


def test_lost_messages_are_counted_and_told_once() -> None:
    async def scenario() -> None:
        async with sensing(connector=Connector(buffer_bytes=2048)) as running:
            for burst in range(2):
                for _ in range(40):
                    subprocess.run(["true"], check=True)  # noqa: ASYNC221 - nothing may read meanwhile
                least = 20 * (burst + 1)
                await running.reaches(lambda least=least: running.sensor.counts.lost >= least)
            event = await running.until(lambda event: event.name == "Sensor.Events.Lost")
            assert event.category is Category.EVENT
            assert [event.name for event in running.events].count("Sensor.Events.Lost") == 1
            # It goes on after a loss; with so small a buffer any single execution may be lost again.
            seen = running.sensor.counts.seen
            while running.sensor.counts.seen == seen:
                with started("true") as process:
                    await asyncio.sleep(0.01)
                    process.wait(5)

    asyncio.run(scenario())


def test_what_is_gone_before_it_is_read_is_counted_and_nothing_leaks() -> None:
    async def scenario() -> None:
        async with sensing() as running:
            for _ in range(50):
                subprocess.run(["true"], check=True)  # noqa: ASYNC221 - nothing may read meanwhile
            await running.reaches(lambda: running.sensor.counts.vanished >= 50)
            ended = []
            for _ in range(20):
                with started("sleep", "60") as process:
                    await running.looked_at(process.pid)
                    ended.append(process.pid)
            with started("sleep", "60") as process:
                await running.looked_at(process.pid)
                assert not any(is_kept(running.sensor, pid) for pid in ended)

    asyncio.run(scenario())
