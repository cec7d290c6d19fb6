"""One workload of what several sources say of a container. Whose word counts, docs/inventory.md says.

The node's own agent is believed about the runtime (image, first process, start, sandbox), Kubernetes about names, labels,
namespace and owner; events only about containers that nobody else speaks of. An agent is believed about its own node
only: where two sources put a container on different nodes, Kubernetes decides between agents, and else nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from quell.inventory.statements import CONTAINER, IMAGE, NAMESPACE, NODE, POD, SERVICE, Rank, Said, Statements
from quell.model.sighting import ContainerSeen, ImageSeen, NamespaceSeen, NodeSeen, PodSeen, ServiceSeen
from quell.response.facts import Workload

T = TypeVar("T")

#: Of the one cluster that has no name.
UNNAMED = "in-cluster"
#: Labels of a container that name its service, as compose files, Swarm and podman's units give it.
SERVICE_LABELS = (
    "com.docker.compose.service",
    "io.podman.compose.service",
    "com.docker.swarm.service.name",
    "PODMAN_SYSTEMD_UNIT",
)


class Sources:
    """What joining reads. clusters: by source. services: by namespace, the keys of its Services."""

    __slots__ = ("clusters", "services", "statements")

    def __init__(
        self, statements: Statements, clusters: Mapping[str, str], services: Mapping[str, Collection[str]]
    ) -> None:
        self.statements = statements
        self.clusters = clusters
        self.services = services

    def cluster_of_node(self, node: str | None) -> str | None:
        """The cluster whose Kubernetes has a node of this name; None: none or several have."""
        said = self.statements.about(NODE, node) if node else ()
        clusters = {self.clusters.get(each.source) for each in said if each.rank is Rank.KUBERNETES}
        return clusters.pop() if len(clusters) == 1 else None

    def namespace_labels(self, cluster: str | None, namespace: str | None) -> dict[str, str] | None:
        for each in self.statements.about(NAMESPACE, namespace) if cluster and namespace else ():
            if isinstance(each.sighting, NamespaceSeen) and self.clusters.get(each.source) == cluster:
                return each.sighting.labels
        return None

    def service(self, cluster: str | None, pod: PodSeen) -> str | None:
        """The Kubernetes Service that selects the pod: of several the one that asks for most, then the first by name."""
        if not pod.labels:
            return None
        found = [
            (-len(service.selector), service.name)
            for key in self.services.get(pod.namespace, ())
            for each in self.statements.about(SERVICE, key)
            if isinstance(service := each.sighting, ServiceSeen)
            and self.clusters.get(each.source) == cluster
            and service.selector
            and service.selector.items() <= pod.labels.items()
        ]
        return min(found)[1] if found else None

    def image_name(self, image_id: str | None) -> str | None:
        for each in self.statements.about(IMAGE, image_id) if image_id else ():
            if isinstance(each.sighting, ImageSeen) and each.sighting.names:
                return each.sighting.names[0]
        return None


def join(identifier: str, sources: Sources) -> Workload | None:
    """None: nobody says anything of this container."""
    said = _authorities(sources.statements.about(CONTAINER, identifier))
    if not said:
        return None
    told_by = tuple(each.source for each in said)
    runtime, contested = _on_one_node([each for each in said if isinstance(each.sighting, ContainerSeen)])
    if contested:
        return Workload(id=identifier, contested=contested, sources=told_by)
    named = sorted(runtime, key=lambda each: each.rank is not Rank.KUBERNETES)
    node = _first(runtime, lambda container: container.node)
    pod_uid = _first(named, lambda container: container.pod_uid)
    namespace = _first(named, lambda container: container.namespace)
    found = _pod(pod_uid, node, told_by, sources)
    pod = None if found is None else found.sighting
    cluster = next((sources.clusters[each.source] for each in named if each.source in sources.clusters), None)
    cluster = cluster or sources.cluster_of_node(node)
    image_id = _first(runtime, lambda container: container.image_id)
    host_networks = {each.sighting.host_network for each in runtime if isinstance(each.sighting, ContainerSeen)}
    labels, service = _first(runtime, lambda container: container.labels), None
    probe_ports: tuple[int, ...] = ()
    if isinstance(pod, PodSeen):
        namespace, labels = pod.namespace, pod.labels
        if found is not None and found.rank is Rank.KUBERNETES:
            host_networks.add(pod.host_network)
            probe_ports = pod.probe_ports
            service = sources.service(cluster, pod) or pod.owner_name or pod.name
    elif pod_uid is not None:
        labels = None
    name = _first(named, lambda container: container.name)
    is_taught = runtime[0].rank is Rank.EVENT
    return Workload(
        id=identifier,
        name=name,
        image=_first(runtime, lambda container: container.image) or sources.image_name(image_id),
        image_id=image_id,
        node=node,
        cluster=_shown(cluster),
        service=service or (None if is_taught else _labelled(labels if pod_uid is None else None) or name),
        namespace=namespace,
        labels=labels,
        namespace_labels=sources.namespace_labels(cluster, namespace),
        pod_name=pod.name if isinstance(pod, PodSeen) else _first(named, lambda container: container.pod_name),
        pod_uid=pod_uid,
        podman_pod=_first(runtime, lambda container: container.podman_pod),
        sandbox=_first(runtime, lambda container: container.sandbox),
        host_network=True if True in host_networks else False if False in host_networks else None,
        probe_ports=probe_ports,
        runtime=_first(runtime, lambda container: container.runtime),
        pid=_first(runtime, lambda container: container.pid),
        started=_first(runtime, lambda container: container.started),
        running=all(each.sighting.running for each in runtime[:1] if isinstance(each.sighting, ContainerSeen)),
        sources=told_by,
        taught_by=runtime[0].source.partition("/")[2] if is_taught else "",
    )


def join_pod(uid: str, sources: Sources) -> Workload | None:
    """A pod whose container is not known, with what all its containers have in common. id is the pod's uid."""
    said = _authorities(sources.statements.about(POD, uid))
    if not said:
        return None
    told_by = tuple(each.source for each in said)
    best = min(said, key=lambda each: each.rank is not Rank.KUBERNETES)
    pod, from_kubernetes = best.sighting, best.rank is Rank.KUBERNETES
    placed = [each for each in said if each.rank is best.rank]
    nodes = tuple(sorted({seen.node for each in placed if isinstance(seen := each.sighting, PodSeen) and seen.node}))
    if len(nodes) > 1:
        return Workload(id=uid, pod_uid=uid, contested=nodes, sources=told_by)
    if not isinstance(pod, PodSeen):
        return None
    node = nodes[0] if nodes else None
    cluster = sources.clusters.get(best.source) or sources.cluster_of_node(node)
    service = (sources.service(cluster, pod) or pod.owner_name or pod.name) if from_kubernetes else None
    return Workload(
        id=uid,
        node=node,
        cluster=_shown(cluster),
        service=service,
        namespace=pod.namespace,
        labels=pod.labels,
        namespace_labels=sources.namespace_labels(cluster, pod.namespace),
        pod_name=pod.name,
        pod_uid=uid,
        host_network=pod.host_network if from_kubernetes else None,
        probe_ports=pod.probe_ports if from_kubernetes else (),
        sources=told_by,
        taught_by=best.source.partition("/")[2] if best.rank is Rank.EVENT else "",
    )


