"""Gives pids away on purpose, between an event and its command and while the command is carried out.

`unshare --pid --fork --mount-proc python recycling_process.py FOLDER ATTEMPTS`, in a pid namespace where nobody else takes
numbers. Each attempt names a process that is killed then; a new one gets its pid at once, of the same program, user and
parent, and leads a process group and a session as the first did. What became of the new ones is written at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, read_process
from quell.agent.protected import Protected
from quell.model.action import AgentAction, KillProcess, KillProcessGroup, KillProcessTree, ReniceProcess
from quell.model.decision import Command
from quell.model.subject import Process, ProcessTarget

#: Numbers in use at a time: when a process's turn comes it is older than some clock ticks.
_POOL = 40
_NEXT = Path("/proc/sys/kernel/ns_last_pid")


def _action(n: int) -> AgentAction:
    """Trees seldom: each takes the kernel some milliseconds."""
    match n % 25:
        case 4:
            return KillProcessTree()
        case 0 | 3 | 7 | 11 | 15 | 18 | 22:
            return KillProcessGroup()
        case 2 | 13 | 23:
            return ReniceProcess(priority=15)
        case _:
            return KillProcess()


class Victim:
    def __init__(self, pid: int = 0) -> None:
        """pid: the number it is to have."""
        if pid:
            _NEXT.write_text(str(pid - 1))
        # It is the other program already when this returns.
        self.pid = os.posix_spawn("/bin/sleep", ["sleep", "600"], {}, setsid=True)
        if pid and self.pid != pid:
            raise RuntimeError(f"wanted pid {pid}, got {self.pid}")
        self.handle = os.pidfd_open(self.pid)
        self.born = time.monotonic()

    def end(self) -> None:
        """It may have ended already; its number is free after this."""
        signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        os.waitid(os.P_PIDFD, self.handle, os.WEXITED)

    @property
    def is_alive(self) -> bool:
        return os.waitid(os.P_PIDFD, self.handle, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def main(folder: Path, attempts: int) -> None:
    kept: dict[int, int] = {}
    ledger = Ledger(folder / "ledger")
    executor = Executor(
        LinuxKernel(), ledger, Protected.load(), kept=lambda pid: os.dup(kept[pid]) if pid in kept else None
    )
    told: Counter[str] = Counter()
    wrong = []
    pool = [Victim() for _ in range(_POOL)]
    for n in range(attempts):
        victim = pool.pop(0)
        time.sleep(max(0.0, victim.born + 2.5 / HZ - time.monotonic()))
        facts = read_process(victim.pid)
        if facts is None:
            raise RuntimeError(f"{victim.pid} is not there")
        action = _action(n)
        command = _command(n, action, facts.process)
        kept.clear()
        if n % 3 == 1:
            kept[victim.pid] = victim.handle  # the sensor has seen it start
        if n % 7 == 2:
            executor.prepare(command)
        is_race = n % 4 == 3
        thread = threading.Thread(target=_obey, args=(executor, command))
        if is_race:
            thread.start()
        victim.end()
        successor = Victim(victim.pid)
        if not is_race:
            thread.start()
        thread.join()
        outcome = ledger.find(command.id)
        told[f"{outcome.status}/{outcome.reason}" if outcome else "none"] += 1
        # A priority is set by number, so that in a race it can be another's, which is told as gone.
        is_reniced = os.getpriority(os.PRIO_PROCESS, successor.pid) != os.getpriority(os.PRIO_PROCESS, 0)
        if not successor.is_alive or (is_reniced and not is_race):
            wrong.append(str(outcome))
        os.close(victim.handle)
        pool.append(successor)
    for victim in pool:
        victim.end()
    sys.stdout.write(json.dumps({"attempts": attempts, "wrong": wrong, "outcomes": told}) + "\n")


def _obey(executor: Executor, command: Command) -> None:
    """As the agent does."""
    executor.strike(command)
    executor.execute(command)


def _command(n: int, action: AgentAction, process: Process) -> Command:
    now = time.time()
    return Command(
        id=f"recycled/{n}",
        agent="a",
        action=action,
        target=ProcessTarget(node="n", process=process, seen=now),
        issued=now,
        expires=now + 30,
        nonce="n",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
