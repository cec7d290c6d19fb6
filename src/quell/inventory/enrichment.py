"""Before an event is decided: what it does not say of its workload, filled in from the inventory. docs/inventory.md.

What the event says itself wins, and where the two differ the record says so. Facts that name the workload (node, pod,
namespace) must agree: where they do not, nothing is filled in, because it could be another workload's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from quell.inventory.images import differ, same_id
from quell.inventory.inventory import Inventory
from quell.model.event import Event
from quell.model.subject import Container, Pod, Subject
from quell.response.facts import Workload

#: Seconds by which clocks may differ before an event is taken to be later than its workload's end.
SKEW = 5.0
_MEMO = 16_384

_NOTHING: tuple[None, tuple[str, ...]] = (None, ())


class Enriched(NamedTuple):
    """added and conflicts as in quell.model.decision.Decision."""

    event: Event
    added: Subject | None
    conflicts: tuple[str, ...]


class Enricher:
    """Fills in events; what it did for a workload it remembers while nothing about the workload changes."""

    def __init__(self, inventory: Inventory, unknown: Callable[[Event], None]) -> None:
        """unknown: told of events about a container that nobody speaks of."""
        self._inventory = inventory
        self._workloads = inventory.workloads
        self._unknown = unknown
        self._memo: dict[tuple[object, ...], tuple[Workload, Subject | None, tuple[str, ...]]] = {}

    def enrich(self, event: Event) -> Enriched | None:
        """None: there is nothing to add and nothing to say, as for most events."""
        subject = event.subject
        container, pod = subject.container, subject.pod
        if container is None:
            if pod is None:
                return None
            known = self._inventory.pod(pod.uid, subject.namespace, pod.name)
            added, conflicts = _NOTHING if known is None else _compared(event, known, self._inventory)
        else:
            # What most events pass: by the full id, without a call.
            known = self._workloads.get(container.id) or self._inventory.find(container.id)
            if known is None:
                self._unknown(event)
                known = None if pod is None or pod.uid is None else self._inventory.pod(pod.uid, None, None)
                added, conflicts = _NOTHING if known is None else _compared(event, known, self._inventory)
            elif known.taught_by and _has_all(subject, container, pod, known):
                return None
            else:
                added, conflicts = self._remembered(event, container, pod, known)
        if known is not None:
            conflicts = (*conflicts, *_late(event, known), *_labels_differ(subject, known, added))
        if added is None and not conflicts:
            return None
        if added is not None:
            event = msgspec.structs.replace(event, subject=merged(subject, added))
        return Enriched(event, added, conflicts)

    def forget(self) -> None:
        """Something changed that is no part of any workload, such as a node's machine id."""
        self._memo.clear()

    def _remembered(
        self, event: Event, container: Container, pod: Pod | None, known: Workload
    ) -> tuple[Subject | None, tuple[str, ...]]:
        subject = event.subject
        key = (
            container.id,
            container.name,
            container.image_id,
            container.host_network,
            subject.image,
            subject.node,
            subject.machine_id,
            subject.namespace,
            subject.namespace_labels is None,
            subject.service,
            subject.cluster,
            event.source,
            None if pod is None else (pod.name, pod.uid, pod.labels is None),
        )
        found = self._memo.get(key)
        if found is not None and found[0] is known:
            return found[1], found[2]
        added, conflicts = _compared(event, known, self._inventory)
        if len(self._memo) >= _MEMO:
            self._memo.clear()
        self._memo[key] = (known, added, conflicts)
        return added, conflicts


def _has_all(subject: Subject, container: Container, pod: Pod | None, known: Workload) -> bool:
    """What an event taught, the next of its kind says again: then there is nothing to look up or to compare."""
    return (
        (container.name is not None or known.name is None)
        and (subject.image is not None or known.image is None)
        and (subject.namespace is not None or known.namespace is None)
        and (known.pod_uid is None or (pod is not None and pod.uid is not None and pod.name is not None))
        and (known.labels is None or (pod is not None and pod.labels is not None))
        and (container.image_id is not None or known.image_id is None)
        and (container.host_network is not None or known.host_network is None)
    )


def missing(subject: Subject, known: Workload) -> Subject | None:
    """The parts of the workload that the subject has not; None: it has them all. known.id may be the pod's uid."""
    container, pod = subject.container, subject.pod
    if container is not None and (known.id != known.pod_uid):
        facts = Container(
            id=known.id,
            name=known.name if container.name is None else None,
            image_id=known.image_id if container.image_id is None else None,
            host_network=known.host_network if container.host_network is None else None,
            labels=known.labels if known.pod_uid is None and pod is None and container.labels is None else None,
            sandbox=known.sandbox if container.sandbox is None else None,
        )
        container = None if facts == Container(id=container.id) else facts
    else:
        container = None
    if known.pod_uid is not None or pod is not None:
        seen = pod or Pod()
        facts_of_pod = Pod(
            name=known.pod_name if seen.name is None else None,
            uid=known.pod_uid if seen.uid is None else None,
            labels=known.labels if seen.labels is None else None,
        )
        pod = None if facts_of_pod == Pod() else facts_of_pod
    added = Subject(
        cluster=known.cluster if subject.cluster is None else None,
        node=known.node if subject.node is None else None,
        namespace=known.namespace if subject.namespace is None else None,
        namespace_labels=known.namespace_labels if subject.namespace_labels is None else None,
        pod=pod,
        container=container,
        image=known.image if subject.image is None else None,
        service=known.service if subject.service is None else None,
    )
    return None if added == Subject() else added