def is_kubernetes(node: str, statements: Statements) -> bool:
    """Somebody says that it is a node of Kubernetes."""
    return any(
        isinstance(each.sighting, NodeSeen) and each.sighting.kubernetes for each in statements.about(NODE, node)
    )


def _shown(cluster: str | None) -> str | None:
    return None if cluster == UNNAMED else cluster


def _authorities(said: Sequence[Said]) -> Sequence[Said]:
    """Without events, but of what only events tell: then the first of them."""
    better = [each for each in said if each.rank is not Rank.EVENT]
    return better or said[:1]


def _on_one_node(said: Sequence[Said]) -> tuple[Sequence[Said], tuple[str, ...]]:
    """Those that count, or the nodes they disagree about."""
    nodes = {_node(each) for each in said} - {None}
    if len(nodes) > 1:
        scheduled = {_node(each) for each in said if each.rank is Rank.KUBERNETES} - {None}
        is_seen_there = scheduled & {_node(each) for each in said if each.rank is Rank.AGENT}
        if len(scheduled) != 1 or not is_seen_there:
            return (), tuple(sorted(node for node in nodes if node))
        return [each for each in said if _node(each) in scheduled], ()
    return said, ()


def _node(said: Said) -> str | None:
    return said.sighting.node if isinstance(said.sighting, ContainerSeen) else None


def _pod(uid: str | None, node: str | None, told_by: Sequence[str], sources: Sources) -> Said | None:
    """Who is believed about the pod: Kubernetes, else the agent of its node, else the event that told of the container."""
    said = [
        each
        for each in (sources.statements.about(POD, uid) if uid else ())
        if isinstance(each.sighting, PodSeen)
        and (node is None or each.sighting.node in (None, node))
        and (each.rank is Rank.KUBERNETES or each.source in told_by)
    ]
    return min(said, key=lambda each: each.rank is not Rank.KUBERNETES, default=None)


def _labelled(labels: dict[str, str] | None) -> str | None:
    for label in SERVICE_LABELS if labels else ():
        if labels and (value := labels.get(label)):
            return value.removesuffix(".service") if label == "PODMAN_SYSTEMD_UNIT" else value
    return None


def _first(said: Sequence[Said], value: Callable[[ContainerSeen], T | None]) -> T | None:
    for each in said:
        if isinstance(each.sighting, ContainerSeen) and (found := value(each.sighting)) is not None:
            return found
    return None
