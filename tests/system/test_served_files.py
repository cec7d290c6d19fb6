"""Programs on file systems that somebody else serves: no question is put to them, and they hide from nobody."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.system.running import wait_for
from tests.system.served import asked, served
from tests.system.test_kill import Victim, command
from tests.system.test_sensor import sensing

from quell.agent.executor import Executor
from quell.agent.file_status import file_status
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import read_process
from quell.agent.protected import Protected
from quell.agent.watchlist import WatchList
from quell.model.decision import OutcomeStatus
from quell.model.subject import Process

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE"),
]
PROGRAM = shutil.which("sleep") or "/bin/sleep"
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """Where others may look, too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def running(file: Path, user: int = 0) -> Iterator[Victim]:
    victim = Victim(str(file), "300", user=user, group=user, extra_groups=[])
    try:
        yield victim
    finally:
        victim.process.kill()
        victim.process.wait()


def told(pid: int) -> Process:
    facts = read_process(pid)
    assert facts is not None
    return facts.process


def test_who_does_not_answer_holds_up_nothing(place: Path) -> None:
    with served(place / "served", PROGRAM) as file, running(file) as victim:
        assert not asked(file).exists()
        facts, status = read_process(victim.pid, full=False), file_status(f"/proc/{victim.pid}/exe")
        assert facts is not None
        assert facts.process.exe == str(file)
        assert facts.exe_id == (os.lstat(place / "served").st_dev, 2) == status[:2]
        assert status.size == Path(PROGRAM).stat().st_size
        assert not asked(file).exists()
        # Whoever does ask waits.
        asking = subprocess.Popen([sys.executable, "-c", f"import os; os.stat('/proc/{victim.pid}/exe')"])
        wait_for(asked(file).exists, what="the question")
        assert asking.poll() is None
    asking.wait(20)


def test_a_kill_does_not_wait_for_who_serves_the_program(place: Path) -> None:
    ledger = Ledger(place / "ledger")
    executor = Executor(LinuxKernel(), ledger, Protected.load())
    with served(place / "served", PROGRAM) as file, running(file) as victim:
        order = command(told(victim.pid))
        assert not executor.prepare(order, wait=False), "what is protected was not looked up yet"
        executor.prepare(command(told(victim.pid)))
        assert executor.prepare(order, wait=False)
        assert executor.strike(order) is not None
        assert executor.execute(order).status is OutcomeStatus.DONE
        assert victim.process.wait(5) == -9
    ledger.close()


@pytest.mark.parametrize("user", [0, NOBODY])
def test_a_watched_program_is_seen_whoever_serves_it(place: Path, user: int) -> None:
    """That of another user says nothing of its files to root, not even that they are there."""

    async def scenario() -> None:
        async with sensing() as sensor:
            with running(file, user) as victim:
                event = await sensor.of(victim.pid)
                process = event.subject.process
                assert event.name == "Host.Suspicious.Process"
                assert process is not None
                assert (process.exe, process.name, process.uid) == (str(file), "nc", user)
                assert b"name nc" in event.raw

    with served(place / "served", PROGRAM, user) as file:
        if user:
            with pytest.raises(PermissionError):
                file_status(str(file))
        asyncio.run(scenario())


def test_an_exception_for_a_program_needs_one_that_can_be_read(place: Path) -> None:
    """Its name is allowed where its contents are another program's: whose contents show nothing is not."""
    rules = f"""
[[watch]]
name = "netcat"
names = ["nc"]
copies = false

[[watch.allow]]
same_as = [{PROGRAM!r}]
"""
    copy = Path(shutil.copy(PROGRAM, place / "nc"))

    async def scenario() -> None:
        async with sensing(WatchList.parse(rules)) as sensor:
            with running(copy, NOBODY) as allowed:
                await sensor.looked_at(allowed.pid)
                with running(file, NOBODY) as hidden:
                    await sensor.of(hidden.pid)
                assert not sensor.told_of(allowed.pid)

    with served(place / "served", PROGRAM, NOBODY) as file:
        asyncio.run(scenario())
