"""The inventory in a running controller: fed by an agent, Kubernetes and events, saved, asked, and what events get of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell.channel.messages import Hello, Seen
from quell.controller.controller import Controller
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.model.decision import Decision, Reason
from quell.model.explanation import Explanation
from quell.model.sighting import ContainerSeen, Gone, NamespaceSeen, NodeSeen, PodSeen, ServiceSeen, Sighting, Sightings
from quell.model.subject import Container, Pod, ProcessTarget, Subject
from quell.settings import Settings

WEB, DB = "a" * 64, "b" * 64
HELLO = Hello(
    agent="a1",
    version="1",
    node="n1",
    machine_id="m1",
    boot_id="boot-1",
    boot_time=1.0,
    capabilities=("agentKillProcess", "quarantine"),
    host_netns=1,
)
POD = PodSeen(
    uid="uid-1",
    name="web-1",
    namespace="shop",
    node="n1",
    labels={"app": "web"},
    owner_kind="Deployment",
    owner_name="web",
    containers=(ContainerSeen(id=WEB, name="web", image="nginx:1.27"),),
)
CLUSTER = Sightings(
    source="kubernetes/prod",
    cluster="prod",
    seen=(NodeSeen(name="n1", kubernetes=True), NamespaceSeen(name="shop", labels={"env": "prod"}), POD),
)
DOCUMENTS = """
apiVersion: quell.dev/v1
kind: Group
metadata: {name: front}
spec: {criteria: [{key: app, op: "=", value: web}, {key: "ns:env", op: "=", value: prod}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-front}
spec: {event: security-event, group: front, criteria: ["image:nginx:*"], actions: [agentKillProcess]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: learned}
spec: {event: security-event, group: nv.web.shop, actions: [suppress-log]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: isolate}
spec: {event: incident, group: nv.db, actions: [quarantine]}
"""


def run(folder: Path, scenario: Callable[[Controller], Awaitable[None]], documents: str = DOCUMENTS) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            controller = Controller.open(folder, Settings())
            controller.start()
            try:
                if documents:
                    await controller.apply(load_text(documents))
                await scenario(controller)
            finally:
                await controller.stop()

    asyncio.run(within())


def falco(container: str, **fields: object) -> bytes:
    """An alert as Falco writes it without its Kubernetes fields."""
    stamp = time.time()
    return json.dumps(
        {
            "rule": "Terminal shell in container",
            "priority": "Notice",
            "source": "syscall",
            "hostname": fields.pop("hostname", "n1"),
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(stamp))}.000000000Z",
            "output_fields": {
                "container.id": container[:12],
                "proc.name": "sh",
                "proc.pid": 4242,
                "proc.pid.ts": int((stamp - 60) * 1e9),
                **fields,
            },
        }
    ).encode()


async def decided(controller: Controller, line: bytes) -> Explanation:
    event = DETECTORS["falco"].decode(line, id=None, received=time.time())
    await controller.ingest([event])
    told = controller.explain(event.id, near_misses=True)
    assert told is not None
    return told


def matched(decision: Decision) -> list[str]:
    return [match.name for match in decision.matches]


def take(controller: Controller, source: str, *seen: Sighting, **more: Any) -> None:
    controller.take_sightings(Sightings(source=source, seen=seen, **more))


async def settled(controller: Controller) -> None:
    for _ in range(3000):
        if controller.inventory.is_settled:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def test_an_alert_with_a_short_id_is_decided_by_all_that_is_known(tmp_path: Path) -> None:
    kept: dict[str, Explanation] = {}

    async def scenario(controller: Controller) -> None:
        controller.agent_connected(HELLO)
        before = await decided(controller, falco(WEB))
        assert matched(before.decision) == []
        assert {miss.name for miss in before.decision.near_misses} == {"kill-front", "learned", "isolate"}
        controller.take_sightings(CLUSTER)
        told = await decided(controller, falco(WEB))
        assert matched(told.decision) == ["kill-front", "learned"]
        assert told.decision.added == Subject(
            cluster="prod",
            namespace="shop",
            namespace_labels={"env": "prod"},
            pod=Pod(name="web-1", uid="uid-1", labels={"app": "web"}),
            container=Container(id=WEB, name="web", host_network=False),
            image="nginx:1.27",
            service="web",
        )
        (kill,) = [record for record in told.decision.actions if isinstance(record.target, ProcessTarget)]
        assert (kill.status, kill.agent) == ("granted", "a1")
        assert isinstance(kill.target, ProcessTarget)
        assert (kill.target.node, kill.target.container_id) == ("n1", WEB)
        assert told.event["subject"]["pod"]["labels"] == {"app": "web"}
        assert [miss.name for miss in told.decision.near_misses] == ["isolate"]
        kept["told"] = told

    async def again(controller: Controller) -> None:
        """After a restart, and when the pod has other labels by now: the past event is what it was."""
        told = kept["told"]
        take(controller, "kubernetes/prod", msgspec.structs.replace(POD, labels={"app": "db"}))
        explained = controller.explain(told.decision.event_id, near_misses=True)
        assert explained is not None
        assert (explained.event, explained.decision) == (told.event, told.decision)
        now = await decided(controller, falco(WEB))
        assert matched(now.decision) == ["learned"]

    run(tmp_path, scenario)
    run(tmp_path, again, "")


def test_a_label_change_counts_for_the_next_event_and_for_the_groups(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.take_sightings(CLUSTER)
        assert controller.inventory.members("front") == [WEB]
        take(controller, "kubernetes/prod", msgspec.structs.replace(POD, labels={"app": "db"}))
        assert controller.inventory.members("front") == []
        assert "kill-front" not in matched((await decided(controller, falco(WEB))).decision)
        take(controller, "kubernetes/prod", POD)
        assert controller.inventory.members("front") == [WEB]
        assert "kill-front" in matched((await decided(controller, falco(WEB))).decision)
        take(controller, "kubernetes/prod", NamespaceSeen(name="shop", labels={"env": "dev"}))
        assert controller.inventory.members("front") == []
        assert "kill-front" not in matched((await decided(controller, falco(WEB))).decision)

    run(tmp_path, scenario)


def test_a_service_change_moves_workloads_to_another_learned_group(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.take_sightings(CLUSTER)
        assert controller.inventory.members("nv.web.shop") == [WEB]
        take(controller, "kubernetes/prod", ServiceSeen(name="front", namespace="shop", selector={"app": "web"}))
        assert controller.inventory.members("nv.front.shop") == [WEB]
        assert controller.inventory.members("nv.web.shop") == []
        assert matched((await decided(controller, falco(WEB))).decision) == ["kill-front"]
        listed = {group.name: group for group in controller.inventory.groups()}
        assert (listed["nv.web.shop"].kind, listed["nv.web.shop"].rules) == ("learned", ("learned",))
        assert (listed["front"].kind, listed["front"].members) == ("defined", 1)
        assert (listed["containers"].members, listed["nodes"].members, listed["external"].members) == (1, 1, None)

    run(tmp_path, scenario)


def test_where_event_and_inventory_disagree_about_the_node_nothing_is_mixed_in(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.agent_connected(HELLO)
        controller.take_sightings(CLUSTER)
        told = await decided(controller, falco(WEB, hostname="n2"))
        assert matched(told.decision) == []
        assert told.decision.added is None
        assert told.decision.conflicts == ("node: the event says n2, the inventory n1: nothing was filled in",)
        assert "namespace" not in told.event["subject"]

    run(tmp_path, scenario)


def test_what_the_event_says_wins_and_the_conflict_is_kept(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.take_sightings(CLUSTER)
        told = await decided(
            controller, falco(WEB, **{"container.image.repository": "redis", "container.image.tag": "7"})
        )
        assert matched(told.decision) == ["learned"]
        assert told.event["subject"]["image"] == "redis:7"
        assert told.decision.conflicts == ("image: the event says redis:7, the inventory nginx:1.27",)

    run(tmp_path, scenario)


def test_an_agent_tells_of_its_own_machine_only(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.agent_connected(HELLO)
        own = ContainerSeen(id=DB, name="db", labels={"app": "db"}, sandbox="c" * 64)
        controller.sighted(
            HELLO,
            Seen(
                seen=(
                    own,
                    ContainerSeen(id=WEB, node="n2"),
                    NodeSeen(name="n2"),
                    NodeSeen(name="n1", machine_id="m2"),
                    NamespaceSeen(name="shop", labels={"env": "forged"}),
                    ServiceSeen(name="s", namespace="shop", selector={"app": "web"}),
                    PodSeen(uid="u", name="p", namespace="shop", containers=(ContainerSeen(id=WEB, node="n2"),)),
                ),
                complete=True,
                kinds=("container",),
            ),
        )
        assert list(controller.inventory.workloads) == [DB]
        assert controller.inventory.workloads[DB].node == "n1"
        assert controller.inventory.refused == {"scope": 6}
        (node,) = controller.inventory.nodes()
        assert (node.name, node.machine_id, node.boot_id, node.workloads) == ("n1", "m1", "boot-1", 1)
        controller.sighted(HELLO, Seen(complete=True, kinds=("container",)))
        assert controller.inventory.workloads[DB].gone is not None
        assert [node.workloads for node in controller.inventory.nodes()] == [0]

    run(tmp_path, scenario)


def test_a_container_is_quarantined_by_its_sandbox_and_its_full_id(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.agent_connected(HELLO)
        controller.sighted(HELLO, Seen(seen=(ContainerSeen(id=DB, name="db", sandbox="c" * 64),)))
        told = await decided(controller, falco(DB))
        assert matched(told.decision) == ["isolate"]
        assert list(controller.state.quarantines) == ["c" * 64]
        again = await decided(controller, falco(DB, **{"container.id": DB}))
        assert again.decision.actions[0].explanation == "it is isolated already, held by rule/10"

    run(tmp_path, scenario)


def test_on_a_node_of_kubernetes_a_workload_without_a_namespace_is_protected(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.agent_connected(HELLO)
        controller.sighted(HELLO, Seen(seen=(ContainerSeen(id=DB, name="db"),)))
        take(controller, "kubernetes/prod", NodeSeen(name="n1", kubernetes=True))
        (record,) = (await decided(controller, falco(DB))).decision.actions
        assert record.reason is Reason.PROTECTED

    run(tmp_path, scenario)


def test_a_workload_that_ended_just_before_its_event_is_still_known(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        controller.take_sightings(CLUSTER)
        take(controller, "kubernetes/prod", gone=(Gone(kind="pod", key="uid-1"),))
        assert controller.inventory.members("front") == []
        told = await decided(controller, falco(WEB))
        assert matched(told.decision) == ["kill-front", "learned"]
        assert told.decision.conflicts == ()

    run(tmp_path, scenario)


def test_events_teach_of_containers_nobody_else_tells_of(tmp_path: Path) -> None:
    async def scenario(controller: Controller) -> None:
        full = {"container.name": "web", "container.image.repository": "nginx", "container.image.tag": "1.27"}
        pod = {"k8s.ns.name": "shop", "k8s.pod.name": "web-1", "k8s.pod.uid": "uid-1", "k8s.pod.labels": {"app": "web"}}
        assert (await decided(controller, falco(WEB, **full, **pod))).decision.added is None
        known = controller.inventory.find(WEB[:12])
        assert known is not None
        assert (known.taught_by, known.image, known.namespace) == ("falco", "nginx:1.27", "shop")
        assert controller.inventory.members("containers") == [WEB[:12]]
        told = await decided(controller, falco(WEB))
        assert told.decision.added is not None
        assert (told.decision.added.namespace, told.decision.added.image) == ("shop", "nginx:1.27")
        assert (await decided(controller, falco(WEB, hostname="n2"))).decision.added is None
        controller.take_sightings(CLUSTER)
        assert list(controller.inventory.workloads) == [WEB]

    run(tmp_path, scenario)


def test_a_flood_of_containers_that_nobody_knows_is_learned_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quell.controller.inventory.LEARNED_A_SECOND", 3)

    async def scenario(controller: Controller) -> None:
        lines = [falco(f"{number:064x}"[::-1]) for number in range(1000)]
        began = int(time.time())
        for line in lines:
            await controller.ingest([DETECTORS["falco"].decode(line, id=None, received=time.time())])
        seconds = int(time.time()) - began + 1
        assert 3 <= len(controller.inventory.workloads) <= 3 * seconds

    run(tmp_path, scenario, "")


def test_it_survives_a_restart_and_forgets_who_never_speaks_again(tmp_path: Path) -> None:
    async def told(controller: Controller) -> None:
        controller.agent_connected(HELLO)
        controller.sighted(HELLO, Seen(seen=(ContainerSeen(id=DB, name="db", labels={"x": "y"}),)))
        controller.take_sightings(CLUSTER)
        take(controller, "kubernetes/prod", ServiceSeen(name="s", namespace="shop", selector={"app": "web"}))
        assert controller.inventory.members("nv.s.shop") == [WEB]
        take(controller, "kubernetes/prod", complete=True, kinds=("service",))

    seen: dict[str, object] = {}

    async def first(controller: Controller) -> None:
        await told(controller)
        seen["workloads"] = dict(controller.inventory.workloads)
        seen["nodes"] = controller.inventory.nodes()
        seen["groups"] = controller.inventory.groups()

    async def second(controller: Controller) -> None:
        assert controller.inventory.workloads == seen["workloads"]
        assert controller.inventory.nodes() == seen["nodes"]
        assert controller.inventory.groups() == seen["groups"]
        assert "nv.s.shop" in {group.name for group in controller.inventory.groups()}
        assert matched((await decided(controller, falco(WEB))).decision) == ["kill-front", "learned"]
        controller.agent_withdrawn("a1")
        assert controller.inventory.workloads[DB].gone is not None

    async def third(controller: Controller) -> None:
        assert list(controller.inventory.workloads) == [WEB]

    run(tmp_path, first)
    run(tmp_path, second, "")
    run(tmp_path, third, "")


def test_a_whole_cluster_is_taken_in_parts_while_events_are_decided(tmp_path: Path) -> None:
    def pod(number: int) -> PodSeen:
        container = ContainerSeen(id=f"{number:064x}", name="web", image="nginx:1.27")
        return msgspec.structs.replace(POD, uid=f"uid-{number}", name=f"web-{number}", containers=(container,))

    async def scenario(controller: Controller) -> None:
        take(controller, "kubernetes/prod", pod(5000), complete=True, kinds=("pod",))
        take(controller, "kubernetes/prod", *map(pod, range(1500)), complete=True, kinds=("pod",))
        deciding = asyncio.create_task(decided(controller, falco(WEB)))
        # One turn of the loop: a part is taken, and the event is decided, which knows its container from then on.
        await asyncio.sleep(0)
        assert WEB[:12] in controller.inventory.workloads
        assert len(controller.inventory.workloads) < 1500
        await deciding
        changed = msgspec.structs.replace(pod(7), labels={"app": "changed"})
        take(controller, "kubernetes/prod", changed)
        await settled(controller)
        there = [known.id for known in controller.inventory.workloads.values() if known.gone is None]
        assert sorted(there) == [*(f"{number:064x}" for number in range(1500)), WEB[:12]]
        assert controller.inventory.workloads[f"{7:064x}"].labels == {"app": "changed"}
        assert controller.inventory.workloads[f"{5000:064x}"].gone is not None
        assert len(controller.inventory.members("nv.web.shop") or ()) == 1500

    run(tmp_path, scenario)


@pytest.mark.parametrize("parts", [1, 300])
def test_a_source_of_no_known_kind_is_refused(tmp_path: Path, parts: int) -> None:
    async def scenario(controller: Controller) -> None:
        with pytest.raises(ValueError, match="expected"):
            take(controller, "rumour/x", *[NodeSeen(name=f"n{n}") for n in range(parts)])

    run(tmp_path, scenario, "")
