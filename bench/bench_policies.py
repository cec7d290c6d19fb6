"""Policies at work: how many executions a second the controller compares, what a workload costs, and how long a deviant
process in a real container lives under a policy that kills.

Throughput: agents' messages as they come over the link, decoded, filled in from the inventory, compared with 1,000
policies, counted and learned from, on the event loop of a whole controller. Floor: decoding the messages.

Latency: from just before the execution in a podman container to the process being gone, as the test that executes it sees
it. Floors: an execution there that ends by itself, and a kill by pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.podman import IMAGE, Podman, missing, podman

from bench.figures import BUDGETS, kill_floor, percentile, quell_up, row
from quell.channel.messages import Hello, Observations, decode_from_agent, encode
from quell.channel.messages import Seen as Sighted
from quell.controller.controller import Controller
from quell.documents.load import load_text
from quell.model.observation import Observation, Seen
from quell.model.sighting import ContainerSeen
from quell.model.subject import Ancestor, Container, Process, Subject
from quell.settings import Settings
from quell.storage import agents

POLICIES = int(os.environ.get("BENCH_POLICIES", "1000"))
#: A second, for so many seconds, in messages of so many.
RATE, SECONDS, BATCH = 20_000, 5, 100
KILLS = int(os.environ.get("BENCH_DEVIANTS", "60"))
#: Seconds between two of them.
PAUSE = 0.02

_POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: p{0}, type: container}}
spec:
  mode: enforce
  containerSelector: {{matchFields: {{image: "docker.io/library/app{0}:*"}}}}
  processPolicy:
    - id: app
      name: app
      exe: [/usr/sbin/app]
      euser: [root]
      children:
        - {{id: worker, name: worker, exe: [/usr/bin/worker], euser: [www]}}
        - id: sh
          name: sh
          exe: [/bin/sh]
          children:
{1}
  networkPolicy: {{ingress: [], egress: []}}
  response: {{default: [{{makeRedFlag: {{severity: high}}}}]}}
"""
#: What shells of the workloads execute.
_TOOLS = (
    *("ls", "cat", "sed", "grep", "awk", "date", "find", "sort", "basename", "dirname", "id", "uname", "env", "cut"),
    *("tr", "head", "tail", "wc", "test", "mkdir"),
)
_CHILDREN = "\n".join(f"            - {{id: {name}, name: {name}, exe: [/bin/{name}]}}" for name in _TOOLS)
_KILL = f"""
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: bench, type: container}}
spec:
  mode: enforce
  containerSelector: {{matchFields: {{image: "{IMAGE}"}}}}
  processPolicy:
    - id: sh
      name: sh
      exe: ["*/busybox"]
      euser: [root]
  response: {{default: [{{agentKillProcess: {{}}}}]}}
"""
_HELLO = Hello(
    agent="agent-1",
    version="1",
    node="n1",
    machine_id="m1",
    boot_id="boot",
    boot_time=1.0,
    capabilities=("agentKillProcess",),
)
_LINEAGE = (
    Ancestor("sh", "/bin/sh", "root", 50, 1),
    Ancestor("app", "/usr/sbin/app", "root", 100, 1000),
    Ancestor("conmon", "/usr/bin/conmon", "root", 90, 900),
    Ancestor("systemd", "/sbin/init", "root", 1, 1),
)


def main() -> bool:
    """Prints the figures; whether the bounds were kept."""
    kept = asyncio.run(throughput())
    if reason := missing():
        print(f"no latency is measured: {reason}")
        return kept
    return latency() and kept


# ---- throughput


async def throughput() -> bool:
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as folder:
        controller = await started(Path(folder))
        try:
            return await fed(controller)
        finally:
            controller.stopping()
            await controller.stop()


async def started(folder: Path) -> Controller:
    """With the policies, an agent, and a container for each policy."""
    controller = Controller.open(folder, Settings())
    controller.start()
    known = agents.Agent(
        id="agent-1", name="a", public_key=b"\0" * 32, node="n1", machine_id="m1", enrolled=time.time()
    )
    await asyncio.wrap_future(controller.store.submit(lambda connection: agents.put(connection, known)))
    await controller.apply(load_text("---".join(_POLICY.format(number, _CHILDREN) for number in range(POLICIES))))
    controller.agent_connected(_HELLO)
    seen = [
        ContainerSeen(id=_id(number), name=f"c{number}", image=f"docker.io/library/app{number}:1", node="n1")
        for number in range(POLICIES)
    ]
    controller.sighted(_HELLO, Sighted(seen=tuple(seen)))
    while not controller.inventory.is_settled:  # noqa: ASYNC110 - nothing tells when it is
        await asyncio.sleep(0.01)
    return controller


