"""A pod as it must be known before it is deleted, and what stands against that. SEMANTICS section 8. Pure.

Field names and their meaning: Kubernetes API reference, core/v1 and meta/v1. The watch reads other fields of the same
objects (quell.controller.kubernetes.objects): annotations are long, and it reads every pod of the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime

from msgspec import Struct, field

from quell.controller.kubernetes.owner import OwnerReference
from quell.model.decision import Reason
from quell.model.subject import PodTarget
from quell.response.targets import SHORT_ID, Refusal

#: Set by the kubelet on what shows a static pod in the API, and by nobody else: the API refuses it from others.
_MIRROR = "kubernetes.io/config.mirror"
#: A namespace (RFC 1123 label), and a pod's name (RFC 1123 subdomain). What is none of these never becomes part of a path.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME = 253
#: Creation is told in whole seconds.
_TICK = 1.0


class Metadata(Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: tuple[str, ...] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class Condition(Struct, frozen=True, gc=False):
    type: str = ""
    status: str = ""


class Run(Struct, frozen=True, gc=False):
    """Of a container that has ended."""

    container_id: str = field(default="", name="containerID")


class State(Struct, frozen=True, gc=False):
    terminated: Run | None = None


class ContainerStatus(Struct, frozen=True, gc=False, rename="camel"):
    container_id: str = field(default="", name="containerID")
    last_state: State = State()


class PodSpec(Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""


class PodStatus(Struct, frozen=True, gc=False, rename="camel"):
    phase: str = ""
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Struct, frozen=True, gc=False):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def called(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def is_terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def is_ready(self) -> bool:
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions or ())

    @property
    def is_mirror(self) -> bool:
        """It only shows a static pod, which the kubelet runs from a file of its own."""
        return _MIRROR in (self.metadata.annotations or {}) or any(
            each.kind == "Node" and each.controller for each in self.metadata.owner_references or ()
        )

    def containers(self) -> Iterable[str]:
        """Ids of those it has and of those that they took the place of, as far as the kubelet has told the API."""
        status = self.status
        for some in (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses):
            for each in some or ():
                yield each.container_id.rpartition("://")[2]
                if each.last_state.terminated is not None:
                    yield each.last_state.terminated.container_id.rpartition("://")[2]


def nameless(target: PodTarget) -> Refusal | None:
    """What keeps it from being asked for at all: the API finds pods by namespace and name."""
    namespace, name = target.namespace or "", target.name or ""
    if not namespace or not name:
        said = f"pod {target.uid or '?'}: the API finds a pod by namespace and name, and nothing says what they are"
        return Refusal(Reason.NO_TARGET, said)
    if not _NAMESPACE.fullmatch(namespace) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        return Refusal(Reason.NO_TARGET, "no pod can have this namespace and name")
    return None


def stands_against(
    pod: Pod, target: PodTarget, *, machines: Collection[str], protected: Collection[str], skew: float
) -> Refusal | None:
    """What refuses to delete this pod, which has the target's uid if that names one.

    machines: ids of the machine that its node is, as far as they are known. protected: namespaces. skew: seconds by which
    a detector's clock may be ahead.
    """
    return _elsewhere(pod, target, machines) or _another(pod, target, skew) or _protected(pod, protected)


def _elsewhere(pod: Pod, target: PodTarget, machines: Collection[str]) -> Refusal | None:
    """Not where the event happened: whoever may only speak of one node could otherwise name another's pods."""
    node = pod.spec.node_name
    if target.node is not None and target.node != node:
        said = f"pod {pod.called} is on {node or 'no node yet'}, the event happened on {target.node}"
        return Refusal(Reason.IDENTITY, said)
    if target.machine_id is not None and target.machine_id not in machines and (machines or target.node is None):
        return Refusal(Reason.IDENTITY, f"nothing says that {node} is the event's machine, {target.machine_id}")
    return None


def _another(pod: Pod, target: PodTarget, skew: float) -> Refusal | None:
    """Perhaps another pod that has the name by now.

    With a uid its containers are not compared: the API knows of a new one only when the kubelet has told it. Yet the uid
    may have been learned from the name, so that a pod that is younger than the event is another.
    """
    created = pod.metadata.creation_timestamp
    if target.uid is not None:
        if created is None or target.seen is None or created.timestamp() <= target.seen + skew:
            return None
        later = created.timestamp() - target.seen
        return Refusal(Reason.IDENTITY, f"pod {pod.called} was made {later:.0f} s after the event, it is another one")
    container = target.container_id
    if container is not None and len(container) >= SHORT_ID:
        if any(each.startswith(container) for each in pod.containers()):
            return None
        said = f"it has no container {container[:SHORT_ID]} that the API knows of"
    else:
        said = "the event names none of its containers"
    if created is not None and target.seen is not None and created.timestamp() + _TICK + skew <= target.seen:
        return None
    return Refusal(Reason.IDENTITY, f"pod {pod.called} could have been made after the event, which has no uid; {said}")


def _protected(pod: Pod, namespaces: Collection[str]) -> Refusal | None:
    if pod.metadata.namespace in namespaces:
        return Refusal(Reason.PROTECTED, f"namespace {pod.metadata.namespace} is protected")
    if pod.is_mirror:
        said = f"pod {pod.called} mirrors a static pod, which {pod.spec.node_name} runs from a file of its own"
        return Refusal(Reason.PROTECTED, f"{said}: deleting it in the API would end nothing")
    return None
