"""Process trees of the test's own that fork while they are killed, and who of them is left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quell.agent.proc import HZ, pids, read_process
from quell.model.action import AgentAction
from quell.model.decision import Command
from quell.model.subject import Process, ProcessTarget, Target

#: An agent that carries out one command, with its ledger in a file: to be killed at some step.
AGENT = """
import sys
import msgspec
from pathlib import Path
from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.protected import Protected
from quell.model.decision import Command
executor = Executor(LinuxKernel(), Ledger(Path(sys.argv[1])), Protected.load())
print(executor.execute(msgspec.json.decode(sys.stdin.buffer.read(), type=Command)).status)
"""

_PROGRAM = Path(__file__).with_name("forking_process.py")
_count = iter(range(1, 1_000_000))

#: Forks that a tree makes at most: this machine is shared.
FORKS = {"still": 0, "short": 20_000, "growing": 150, "leaving": 150, "orphans": 2_000}
SECONDS = 20


class Forking:
    """A context: what is left of the tree at its end is killed, found by a name that only it has."""

    def __init__(self, kind: str, workers: int = 50, **options: Any) -> None:
        """options: of Popen; by default the tree is a process group of its own."""
        self.name = f"forking-{os.getpid()}-{next(_count)}-"
        command = [str(_PROGRAM), kind, str(workers), str(FORKS[kind]), str(SECONDS), self.name]
        self._options = {"process_group": 0} | options
        self._command = [sys.executable, "-S", *command]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, **self._options)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        time.sleep(2.5 / HZ)  # the start must lie more than a tick before the event
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline = time.monotonic() + SECONDS
        while (left := self.left()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        self.process.wait(SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def facts(self) -> Process:
        facts = read_process(self.process.pid)
        assert facts is not None
        return facts.process

    def left(self) -> list[int]:
        """Those of it that have not ended, the first process among them."""
        return [pid for pid in pids() if self._is_of_it(pid)]

    def _is_of_it(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            # One that has ended has no command line any more.
            return self.name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False


def order(action: AgentAction, target: Process | Target, **more: Any) -> Command:
    """A command as a controller would give it now."""
    now = time.time()
    if isinstance(target, Process):
        target = ProcessTarget(node="n", process=target, seen=now)
    return Command(
        **{
            "id": f"test/{next(_count)}",
            "agent": "a",
            "action": action,
            "target": target,
            "issued": now,
            "expires": now + 30,
            "nonce": os.urandom(8).hex(),
        }
        | more
    )