def merged(subject: Subject, added: Subject) -> Subject:
    """The subject with the parts that were missing."""
    container, more = subject.container, added.container
    if container is not None and more is not None:
        container = Container(
            id=more.id,
            name=more.name if container.name is None else container.name,
            image_id=more.image_id if container.image_id is None else container.image_id,
            host_network=more.host_network if container.host_network is None else container.host_network,
            labels=more.labels if container.labels is None else container.labels,
            sandbox=more.sandbox if container.sandbox is None else container.sandbox,
        )
    pod, other = subject.pod, added.pod
    if pod is None:
        pod = other
    elif other is not None:
        pod = Pod(
            name=other.name if pod.name is None else pod.name,
            uid=other.uid if pod.uid is None else pod.uid,
            labels=other.labels if pod.labels is None else pod.labels,
        )
    return Subject(
        cluster=added.cluster if subject.cluster is None else subject.cluster,
        cluster_uid=subject.cluster_uid,
        node=added.node if subject.node is None else subject.node,
        machine_id=subject.machine_id,
        machine_uid=subject.machine_uid,
        source_name=subject.source_name,
        namespace=added.namespace if subject.namespace is None else subject.namespace,
        namespace_labels=added.namespace_labels if subject.namespace_labels is None else subject.namespace_labels,
        pod=pod,
        container=container,
        image=added.image if subject.image is None else subject.image,
        service=added.service if subject.service is None else subject.service,
        service_cgroup=subject.service_cgroup,
        process=subject.process,
        user=subject.user,
        group=subject.group,
    )


def _compared(event: Event, known: Workload, inventory: Inventory) -> tuple[Subject | None, tuple[str, ...]]:
    subject = event.subject
    if known.taught_by and (known.taught_by != event.source or known.node != subject.node):
        # An event is believed by its own detector about its own node: else one that is forged would speak for others.
        return _NOTHING
    doubt = _doubts(subject, known, inventory)
    if doubt:
        return None, tuple(f"{each}: nothing was filled in" for each in doubt)
    return missing(subject, known), tuple(_differences(subject, known))


def _doubts(subject: Subject, known: Workload, inventory: Inventory) -> list[str]:
    """Why it could be another workload than the one that is known."""
    if known.contested:
        return [f"node: sources disagree whether it is on {' or '.join(known.contested)}"]
    pod = subject.pod or Pod()
    # Without an id it is found by its name, which another cluster may have too.
    is_named_only = subject.container is None and pod.uid is None
    machine = inventory.machine_of_node(known.node) if subject.machine_id and known.node else None
    return [
        _differ(what, said, knows)
        for what, said, knows in (
            ("node", subject.node, known.node),
            ("machine", subject.machine_id, machine),
            ("cluster", subject.cluster if is_named_only else None, known.cluster),
            ("namespace", subject.namespace, known.namespace),
            ("pod", pod.name, known.pod_name),
            ("pod uid", pod.uid, known.pod_uid),
        )
        if said is not None and knows is not None and said != knows
    ]


def _differences(subject: Subject, known: Workload) -> list[str]:
    container = subject.container
    found = []
    if subject.image is not None and known.image is not None and differ(subject.image, known.image):
        found.append(_differ("image", subject.image, known.image))
    if subject.cluster is not None and known.cluster not in (None, subject.cluster):
        found.append(_differ("cluster", subject.cluster, known.cluster))
    service = subject.service
    if service is not None and known.service is not None and service != f"{known.service}.{known.namespace}":
        found += [_differ("service", service, known.service)] if service != known.service else []
    if container is None:
        return found
    name, image_id, host_network = container.name, container.image_id, container.host_network
    # Docker under Kubernetes puts pod, namespace and uid into the name.
    if name is not None and known.name not in (None, name) and not name.startswith(f"k8s_{known.name}_"):
        found.append(_differ("container name", name, known.name))
    if image_id is not None and known.image_id is not None and not same_id(image_id, known.image_id):
        found.append(_differ("image id", image_id, known.image_id))
    if host_network is not None and known.host_network not in (None, host_network):
        found.append(_differ("host network", host_network, known.host_network))
    return found


def _labels_differ(subject: Subject, known: Workload, added: Subject | None) -> list[str]:
    said = None if subject.pod is None else subject.pod.labels
    if said is None or not known.labels or said == known.labels or (known.taught_by and added is None):
        return []
    return [
        _differ(f"label {key}", value, known.labels[key])
        for key, value in said.items()
        if known.labels.get(key, value) != value
    ]


def _late(event: Event, known: Workload) -> list[str]:
    if known.gone is None or event.time is None or event.time <= known.gone + SKEW:
        return []
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(known.gone))
    return [f"time: the event says that it happened {event.time - known.gone:.0f} s after the workload ended ({stamp})"]


def _differ(what: str, said: object, knows: object) -> str:
    return f"{what}: the event says {said}, the inventory {knows}"
