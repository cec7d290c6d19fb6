"""The native event as it is written: one JSON object. An unknown field is refused with its path (SEMANTICS 0.3).

Everything but `name` may be left out. Where the model says epoch seconds, a moment may also be an RFC 3339 text.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from quell.model.details import Role

Moment = Annotated[datetime, Meta(tz=True)] | Annotated[float, Meta(ge=0, lt=253402300800)]
Pid = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Uid = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Side = Literal["client", "server"]

#: An event's own id: printable ASCII without space or slash (slashes are in ids that Quell derives), at most 200.
ID = re.compile(r"[!-.0-~]{1,200}")


class AncestorForm(Struct, array_like=True, forbid_unknown_fields=True):
    """[name, exe, user, pid, start_ticks], of which all but the name may be null or left out at the end."""

    name: str
    exe: str | None = None
    #: Effective user.
    user: str | None = None
    pid: Pid | None = None
    start_ticks: Natural | None = None


class ProcessForm(Struct, kw_only=True, forbid_unknown_fields=True):
    pid: Pid | None = None
    start_ticks: Natural | None = None
    start_time: Moment | None = None
    boot_id: str | None = None
    name: str | None = None
    exe: str | None = None
    cmdline: str | None = None
    cwd: str | None = None
    ppid: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    pgid: Pid | None = None
    uid: Uid | None = None
    user: str | None = None
    ancestors: tuple[str, ...] = ()
    #: From its parent up to the machine's first process.
    lineage: tuple[AncestorForm, ...] = ()
    content: str | None = None
    #: Inode of its network namespace.
    netns: Natural | None = None


class ContainerForm(Struct, kw_only=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1)]
    name: str | None = None
    #: The same as subject.image.
    image: str | None = None
    image_id: str | None = None
    host_network: bool | None = None


class PodForm(Struct, kw_only=True, forbid_unknown_fields=True):
    name: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None


class SubjectForm(Struct, kw_only=True, forbid_unknown_fields=True):
    cluster: str | None = None
    cluster_uid: str | None = None
    node: str | None = None
    machine_id: str | None = None
    #: Another system's own number for the machine.
    machine_uid: str | None = None
    #: The machine's name as its source has it.
    source_name: str | None = None
    namespace: str | None = None
    namespace_labels: dict[str, str] | None = None
    pod: PodForm | None = None
    container: ContainerForm | None = None
    image: str | None = None
    service: str | None = None
    #: The service's control group, such as systemd:/system.slice/nginx.service.
    service_cgroup: str | None = None
    process: ProcessForm | None = None
    user: str | None = None
    group: str | None = None


class EndpointForm(Struct, kw_only=True, forbid_unknown_fields=True):
    ip: str | None = None
    port: Port | None = None
    #: Container id. A side with an image is managed (SEMANTICS section 4, direction).
    workload: str | None = None
    name: str | None = None
    image: str | None = None
    namespace: str | None = None
    service: str | None = None


class ConnectionForm(Struct, kw_only=True, forbid_unknown_fields=True):
    client: EndpointForm | None = None
    server: EndpointForm | None = None
    protocol: str | None = None
    fqdn: str | None = None


class PlainForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Category event."""

    message: str = ""
    user: str | None = None
    #: What the message says, for programs.
    facts: dict[str, str] = {}
    #: The ids of the rules that hold or held a quarantine, all its holders, and its key.
    rules: tuple[Natural, ...] = ()
    holders: tuple[str, ...] = ()
    quarantine: str | None = None


class SecurityForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Category security-event."""

    message: str = ""
    file: str | None = None
    connection: ConnectionForm | None = None
    severity: str | None = None
    sensor: str | None = None
    #: The subject's part in it; or say which side was attacked and which side reports.
    role: Role | None = None
    target: Side | None = None
    reporter: Side | None = None
    groups: tuple[str, ...] = ()


class VulnerabilityForm(Struct, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1)]
    severity: str
    score: float | None = None
    package: str | None = None
    version: str | None = None
    fixed_version: str | None = None
    fixed: bool = False
    published: Moment | None = None
    link: str | None = None


class CveForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Category cve-report. Without `report` the event's name says what was scanned."""

    report: Literal["container", "host", "registry", "platform"] | None = None
    vulnerabilities: tuple[VulnerabilityForm, ...] = ()


class ItemForm(Struct, kw_only=True, forbid_unknown_fields=True):
    number: Annotated[str, Meta(min_length=1)]
    failed: bool
    result: str = ""
    level: str | None = None
    text: str = ""


class ComplianceForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Category compliance."""

    items: tuple[ItemForm, ...] = ()
    #: What was checked, with its version.
    benchmark: str = ""


class AdmissionForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Category admission-control."""

    message: str = ""
    user: str | None = None
    operation: str | None = None
    object: str | None = None
    images: tuple[str, ...] = ()
    rule: str | None = None


class AdditionForm(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """The smallest addition that would allow a deviation, by the part of a spec that it belongs to."""

    process_policy: list[dict[str, Any]] = []
    network_policy: dict[str, list[dict[str, Any]]] = {}
    rules: list[dict[str, Any]] = []
    #: Beside rules: the denies of a value that have to go for it.
    without: list[dict[str, Any]] = []


class DeviationForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """Category deviation."""

    policy: Annotated[str, Meta(min_length=1)]
    policy_uid: str | None = None
    policy_type: Literal["container", "linux-service", "cluster"] | None = None
    mode: Literal["audit", "enforce"] | None = None
    what: Literal["process", "ingress", "egress", "container"] = "process"
    message: str = ""
    checksum: str | None = None
    connection: ConnectionForm | None = None
    #: What would allow it: processPolicy, networkPolicy or rules, as a policy's or ruleset's spec has them.
    addition: AdditionForm | None = None
    #: Of a ruleset: target -> the patterns that denied it.
    matched: dict[str, tuple[str, ...]] = {}
    #: What is not known, so that it might be allowed after all; then nothing destructive is done.
    unproven: str = ""


class EventForm(Struct, kw_only=True, forbid_unknown_fields=True):
    #: Of the form ID.
    id: Annotated[str, Meta(min_length=1)] | None = None
    time: Moment | None = None
    #: Left out, the catalogue's for this name; incident, threat and violation are security-event of that kind.
    category: str | None = None
    kind: Literal["incident", "threat", "violation"] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=1000)]
    #: Left out: of a threat, from its severity; else the catalogue's for this name.
    level: str | None = None
    #: The detector it came through, if said at all.
    source: str | None = None
    subject: SubjectForm | None = None
    #: One of the forms above, by category; kept as bytes until the category is known.
    details: msgspec.Raw = msgspec.Raw()


def seconds(moment: datetime | float | None) -> float | None:
    """Epoch seconds."""
    return moment.timestamp() if isinstance(moment, datetime) else moment
