"""Objects of a cluster of the tests' own, in the form in which the API gives them."""

from __future__ import annotations

import hashlib
from typing import Any

Object = dict[str, Any]


def node(name: str, address: str = "192.0.2.1") -> Object:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": "198.51.100.0/24"},
        "status": {
            "capacity": {"cpu": "4", "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": digest[:32],
                "systemUUID": digest[:32],
                "bootID": f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}",
                "kernelVersion": "6.1.0-31-amd64",
                "osImage": "Debian GNU/Linux 12 (bookworm)",
                "containerRuntimeVersion": "containerd://1.7.24",
                "kubeletVersion": "v1.36.2",
            },
        },
    }


def namespace(name: str, **labels: str) -> Object:
    return {
        "metadata": {"name": name, "labels": {**labels, "kubernetes.io/metadata.name": name}},
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def service(name: str, namespace: str, selector: dict[str, str] | None, *addresses: str) -> Object:
    """No address: a headless one."""
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
            **({"selector": selector} if selector else {}),
            "clusterIP": addresses[0] if addresses else "None",
            "clusterIPs": list(addresses) or ["None"],
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def disruption_budget(name: str, namespace: str, labels: dict[str, str], wanted: int, **spec: Any) -> Object:
    """Not counted yet."""
    zero = dict.fromkeys(("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"), 0)
    return {
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {"minAvailable": wanted, "selector": {"matchLabels": labels}, **spec},
        "status": zero,
    }


def container_id(seed: str) -> str:
    return hashlib.sha256(seed.encode()).hexdigest()


def pod(
    name: str,
    namespace: str,
    *,
    owner: tuple[str, str, str] | None = None,
    labels: dict[str, str] | None = None,
    node: str = "node-1",
    image: str = "registry.example/web:1.4",
    host_network: bool = False,
    created: str = "2026-05-04T03:02:01Z",
) -> Object:
    """A running pod of one container. owner: apiVersion, kind and name."""
    address = f"198.51.100.{int(container_id(name)[:2], 16)}"
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": created,
            **({"labels": labels} if labels else {}),
            **({"ownerReferences": [_reference(*owner)]} if owner else {}),
        },
        "spec": {
            "containers": [{"name": "main", "image": image, "resources": {}, "imagePullPolicy": "IfNotPresent"}],
            "restartPolicy": "Always",
            "nodeName": node,
            **({"hostNetwork": True} if host_network else {}),
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": None}],
            "hostIP": "192.0.2.1",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "containerStatuses": [
                {
                    "name": "main",
                    "state": {"running": {"startedAt": created}},
                    "lastState": {},
                    "ready": True,
                    "restartCount": 0,
                    "image": image,
                    "imageID": f"registry.example/web@sha256:{container_id(image)}",
                    "containerID": f"containerd://{container_id(name)}",
                    "started": True,
                }
            ],
            "qosClass": "BestEffort",
        },
    }


def _reference(api_version: str, kind: str, name: str) -> Object:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": container_id(name)[:32],
        "controller": True,
        "blockOwnerDeletion": True,
    }
