"""Trivy's reports as they are written, as far as they are read: the command line's and its operator's.

Field names are Trivy's. Go writes an empty list as null, or not at all.
"""

from __future__ import annotations

from msgspec import Struct, field

_INITIALS = {"avd": "AVD", "cvss": "CVSS", "id": "ID", "url": "URL"}


def pascal(name: str) -> str:
    """The command line's names: vulnerability_id is VulnerabilityID."""
    return "".join(_INITIALS.get(part, part.capitalize()) for part in name.split("_"))


def camel(name: str) -> str:
    """The operator's names: vulnerability_id is vulnerabilityID."""
    first, _, rest = name.partition("_")
    return first + pascal(rest)


class Cvss(Struct, gc=False, rename=pascal):
    v2_score: float | None = None
    v3_score: float | None = None
    v40_score: float | None = None


class Vulnerability(Struct, gc=False, kw_only=True, rename=pascal):
    vulnerability_id: str
    pkg_name: str = ""
    installed_version: str = ""
    fixed_version: str = ""
    status: str = ""
    severity: str = ""
    severity_source: str = ""
    cvss: dict[str, Cvss] | None = None
    published_date: str | None = None
    primary_url: str = ""


class Misconfiguration(Struct, gc=False, kw_only=True, rename=pascal):
    id: str = ""
    avd_id: str = ""
    type: str = ""
    title: str = ""
    message: str = ""
    severity: str = ""
    status: str = "FAIL"


class Secret(Struct, gc=False, kw_only=True, rename=pascal):
    rule_id: str
    title: str = ""
    severity: str = ""
    start_line: int = 0


class Result(Struct, gc=False, kw_only=True, rename=pascal):
    """What was found in one target of a scan."""

    target: str = ""
    class_: str = field(name="Class", default="")
    type: str = ""
    vulnerabilities: list[Vulnerability] | None = None
    misconfigurations: list[Misconfiguration] | None = None
    secrets: list[Secret] | None = None


class Metadata(Struct, gc=False, kw_only=True, rename=pascal):
    image_id: str = ""
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    reference: str = ""


class Report(Struct, gc=False, kw_only=True, rename=pascal):
    """`trivy image|filesystem|rootfs|repository|vm|sbom --format json`."""

    schema_version: int = 0
    report_id: str = ""
    created_at: str | None = None
    artifact_name: str = ""
    artifact_type: str = ""
    metadata: Metadata | None = None
    results: list[Result] | None = None


class Resource(Struct, gc=False, kw_only=True, rename=pascal):
    """One object of a cluster. Metadata: of its one image, or of each."""

    kind: str
    name: str
    namespace: str = ""
    metadata: Metadata | list[Metadata] | None = None
    results: list[Result] | None = None


class ClusterReport(Struct, gc=False, kw_only=True, rename=pascal):
    """`trivy k8s --format json`, cut down to one resource."""

    cluster_name: str = ""
    resources: list[Resource] | None = None


class Control(Struct, gc=False, kw_only=True, rename=pascal):
    """Of a `--compliance` report: summary with a count, or in full with the results that failed."""

    id: str
    name: str = ""
    severity: str = ""
    total_fail: int | None = None
    results: list[Result] | None = None


class ComplianceSpec(Struct, gc=False, kw_only=True, rename=pascal):
    """`trivy … --compliance … --format json`."""

    id: str
    title: str = ""
    version: str = ""
    summary_controls: list[Control] | None = None
    results: list[Control] | None = None


class OperatorMetadata(Struct, gc=False, kw_only=True, rename=camel):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None


class OperatorVulnerability(Struct, gc=False, kw_only=True, rename=camel):
    vulnerability_id: str
    resource: str = ""
    installed_version: str = ""
    fixed_version: str = ""
    severity: str = ""
    score: float | None = None
    cvss: dict[str, Cvss] | None = None
    published_date: str | None = None
    primary_link: str = ""


class OperatorCheck(Struct, gc=False, kw_only=True, rename=camel):
    check_id: str = ""
    title: str = ""
    severity: str = ""
    messages: list[str] | None = None
    success: bool = False


class OperatorSecret(Struct, gc=False, kw_only=True, rename=camel):
    rule_id: str
    title: str = ""
    severity: str = ""
    target: str = ""


class Registry(Struct, gc=False, kw_only=True, rename=camel):
    server: str = ""


class Artifact(Struct, gc=False, kw_only=True, rename=camel):
    repository: str = ""
    tag: str = ""
    digest: str = ""
    #: Of a report about a node.
    node_name: str = ""


class OperatorReport(Struct, gc=False, kw_only=True, rename=camel):
    update_timestamp: str | None = None
    registry: Registry | None = None
    artifact: Artifact | None = None
    vulnerabilities: list[OperatorVulnerability] | None = None
    checks: list[OperatorCheck] | None = None
    secrets: list[OperatorSecret] | None = None


class ControlCheck(Struct, gc=False, kw_only=True, rename=camel):
    id: str
    name: str = ""
    severity: str = ""
    total_fail: int | None = None


class ControlResult(Struct, gc=False, kw_only=True, rename=camel):
    id: str
    name: str = ""
    severity: str = ""
    checks: list[OperatorCheck] | None = None


class SummaryReport(Struct, gc=False, kw_only=True, rename=camel):
    id: str = ""
    title: str = ""
    control_check: list[ControlCheck] | None = None


class DetailReport(Struct, gc=False, kw_only=True, rename=camel):
    id: str = ""
    title: str = ""
    version: str = ""
    results: list[ControlResult] | None = None


class ComplianceStatus(Struct, gc=False, kw_only=True, rename=camel):
    update_timestamp: str | None = None
    summary_report: SummaryReport | None = None
    detail_report: DetailReport | None = None


class OperatorObject(Struct, gc=False, kw_only=True, rename=camel):
    """A custom resource of the operator. report or status, by its kind."""

    kind: str
    metadata: OperatorMetadata
    report: OperatorReport | None = None
    status: ComplianceStatus | None = None
