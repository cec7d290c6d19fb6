"""Names of containers that a kubelet had made, in CRI-O and in Docker (cri-dockerd).

The name says pod and namespace; the labels that say it too are not believed, since an image brings labels of its own.
"""

from __future__ import annotations

from msgspec import Struct

_POD = "POD"  # what the pod's own container, which holds the network namespace, is called


class Kubernetes(Struct, frozen=True, kw_only=True):
    """container: None for the pod's own."""

    container: str | None
    pod: str
    namespace: str
    uid: str


def named(name: str) -> Kubernetes | None:
    """Read k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT; None for any other name. No part can hold a _."""
    parts = name.split("_")
    if len(parts) != 6 or parts[0] != "k8s" or not all(parts) or not parts[5].isdecimal():
        return None
    _, container, pod, namespace, uid, _ = parts
    return Kubernetes(container=None if container == _POD else container, pod=pod, namespace=namespace, uid=uid)
