"""A document of Trivy's cut into the bytes of its events: one for each scanned thing and category."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Raw

from quell.detectors.context import Part
from quell.detectors.reports import elements, is_array, members, within, word
from quell.errors import EventError

#: Classes of results that list packages, whether or not one of them is vulnerable.
PACKAGES = frozenset(("os-pkgs", "lang-pkgs"))
_LICENSES = frozenset(("license", "license-file"))
#: Members of a result that are of the one event and not of the other, and what is in none.
_OF_CHECKS = frozenset(("Misconfigurations", "MisconfSummary", "Secrets"))
_OF_PACKAGES = frozenset(("Vulnerabilities",))
_OF_NEITHER = frozenset(("Packages", "Licenses", "CustomResources", "ExperimentalModifiedFindings"))

WITH_VULNERABILITIES = frozenset(
    ("VulnerabilityReport", "ClusterVulnerabilityReport", "ImageVulnerabilityReport", "NodeVulnerabilityReport")
)
WITH_CHECKS = frozenset(
    (
        "ConfigAuditReport",
        "ClusterConfigAuditReport",
        "RbacAssessmentReport",
        "ClusterRbacAssessmentReport",
        "InfraAssessmentReport",
        "ClusterInfraAssessmentReport",
    )
)
WITH_SECRETS = "ExposedSecretReport"
WITH_CONTROLS = "ClusterComplianceReport"
_KINDS = (*sorted(WITH_VULNERABILITIES | WITH_CHECKS), WITH_SECRETS, WITH_CONTROLS)


def parts_of(document: bytes, *, nested: bool = False) -> Iterator[Part]:
    if is_array(document):
        if nested:
            raise EventError("expected a report, got an array in an array")
        yield from _of_array(document)
        return
    found = members(document)
    kind = word(found.get("kind"))
    if nested and ("operatorObject" in found or kind.endswith("List")):
        raise EventError("expected a report, got a list of them in another")
    if "operatorObject" in found:
        yield from _of_webhook(found)
    elif kind.endswith("List") and "items" in found:
        yield from _of_list(found, kind)
    elif kind:
        check_kind(kind)
        yield document
    elif is_cluster(found):
        yield from _of_cluster(found)
    elif is_spec(found):
        yield document
    elif is_report(found):
        yield from _of_report(document, found)
    else:
        raise EventError(expected(found))


def is_cluster(found: Mapping[str, Raw]) -> bool:
    return "ClusterName" in found or "Resources" in found or "Findings" in found


def is_spec(found: Mapping[str, Raw]) -> bool:
    return "SummaryControls" in found or ("ID" in found and "Results" in found)


def is_report(found: Mapping[str, Raw]) -> bool:
    return not found.keys().isdisjoint(("SchemaVersion", "ArtifactName", "ArtifactType"))


def check_kind(kind: str) -> None:
    """EventError: objects of this kind are not taken."""
    if kind == "SbomReport" or kind.endswith("SbomReport"):
        raise EventError(
            f"{kind} lists packages and finds nothing; of the operator's reports {', '.join(_KINDS)} are taken"
        )
    if kind not in _KINDS:
        raise EventError(
            f"expected a report of Trivy's operator ({', '.join(_KINDS)}), got an object of kind {kind[:64]}"
        )


def expected(found: Mapping[str, Raw]) -> str:
    if "bomFormat" in found or "spdxVersion" in found:
        return "it is a bill of materials, which finds nothing; scan it: trivy sbom --format json FILE"
    if "runs" in found and "version" in found:
        return "it is SARIF; write the report with trivy --format json"
    had = f"an object with {', '.join(name[:64] for name in list(found)[:8])}" if found else "an empty object"
    return f"expected a report of Trivy (--format json) or of its operator, got {had}"


def _of_array(document: bytes) -> Iterator[Part]:
    """Schema version 1 is an array of results; else each element is a document."""
    raws = [bytes(raw) for raw in elements(document)]
    if not raws:
        raise EventError("the array is empty: expected reports of Trivy")
    if all("Target" in members(raw) for raw in raws):
        yield document
        return
    yield from _each(raws, "")


def _of_list(found: Mapping[str, Raw], kind: str) -> Iterator[Part]:
    """A list as kubectl gives it has whole objects; one of the API itself says only once of which kind they are."""
    items = [bytes(raw) for raw in elements(found["items"], "items")]
    if kind != "List":
        items = [_named(item, kind.removesuffix("List")) for item in items]
    if not items:
        yield "the list is empty: there is no report in it"
    yield from _each(items, "items")


def _named(item: bytes, kind: str) -> bytes:
    if not item.startswith(b"{"):
        return item
    found = members(item)
    return item if "kind" in found else msgspec.json.encode({"kind": kind, **found})


def _each(documents: Sequence[bytes], place: str) -> Iterator[Part]:
    for index, document in enumerate(documents):
        try:
            for part in parts_of(document, nested=True):
                yield f"{place}[{index}]: {part}" if isinstance(part, str) else part
        except EventError as error:
            yield within(f"{place}[{index}]", error)


def _of_webhook(found: Mapping[str, Raw]) -> Iterator[Part]:
    """What the operator posts; with OPERATOR_SEND_DELETED_REPORTS also reports that are gone."""
    verb, document = word(found.get("verb")), bytes(found["operatorObject"])
    if verb == "delete":
        gone = members(document)
        yield f"a {word(gone.get('kind')) or 'report'} was deleted: that is no finding, and nothing is taken of it"
        return
    yield from parts_of(document, nested=True)


class _Sorted(NamedTuple):
    """Results by the event they belong to, each without what belongs to the other."""

    packages: list[dict[str, Raw]]
    checked: list[dict[str, Raw]]
    classes: frozenset[str]
    licenses: int


def _sorted(results: Raw | None) -> _Sorted:
    packages, checked, classes, licenses = [], [], set(), 0
    for raw in elements(results, "Results"):
        result = members(bytes(raw))
        classes.add(class_ := word(result.get("Class")))
        licenses += _count(result, "Licenses")
        if class_ in PACKAGES or _count(result, "Vulnerabilities"):
            packages.append({name: value for name, value in result.items() if name not in _OF_CHECKS | _OF_NEITHER})
        if _count(result, "Misconfigurations") or _count(result, "Secrets"):
            checked.append({name: value for name, value in result.items() if name not in _OF_PACKAGES | _OF_NEITHER})
    return _Sorted(packages, checked, frozenset(classes), licenses)


def _count(result: Mapping[str, Raw], member: str) -> int:
    return len(elements(result.get(member), member))


def _of_report(document: bytes, found: Mapping[str, Raw]) -> Iterator[Part]:
    split = _sorted(found.get("Results"))
    if split.licenses:
        yield f"{split.licenses} licenses were found: they are neither vulnerabilities nor compliance, and are not taken"
    if split.packages and split.checked:
        for some in (split.packages, split.checked):
            yield msgspec.json.encode({**found, "Results": some})
    elif not split.packages and not split.checked and split.classes and split.classes <= _LICENSES:
        raise EventError(
            "the report is of licenses only; taken are vulnerabilities, misconfigurations, secrets and --compliance reports"
        )
    else:
        yield document


def _of_cluster(found: Mapping[str, Raw]) -> Iterator[Part]:
    """A part for each resource and category; of resources without any finding only that they are so many."""
    resources = clean = 0
    head = {"ClusterName": found["ClusterName"]} if "ClusterName" in found else {}
    # Up to version 0.36 a report had two lists; with --report summary it has Findings.
    for place in ("Resources", "Findings", "Vulnerabilities", "Misconfigurations"):
        for index, raw in enumerate(elements(found.get(place), place)):
            resources += 1
            try:
                resource = members(bytes(raw))
                split = _sorted(resource.get("Results"))
            except EventError as error:
                yield within(f"{place}[{index}]", error)
                continue
            if error_text := word(resource.get("Error")):
                what = "/".join(filter(None, (word(resource.get(name)) for name in ("Kind", "Namespace", "Name"))))
                yield f"{what} could not be scanned: {error_text[:500]}"
            for some in filter(None, (split.packages, split.checked)):
                yield msgspec.json.encode({**head, "Resources": [{**resource, "Results": some}]})
            clean += not split.packages and not split.checked
    if not resources:
        yield "the report has no resources: nothing was found"
    elif clean:
        yield f"{clean} of {resources} resources have neither packages nor failed checks: nothing is taken of them"
