"""What is known to run where, as an agent's runtime sockets, Kubernetes or an event say it.

A source tells what it sees in Sightings; the inventory (quell.inventory) joins what all sources say. These are not
events: nothing here is journaled or decided about.
"""

from __future__ import annotations

from msgspec import Struct


class NodeSeen(Struct, frozen=True, gc=False, kw_only=True, tag="node", omit_defaults=True):
    """A host."""

    name: str
    labels: dict[str, str] | None = None
    machine_id: str | None = None
    boot_id: str | None = None
    addresses: tuple[str, ...] = ()
    #: It is a node of a Kubernetes cluster.
    kubernetes: bool = False
    #: Such as "Debian GNU/Linux 12 (bookworm)" and "6.1.0-31-amd64".
    os: str | None = None
    kernel: str | None = None


class ContainerSeen(Struct, frozen=True, gc=False, kw_only=True, tag="container", omit_defaults=True):
    """One container, by its full id (64 hexadecimal digits for every runtime known)."""

    id: str
    name: str | None = None
    #: As it was asked for, with tag or digest, such as docker.io/library/nginx:1.27.
    image: str | None = None
    image_id: str | None = None
    node: str | None = None
    #: podman, docker, containerd or cri-o.
    runtime: str | None = None
    #: The container's own labels; a pod's are in PodSeen.
    labels: dict[str, str] | None = None
    namespace: str | None = None
    pod_name: str | None = None
    pod_uid: str | None = None
    #: podman's id of the pod of its own that it is in, which no Kubernetes knows of.
    podman_pod: str | None = None
    #: Its first process on the node; None where the source cannot say.
    pid: int | None = None
    #: Epoch seconds.
    started: float | None = None
    #: Id of the container whose network namespace it shares (a podman or Docker pod's infra container); None: its own.
    sandbox: str | None = None
    host_network: bool | None = None
    running: bool = True


class PodSeen(Struct, frozen=True, gc=False, kw_only=True, tag="pod", omit_defaults=True):
    uid: str
    name: str
    namespace: str
    node: str | None = None
    labels: dict[str, str] = {}
    #: Its last owner that is not itself owned, such as ("Deployment", "web"); ("", ""): none.
    owner_kind: str = ""
    owner_name: str = ""
    phase: str | None = None
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    containers: tuple[ContainerSeen, ...] = ()
    #: TCP ports of its liveness and startup probes: where they get no answer, its node restarts it.
    probe_ports: tuple[int, ...] = ()


class NamespaceSeen(Struct, frozen=True, gc=False, kw_only=True, tag="namespace", omit_defaults=True):
    name: str
    uid: str | None = None
    labels: dict[str, str] = {}


class ServiceSeen(Struct, frozen=True, gc=False, kw_only=True, tag="service", omit_defaults=True):
    """A Kubernetes Service, or (namespace "") a service of a host's init system."""

    name: str
    namespace: str = ""
    #: Labels a pod must have to belong to it; empty: none belongs by labels.
    selector: dict[str, str] = {}
    addresses: tuple[str, ...] = ()
    node: str | None = None


class ImageSeen(Struct, frozen=True, gc=False, kw_only=True, tag="image", omit_defaults=True):
    id: str
    #: Names with tag or digest.
    names: tuple[str, ...] = ()
    node: str | None = None


Sighting = NodeSeen | ContainerSeen | PodSeen | NamespaceSeen | ServiceSeen | ImageSeen


class Gone(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Something a source no longer sees. kind: the tag of its sighting. key: container id, pod uid, image id, node or
    namespace name, or "<namespace>/<service>".
    """

    kind: str
    key: str


class Sightings(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What one source says at one moment."""

    #: "agent/<agent id>", "kubernetes/<cluster>" or "event/<detector>".
    source: str
    cluster: str | None = None
    seen: tuple[Sighting, ...] = ()
    gone: tuple[Gone, ...] = ()
    #: True: of the kinds in `kinds` the source sees nothing else, so what it told of before and not now is gone.
    complete: bool = False
    kinds: tuple[str, ...] = ()
