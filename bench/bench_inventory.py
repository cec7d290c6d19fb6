"""A label changes among 10,000 workloads and 1,000 groups: when is it in the index; what the inventory takes of memory.

The change is told as Kubernetes tells it (one pod with other labels) to a running controller: until an event of the
workload is decided by its new group, and until `groups` shows the workload there. Both take no clock but this process's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from bench.figures import percentile, row
from quell.controller.controller import Controller
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.inventory.enrichment import Enricher
from quell.inventory.inventory import Inventory
from quell.model.event import Event
from quell.model.sighting import ContainerSeen, NamespaceSeen, NodeSeen, PodSeen, ServiceSeen, Sightings
from quell.settings import Settings

WORKLOADS = int(os.environ.get("BENCH_WORKLOADS", "10000"))
GROUPS = int(os.environ.get("BENCH_GROUPS", "1000"))
CHANGES = 200
NAMESPACES, NODES = 50, 200
#: Seconds until a label change is in the index (bound of the issue), at the worst of all changes.
BOUND = 0.100
SOURCE = "kubernetes/bench"


def pod(number: int, label: str) -> PodSeen:
    """As a Deployment's: five labels of its own, one container."""
    app = f"app-{number % 500}"
    return PodSeen(
        uid=f"{number:08x}-0000-4000-8000-000000000000",
        name=f"{app}-{number:x}-{number % 97:x}",
        namespace=f"team-{number % NAMESPACES}",
        node=f"node-{number % NODES}",
        labels={
            "app.kubernetes.io/name": app,
            "app.kubernetes.io/instance": f"{app}-{number % 3}",
            "pod-template-hash": f"{number % 500:x}",
            "tier": ("web", "db", "batch")[number % 3],
            "bench": label,
        },
        owner_kind="Deployment",
        owner_name=app,
        phase="Running",
        addresses=(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",),
        containers=(
            ContainerSeen(
                id=container(number),
                name=app,
                image=f"registry.example.com/team-{number % NAMESPACES}/{app}:1.{number % 20}",
                image_id=f"sha256:{number % 2000:064x}",
                running=True,
            ),
        ),
    )


def container(number: int) -> str:
    return f"{number * 2654435761 % 2**48:012x}" + f"{number:052x}"


def cluster() -> Sightings:
    spaces = [NamespaceSeen(name=f"team-{n}", labels={"team": str(n), "stage": "prod"}) for n in range(NAMESPACES)]
    services = [
        ServiceSeen(
            name=f"svc-{n}", namespace=f"team-{n % NAMESPACES}", selector={"app.kubernetes.io/name": f"app-{n}"}
        )
        for n in range(500)
    ]
    nodes = [NodeSeen(name=f"node-{n}", kubernetes=True) for n in range(NODES)]
    pods = [pod(n, f"v-{n % GROUPS}") for n in range(WORKLOADS)]
    return Sightings(
        source=SOURCE,
        seen=(*nodes, *spaces, *services, *pods),
        complete=True,
        kinds=("node", "namespace", "service", "pod", "container"),
    )


def documents() -> str:
    """Half of the groups by one label, others by several facts and patterns; one rule a tenth of them."""
    made = []
    for n in range(GROUPS):
        criteria = [{"key": "bench", "op": "=", "value": f"v-{n}"}]
        if n % 4 == 1:
            criteria.append({"key": "image", "op": "prefix", "value": "registry.example.com/"})
        elif n % 4 == 2:
            criteria += [{"key": "ns:stage", "op": "=", "value": "prod"}, {"key": "tier", "op": "!=", "value": "gone"}]
        elif n % 8 == 3:
            criteria.append({"key": "namespace", "op": "regex", "value": "^team-[0-9]+$"})
        made.append(_document("Group", f"group-{n}", {"criteria": criteria}))
        if n % 10 == 0:
            spec = {"event": "security-event", "group": f"group-{n}", "actions": ["suppress-log"]}
            made.append(_document("ResponseRule", f"rule-{n}", spec))
    return "\n---\n".join(made)


def _document(kind: str, name: str, spec: object) -> str:
    return json.dumps({"apiVersion": "quell.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})


def event(number: int, serial: int) -> Event:
    """As Falco tells it: a short id, node, name and image, no Kubernetes fields."""
    line = {
        "rule": "Terminal shell in container",
        "priority": "Notice",
        "source": "syscall",
        "hostname": f"node-{number % NODES}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime()),
        "output_fields": {
            "container.id": container(number)[:12],
            "container.name": f"app-{number % 500}",
            "proc.name": "sh",
            "proc.pid": 1000 + serial,
        },
    }
    return DETECTORS["falco"].decode(json.dumps(line).encode(), id=None, received=time.time())


def memory() -> tuple[float, float]:
    """MiB of the joined inventory, and seconds to take the whole cluster in one message."""
    told = cluster()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    inventory = Inventory()
    inventory.take(told, time.time())
    del told
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    told, inventory = cluster(), Inventory()
    start = time.perf_counter()
    inventory.take(told, time.time())
    return held / 2**20, time.perf_counter() - start


def enriching() -> tuple[float, float, float]:
    """Microseconds of CPU an event: of no workload, of a workload with all facts, of one that is filled in."""
    inventory = Inventory()
    inventory.take(cluster(), time.time())
    enrich = Enricher(inventory, lambda _: None)
    lacking = [event(n * 7 % WORKLOADS, n) for n in range(256)]
    complete = [found.event for each in lacking if (found := enrich(each)) is not None]
    line = b'{"name": "Host.Suspicious.Process", "subject": {"node": "node-1"}}'
    hosts = [DETECTORS["native"].decode(line, id=None, received=time.time())] * 256
    return _timed(enrich, hosts), _timed(enrich, complete), _timed(enrich, lacking)


def _timed(enrich: Enricher, events: list[Event]) -> float:
    best = float("inf")
    for _ in range(40):
        start = time.process_time()
        for each in events:
            enrich(each)
        best = min(best, (time.process_time() - start) / len(events) * 1e6)
    return best


async def changes(folder: Path) -> tuple[list[float], list[float], float, float]:
    """Seconds until events are decided by a changed label, and until groups show it; of the first message and of new
    documents the longest that the event loop was kept.
    """
    controller = Controller.open(folder, Settings())
    controller.start()
    try:
        await controller.apply(load_text(documents()))
        whole = cluster()
        first = await _longest_hold(controller, lambda: controller.take_sightings(whole))
        decided, shown = [], []
        for serial in range(CHANGES):
            number, wanted = serial * 37 % WORKLOADS, serial % (GROUPS // 10) * 10
            start = time.perf_counter()
            controller.take_sightings(Sightings(source=SOURCE, seen=(pod(number, f"v-{wanted}"),)))
            made = event(number, serial)
            await controller.ingest([made])
            decided.append(time.perf_counter() - start)
            told = controller.explain(made.id)
            assert told is not None
            assert [match.name for match in told.decision.matches] == [f"rule-{wanted}"], told.decision
            start = time.perf_counter()
            controller.take_sightings(Sightings(source=SOURCE, seen=(pod(number, f"v-{wanted + 1}"),)))
            members = controller.inventory.members(f"group-{wanted + 1}")
            shown.append(time.perf_counter() - start)
            assert members is not None
            assert container(number) in members
        again = await _longest_hold(controller, lambda: controller.inventory.use(controller.pipeline.index))
        return decided, shown, first, again
    finally:
        await controller.stop()


async def _longest_hold(controller: Controller, work: Callable[[], None]) -> float:
    """Start the work; until all of it is done, the longest time for which the loop could do nothing else."""
    worst, last = 0.0, time.perf_counter()
    work()
    settled = False
    while not settled:
        await asyncio.sleep(0)
        settled = controller.inventory.is_settled
        now = time.perf_counter()
        worst, last = max(worst, now - last), now
    return worst


def main() -> bool:
    size, seconds = memory()
    print(f"inventory of {WORKLOADS:,} workloads: {size:.1f} MiB, joined in {seconds:.2f} s when told at once")
    none, complete, filled = enriching()
    print(
        f"enriching, CPU time an event: of a host {none:.2f} us, complete {complete:.2f} us, filled in {filled:.2f} us"
    )
    with tempfile.TemporaryDirectory(prefix="quell-bench-") as name:
        decided, shown, first, again = asyncio.run(changes(Path(name)))
    print(f"{GROUPS:,} groups, {CHANGES} label changes; bound {BOUND * 1000:.0f} ms:")
    print(row("  until an event is decided by it, on disk", decided))
    print(row("  until groups show it", shown))
    print(
        f"  the loop is kept at most {first * 1000:.1f} ms by a whole cluster, {again * 1000:.1f} ms by new documents"
    )
    return percentile(decided, 1.0) <= BOUND and percentile(shown, 1.0) <= BOUND


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
