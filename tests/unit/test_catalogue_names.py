"""The catalogue of event names: complete, and one name however it is spelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quell.catalogue.names import NAMES, covers, family, resolve
from quell.catalogue.table import CRITERIA
from quell.model.event import Category, Kind, Level

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = json.loads((ROOT / "tests/cases/catalogue/mission_names.json").read_text())

#: A heading of the mission document's list -> the category and kind of the names under it.
HEADINGS = {
    "Events": (Category.EVENT, None),
    "Incidents (Security Event)": (Category.SECURITY_EVENT, Kind.INCIDENT),
    "Threats (Security Event)": (Category.SECURITY_EVENT, Kind.THREAT),
    "Violations (Security Event)": (Category.SECURITY_EVENT, Kind.VIOLATION),
    "Compliance": (Category.COMPLIANCE, None),
    "CVE-Report": (Category.CVE_REPORT, None),
    "Admission": (Category.ADMISSION_CONTROL, None),
    "Dynamically Generated Criteria": (None, None),
}


def listed(text: str) -> dict[str, list[str]]:
    """The names of the mission document's complete list, by heading."""
    _, _, text = text.partition("\nComplete list of categoried criteria")
    names: dict[str, list[str]] = {}
    heading = ""
    for line in text.splitlines()[1:]:
        word = line.partition("//")[0].strip()
        if word in HEADINGS:
            heading = word
            names[heading] = []
        elif word and heading:
            names[heading].append(word)
    return names


@pytest.mark.parametrize(
    ("heading", "name"), [(heading, name) for heading, names in COMMITTED.items() for name in names]
)
def test_every_name_of_the_mission_document_is_known(heading: str, name: str) -> None:
    if name in CRITERIA:
        assert Category.CVE_REPORT in CRITERIA[name].categories
        return
    canonical = resolve(name)
    assert canonical is not None
    entry = NAMES[canonical]
    assert entry.origin == "mission"
    category, kind = HEADINGS[heading]
    if category is not None:
        assert category == entry.category or category in entry.also_category
    if kind is not None:
        assert entry.kind is kind


def test_the_committed_list_is_the_documents() -> None:
    documents = list((ROOT / "../shared/seeds").glob("003_*.txt"))
    if not documents:
        pytest.skip("the mission documents are not beside this checkout")
    assert listed(documents[0].read_text()) == COMMITTED


def test_every_entry_says_what_it_means() -> None:
    for entry in NAMES.values():
        assert entry.description.endswith("."), entry.name
        assert entry.description.count(" ") >= 2, entry.name
        assert (entry.kind is None) == (entry.category is not Category.SECURITY_EVENT and not entry.also_category)
    descriptions = [entry.description for entry in NAMES.values()]
    assert len(set(descriptions)) == len(descriptions)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("ContainerScanReport", "Container.Scan.Report"),
        ("hostscanreport", "Host.Scan.Report"),
        ("RegistryScanReport", "Registry.Scan.Report"),
        ("PlatformScanReport", "Platform.Scan.Report"),
        ("container.start", "Container.Start"),
        ("Kubenetes.CIS.Benchmark.Failed", "Kubernetes.CIS.Benchmark.Failed"),
        ("Kubenetes.NeuVector.RBAC", "Kubernetes.{product-name}.RBAC"),
        ("kubernetes.quell.rbac", "Kubernetes.{product-name}.RBAC"),
        ("Kubenetes.Admission.Webhook.Change", "Kubernetes.Admission.Webhook.Change"),
        ("SSL.TLS1.0", "SSL.TLS1.0"),
        ("Kubernetes.RBAC", None),
        ("Kubernetes..RBAC", None),
        ("Container.Star", None),
        ("", None),
    ],
)
def test_spellings(written: str, canonical: str | None) -> None:
    assert resolve(written) == canonical


def test_one_name_covers_both_outdated_versions_of_tls() -> None:
    assert covers("SSL.TLS1.0or1.1", "SSL.TLS1.0")
    assert covers("SSL.TLS1.0or1.1", "SSL.TLS1.1")
    assert covers("SSL.TLS1.0or1.1", "SSL.TLS1.0or1.1")
    assert not covers("SSL.TLS1.0", "SSL.TLS1.0or1.1")
    assert not covers("SSL.TLS1.0or1.1", "SSL.Version.2or3")
    for entry in NAMES.values():
        assert set(entry.covers) <= set(NAMES)


def test_quarantine_is_an_event_and_an_incident() -> None:
    for name in ("Container.Quarantined", "Container.Unquarantined"):
        assert NAMES[name].category is Category.EVENT
        assert NAMES[name].also_category == (Category.SECURITY_EVENT,)
        assert NAMES[name].kind is Kind.INCIDENT


def test_what_a_deviation_may_carry() -> None:
    assert {entry.name for entry in NAMES.values() if entry.deviation} == {
        "Process.Profile.Violation",
        "Host.Process.Violation",
        "Network.Violation",
    }
    assert NAMES["Container.Image.Deviation"].category is Category.DEVIATION
    assert NAMES["Container.Image.Deviation"].origin == "quell"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DLP.sensor.creditcard", "DLP"),
        ("waf.sensor.log4sh", "WAF"),
        ("D.5.4", "Compliance.Test.Name"),
        ("nv.web/mycheck", "CustomCheckCompliance"),
        ("Container.Start", None),
    ],
)
def test_families_of_names_made_at_run_time(name: str, expected: str | None) -> None:
    entry = family(name)
    assert (entry.name if entry else None) == expected


def test_levels_of_the_reference() -> None:
    assert NAMES["User.Login.Failed"].level is Level.WARNING
    assert NAMES["TCP.SYN.Flood"].level is Level.CRITICAL
    assert NAMES["SSH.Version.1"].level is Level.NOTICE
