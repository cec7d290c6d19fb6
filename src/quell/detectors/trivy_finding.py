"""Trivy's findings as the model has them: vulnerabilities, and the items of compliance. docs/trivy.md says why so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from quell.detectors.reports import epoch, level_of, severity
from quell.detectors.trivy_form import (
    Control,
    ControlCheck,
    ControlResult,
    Cvss,
    Misconfiguration,
    OperatorCheck,
    OperatorSecret,
    OperatorVulnerability,
    Result,
    Secret,
    Vulnerability,
)
from quell.model import details

#: The letter of a benchmark's numbers, where it has one. Those of others carry the benchmark's name: nsa/1.0.
_LETTERS = ((re.compile(r"docker", re.IGNORECASE), "D"), (re.compile(r"\b(k8s-|eks-|rke2-)?cis\b", re.IGNORECASE), "K"))
#: What Trivy says of a package that has the vulnerable code and is not vulnerable.
NOT_AFFECTED = "not_affected"


def vulnerabilities(results: Iterable[Result]) -> tuple[details.Vulnerability, ...]:
    """Each vulnerability of a version of a package once, wherever the package lies."""
    found: dict[tuple[str, str, str], details.Vulnerability] = {}
    for result in results:
        for told in result.vulnerabilities or ():
            key = (told.vulnerability_id, told.pkg_name, told.installed_version)
            if told.status != NOT_AFFECTED and (key not in found or not found[key].has_fix):
                found[key] = _vulnerability(told)
    return tuple(found.values())


def _vulnerability(told: Vulnerability) -> details.Vulnerability:
    return details.Vulnerability(
        name=told.vulnerability_id,
        severity=severity(told.severity),
        score=score(told.cvss, told.severity_source),
        package=told.pkg_name or None,
        version=told.installed_version or None,
        fixed_version=told.fixed_version or None,
        fixed=told.status == "fixed",
        published=epoch(told.published_date),
        link=told.primary_url or None,
    )


def operator_vulnerabilities(told: Iterable[OperatorVulnerability]) -> tuple[details.Vulnerability, ...]:
    found: dict[tuple[str, str, str], details.Vulnerability] = {}
    for one in told:
        key = (one.vulnerability_id, one.resource, one.installed_version)
        if key not in found or not found[key].has_fix:
            found[key] = details.Vulnerability(
                name=one.vulnerability_id,
                severity=severity(one.severity),
                score=score(one.cvss, "") if one.score is None else one.score,
                package=one.resource or None,
                version=one.installed_version or None,
                fixed_version=one.fixed_version or None,
                published=epoch(one.published_date),
                link=one.primary_link or None,
            )
    return tuple(found.values())


def score(said: dict[str, Cvss] | None, source: str) -> float | None:
    """The CVSS score: version 3 before 4 before 2; NVD's, else that of whoever gave the severity, else the first by name."""
    if not said:
        return None
    ranked = [said[name] for name in dict.fromkeys(("nvd", source, *sorted(said))) if name in said]
    for version in ("v3_score", "v40_score", "v2_score"):
        for one in ranked:
            found: float | None = getattr(one, version)
            if found:
                return found
    return None


def checks(results: Iterable[Result]) -> Iterator[details.ComplianceItem]:
    """Misconfigurations by Trivy's number for the check, such as KSV014; secrets as secret/<rule>."""
    for result in results:
        for found in result.misconfigurations or ():
            yield _misconfiguration(found, result.target)
        for secret in result.secrets or ():
            yield _secret(secret.rule_id, secret.title, secret.severity, _place(result.target, secret))


def _misconfiguration(found: Misconfiguration, target: str) -> details.ComplianceItem:
    failed = found.status.upper() == "FAIL"
    where = f"{target}: " if target else ""
    why = f" ({found.message})" if found.message and failed else ""
    return details.ComplianceItem(
        number=found.id or found.avd_id or found.type or "unknown",
        failed=failed,
        result=found.status.upper(),
        level=_level(found.severity),
        text=f"{where}{found.title}{why}",
    )


def _place(target: str, secret: Secret) -> str:
    return f"{target}:{secret.start_line}" if secret.start_line else target


def _secret(rule: str, title: str, word: str, place: str) -> details.ComplianceItem:
    # What was found of the secret itself is never shown, though the scanner has masked it.
    return details.ComplianceItem(
        number=f"secret/{rule}", failed=True, result="FAIL", level=_level(word), text=f"{title or rule} in {place}"
    )


def operator_checks(told: Iterable[OperatorCheck]) -> Iterator[details.ComplianceItem]:
    for check in told:
        if check.check_id:
            why = f" ({'; '.join(check.messages)})" if check.messages and not check.success else ""
            yield details.ComplianceItem(
                number=check.check_id,
                failed=not check.success,
                result="PASS" if check.success else "FAIL",
                level=_level(check.severity),
                text=f"{check.title}{why}",
            )


def operator_secrets(told: Iterable[OperatorSecret]) -> Iterator[details.ComplianceItem]:
    for secret in told:
        yield _secret(secret.rule_id, secret.title, secret.severity, secret.target)


def spec_controls(spec: str, title: str, told: Iterable[Control]) -> Iterator[details.ComplianceItem]:
    """Of a --compliance report. A control without a count in a summary is for people to look at."""
    for control in told:
        if control.total_fail is not None:
            failures: int | None = control.total_fail
        elif control.results is not None:
            failures = sum(item.failed for item in checks(control.results)) + len(vulnerabilities(control.results))
        else:
            failures = None
        yield _control(spec, title, control.id, control.name, control.severity, failures)


def operator_controls(
    spec: str, title: str, told: Iterable[ControlCheck | ControlResult]
) -> Iterator[details.ComplianceItem]:
    """Of a ClusterComplianceReport."""
    for control in told:
        if isinstance(control, ControlCheck):
            failures = control.total_fail
        else:
            failures = sum(not check.success for check in control.checks or ())
        yield _control(spec, title, control.id, control.name, control.severity, failures)


def _control(spec: str, title: str, number: str, name: str, word: str, failures: int | None) -> details.ComplianceItem:
    letter = next((letter for form, letter in _LETTERS if form.search(spec) or form.search(title)), None)
    result = "MANUAL" if failures is None else "FAIL" if failures else "PASS"
    count = f" ({failures} failed)" if failures else ""
    return details.ComplianceItem(
        number=f"{letter}.{number}" if letter else f"{spec}/{number}" if spec else number,
        failed=bool(failures),
        result=result,
        level=_level(word),
        text=f"{name}{count}",
    )


def _level(word: str) -> str:
    return level_of([severity(word)]).value
