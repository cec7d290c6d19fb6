"""Objects of the Kubernetes API, as much of them as Quell needs, and the sightings they become.

Field names and their meaning: Kubernetes API reference, core/v1 and meta/v1. Absent and null are the same there: what is
a list may come as null (a bookmark's spec.containers does).
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

from quell.controller.kubernetes.owner import OwnerReference, owner
from quell.model.sighting import ContainerSeen, NamespaceSeen, NodeSeen, PodSeen, ServiceSeen


class Metadata(Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class NodeAddress(Struct, frozen=True, gc=False):
    type: str = ""
    address: str = ""


class NodeInfo(Struct, frozen=True, gc=False, rename="camel"):
    machine_id: str = field(default="", name="machineID")
    boot_id: str = field(default="", name="bootID")
    os_image: str = ""
    kernel_version: str = ""


class NodeStatus(Struct, frozen=True, gc=False, rename="camel"):
    addresses: tuple[NodeAddress, ...] | None = None
    node_info: NodeInfo = NodeInfo()


class Node(Struct, frozen=True, gc=False):
    metadata: Metadata
    status: NodeStatus = NodeStatus()

    def key(self) -> str:
        return self.metadata.name

    def seen(self) -> NodeSeen:
        info = self.status.node_info
        return NodeSeen(
            name=self.metadata.name,
            labels=self.metadata.labels or {},
            machine_id=info.machine_id or None,
            boot_id=info.boot_id or None,
            # Names (Hostname, InternalDNS) stand there too.
            addresses=tuple(one.address for one in self.status.addresses or () if one.type.endswith("IP")),
            kubernetes=True,
            os=info.os_image or None,
            kernel=info.kernel_version or None,
        )


class Namespace(Struct, frozen=True, gc=False):
    metadata: Metadata

    def key(self) -> str:
        return self.metadata.name

    def seen(self) -> NamespaceSeen:
        return NamespaceSeen(name=self.metadata.name, uid=self.metadata.uid or None, labels=self.metadata.labels or {})


class ServiceSpec(Struct, frozen=True, gc=False, rename="camel"):
    selector: dict[str, str] | None = None
    cluster_ips: tuple[str, ...] | None = field(default=None, name="clusterIPs")


class Service(Struct, frozen=True, gc=False):
    metadata: Metadata
    spec: ServiceSpec = ServiceSpec()

    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    def seen(self) -> ServiceSeen:
        return ServiceSeen(
            name=self.metadata.name,
            namespace=self.metadata.namespace,
            selector=self.spec.selector or {},
            # A headless service has the address "None".
            addresses=tuple(address for address in self.spec.cluster_ips or () if address and address != "None"),
        )


class ContainerPort(Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    container_port: int = 0
    protocol: str = "TCP"


class Handler(Struct, frozen=True, gc=False):
    """How a probe asks over the network. port: a number, or the name of one of the container's ports."""

    port: int | str = 0
    host: str | None = None


class Probe(Struct, frozen=True, gc=False, rename="camel"):
    http_get: Handler | None = None
    tcp_socket: Handler | None = None
    grpc: Handler | None = None

    def ports(self, container: Container) -> list[int]:
        """TCP ports of the pod that it asks; none where it asks another host."""
        handlers = [each for each in (self.http_get, self.tcp_socket, self.grpc) if each is not None and not each.host]
        found = (_port(each.port, container) for each in handlers)
        return [port for port in found if 0 < port < 1 << 16]


class Container(Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    image: str = ""
    ports: tuple[ContainerPort, ...] | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None


def _port(asked: int | str, container: Container) -> int:
    """0: it is the name of no port. A name is one of the same container, else a number written as text."""
    if isinstance(asked, int):
        return asked
    named = next((each.container_port for each in container.ports or () if each.name == asked), 0)
    return named or (int(asked) if asked.isascii() and asked.isdecimal() else 0)


class PodSpec(Struct, frozen=True, gc=False, rename="camel"):
    node_name: str = ""
    host_network: bool = False
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None
    ephemeral_containers: tuple[Container, ...] | None = None


class Started(Struct, frozen=True, gc=False, rename="camel"):
    started_at: datetime | None = None


class ContainerState(Struct, frozen=True, gc=False):
    running: Started | None = None
    terminated: Started | None = None


class ContainerStatus(Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    state: ContainerState = ContainerState()
    image: str = ""
    image_id: str = field(default="", name="imageID")
    container_id: str = field(default="", name="containerID")


class PodIP(Struct, frozen=True, gc=False):
    ip: str = ""


class PodStatus(Struct, frozen=True, gc=False, rename="camel"):
    phase: str = ""
    pod_ips: tuple[PodIP, ...] | None = field(default=None, name="podIPs")
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    ephemeral_container_statuses: tuple[ContainerStatus, ...] | None = None


class Pod(Struct, frozen=True, gc=False):
    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def key(self) -> str:
        return self.metadata.uid

    def seen(self) -> PodSeen:
        metadata, spec, status = self.metadata, self.spec, self.status
        labels = metadata.labels or {}
        owner_kind, owner_name = owner(metadata.owner_references or (), labels, metadata.creation_timestamp)
        return PodSeen(
            uid=metadata.uid,
            name=metadata.name,
            namespace=metadata.namespace,
            node=spec.node_name or None,
            labels=labels,
            owner_kind=owner_kind,
            owner_name=owner_name,
            phase=status.phase or None,
            addresses=tuple(one.ip for one in status.pod_ips or ()),
            host_network=spec.host_network,
            containers=tuple(self._containers()),
            probe_ports=self._probe_ports(),
        )

    def _probe_ports(self) -> tuple[int, ...]:
        """Of the probes whose failing restarts a container; a readiness probe's does not."""
        return tuple(
            sorted(
                {
                    port
                    for some in (self.spec.containers, self.spec.init_containers)
                    for container in some or ()
                    for probe in (container.liveness_probe, container.startup_probe)
                    if probe is not None
                    for port in probe.ports(container)
                }
            )
        )

    def _containers(self) -> list[ContainerSeen]:
        """Those that a runtime has made; one that waits has no id yet."""
        spec, status = self.spec, self.status
        asked = {
            container.name: container.image
            for some in (spec.containers, spec.init_containers, spec.ephemeral_containers)
            for container in some or ()
        }
        return [
            self._container(container, asked.get(container.name, ""))
            for some in (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses)
            for container in some or ()
            if container.container_id
        ]

    def _container(self, container: ContainerStatus, asked: str) -> ContainerSeen:
        runtime, _, identifier = container.container_id.rpartition("://")
        state = container.state.running or container.state.terminated
        return ContainerSeen(
            id=identifier,
            name=container.name,
            # The status names any one of the names its image has on the node, not always the one that was asked for.
            image=asked or container.image or None,
            image_id=container.image_id.removeprefix("docker-pullable://").removeprefix("docker://") or None,
            node=self.spec.node_name or None,
            runtime=runtime or None,
            namespace=self.metadata.namespace,
            pod_name=self.metadata.name,
            pod_uid=self.metadata.uid,
            started=state.started_at.timestamp() if state and state.started_at else None,
            host_network=self.spec.host_network,
            running=container.state.running is not None,
        )
