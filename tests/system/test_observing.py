"""What the agent tells of workloads' processes: real services and containers, at once and as they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.system.podman import Podman, missing, podman
from tests.system.workloads import Service, Watching, process_of, service, watching
from tests.unit.test_agent_runtime import ENVIRONMENT, UNPRIVILEGED, Controller, command_line, controller, until
from tests.unit.test_agent_sensor_parts import is_kept

from quell.agent import proc
from quell.channel import messages as m
from quell.model.observation import Observation, Seen

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the process connector and others' /proc need root"),
]
PYTHON = str(Path(sys.executable).resolve())
SLEEP, SHELL = os.path.realpath("/bin/sleep"), os.path.realpath("/bin/sh")
#: A server whose workers fork, take another name and another user, and execute nothing.
FORKS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.prctl(15, b"worker", 0, 0, 0)
    os.setresuid(1, 1, 1)
    os.write(1, b"%d\\n" % os.getpid())
    libc.pause()
os.wait()
"""
#: Says on which port of the loopback it listens.
LISTENS = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def unit() -> Iterator[Service]:
    with service() as made:
        yield made


def own(observation: Observation) -> list[str]:
    """Names of the ancestors of its own workload."""
    return [each.name for each in process_of(observation).lineage[: observation.inside]]


def test_an_execution_in_a_service_and_all_facts_of_it(unit: Service) -> None:
    async def scenario() -> None:
        async with watching() as seen:
            with unit.started("sh", "-c", "sleep 60 & wait") as shell:
                told = await seen.until(lambda: seen.named(unit, "sleep", Seen.EXECUTED))
                process, subject = process_of(told), told.subject
                assert (subject.node, subject.machine_id) == ("here", "m-1")
                assert (subject.service, subject.service_cgroup) == (unit.name, unit.cgroup)
                assert (subject.container, subject.pod) == (None, None)
                facts = proc.read_process(process.pid or 0)
                assert facts is not None
                assert (
                    msgspec.structs.replace(
                        process, user=None, ancestors=(), lineage=(), start_time=facts.process.start_time
                    )
                    == facts.process
                )
                assert (process.name, process.cmdline, process.user) == ("sleep", "sleep 60", "root")
                assert process.exe == SLEEP
                assert 0 <= time.time() - told.time < 60
                parent, test = proc.read_stat(shell.pid), proc.read_stat(os.getpid())
                assert parent is not None
                assert test is not None
                assert process.lineage[0].pid == process.ppid == shell.pid
                assert process.lineage[0].start_ticks == parent.start_ticks
                assert process.lineage[1].pid == os.getpid()
                assert process.lineage[-1].pid == 1
                assert process.ancestors == tuple(each.name for each in process.lineage)
                # The shell is of the service, and this test is not.
                assert own(told) == ["sh"]
                # A busy sensor may see the shell before this one, which has moved in by then.
                assert own(seen.of(shell.pid, Seen.EXECUTED)[-1]) == []

    asyncio.run(scenario())


def test_a_handle_is_kept_and_reaches_the_process(unit: Service) -> None:
    async def scenario() -> None:
        async with watching() as seen:
            with unit.started("sleep", "60") as process:
                await seen.until(lambda: seen.of(process.pid))
                pidfd = seen.sensor.kept(process.pid)
                assert pidfd is not None
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
                assert process.wait(5) == -signal.SIGKILL

    asyncio.run(scenario())


def test_each_program_of_one_process_is_told_and_ancestors_as_they_are_then(unit: Service) -> None:
    async def scenario() -> None:
        async with watching() as seen:
            script = f'read line; exec {PYTHON} -c \'import subprocess; subprocess.run(["sleep", "60"])\''
            with unit.started("sh", "-c", script) as process:
                assert process.stdin is not None
                await seen.until(lambda: seen.of(process.pid))
                process.stdin.write(b"\n")
                process.stdin.close()
                told = await seen.until(lambda: seen.named(unit, "sleep", Seen.EXECUTED))
                assert process_of(told).lineage[0].exe == PYTHON
                exes = [process_of(each).exe for each in seen.of(process.pid, Seen.EXECUTED)]
                assert list(dict.fromkeys(exes)) == [SHELL, PYTHON]

    asyncio.run(scenario())


