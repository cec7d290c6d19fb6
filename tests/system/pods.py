"""A controller beside a stand-in for the Kubernetes API, and events about the pods of its cluster."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from time import gmtime, monotonic_ns, strftime
from time import time as now
from typing import Any

from live import Live, live
from running import wait_for
from tests.support.kubernetes import disruption
from tests.support.kubernetes.cluster import Cluster, Object, permissions
from tests.support.kubernetes.kubeconfig import kubeconfig
from tests.support.kubernetes.objects import container_id, namespace, node, pod
from tests.support.kubernetes.server import Call, StandIn

from quell.configuration import Configuration
from quell.settings import Settings

TOKEN = "the-token-of-quell"
NODE = "node-1"
SHOP = "shop"
WATCHES = permissions("list watch", "nodes namespaces pods services")
KILLS = (permissions("get delete", "pods"), permissions("list", "poddisruptionbudgets"))
RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells}
spec:
  id: 8
  event: security-event
  criteria: ["name:Container.Suspicious.Process"]
  actions: [{agentKillPod: {grace_period: GRACE}}]
"""


class PodCluster(StandIn):
    """One node and a namespace; its budgets are counted."""

    def __init__(self) -> None:
        cluster = Cluster()
        cluster.controllers.append(disruption.count)
        cluster.allow(TOKEN, "system:serviceaccount:quell:quell-controller", WATCHES, *KILLS)
        cluster.put("nodes", node(NODE))
        cluster.put("nodes", node("node-2"))
        cluster.put("namespaces", namespace(SHOP))
        super().__init__(cluster)

    def run(self, name: str = "web-1", *, age: float = 86_400.0, **more: Any) -> Object:
        """A pod that has been there for some time, in seconds."""
        created = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(now() - age))
        return self.cluster.put("pods", pod(name, SHOP, created=created, labels={"app": "web"}, **more))

    def there(self, name: str = "web-1") -> str | None:
        """The uid of the pod of this name."""
        self.cluster.go_on()
        found = self.cluster.objects["pods"].get((SHOP, name))
        return None if found is None else str(found["metadata"]["uid"])

    def deletions(self) -> list[Call]:
        return [call for call in list(self.calls) if call.method == "DELETE"]


class Place:
    """A controller whose rule ends pods, with the API of one cluster."""

    def __init__(self, server: Live, standin: PodCluster) -> None:
        self.server = server
        self.standin = standin
        self.admin = server.client()
        self._count = itertools.count(1)

    def event(
        self,
        name: str | None = "web-1",
        *,
        uid: str | None = None,
        time: float | None = None,
        token: str = "",
        **subject: Any,
    ) -> str:
        """A shell in that pod, as a detector tells of it, now or at that time. subject: other parts; None leaves one out.

        token: of who tells of it, in place of the admin's.
        """
        identifier = f"e{next(self._count)}-{monotonic_ns()}"
        named = {key: value for key, value in (("name", name), ("uid", uid)) if value is not None}
        told = {"node": NODE, "namespace": SHOP, "pod": named, **subject}
        event = {
            "id": identifier,
            "time": now() if time is None else time,
            "name": "Container.Suspicious.Process",
            "subject": {key: value for key, value in told.items() if value is not None},
        }
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.admin.post("/v1/events", json=event, headers=headers).raise_for_status()
        return identifier

    def record(self, identifier: str) -> Any:
        return self.admin.get(f"/v1/events/{identifier}").raise_for_status().json()

    def outcome(self, identifier: str) -> Any:
        """Of the event's one action, once it has one."""
        wait_for(lambda: bool(self.record(identifier).get("outcomes")), 30, f"an outcome of {identifier}")
        (outcome,) = self.record(identifier)["outcomes"]
        return outcome

    def flags(self, identifier: str) -> list[str]:
        return [flag["name"] for flag in self.record(identifier).get("flags", [])]

    def knows(self, name: str = "web-1") -> None:
        """The watch has told of the pod."""
        workloads = self.server.controller.inventory.workloads
        wait_for(lambda: container_id(name) in workloads, 30, f"that the inventory knows {name}")


def settings(standin: StandIn, folder: Path, **more: Any) -> dict[str, Any]:
    """By name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = kubeconfig(folder / "kubeconfig", standin.url, user={"token": TOKEN})
    budgets = {f"safety.budget_{of}": "1000/1m" for of in ("engine", "rule", "namespace")}
    return {"kubernetes.kubeconfig": str(file), "safety.command_ttl": "20s", **budgets, **more}


@contextlib.contextmanager
def placed(standin: PodCluster, folder: Path, *, grace: int = 0, **more: Any) -> Iterator[Place]:
    """For as long as the block lasts. more: settings by name, with _ for the dot."""
    given = {name.replace("_", ".", 1): value for name, value in more.items()}
    configuration = Configuration(settings=Settings().with_values(settings(standin, folder, **given)))
    with live(folder / "state", configuration=configuration) as server:
        place = Place(server, standin)
        place.admin.post("/v1/documents", content=RULE.replace("GRACE", str(grace))).raise_for_status()
        yield place
        place.admin.close()


def body(call: Call) -> Any:
    return json.loads(call.body)
