"""How long the agent needs to close a network namespace, and to open it again.

Run as root: PYTHONPATH=src python bench/bench_isolation.py [ROUNDS]. It makes a namespace with one end of a cable, closes
and opens it ROUNDS times (200), each time as for the first time, and removes what it made. Printed in milliseconds:
the namespace alone (what an agent does to the kernel), the whole of a command by process (identity, protection, ledger
with fdatasync, namespace, ledger), and a bare fdatasync of this disk to compare with. Then a hundred namespaces, each with
a process and a cable of its own, are isolated by a hundred commands, one after the other as an agent takes them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from quell.agent.executor import Executor
from quell.agent.ledger import Ledger
from quell.agent.linux import namespace
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.proc import HZ, pids, read_process
from quell.agent.protected import Protected
from quell.model.action import AgentAction, Quarantine, ReleaseQuarantine
from quell.model.decision import Command, OutcomeStatus
from quell.model.subject import NetworkTarget

#: The target: half of the closings of a namespace within a millisecond.
TARGET_MS = 1.0
#: And so many namespaces within so many seconds, commands and all.
MANY, TARGET_SECONDS = 100, 1.0


def timed(work: Callable[[], object], times: list[float]) -> None:
    started = time.perf_counter()
    work()
    times.append((time.perf_counter() - started) * 1000)


def settle() -> None:
    """Wait until the kernel has freed what the last opening took away, so that a closing is like a first one."""
    time.sleep(0.04)


def show(what: str, times: list[float]) -> float:
    ordered = sorted(times)
    p50, p90, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.9, 0.99))
    print(f"{what:<34} p50 {p50:7.3f}   p90 {p90:7.3f}   p99 {p99:7.3f}   ms   n {len(ordered)}")
    return p50


def bench(rounds: int) -> bool:
    name = f"quell-bench-{os.getpid()}"
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        for each in (name, f"{name}-peer"):
            subprocess.run(["ip", "netns", "add", each], check=True)
            cleanup.callback(subprocess.run, ["ip", "netns", "del", each], check=False)
        for line in (f"link add eth0 type veth peer name eth0 netns {name}-peer", "link set eth0 up"):
            subprocess.run(["ip", "-n", name, *line.split()], check=True)
        victim = subprocess.Popen(["nsenter", f"--net=/run/netns/{name}", "sleep", "3600"])
        cleanup.callback(victim.wait)
        cleanup.callback(victim.kill)
        opened = os.open(f"/run/netns/{name}", os.O_RDONLY)
        cleanup.callback(os.close, opened)
        while (facts := read_process(victim.pid)) is None or facts.process.name != "sleep":
            time.sleep(0.001)
        time.sleep(3 / HZ)

        LinuxKernel().capabilities()  # as an agent starts, which has the kernel load and patch what it needs
        close, open_again, at_once = [], [], []
        for _ in range(rounds):
            settle()
            timed(lambda: namespace.isolate(opened, strict=False), close)
            timed(lambda: namespace.release(opened), open_again)
        for _ in range(rounds // 10):
            timed(lambda: namespace.isolate(opened, strict=False), at_once)
            timed(lambda: namespace.release(opened), [])

        ledger = Ledger(folder / "ledger")
        cleanup.callback(ledger.close)
        executor = Executor(LinuxKernel(), ledger, Protected.load())
        count = iter(range(10 * rounds))

        def execute(action: AgentAction, target: NetworkTarget) -> None:
            now = time.time()
            command = Command(
                id=f"b/{next(count)}", agent="a", action=action, target=target, issued=now, expires=now + 30, nonce="n"
            )
            outcome = executor.execute(command)
            assert outcome.status is OutcomeStatus.DONE, outcome

        whole_close, whole_open = [], []
        target = NetworkTarget(node="n", key="bench", process=facts.process, seen=time.time())
        for _ in range(rounds):
            settle()
            timed(lambda: execute(Quarantine(), target), whole_close)
            timed(lambda: execute(ReleaseQuarantine(), target), whole_open)

        sync = []
        file = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        cleanup.callback(os.close, file)
        for _ in range(rounds):
            os.write(file, bytes(300))
            timed(lambda: os.fdatasync(file), sync)

    # The middle one of three: one turn of another program is half of it.
    together, each = sorted(isolate_many(MANY) for _ in range(3))[1]
    print(f"{os.cpu_count()} cores, Linux {os.uname().release}, {len(pids())} processes")
    p50 = show("close a namespace", close)
    show("open it again", open_again)
    show("close right after an opening", at_once)
    show("quarantine, whole command", whole_close)
    show("release, whole command", whole_open)
    floor = show("one fdatasync of 300 bytes", sync) / 1000
    show(f"quarantine, each of {MANY} in a row", each)
    print(f"{MANY} namespaces isolated in {together:.3f} s; their {2 * MANY} fdatasync alone {2 * MANY * floor:.3f} s")
    print(f"target: close a namespace at p50 within {TARGET_MS} ms: {'reached' if p50 <= TARGET_MS else 'MISSED'}")
    in_time = together <= TARGET_SECONDS
    print(f"target: {MANY} namespaces within {TARGET_SECONDS} s: {'reached' if in_time else 'MISSED'}")
    return p50 <= TARGET_MS and in_time


def isolate_many(count: int) -> tuple[float, list[float]]:
    """Seconds for all together, and milliseconds of each command."""
    peer = f"quell-bench-{os.getpid()}-many"
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        subprocess.run(["ip", "netns", "add", peer], check=True)
        cleanup.callback(subprocess.run, ["ip", "netns", "del", peer], check=False)
        victims = [subprocess.Popen(["unshare", "--net", "sleep", "3600"]) for _ in range(count)]
        for victim in victims:
            cleanup.callback(victim.wait)
            cleanup.callback(victim.kill)
        processes = []
        for victim in victims:
            while (facts := read_process(victim.pid)) is None or facts.process.name != "sleep":
                time.sleep(0.001)
            processes.append(facts.process)
        cables = "".join(
            f"link add peer{number} type veth peer name eth0 netns {victim.pid}\n"
            for number, victim in enumerate(victims)
        )
        subprocess.run(["ip", "-n", peer, "-batch", "-"], input=cables.encode(), check=True)
        time.sleep(3 / HZ)
        ledger = Ledger(folder / "ledger")
        cleanup.callback(ledger.close)
        kernel = LinuxKernel()
        executor = Executor(kernel, ledger, Protected.load())
        now = time.time()
        commands = [
            Command(
                id=f"many/{number}",
                agent="a",
                action=Quarantine(),
                target=NetworkTarget(node="n", key=f"many-{number}", process=process, seen=now),
                issued=now,
                expires=now + 30,
                nonce="n",
            )
            for number, process in enumerate(processes)
        ]
        times: list[float] = []
        started = time.perf_counter()
        for command in commands:
            timed(lambda command=command: executor.execute(command), times)
        together = time.perf_counter() - started
        for command, victim in zip(commands, victims, strict=True):
            outcome = ledger.find(command.id)
            assert outcome is not None, command.id
            assert outcome.status is OutcomeStatus.DONE, outcome
            opened = os.open(f"/proc/{victim.pid}/ns/net", os.O_RDONLY)
            assert kernel.look(opened).closed
            os.close(opened)
    return together, times


def main() -> bool:
    """Prints the figures; whether the bound was kept. BENCH_ROUNDS: how often a namespace is closed."""
    if os.geteuid() != 0:
        print("needs root to make a network namespace")
        return False
    return bench(int(os.environ.get("BENCH_ROUNDS", "200")))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
