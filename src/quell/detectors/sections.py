"""The `details` section of a native event: read by category, and turned into the model's values. SEMANTICS 1, 2 and 4."""

from __future__ import annotations

import msgspec

from quell.detectors.form import (
    AdditionForm,
    AdmissionForm,
    ComplianceForm,
    ConnectionForm,
    CveForm,
    DeviationForm,
    PlainForm,
    SecurityForm,
    VulnerabilityForm,
    seconds,
)
from quell.detectors.line import read
from quell.errors import EventError
from quell.model.details import (
    AdmissionReview,
    ComplianceReport,
    Connection,
    CveReport,
    Details,
    Deviation,
    PlainDetails,
    Role,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Kind

Section = PlainForm | SecurityForm | CveForm | ComplianceForm | AdmissionForm | DeviationForm

_DECODERS: dict[Category, msgspec.json.Decoder[Section]] = {
    Category.EVENT: msgspec.json.Decoder(PlainForm),
    Category.SECURITY_EVENT: msgspec.json.Decoder(SecurityForm),
    Category.CVE_REPORT: msgspec.json.Decoder(CveForm),
    Category.COMPLIANCE: msgspec.json.Decoder(ComplianceForm),
    Category.ADMISSION_CONTROL: msgspec.json.Decoder(AdmissionForm),
    Category.DEVIATION: msgspec.json.Decoder(DeviationForm),
}

_SEVERITIES = {word.lower(): word for word in ("Critical", "High", "Medium", "Low", "Info")}
#: Digits to which runtimes and detectors shorten a container's id.
_SHORT_ID = 12
_REPORTS = ("Container", "Host", "Registry", "Platform")


def read_section(raw: msgspec.Raw, category: Category) -> Section | None:
    """The section in its category's form; None if there is none. EventError with a path from `$.details` on."""
    text = bytes(raw)
    if not text or text == b"null":
        return None
    try:
        section = read(_DECODERS[category], text)
    except EventError as error:
        message = str(error)
        if "`$" in message:
            raise EventError(message.replace("`$", "`$.details")) from error
        raise EventError(f"{message} - at `$.details`") from error
    if isinstance(section, CveForm):
        for position, vulnerability in enumerate(section.vulnerabilities):
            if vulnerability.severity.lower() not in _SEVERITIES:
                words = ", ".join(_SEVERITIES.values())
                raise EventError(
                    f"Expected one of {words}, got `{vulnerability.severity}`"
                    f" - at `$.details.vulnerabilities[{position}].severity`"
                )
    return section


def details_of(section: Section, name: str, kind: Kind | None, reporting: str | None) -> Details:
    """The section as the model has it.

    name: the catalogue name, or the event's own. reporting: the container id the event's subject gives, if any.
    EventError: what the section says of the subject's role contradicts itself.
    """
    match section:
        case PlainForm():
            return msgspec.convert(section, PlainDetails, from_attributes=True)
        case SecurityForm():
            return SecurityDetails(
                message=section.message,
                file=section.file,
                connection=_connection(section.connection),
                severity=section.severity,
                sensor=section.sensor,
                role=role_of(section, name, kind, reporting),
                groups=section.groups,
            )
        case CveForm():
            return CveReport(
                report=section.report or _report_of(name),
                vulnerabilities=tuple(map(_vulnerability, section.vulnerabilities)),
            )
        case ComplianceForm():
            return msgspec.convert(section, ComplianceReport, from_attributes=True)
        case AdmissionForm():
            return msgspec.convert(section, AdmissionReview, from_attributes=True)
        case DeviationForm():
            return Deviation(
                policy=section.policy,
                policy_uid=section.policy_uid,
                policy_type=section.policy_type,
                mode=section.mode,
                what=section.what,
                message=section.message,
                checksum=section.checksum,
                connection=_connection(section.connection),
                addition=msgspec.to_builtins(section.addition or AdditionForm()),
                matched=section.matched,
                unproven=section.unproven,
            )


def role_of(section: SecurityForm, name: str, kind: Kind | None, reporting: str | None) -> Role | None:
    """Which side the subject was on, so that a victim is never isolated (SEMANTICS section 4, direction)."""
    said, found = section.role, None
    if kind is Kind.THREAT:
        if is_content_threat(name):
            return None
        if section.target is not None:
            reporter = section.reporter or _side_of(section.connection, reporting)
            if reporter is not None:
                found = Role.VICTIM if reporter == section.target else Role.ATTACKER
    elif kind is Kind.VIOLATION and section.connection is not None:
        found = _role_in_violation(section.connection, reporting)
    if said is not None and found is not None and said is not found:
        raise EventError(f"Expected `{found}` by the other details, got `{said}` - at `$.details.role`")
    return said or found


def is_content_threat(name: str) -> bool:
    """DLP and WAF find content; they know no attacker and no victim."""
    return name[:4].upper() in ("DLP.", "WAF.")


def is_managed_client(connection: ConnectionForm) -> bool:
    return connection.client is not None and bool(connection.client.image)


def _side_of(connection: ConnectionForm | None, container: str | None) -> str | None:
    if connection is None or container is None:
        return None
    sides = [
        side
        for side, endpoint in (("client", connection.client), ("server", connection.server))
        if endpoint is not None and same_container(endpoint.workload, container)
    ]
    return sides[0] if len(sides) == 1 else None


def _role_in_violation(connection: ConnectionForm, reporting: str | None) -> Role | None:
    """The subject is the client if that is managed and named; None: the subject could be either side."""
    client, server = connection.client, connection.server
    if not is_managed_client(connection):
        return Role.VICTIM
    if client is not None and client.workload:
        return Role.ATTACKER
    if server is None or not server.workload or reporting is None:
        return None
    return Role.VICTIM if same_container(server.workload, reporting) else Role.ATTACKER


def same_container(one: str | None, other: str | None) -> bool:
    """Whether two ids name one container: alike, or one shortened as detectors do it (12 digits or more)."""
    if not one or not other:
        return False
    short, whole = sorted((one, other), key=len)
    return short == whole or (len(short) >= _SHORT_ID and whole.startswith(short))


def _connection(form: ConnectionForm | None) -> Connection | None:
    return None if form is None else msgspec.convert(form, Connection, from_attributes=True)


def _vulnerability(form: VulnerabilityForm) -> Vulnerability:
    return Vulnerability(
        name=form.name,
        severity=_SEVERITIES[form.severity.lower()],
        score=form.score,
        package=form.package,
        version=form.version,
        fixed_version=form.fixed_version,
        fixed=form.fixed,
        published=seconds(form.published),
        link=form.link,
    )


def _report_of(name: str) -> str:
    return next((word.lower() for word in _REPORTS if name.startswith(word)), "container")
