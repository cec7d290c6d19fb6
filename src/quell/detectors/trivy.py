"""Trivy's JSON: of the command line (image, filesystem, rootfs, vm, sbom, k8s, --compliance) and of its operator.

Vulnerabilities become a CVE report; misconfigurations, secrets and benchmarks a compliance event, so that one report may
be two events. docs/trivy.md says what becomes what, and what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from quell.detectors.context import Context, Part, gathered, moment, opened, placed, wrapped
from quell.detectors.line import read
from quell.detectors.reports import (
    epoch,
    identity,
    is_array,
    level_of,
    members,
    violation,
)
from quell.detectors.trivy_finding import (
    checks,
    operator_checks,
    operator_controls,
    operator_secrets,
    operator_vulnerabilities,
    spec_controls,
    vulnerabilities,
)
from quell.detectors.trivy_form import ClusterReport, ComplianceSpec, OperatorObject, Report, Result
from quell.detectors.trivy_parts import (
    PACKAGES,
    WITH_CONTROLS,
    WITH_SECRETS,
    WITH_VULNERABILITIES,
    check_kind,
    expected,
    is_cluster,
    is_report,
    is_spec,
    parts_of,
)
from quell.detectors.trivy_subject import (
    CONTAINER,
    HOST,
    REGISTRY,
    image_of_operator,
    image_of_report,
    image_of_resource,
    image_of_targets,
    of_operator,
    of_report,
    of_resource,
)
from quell.errors import EventError
from quell.model.details import ComplianceItem, ComplianceReport, CveReport
from quell.model.details import Vulnerability as Finding
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject

_CHECKED = frozenset(("config", "secret"))
_NAMES = {report: f"{report.capitalize()}.Scan.Report" for report in (CONTAINER, HOST, REGISTRY, "platform")}
_SCOPES = {CONTAINER: "Container", HOST: "Host", REGISTRY: "Image"}

_reports = msgspec.json.Decoder(Report)
_clusters = msgspec.json.Decoder(ClusterReport)
_specs = msgspec.json.Decoder(ComplianceSpec)
_objects = msgspec.json.Decoder(OperatorObject)
_first_schema = msgspec.json.Decoder(list[Result])


class Trivy:
    name = "trivy"
    about = "a report of Trivy (--format json) or of its operator"
    produces = (
        *_NAMES.values(),
        *(f"Compliance.{scope}.Violation" for scope in _SCOPES.values()),
        "Compliance.Test.Name",
    )
    takes = frozenset(Context.__struct_fields__)
    is_report = True

    def split(self, document: bytes, context: Context) -> Sequence[Part]:
        """A part for each scanned thing and category."""
        document, context = gathered(document, context)
        return [wrapped(part, context) if isinstance(part, bytes) else part for part in parts_of(document)]

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        told, context = _told(line)
        identifier, id_given = identity(told.own, line, id)
        found = told.details
        catalogue_name: str | None
        if isinstance(found, CveReport):
            category = Category.CVE_REPORT
            name = catalogue_name = _NAMES[found.report]
            level = level_of(one.severity for one in found.vulnerabilities)
        else:
            category, level = Category.COMPLIANCE, _worst(found.items)
            name, catalogue_name = violation(told.scope, found.items, told.otherwise)
        return Event(
            id=identifier,
            id_given=id_given,
            time=moment(epoch(told.time), context),
            received=received,
            source=self.name,
            category=category,
            name=name,
            catalogue_name=catalogue_name,
            level=level,
            subject=placed(told.subject, context),
            raw=line,
            decode=details,
        )


def details(line: bytes) -> CveReport | ComplianceReport:
    """What was found (Event.decode)."""
    return _told(line)[0].details


class _Told(NamedTuple):
    """A part of a report, read. scope, otherwise: as quell.detectors.reports.violation takes them."""

    details: CveReport | ComplianceReport
    subject: Subject
    own: str | None = None
    time: str | None = None
    scope: str = ""
    otherwise: str = "Trivy checks"


def _worst(items: Sequence[ComplianceItem]) -> Level:
    levels = (Level(item.level) for item in items if item.failed and item.level)
    return max(levels, key=lambda level: level.rank, default=Level.INFO)


def _told(line: bytes) -> tuple[_Told, Context]:
    document, context = opened(line)
    if is_array(document):
        return _told_first(read(_first_schema, document), context), context
    found = members(document)
    if "kind" in found:
        return _told_operator(read(_objects, document), context), context
    if is_cluster(found):
        return _told_resource(read(_clusters, document), context), context
    if is_spec(found):
        return _told_spec(read(_specs, document), context), context
    if is_report(found):
        return _told_report(read(_reports, document), context), context
    raise EventError(expected(found))


def _found(results: Sequence[Result], report: str) -> CveReport | ComplianceReport:
    """EventError: they are of two events."""
    packages = any(result.vulnerabilities or result.class_ in PACKAGES for result in results)
    checked = any(result.misconfigurations or result.secrets for result in results)
    if packages and checked:
        raise EventError("the report holds both vulnerabilities and failed checks, which are two events")
    if checked or (not packages and any(result.class_ in _CHECKED for result in results)):
        return ComplianceReport(items=tuple(checks(results)), benchmark="Trivy")
    return CveReport(report=report, vulnerabilities=vulnerabilities(results))


def _told_first(results: list[Result], context: Context) -> _Told:
    subject = Subject(image=image_of_targets(results))
    report = CONTAINER if _is_contained(context) else REGISTRY
    return _Told(_found(results, report), subject, scope=_SCOPES[report])


def _told_report(told: Report, context: Context) -> _Told:
    report = CONTAINER if _is_contained(context) else of_report(told)
    return _Told(
        _found(told.results or (), report),
        Subject(image=image_of_report(told)),
        own=told.report_id,
        time=told.created_at,
        scope=_SCOPES[report],
    )


def _told_resource(told: ClusterReport, context: Context) -> _Told:
    if told.resources is None or len(told.resources) != 1:
        raise EventError(
            f"the report is of {len(told.resources or ())} resources, each of which is an event of its own"
        )
    resource = told.resources[0]
    report, subject = of_resource(resource.kind, resource.name, resource.namespace)
    if _is_contained(context):
        report = CONTAINER
    subject = msgspec.structs.replace(subject, cluster=told.cluster_name or None, image=image_of_resource(resource))
    scope = "Host" if subject.node is not None else _SCOPES.get(report, "")
    otherwise = f"Trivy checks of {resource.kind}"
    return _Told(_found(resource.results or (), report), subject, scope=scope, otherwise=otherwise)


def _told_spec(told: ComplianceSpec, context: Context) -> _Told:
    items = tuple(spec_controls(told.id, told.title, told.summary_controls or told.results or ()))
    title = told.title or told.id
    is_image = "docker" in told.id.lower()
    scope = "Container" if _is_contained(context) else "Host" if context.node else "Image" if is_image else ""
    benchmark = ", ".join(filter(None, (title, told.version)))
    return _Told(ComplianceReport(items=items, benchmark=benchmark), Subject(), scope=scope, otherwise=title)


def _told_operator(told: OperatorObject, context: Context) -> _Told:
    check_kind(told.kind)
    about, own = told.metadata, None
    if about.uid:
        own = f"{about.uid}.{about.resource_version}" if about.resource_version else about.uid
    if told.kind == WITH_CONTROLS:
        return _told_controls(told, own)
    if told.report is None:
        raise EventError("Object missing required field `report`")
    report, subject = of_operator(told)
    if _is_contained(context):
        report = CONTAINER
    found: CveReport | ComplianceReport
    if told.kind in WITH_VULNERABILITIES:
        listed: tuple[Finding, ...] = operator_vulnerabilities(told.report.vulnerabilities or ())
        found = CveReport(report=report, vulnerabilities=listed)
    elif told.kind == WITH_SECRETS:
        found = ComplianceReport(items=tuple(operator_secrets(told.report.secrets or ())), benchmark="Trivy")
    else:
        found = ComplianceReport(items=tuple(operator_checks(told.report.checks or ())), benchmark="Trivy")
    return _Told(
        found,
        msgspec.structs.replace(subject, image=image_of_operator(told.report)),
        own=own,
        time=told.report.update_timestamp or about.creation_timestamp,
        scope="Host" if subject.node is not None else _SCOPES.get(report, ""),
        otherwise=told.kind,
    )


def _told_controls(told: OperatorObject, own: str | None) -> _Told:
    status = told.status
    if status is None or (status.summary_report is None and status.detail_report is None):
        raise EventError("the report has no results yet: expected `status.summaryReport` or `status.detailReport`")
    if status.detail_report is not None:
        spec, title, version = status.detail_report.id, status.detail_report.title, status.detail_report.version
        items = tuple(operator_controls(spec, title, status.detail_report.results or ()))
    else:
        assert status.summary_report is not None  # noqa: S101 - one of the two is there
        spec, title, version = status.summary_report.id, status.summary_report.title, ""
        items = tuple(operator_controls(spec, title, status.summary_report.control_check or ()))
    return _Told(
        ComplianceReport(items=items, benchmark=", ".join(filter(None, (title or spec, version)))),
        Subject(),
        own=own,
        time=status.update_timestamp,
        otherwise=told.kind,
    )


def _is_contained(context: Context) -> bool:
    """Whether the sender says that what was scanned runs as a container."""
    return context.container is not None or context.pod is not None or context.pod_uid is not None