def test_what_ran_before_and_what_only_forks(unit: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quell.agent.observing._SCAN", 0.2)
    monkeypatch.setattr("quell.agent.observing._SCAN_SOON", 0.2)
    monkeypatch.setattr("quell.agent.observing._YOUNG", 0.1)

    async def scenario() -> None:
        with unit.started(PYTHON, "-c", FORKS) as server:
            assert server.stdout is not None
            worker = int(server.stdout.readline())
            async with watching() as seen:
                told = await seen.until(lambda: seen.of(server.pid))
                assert (told.seen, process_of(told).exe, told.inside) == (Seen.RUNNING, PYTHON, 0)
                told = await seen.until(lambda: seen.of(worker))
                process = process_of(told)
                assert (told.seen, process.name, process.exe, process.uid) == (Seen.RUNNING, "worker", PYTHON, 1)
                assert process.lineage[0].pid == server.pid
                assert told.inside == 1
                # Another one forks while it is observed, and is another process half a second later.
                with unit.started(PYTHON, "-c", FORKS.replace("worker", "other")) as later:
                    assert later.stdout is not None
                    second = int(later.stdout.readline())
                    told = await seen.until(lambda: seen.of(second))
                    assert (told.seen, process_of(told).name, process_of(told).uid) == (Seen.RUNNING, "other", 1)
                    await seen.until(lambda: seen.of(later.pid, Seen.EXECUTED))
                # Looks later nothing of it has been told again.
                looks = len(seen.told)
                with unit.started("sleep", "60") as another:
                    await seen.until(lambda: seen.of(another.pid))
                    await asyncio.sleep(0.7)
                assert [each for each in seen.told[looks:] if process_of(each).pid in (server.pid, worker)] == []
                assert len(seen.of(worker)) == len(seen.of(server.pid)) == 1

    asyncio.run(scenario())


def test_outside_of_containers_and_services_nothing_is_told(unit: Service) -> None:
    async def scenario() -> None:
        async with watching() as seen:
            with (
                subprocess.Popen(["sleep", "61"]) as outside,  # noqa: ASYNC220 - it returns at once
                unit.started("sleep", "62") as inside,
            ):
                await seen.until(lambda: seen.of(inside.pid))
                await seen.reaches(lambda: is_kept(seen.sensor, outside.pid))
                outside.kill()
                assert seen.of(outside.pid) == []

    asyncio.run(scenario())


def test_it_is_told_at_once(unit: Service) -> None:
    """How long it takes at all is measured (bench); here only that no timer stands between."""

    async def scenario() -> None:
        async with watching() as seen:
            taken = []
            for _ in range(20):
                with unit.started("sleep", "60") as process:
                    told = await seen.until(lambda process=process: seen.of(process.pid, Seen.EXECUTED))  # type: ignore[misc]
                    taken.append(time.time() - told.time)
            assert sorted(taken)[10] < 0.5

    asyncio.run(scenario())


def test_a_later_process_of_the_same_number_is_another(unit: Service) -> None:
    async def scenario() -> None:
        async with watching() as seen:

            async def told_of(pid: int, name: str) -> Observation:
                return await seen.until(lambda: [each for each in seen.of(pid) if process_of(each).name == name])

            for _ in range(200):
                with unit.started("sleep", "60") as first:
                    before = await told_of(first.pid, "sleep")
                give_next(first.pid)
                with unit.started("cat") as second:
                    if second.pid == first.pid:
                        after = await told_of(second.pid, "cat")
                        # Both may have started in the same hundredth of a second.
                        assert (process_of(after).start_ticks or 0) >= (process_of(before).start_ticks or 0)
                        assert process_of(after).exe != process_of(before).exe
                        return
        pytest.skip("others always took the number")

    asyncio.run(scenario())


def test_more_than_can_wait_is_counted_and_said(unit: Service) -> None:
    async def scenario() -> None:
        async with watching() as seen:
            seen.observing._backlog._most = 0
            with unit.started("sleep", "60"):
                await seen.reaches(lambda: seen.lost > 0)
            assert seen.told == []
            await seen.reaches(lambda: any(b"Sensor.Observations.Lost" in event for event in seen.events))

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as running:
        yield running


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_container_s_first_process_and_one_that_is_sent_in(containers: Podman, tmp_path: Path) -> None:
    users = tmp_path / "passwd"
    users.write_text("root:x:0:0::/:/bin/sh\nweb:x:4123:4123::/:/bin/sh\n")

    async def scenario() -> None:
        async with watching() as seen:
            identity = await asyncio.to_thread(
                containers.run, "observed", f"--volume={users}:/etc/passwd:ro", "--user=4123"
            )
            try:
                told = await seen.until(lambda: of_container(seen, identity))
                process = process_of(told)
                assert (told.seen, process.name, process.exe) == (Seen.EXECUTED, "sleep", "/bin/busybox")
                assert (process.uid, process.user) == (4123, "web")
                assert (told.inside, told.subject.service) == (0, None)
                assert process.lineage[0].name == "conmon"
                assert process.lineage[-1].pid == 1
                running = asyncio.create_task(
                    asyncio.to_thread(containers, "exec", "--user=0", "observed", "sh", "-c", "sleep 0.5; true")
                )
                sleeping = await seen.until(
                    lambda: [each for each in of_container(seen, identity) if own(each) == ["sh"]]
                )
                # Busybox executes itself, and takes its applet's name only then.
                assert (process_of(sleeping).cmdline, process_of(sleeping).user) == ("sleep 0.5", "root")
                assert process_of(sleeping).lineage[0].exe == "/bin/busybox"
                await running
                # The runtime's own programs are in the container's control group for a moment, and are not its.
                assert {process_of(each).exe for each in of_container(seen, identity)} == {"/bin/busybox"}
                incidents = [event for event in seen.events if identity.encode() in event]
                assert incidents == []
            finally:
                await asyncio.to_thread(containers, "rm", "--force", "--time", "0", "observed")

    asyncio.run(scenario())


def of_container(seen: Watching, identity: str) -> list[Observation]:
    return [each for each in seen.told if each.subject.container is not None and each.subject.container.id == identity]


class Linked:
    """An agent as a process, and a controller that is a script."""

    def __init__(self, script: Controller) -> None:
        self.script = script

    def of(self, pid: int) -> list[Observation]:
        told = [
            each
            for message in self.script.heard
            if isinstance(message, m.Observations)
            for each in message.observations
        ]
        return [each for each in told if process_of(each).pid == pid]

    async def count(self, pid: int, number: int) -> list[Observation]:
        await until(lambda: len(self.of(pid)) >= number)
        return self.of(pid)

    async def renew(self, observe: m.Observe | None) -> None:
        """End the link; the next one begins with another wish."""
        assert self.script.link is not None
        self.script.welcome = m.Welcome(observe=observe)
        links = len(self.script.hellos)
        await self.script.link.close()
        await self.script.linked(links + 1)


def give_next(pid: int) -> None:
    """The next process has this number, unless another comes first."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))


def executing(process: subprocess.Popen[bytes], name: str = "sleep") -> None:
    """Until it executes what it was started for."""
    deadline = time.monotonic() + 10
    while (stat := proc.read_stat(process.pid)) is None or stat.name != name:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@asynccontextmanager
async def agent(
    folder: Path, observe: m.Observe | None, *options: str, before: Sequence[str] = ()
) -> AsyncIterator[Linked]:
    """before: words that start it."""
    async with controller(folder) as script:
        script.welcome = m.Welcome(observe=observe)
        words = [*before, *command_line(folder, script.port, "--no-containers", *options)]
        process = await asyncio.create_subprocess_exec(*words, env=ENVIRONMENT)
        try:
            await script.linked()
            yield Linked(script)
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0


def test_over_a_link_it_is_told_what_is_asked_for(unit: Service, tmp_path: Path) -> None:
    async def scenario() -> None:
        with unit.started("sleep", "60") as first:
            executing(first)
            async with agent(tmp_path / "agent", None) as linked:
                assert not [limit for limit in linked.script.hellos[0].limits if limit.startswith("observations")]
                with unit.started("sleep", "61") as second:
                    executing(second)
                    # Younger than two seconds: it is told by the look after the first, unless its execution still is.
                    await linked.script.send(m.Observe(executions=True))
                    assert [each.seen for each in await linked.count(first.pid, 1)] == [Seen.RUNNING]
                    await linked.count(second.pid, 1)
                    with unit.started("sleep", "62") as third:
                        assert [each.seen for each in await linked.count(third.pid, 1)] == [Seen.EXECUTED]
                    assert [len(linked.of(each.pid)) for each in (first, second, third)] == [1, 1, 1]
                    # A new link: what runs is told anew.
                    await linked.renew(m.Observe(executions=True))
                    assert [each.seen for each in await linked.count(first.pid, 2)] == [Seen.RUNNING] * 2
                    # And one over which nothing is asked for.
                    await linked.renew(None)
                    with unit.started("sleep", "63") as fourth:
                        executing(fourth)
                        await linked.script.send(m.Observe(executions=True))
                        await linked.count(first.pid, 3)
                        await linked.count(fourth.pid, 1)

    asyncio.run(scenario())


def test_an_agent_without_a_sensor_observes_nothing(unit: Service, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with agent(tmp_path / "agent", m.Observe(executions=True), "--no-sensor") as linked:
            with unit.started("sleep", "60"):
                await linked.script.send(m.Pause(paused=False))
                await asyncio.sleep(1)
            assert [each for each in linked.script.heard if isinstance(each, m.Observations)] == []

    asyncio.run(scenario())


def test_without_privileges_it_says_so_and_goes_on_with_the_rest(unit: Service, tmp_path: Path) -> None:
    observe = m.Observe(executions=True, sockets=0.2)

    async def scenario() -> None:
        with unit.started(*UNPRIVILEGED, PYTHON, "-c", LISTENS) as own, unit.started("sleep", "60") as privileged:
            executing(privileged)
            assert own.stdout is not None
            port = int(own.stdout.readline())
            async with agent(tmp_path / "agent", observe, before=UNPRIVILEGED) as linked:
                limits = " ".join(linked.script.hellos[0].limits)
                assert "sensor: " in limits
                for capability in ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"):
                    assert f"for lack of {capability}" in limits.partition("observations: ")[2]
                await until(lambda: [each for each in linked.of(own.pid) if each.seen is Seen.LISTENING])
                told = linked.of(own.pid)
                assert (told[0].seen, process_of(told[0]).exe) == (Seen.RUNNING, PYTHON)
                assert [(each.address, each.port) for each in told[1:]] == [("127.0.0.1", port)]
                # What may not be looked at closely is told with what is known.
                assert {process_of(each).exe for each in linked.of(privileged.pid)} <= {None}

    asyncio.run(scenario())


def test_long_facts_never_break_the_link(unit: Service, tmp_path: Path) -> None:
    """Whoever chooses names and arguments must not be able to choose how long a frame becomes."""
    folder = tmp_path
    with contextlib.suppress(OSError):
        for _ in range(14):
            folder /= "\udcff" * 250
            folder.mkdir()
    program = folder / "x"
    program.write_bytes(Path(SLEEP).read_bytes())
    program.chmod(0o755)

    async def scenario() -> None:
        async with agent(tmp_path / "agent", m.Observe(executions=True)) as linked:
            with unit.started(program, "60", "x" * 100_000, cwd=folder) as long:
                with contextlib.suppress(AssertionError):
                    await until(lambda: linked.of(long.pid), 2)
                with unit.started("sleep", "60") as process:
                    await linked.count(process.pid, 1)
            assert len(linked.script.hellos) == 1

    asyncio.run(scenario())
