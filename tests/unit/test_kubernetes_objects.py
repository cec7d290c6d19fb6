"""Objects of the Kubernetes API as sightings, and the owner that is told from a pod alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.kubernetes import objects

from quell.controller.kubernetes.objects import Namespace, Node, Pod, Service
from quell.controller.kubernetes.owner import OwnerReference, owner
from quell.model.sighting import ContainerSeen, NamespaceSeen, NodeSeen, PodSeen, ServiceSeen

EXCHANGES = Path(__file__).resolve().parents[2] / "../shared/samples/kubernetes/exchanges.json"

#: 2026-05-04 03:00 UTC in minutes since the epoch, and two minutes after it.
MINUTE = 29631060
CREATED = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)


def read(form: Any, thing: objects.Object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(thing), type=form)


def test_a_node() -> None:
    seen = read(Node, objects.node("node-7", "192.0.2.7")).seen()
    assert seen == NodeSeen(
        name="node-7",
        labels={"kubernetes.io/hostname": "node-7", "kubernetes.io/os": "linux"},
        machine_id=seen.machine_id,
        boot_id=seen.boot_id,
        addresses=("192.0.2.7",),
        kubernetes=True,
        os="Debian GNU/Linux 12 (bookworm)",
        kernel="6.1.0-31-amd64",
    )
    assert len(seen.machine_id) == 32
    assert len(seen.boot_id) == 36


def test_a_namespace() -> None:
    thing = objects.namespace("shop", env="prod")
    thing["metadata"]["uid"] = "u-1"
    assert read(Namespace, thing).seen() == NamespaceSeen(
        name="shop", uid="u-1", labels={"env": "prod", "kubernetes.io/metadata.name": "shop"}
    )


@pytest.mark.parametrize(
    ("selector", "addresses"),
    [({"app": "web"}, ("203.0.113.7", "2001:db8::7")), (None, ("203.0.113.8",)), ({"app": "db"}, ())],
    ids=["dual stack", "no selector", "headless"],
)
def test_a_service(selector: dict[str, str] | None, addresses: tuple[str, ...]) -> None:
    service = read(Service, objects.service("web", "shop", selector, *addresses))
    assert service.key() == "shop/web"
    assert service.seen() == ServiceSeen(name="web", namespace="shop", selector=selector or {}, addresses=addresses)


def test_a_pod_with_its_containers() -> None:
    labels = {"app": "web", "pod-template-hash": "5d9c7b6f4"}
    thing = objects.pod("web-5d9c7b6f4-x", "shop", owner=("apps/v1", "ReplicaSet", "web-5d9c7b6f4"), labels=labels)
    thing["metadata"]["uid"] = "u-2"
    thing["spec"]["initContainers"] = [{"name": "setup", "image": "registry.example/setup"}]
    thing["spec"]["containers"].append({"name": "late", "image": "registry.example/late"})
    thing["status"]["initContainerStatuses"] = [
        {
            "name": "setup",
            "state": {"terminated": {"exitCode": 0, "startedAt": "2026-05-04T03:02:00Z"}},
            "image": "registry.example/setup:latest",
            "imageID": "docker-pullable://registry.example/setup@sha256:aa",
            "containerID": "cri-o://" + "ab" * 32,
        }
    ]
    thing["status"]["containerStatuses"].append(
        {"name": "late", "state": {"waiting": {"reason": "ContainerCreating"}}, "image": "", "imageID": ""}
    )
    address = thing["status"]["podIP"]
    started = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC).timestamp()
    of_pod = {"node": "node-1", "namespace": "shop", "pod_name": "web-5d9c7b6f4-x", "pod_uid": "u-2"}
    assert read(Pod, thing).seen() == PodSeen(
        uid="u-2",
        name="web-5d9c7b6f4-x",
        namespace="shop",
        node="node-1",
        labels=labels,
        owner_kind="Deployment",
        owner_name="web",
        phase="Running",
        addresses=(address,),
        host_network=False,
        containers=(
            ContainerSeen(
                id=objects.container_id("web-5d9c7b6f4-x"),
                name="main",
                image="registry.example/web:1.4",
                image_id=f"registry.example/web@sha256:{objects.container_id('registry.example/web:1.4')}",
                runtime="containerd",
                started=started,
                host_network=False,
                **of_pod,
            ),
            ContainerSeen(
                id="ab" * 32,
                name="setup",
                image="registry.example/setup",
                image_id="registry.example/setup@sha256:aa",
                runtime="cri-o",
                started=started - 1,
                host_network=False,
                running=False,
                **of_pod,
            ),
        ),
    )


@pytest.mark.parametrize(
    ("probe", "ports"),
    [
        ({"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTPS"}}, (8080,)),
        ({"tcpSocket": {"port": "http"}}, (8443,)),
        ({"tcpSocket": {"port": "9000"}}, (9000,)),
        ({"grpc": {"port": 50051, "service": ""}}, (50051,)),
        ({"httpGet": {"port": "unknown"}}, ()),
        ({"httpGet": {"host": "10.0.0.9", "port": 8080}}, ()),
        ({"exec": {"command": ["true"]}}, ()),
        ({"tcpSocket": {"port": 70000}}, ()),
        (None, ()),
    ],
)
@pytest.mark.parametrize("kind", ["livenessProbe", "startupProbe"])
def test_the_ports_of_a_pod_that_its_node_probes(
    probe: dict[str, Any] | None, ports: tuple[int, ...], kind: str
) -> None:
    thing = objects.pod("web", "shop")
    thing["spec"]["containers"][0] |= {kind: probe, "ports": [{"name": "http", "containerPort": 8443}]}
    thing["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 1}}
    assert read(Pod, thing).seen().probe_ports == ports
    thing["spec"]["initContainers"] = [{"name": "side", "restartPolicy": "Always", kind: {"tcpSocket": {"port": 22}}}]
    assert read(Pod, thing).seen().probe_ports == (22, *ports)


def test_a_pod_that_was_only_just_asked_for() -> None:
    """No node, no status, and null where Go has an empty list."""
    thing = {"metadata": {"name": "new", "namespace": "shop", "uid": "u-3"}, "spec": {"containers": None}}
    assert read(Pod, thing).seen() == PodSeen(uid="u-3", name="new", namespace="shop")
    assert read(Pod, thing | {"status": {"phase": "Pending", "podIPs": None}}).seen().phase == "Pending"


def test_a_pod_in_the_network_of_its_host() -> None:
    seen = read(Pod, objects.pod("proxy", "kube-system", host_network=True)).seen()
    assert seen.host_network
    assert seen.containers[0].host_network


def reference(kind: str, name: str, api_version: str = "apps/v1", *, controller: bool | None = True) -> OwnerReference:
    return OwnerReference(api_version=api_version, kind=kind, name=name, controller=controller)


@pytest.mark.parametrize(
    ("references", "labels", "expected"),
    [
        ([], {}, ("", "")),
        ([reference("DaemonSet", "log")], {}, ("DaemonSet", "log")),
        ([reference("ReplicaSet", "web-5d9c")], {"pod-template-hash": "5d9c"}, ("Deployment", "web")),
        ([reference("ReplicaSet", "a-b-5d9c")], {"pod-template-hash": "5d9c"}, ("Deployment", "a-b")),
        ([reference("ReplicaSet", "web-5d9c")], {"rollouts-pod-template-hash": "5d9c"}, ("Rollout", "web")),
        ([reference("ReplicaSet", "web-5d9c")], {}, ("ReplicaSet", "web-5d9c")),
        ([reference("ReplicaSet", "web-5d9c")], {"pod-template-hash": ""}, ("ReplicaSet", "web-5d9c")),
        ([reference("ReplicaSet", "web-other")], {"pod-template-hash": "5d9c"}, ("ReplicaSet", "web-other")),
        ([reference("ReplicaSet", "web-1", "example.org/v1")], {"pod-template-hash": "1"}, ("ReplicaSet", "web-1")),
        ([reference("Job", f"report-{MINUTE}", "batch/v1")], {}, ("CronJob", "report")),
        ([reference("Job", f"report-{MINUTE - 1440}", "batch/v1")], {}, ("CronJob", "report")),
        ([reference("Job", f"report-{MINUTE - 60 * 24 * 30}", "batch/v1")], {}, ("Job", f"report-{MINUTE - 43200}")),
        ([reference("Job", f"report-{MINUTE + 60}", "batch/v1")], {}, ("Job", f"report-{MINUTE + 60}")),
        ([reference("Job", "migrate-42", "batch/v1")], {}, ("Job", "migrate-42")),
        ([reference("Job", "migrate", "batch/v1")], {}, ("Job", "migrate")),
        ([reference("Node", "node-1", "v1")], {}, ("", "")),
        ([reference("Something", "s", "example.org/v1", controller=None)], {}, ("", "")),
        (
            [reference("Something", "s", "example.org/v1", controller=False), reference("StatefulSet", "db")],
            {},
            ("StatefulSet", "db"),
        ),
    ],
)
def test_the_last_owner(references: list[OwnerReference], labels: dict[str, str], expected: tuple[str, str]) -> None:
    assert owner(references, labels, CREATED) == expected


def test_without_a_time_of_creation_a_job_stays_a_job() -> None:
    assert owner([reference("Job", f"report-{MINUTE}", "batch/v1")], {}, None) == ("Job", f"report-{MINUTE}")


def real_pods() -> list[Any]:
    """Every pod that a real API server told of in a list or a watch, with the owner that its name gives away."""
    if not EXCHANGES.exists():
        return [
            pytest.param(None, "", marks=pytest.mark.skip(reason="the shared samples are not beside this checkout"))
        ]
    owners = {"web": ("Deployment", "web"), "db": ("StatefulSet", "db"), "hostnet": ("", "")}
    told = [one["response"] for one in json.loads(EXCHANGES.read_text())["exchanges"]]
    bodies = [answer["body"] for answer in told if (answer.get("body") or {}).get("kind") in ("Pod", "PodList")]
    pods = [pod for body in bodies for pod in body.get("items", [body])]
    pods += [event["object"] for answer in told for event in answer.get("stream", []) if event["type"] != "BOOKMARK"]
    return [pytest.param(pod, owners[pod["metadata"]["name"].partition("-")[0]]) for pod in pods]


@pytest.mark.parametrize(("thing", "expected"), real_pods())
def test_pods_of_a_real_server(thing: objects.Object, expected: tuple[str, str]) -> None:
    seen = read(Pod, thing).seen()
    assert (seen.owner_kind, seen.owner_name) == expected
    assert seen.uid == thing["metadata"]["uid"]
    assert seen.labels == thing["metadata"]["labels"]
    assert seen.host_network is (seen.name == "hostnet")
    statuses = thing.get("status", {}).get("containerStatuses", [])
    assert [f"{one.runtime}://{one.id}" for one in seen.containers] == [
        status["containerID"] for status in statuses if "containerID" in status
    ]
    assert {one.image for one in seen.containers} <= {"localhost/tiny:1"}
