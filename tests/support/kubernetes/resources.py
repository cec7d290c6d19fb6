"""The kinds of object that the stand-in for the Kubernetes API serves. Another kind is another line."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Resource(Struct, frozen=True):
    name: str
    kind: str
    namespaced: bool
    #: "" is the core group, served under /api instead of /apis.
    group: str = ""
    version: str = "v1"
    #: What a bookmark has beside its metadata: the zero values of the API's own types.
    empty: dict[str, Any] = {}
    verbs: tuple[str, ...] = ("create", "get", "list", "watch")
    #: Its specification is numbered: metadata.generation.
    generations: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def typed(self) -> dict[str, Any]:
        return {"kind": self.kind, "apiVersion": self.api_version}


_NODE_INFO = dict.fromkeys(
    (
        *("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion"),
        *("kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture"),
    ),
    "",
)

RESOURCES = (
    Resource("namespaces", "Namespace", namespaced=False, empty={"spec": {}, "status": {}}),
    Resource(
        "nodes",
        "Node",
        namespaced=False,
        empty={"spec": {}, "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": _NODE_INFO}},
    ),
    Resource(
        "pods",
        "Pod",
        namespaced=True,
        empty={"spec": {"containers": None}, "status": {}},
        verbs=("create", "delete", "get", "list", "patch", "watch"),
    ),
    Resource("services", "Service", namespaced=True, empty={"spec": {}, "status": {"loadBalancer": {}}}),
    Resource(
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        namespaced=True,
        group="policy",
        empty={"spec": {}},
        generations=True,
    ),
    Resource("deployments", "Deployment", namespaced=True, group="apps", generations=True),
    Resource("statefulsets", "StatefulSet", namespaced=True, group="apps", generations=True),
)
#: What stands under a pod's path in the API, and is a right of its own.
EVICTION = "eviction"
#: Answered, never stored.
ACCESS_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

BY_NAME = {resource.name: resource for resource in RESOURCES}
