"""The last owner of a pod that is not itself owned, told from the pod alone.

A pod names its ReplicaSet or Job; that a Deployment or CronJob stands behind it is read from the name, for both
controllers make names in a fixed way. Watching ReplicaSets and Jobs for it would take two permissions more and, with
the ten revisions that a Deployment keeps by default, more objects than there are pods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

#: Label with the hash that ends a ReplicaSet's name -> the kind that made it. The first is Kubernetes' own
#: (pkg/controller/deployment/sync.go), the second that of Argo Rollouts.
_TEMPLATE_HASHES = {"pod-template-hash": "Deployment", "rollouts-pod-template-hash": "Rollout"}

#: A CronJob's Job is named after it and the scheduled minute since the epoch (pkg/controller/cronjob/utils.go). Its pods
#: come then or, with a late start and retries, some days later; a name that merely ends in digits hardly fits that.
_LATE, _EARLY = 14 * 86_400.0, 60.0


class OwnerReference(Struct, frozen=True, gc=False, rename="camel"):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    #: At most one owner manages the object; the others only take it with them when they go.
    controller: bool | None = None


def owner(references: Sequence[OwnerReference], labels: Mapping[str, str], created: datetime | None) -> tuple[str, str]:
    """Kind and name, such as ("Deployment", "web"); ("", "") for a pod nothing manages.

    labels and created: the pod's. A static pod's owner is its node, which manages every other as well: it has none.
    """
    direct = next((one for one in references if one.controller), None)
    if direct is None or direct.kind == "Node":
        return "", ""
    if direct.kind == "ReplicaSet" and direct.api_version.startswith("apps/"):
        for label, kind in _TEMPLATE_HASHES.items():
            name = direct.name.removesuffix(f"-{labels.get(label, '')}")
            if labels.get(label) and name and name != direct.name:
                return kind, name
    if direct.kind == "Job" and direct.api_version.startswith("batch/") and created is not None:
        name, _, minute = direct.name.rpartition("-")
        if name and minute.isdecimal() and -_EARLY <= created.timestamp() - 60.0 * int(minute) <= _LATE:
            return "CronJob", name
    return direct.kind, direct.name
