"""Ready-made deviations as they are written: a record of schema event_deviation, or a GuardianDeviation by itself.

Only what is read is named; what else a record says is its system's own. `process` is an addition of ours to both.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from quell.detectors.form import Moment, Port, ProcessForm
from quell.detectors.line import read
from quell.errors import EventError

_Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class Labels(Struct, frozen=True, kw_only=True):
    labels: dict[str, str] | None = None


class ClusterScope(Struct, frozen=True, kw_only=True):
    name: str | None = None
    uid: str | None = None


class MachineScope(Struct, frozen=True, kw_only=True, rename="camel"):
    hostname: str | None = None
    uid: str | None = None
    source_name: str | None = None


class ContainerScope(Struct, frozen=True, kw_only=True):
    image: str | None = None
    image_id: str | None = field(name="imageID", default=None)
    name: str | None = field(name="containerName", default=None)
    id: str | None = field(name="containerID", default=None)


class ServiceScope(Struct, frozen=True, kw_only=True):
    cgroup: str | None = None
    name: str | None = None


class ProcessScope(Struct, frozen=True, kw_only=True):
    name: str | None = None
    exe: str | None = None
    euser: str | None = None


class Scopes(Struct, frozen=True, kw_only=True, rename="camel"):
    """Whom it is about, by what selectors of policies look at."""

    cluster_selector: ClusterScope = ClusterScope()
    machine_selector: MachineScope = MachineScope()
    namespace_selector: Labels = Labels()
    pod_selector: Labels = Labels()
    container_selector: ContainerScope = ContainerScope()
    service_selector: ServiceScope = ServiceScope()
    process_selector: ProcessScope = ProcessScope()


class Metadata(Struct, frozen=True, kw_only=True):
    #: cluster: a ruleset does not allow it.
    type: Literal["process", "ingress", "egress", "cluster"]
    policy_uid: str | None = None
    policy_name: str | None = None
    uid: str | None = None
    checksum: str | None = None
    scopes: Scopes = Scopes()


class Node(Struct, frozen=True, kw_only=True):
    """A process that is to be added, or (policyNode) one that is there and gets something added."""

    name: str | None = None
    exe: list[str] = []
    euser: list[str] = []
    children: list[Node] = []


class PolicyItem(Node, frozen=True, kw_only=True):
    policy_node: Node | None = field(name="policyNode", default=None)


class IpBlock(Struct, frozen=True, kw_only=True):
    cidr: str


class Peer(Struct, frozen=True, kw_only=True, rename="camel"):
    ip_block: IpBlock | None = None
    dns_selector: list[str] = []


class Ports(Struct, frozen=True, kw_only=True, rename="camel"):
    port: Port
    protocol: str = "TCP"
    end_port: Port | None = None


class Connections(Struct, frozen=True, kw_only=True):
    """One rule of either direction."""

    sources: list[Peer] = field(name="from", default=[])
    targets: list[Peer] = field(name="to", default=[])
    ports: list[Ports] = []


class Network(Struct, frozen=True, kw_only=True):
    ingress: list[Connections] = []
    egress: list[Connections] = []


class RuleForm(Struct, frozen=True, kw_only=True):
    target: str
    verb: Literal["allow", "deny"]
    values: list[str]


class Matched(Struct, frozen=True, kw_only=True, rename="camel"):
    matched_patterns: list[str] = []


class Spec(Struct, frozen=True, kw_only=True, rename="camel"):
    """What would allow it, and (matches) what did not."""

    process_policy: list[PolicyItem] | None = None
    network_policy: Network | None = None
    rules: list[RuleForm] | None = None
    matches: dict[str, Matched] = {}


class Guardian(Struct, frozen=True, kw_only=True):
    kind: Literal["GuardianDeviation"]
    metadata: Metadata
    spec: Spec
    process: ProcessForm | None = None


class Record(Struct, frozen=True, kw_only=True):
    #: Without it the deviation's own metadata says the rest.
    schema: str | None = None
    id: str | None = None
    time: Moment | None = None
    checksum: str | None = None
    description: str = ""
    short_description: str = ""
    policy_name: str | None = None
    policy_uid: str | None = None
    policy_type: Literal["container", "linux-service", "cluster"] | None = None
    policy_mode: Literal["audit", "enforce"] | None = None
    ref: str = ""
    muid: str | None = None
    hostname: str | None = None
    cluster_name: str | None = None
    cluster_uid: str | None = None
    namespace: str | None = None
    pod_name: str | None = None
    pod_kuid: str | None = None
    container_uid: str | None = None
    process: ProcessForm | None = None
    deviation: Guardian


class _Head(Struct):
    schema: str | None = None
    kind: str | None = None


_head = msgspec.json.Decoder(_Head)
_record = msgspec.json.Decoder(Record)
_guardian = msgspec.json.Decoder(Guardian)
#: What a schema begins with.
_SCHEMAS = ("event_deviation", "event_audit:guardian_deviation")
#: What of its spec each type is about.
_PARTS = {"process": "process_policy", "ingress": "network_policy", "egress": "network_policy", "cluster": "rules"}


def read_record(document: bytes) -> tuple[Record, str]:
    """The record, one without any facts of its own of a GuardianDeviation by itself; and where the deviation stands in
    it, such as $.deviation. EventError says what is expected where.
    """
    head = read(_head, document)
    if head.schema is None and head.kind is None:
        raise EventError("Expected a record with `schema` event_deviation, or `kind` GuardianDeviation, got neither")
    if head.schema is None:
        guardian = read(_guardian, document)
        record, where = Record(deviation=guardian, process=guardian.process), "$"
    else:
        if not head.schema.startswith(_SCHEMAS):
            raise EventError(f"Expected `event_deviation:…`, got `{head.schema[:64]}` - at `$.schema`")
        record, where = read(_record, document), "$.deviation"
    _check(record.deviation, where)
    return record, where


def _check(guardian: Guardian, where: str) -> None:
    type_ = guardian.metadata.type
    part = _PARTS[type_]
    if getattr(guardian.spec, part) is None:
        name = {"process_policy": "processPolicy", "network_policy": "networkPolicy"}.get(part, part)
        raise EventError(f"Expected `{name}`, as it is of type {type_}, got none - at `{where}.spec`")
