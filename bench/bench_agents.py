"""A thousand agents of one controller: what each costs in memory, and how long a command to every one of them takes.

The agents are in two processes, and speak what a real one speaks: enrolment, one WebSocket each, Ed25519 both ways,
outcomes and their acknowledgements. They kill nothing. The controller is a process of its own with all its bounds on disk
(journal in FULL): an event about each machine is posted, a rule orders a kill for each, and the time is up when every
agent knows that its outcome is on disk. BENCH_AGENTS: how many.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from bench.crowd import BOOT, node
from bench.figures import Poster, Quell, fdatasync_floor, percentile, quell_up, row, signature_floor

AGENTS = int(os.environ.get("BENCH_AGENTS", "1000"))
PROCESSES = 2
#: Events in one body.
BATCH = 100
#: All commands done within so many seconds.
BOUND = 5.0
ROUNDS = 3

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: bench-kill}
spec: {event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [agentKillProcess]}
"""
#: The controller is not to keep a thousand machines behind one address from joining.
ENVIRONMENT = {"QUELL_SERVER_RATE_LIMIT": "100000", "QUELL_SERVER_RATE_BURST": "100000"}


def main() -> bool:
    """Prints the figures beside the floors; whether the bound was kept."""
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        sync = fdatasync_floor(Path(name))
    signatures = signature_floor()
    print(row("floor: fdatasync of 4 KiB", sync))
    print(row("floor: sign and verify", signatures))
    kept = True
    with quell_up(agent=False, environment=ENVIRONMENT) as running:
        (running.folder / "rule.yaml").write_text(RULE)
        running.quell("apply", "-f", str(running.folder / "rule.yaml"))
        started = time.perf_counter()
        with crowd(running) as processes:
            print(f"{'enrolled, one request each':<44} {time.perf_counter() - started:8.2f} s  (n={AGENTS})")
            time.sleep(1)
            before = _resident(running.process.pid)
            started = time.perf_counter()
            _say(processes, "link")
            _hear(processes, "linked")
            print(f"{'linked, each with its proof':<44} {time.perf_counter() - started:8.2f} s  (n={AGENTS})")
            time.sleep(2)
            idle = _resident(running.process.pid)
            print(f"{'controller, nobody linked':<44} {before / 2**20:8.1f} MiB resident")
            print(f"{'controller, all linked':<44} {idle / 2**20:8.1f} MiB resident")
            print(f"{'  for each connected agent':<44} {(idle - before) / AGENTS / 1024:8.1f} KiB")
            for number in range(ROUNDS):
                seconds, times = _commands(running, processes, number)
                kept = kept and seconds <= BOUND
                print(row("ordered to acknowledged, on the agents' side", times))
                print(f"{f'{AGENTS} commands to {AGENTS} agents, done':<44} {seconds:8.3f} s  (bound {BOUND:g} s)")
            after = _resident(running.process.pid)
            print(f"{'controller, after these':<44} {after / 2**20:8.1f} MiB resident")
    floor = percentile(signatures, 0.5) * AGENTS + percentile(sync, 0.5) * 2
    print(f"{'floor: so many signatures, two syncs':<44} {floor:8.3f} s")
    return kept


@contextlib.contextmanager
def crowd(running: Quell) -> Iterator[list[subprocess.Popen[str]]]:
    """Enrolled, not linked."""
    tokens = _join_tokens(running)
    each = AGENTS // PROCESSES
    processes = []
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as folder, contextlib.ExitStack() as ending:
        for number in range(PROCESSES):
            count = each if number < PROCESSES - 1 else AGENTS - each * (PROCESSES - 1)
            words = ["-m", "bench.crowd", running.url, folder, str(number * each), str(count)]
            process = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            ending.callback(process.wait)
            ending.callback(process.kill)
            processes.append(process)
            _tell(process, *tokens[number * each : number * each + count])
        _hear(processes, "enrolled")
        yield processes


def _join_tokens(running: Quell) -> list[str]:
    headers = {"Authorization": f"Bearer {running.token()}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=30) as client, ThreadPoolExecutor(4) as pool:

        def one(_: int) -> str:
            answer = client.post("/v1/agents/join-tokens", json={"ttl": 600}).raise_for_status()
            return str(answer.json()["token"])

        return list(pool.map(one, range(AGENTS)))


def _commands(running: Quell, crowd: list[subprocess.Popen[str]], number: int) -> tuple[float, list[float]]:
    """Seconds from the first byte of the first event to the last acknowledgement; and of each command on its agent's side."""
    poster = Poster(running.port, running.token("ingest"))
    now = time.time()
    events = [_event(agent, number, now) for agent in range(AGENTS)]
    bodies = [b"\n".join(events[at : at + BATCH]) for at in range(0, AGENTS, BATCH)]
    started = time.perf_counter()
    for body in bodies:
        poster.send(body)
        poster.answer()
    told = _hear(crowd, "done")
    seconds = time.perf_counter() - started
    _say(crowd, "again")
    return seconds, [taken / 1000 for each in told for taken in json.loads(each)]


def _event(agent: int, number: int, now: float) -> bytes:
    process = {"pid": 4711 + number, "start_ticks": 100, "boot_id": BOOT, "name": "sleep"}
    subject = {"node": node(agent), "process": process}
    return json.dumps(
        {"id": f"{agent}-{number}", "time": now, "name": "Host.Suspicious.Process", "subject": subject}
    ).encode()


def _tell(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()


def _say(crowd: list[subprocess.Popen[str]], line: str) -> None:
    for process in crowd:
        _tell(process, line)


def _hear(crowd: list[subprocess.Popen[str]], word: str) -> list[str]:
    """What follows the word, of each."""
    told = []
    for process in crowd:
        assert process.stdout is not None
        said, _, rest = process.stdout.readline().strip().partition(" ")
        if said != word:
            raise RuntimeError(f"a process of agents said {said!r} instead of {word!r}")
        told.append(rest)
    return told


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