async def fed(controller: Controller) -> bool:
    """Offers RATE a second for SECONDS."""
    frames = list(messages(time.time()))
    floor = decoding(frames)
    gc.collect()
    before = resident()
    guardian = controller.guardian
    interval, waiting = BATCH / RATE, []
    used, start = time.process_time(), time.perf_counter()
    for number, frame in enumerate(frames):
        ahead = start + number * interval - time.perf_counter()
        await asyncio.sleep(max(0.0, ahead))
        controller.observed(_HELLO, told(decode_from_agent(frame)))
        waiting.append(guardian.waiting)
    while guardian.waiting:  # noqa: ASYNC110 - as agents leave it alone
        await asyncio.sleep(0)
    seconds = time.perf_counter() - start
    cost = (time.process_time() - used) / (len(frames) * BATCH)
    lost = guardian.lost
    tail = statistics.mean(waiting[-len(waiting) // 5 :])
    print(
        f"{'executions compared with ' + str(POLICIES) + ' policies':<44} {len(frames) * BATCH / seconds:10,.0f} /s  (offered {RATE:,}/s, {lost} lost)"
    )
    print(
        f"{'  processor time each':<44} {cost * 1e6:10.1f} us  (floor: decoding {floor * 1e6:.1f} us, ratio {cost / floor:.1f})"
    )
    print(f"{'  waiting at the end, on average':<44} {tail:10.0f}  (largest {max(waiting)})")
    gc.collect()
    grown = (resident() - before) / POLICIES / 1024
    print(
        f"{'  memory a workload, of ' + str(POLICIES):<44} {grown:10.1f} KiB  (what is known, watched and learned of it)"
    )
    # Nothing is lost, and what waits does not grow: less than a tenth of a second's work at the end.
    return not lost and tail < RATE / 10 and seconds < SECONDS * 1.2


def messages(now: float) -> Iterator[bytes]:
    """One in a thousand deviates."""
    count = RATE * SECONDS
    for first in range(0, count, BATCH):
        yield encode(
            Observations(
                observations=tuple(executed(now, number) for number in range(first, min(first + BATCH, count)))
            )
        )


def executed(now: float, number: int) -> Observation:
    name = "nc" if number % 1009 == 1008 else _TOOLS[number // POLICIES % len(_TOOLS)]
    process = Process(
        pid=1000 + number,
        start_ticks=number,
        boot_id="boot",
        name=name,
        exe=f"/bin/{name}",
        cmdline=f"{name} +%s",
        user="root",
        uid=0,
        ppid=50,
        pgid=50,
        lineage=_LINEAGE,
    )
    subject = Subject(node="n1", machine_id="m1", container=Container(id=_id(number % POLICIES)), process=process)
    return Observation(seen=Seen.EXECUTED, time=now, subject=subject, inside=2)


def told(message: object) -> Observations:
    assert isinstance(message, Observations)
    return message


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def decoding(frames: list[bytes]) -> float:
    """Seconds an observation."""
    start = time.process_time()
    for frame in frames[:200]:
        decode_from_agent(frame)
    return (time.process_time() - start) / (min(len(frames), 200) * BATCH)


def _id(number: int) -> str:
    return f"{number:064x}"


# ---- latency


class Shell:
    """The first process of a container: it executes what it is told, waits for its end, and says so."""

    def __init__(self, folder: Path) -> None:
        self._says = os.open(folder / "in", os.O_RDWR)
        self._hears = os.open(folder / "out", os.O_RDWR)

    def run(self, word: str, patience: float = 20.0) -> float:
        """Seconds from before the shell is told until it says that what it executed has ended."""
        start = time.perf_counter()
        os.write(self._says, f"{word}\n".encode())
        if not select.select([self._hears], [], [], patience)[0]:
            raise TimeoutError(f"{word} is still there")
        os.read(self._hears, 4096)
        return time.perf_counter() - start

    def close(self) -> None:
        os.close(self._says)
        os.close(self._hears)


@contextlib.contextmanager
def shell(containers: Podman, folder: Path) -> Iterator[Shell]:
    folder.mkdir()
    for name in ("in", "out"):
        os.mkfifo(folder / name)
    loop = "while read word; do $word; echo ended; done < /bench/in > /bench/out"
    words = (
        "run",
        "--detach",
        "--name",
        "bench",
        "--network=none",
        "--volume",
        f"{folder}:/bench",
        "--entrypoint",
        "sh",
    )
    inside = Shell(folder)
    containers(*words, IMAGE, "-c", loop)
    try:
        yield inside
    finally:
        inside.close()


def latency() -> bool:
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name, podman(Path(name)) as containers:
        print("budgets raised through settings: " + ", ".join(f"{name}={value}" for name, value in BUDGETS.items()))
        more = {"QUELL_GUARDIAN_EVENTS_CHECKSUM": "100000/1m", "QUELL_GUARDIAN_EVENTS_POLICY": "100000/1m"}
        places = {name: value for name, value in containers.environment.items() if name.startswith("CONTAINERS_")}
        with quell_up(environment=more | places) as running, shell(containers, Path(name) / "bench") as inside:
            floor = [inside.run("/bin/busybox true") for _ in range(KILLS)]
            print(row("floor: executed in a container, ended by itself", floor))
            print(row("floor: kill by pidfd until gone", kill_floor()))
            (running.folder / "policy.yaml").write_text(_KILL)
            running.quell("apply", "-f", str(running.folder / "policy.yaml"))
            quiet = []
            for _ in range(KILLS):
                quiet.append(inside.run("/bin/sleep 600"))
                time.sleep(PAUSE)
            print(row("executed in a container to gone", quiet) + "  (bound p50 20 ms)")
            counted = json.loads(running.quell("deviations", "list", "--all", "-o", "json"))
            killed = sum(one["count"] for one in counted if one["subject"]["process"]["name"] == "sleep")
            print(f"{'  deviations counted':<48} {killed}  (executed {KILLS})")
    return percentile(quiet, 0.5) <= 0.020


if __name__ == "__main__":
    main()
