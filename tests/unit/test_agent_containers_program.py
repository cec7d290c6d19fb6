from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from quell.agent.containers.program import answer

#: The agent's own loop, and the standard one.
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [uvloop.new_event_loop, asyncio.new_event_loop]


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("loop", LOOPS)
def test_the_whole_answer(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        for size in (0, 1, 300_000):
            words = [sys.executable, "-c", f"print('x' * {size}, end='')"]
            assert await answer(words, most=1 << 20, seconds=30) == b"x" * size

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
def test_what_it_leaves_running_is_not_waited_for(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        begun = time.monotonic()
        assert await answer(["sh", "-c", "sleep 40 & echo $!"], most=100, seconds=30) != b""
        assert time.monotonic() - begun < 20

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_one_that_writes_without_end_or_never_answers_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
        written = await answer(["sh", "-c", "echo $$; exec cat /dev/zero"], most=1 << 20, seconds=30)
        assert len(written) < 2 << 20
        number = int(written.split(b"\n")[0])
        assert not runs(number)
        file = tmp_path / "number"
        with pytest.raises(TimeoutError):
            await answer(["sh", "-c", f"echo $$ > {file}; exec sleep 60"], most=100, seconds=5)
        assert not runs(int(file.read_text()))
        with pytest.raises(FileNotFoundError):
            await answer([str(tmp_path / "missing")], most=100, seconds=5)
        assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    asyncio.run(scenario())
