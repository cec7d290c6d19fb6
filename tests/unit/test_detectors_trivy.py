"""Trivy's reports as events: on inputs of our own, and on every sample of real reports where these are at hand."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from quell.detectors import DETECTORS
from quell.detectors.context import NOTHING, Context
from quell.detectors.trivy import Trivy
from quell.errors import EventError
from quell.model.details import ComplianceItem, ComplianceReport, CveReport, Vulnerability
from quell.model.event import Category, Event, Level
from quell.model.subject import Container, Pod, Subject

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests/inputs/trivy"
SHARED = ROOT / "../shared/samples/detectors"
TRIVY = Trivy()
HEX64 = "4f5e2c1b9a8d" + "0" * 52


def split(document: object, context: Context = NOTHING) -> list[Event | str]:
    """Events, errors and notes of a document, the last two as texts."""
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return [
        TRIVY.decode(part, id=None, received=100.0) if isinstance(part, bytes) else str(part)
        for part in TRIVY.split(raw, context)
    ]


def own(name: str, context: Context = NOTHING) -> list[Event | str]:
    return split((OWN / f"{name}.json").read_bytes(), context)


def only(found: list[Event | str]) -> Event:
    (event,) = found
    assert isinstance(event, Event)
    return event


def cves(event: Event) -> CveReport:
    found = event.details()
    assert isinstance(found, CveReport)
    return found


def items(event: Event) -> dict[str, ComplianceItem]:
    found = event.details()
    assert isinstance(found, ComplianceReport)
    return {item.number: item for item in found.items}


def failed(event: Event) -> list[str]:
    return [number for number, item in items(event).items() if item.failed]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def report(**fields: Any) -> dict[str, Any]:
    return {"SchemaVersion": 2, "ArtifactName": "a:1", "ArtifactType": "container_image", **fields}


def vulnerable(**fields: Any) -> dict[str, Any]:
    told = {"VulnerabilityID": "CVE-2026-1", "PkgName": "p", "InstalledVersion": "1", "Severity": "HIGH", **fields}
    return report(Results=[{"Target": "a:1 (alpine 3)", "Class": "os-pkgs", "Vulnerabilities": [told]}])


def test_the_table_has_it() -> None:
    assert isinstance(DETECTORS["trivy"], Trivy)


def test_an_image_is_a_registry_report_and_its_checks_are_another_event() -> None:
    note, scan, checked = own("image")
    assert isinstance(note, str)
    assert note.startswith("2 licenses were found")
    assert isinstance(scan, Event)
    assert isinstance(checked, Event)
    assert (scan.category, scan.name, scan.catalogue_name) == (
        Category.CVE_REPORT,
        "Registry.Scan.Report",
        "Registry.Scan.Report",
    )
    assert scan.level is Level.CRITICAL
    assert scan.time == pytest.approx(at("2026-11-20T07:15:30.123456+00:00"))
    assert scan.subject == Subject(image="registry.example/shop/cart:1.4")
    assert scan.id_given
    assert scan.id.startswith("019aabcd-0000-7000-8000-00000000a001.")
    assert scan.id != checked.id
    assert cves(scan).report == "registry"
    assert cves(scan).vulnerabilities == (
        Vulnerability(
            name="CVE-2026-1001",
            severity="Critical",
            score=9.8,
            package="openssl",
            version="3.0.11-1",
            fixed_version="3.0.14-1",
            fixed=True,
            published=at("2026-09-01T10:00:00+00:00"),
            link="https://avd.aquasec.com/nvd/cve-2026-1001",
        ),
        Vulnerability(
            name="CVE-2026-1001",
            severity="Critical",
            package="libssl3",
            version="3.0.11-1",
            fixed_version="3.0.14-1",
            fixed=True,
            published=at("2026-09-01T10:00:00+00:00"),
        ),
        Vulnerability(
            name="CVE-2026-1002",
            severity="High",
            score=7.4,
            package="zlib1g",
            version="1:1.2.13",
            published=at("2026-11-19T00:00:00+00:00"),
        ),
        Vulnerability(name="TEMP-0841856-B18BAF", severity="Low", package="bash", version="5.2"),
        Vulnerability(name="CVE-2026-1004", severity="Info", score=5.1, package="bash", version="5.2", fixed=True),
        Vulnerability(
            name="CVE-2026-1005",
            severity="High",
            score=6.8,
            package="org.example:core",
            version="2.1",
            fixed_version="2.2",
            fixed=True,
        ),
        Vulnerability(name="CVE-2026-1005", severity="High", package="org.example:core", version="2.0"),
    )
    assert (checked.category, checked.name, checked.level) == (
        Category.COMPLIANCE,
        "Compliance.Image.Violation",
        Level.CRITICAL,
    )
    assert failed(checked) == ["DS002", "secret/aws-access-key-id"]
    assert items(checked)["DS002"] == ComplianceItem(
        number="DS002",
        failed=True,
        result="FAIL",
        level="Error",
        text="Dockerfile: Image user should not be 'root' (Specify a USER)",
    )
    assert items(checked)["DS001"].result == "EXCEPTION"
    assert items(checked)["secret/aws-access-key-id"].text == "AWS Access Key ID in /app/.env:3"
    assert b"Packages" not in scan.raw
    assert b"Licenses" not in scan.raw


def test_an_image_of_a_container_is_a_container_report() -> None:
    context = Context(node="worker-1", container=HEX64, namespace="shop", image="registry.example/shop/cart:1.4")
    found = [event for event in own("image", context) if isinstance(event, Event)]
    assert [event.name for event in found] == ["Container.Scan.Report", "Compliance.Container.Violation"]
    for event in found:
        assert event.subject == Subject(
            node="worker-1",
            namespace="shop",
            container=Container(id=HEX64),
            image="registry.example/shop/cart:1.4",
        )
    assert cves(found[0]).report == "container"
    plain = [event for event in own("image") if isinstance(event, Event)]
    assert found[0].id != plain[0].id
    assert own("image", context)[1] == found[0]


def test_a_file_system_is_a_hosts_and_of_a_container_if_one_is_given() -> None:
    event = only(own("rootfs", Context(node="worker-1")))
    assert (event.name, event.level, event.time) == ("Host.Scan.Report", Level.ERROR, at("2026-11-20T08:00:00+00:00"))
    assert event.subject == Subject(node="worker-1")
    assert cves(event).report == "host"
    inside = only(own("rootfs", Context(pod="cart-0", namespace="shop")))
    assert (inside.name, inside.subject) == (
        "Container.Scan.Report",
        Subject(namespace="shop", pod=Pod(name="cart-0")),
    )


def test_a_clean_image_is_a_report_too() -> None:
    event = only(own("clean_image"))
    assert (event.name, event.level, cves(event).vulnerabilities) == ("Registry.Scan.Report", Level.INFO, ())
    nothing = only(split(report()))
    assert (nothing.name, nothing.level, nothing.subject.image) == ("Registry.Scan.Report", Level.INFO, "a:1")


def test_checks_that_found_nothing_are_no_violation() -> None:
    event = only(split(report(ArtifactType="filesystem", Results=[{"Target": "Dockerfile", "Class": "config"}])))
    assert (event.category, event.name, event.catalogue_name) == (Category.COMPLIANCE, "Trivy checks", None)
    assert event.level is Level.INFO


def test_schema_version_1() -> None:
    event = only(own("first_schema"))
    assert (event.name, event.time, event.subject) == ("Registry.Scan.Report", None, Subject(image="nginx:1.16"))
    assert [one.name for one in cves(event).vulnerabilities] == ["CVE-2020-3810"]
    assert only(own("first_schema", Context(container="4f"))).name == "Container.Scan.Report"


def test_a_cluster_is_an_event_for_each_resource_and_category() -> None:
    found = own("cluster")
    events = [event for event in found if isinstance(event, Event)]
    assert [(event.name, event.level.value) for event in events] == [
        ("Container.Scan.Report", "Critical"),
        ("Container.Scan.Report", "Info"),
        ("Compliance.Container.Violation", "Warning"),
        ("Platform.Scan.Report", "Error"),
        ("Compliance.Host.Violation", "Error"),
        ("Platform.Scan.Report", "Notice"),
        ("Trivy checks of ClusterRole", "Critical"),
    ]
    prod = "prod"
    web = Subject(cluster=prod, namespace="shop", service="web")
    assert [event.subject for event in events] == [
        Subject(cluster=prod, namespace="shop", pod=Pod(name="cart-0"), image="registry.example/shop/cart:1.4"),
        web,
        web,
        Subject(cluster=prod, node="worker-1"),
        Subject(cluster=prod, node="worker-1"),
        Subject(cluster=prod, namespace="kube-system"),
        Subject(cluster=prod),
    ]
    assert events[-1].catalogue_name is None
    assert failed(events[-1]) == ["KSV041"]
    assert [text for text in found if isinstance(text, str)] == [
        "Deployment/shop/pay could not be scanned: image scan error: unauthorized",
        "2 of 8 resources have neither packages nor failed checks: nothing is taken of them",
    ]


def test_the_other_forms_of_a_cluster_report() -> None:
    resources = json.loads((OWN / "cluster.json").read_text())["Resources"][:2]
    for form in (
        {"ClusterName": "prod", "Findings": resources},
        {"ClusterName": "prod", "Vulnerabilities": resources[:1], "Misconfigurations": resources[1:]},
    ):
        assert [event.name for event in split(form) if isinstance(event, Event)] == [
            "Container.Scan.Report",
            "Container.Scan.Report",
            "Compliance.Container.Violation",
        ]
    assert split({"ClusterName": "prod"}) == ["the report has no resources: nothing was found"]


@pytest.mark.parametrize("name", ["operator_pod", "operator_webhook"])
def test_a_report_of_the_operator(name: str) -> None:
    event = only(own(name))
    assert (event.name, event.level, event.time) == (
        "Container.Scan.Report",
        Level.ERROR,
        at("2026-11-20T08:00:00+00:00"),
    )
    assert event.subject == Subject(namespace="shop", pod=Pod(name="cart-0"), image="registry.example/shop/cart:1.4")
    assert event.id.startswith("8f0e4c1a-0d1b-4c36-8f3c-6f1f0a1d2b3c.7001.")
    assert cves(event).vulnerabilities == (
        Vulnerability(
            name="CVE-2026-1002",
            severity="High",
            score=7.4,
            package="zlib1g",
            version="1:1.2.13",
            fixed_version="1:1.2.14",
            published=at("2026-10-01T00:00:00+00:00"),
            link="https://avd.aquasec.com/nvd/cve-2026-1002",
        ),
        Vulnerability(name="CVE-2026-1006", severity="Info", score=3.1, package="bash", version="5.2"),
    )


def test_a_list_of_the_operators_reports() -> None:
    found = own("operator_list", Context(cluster="prod"))
    pod, node, infra, sbom, nsa, seven = found
    assert all(isinstance(event, Event) and event.subject.cluster == "prod" for event in (pod, node, infra, nsa))
    assert isinstance(node, Event)
    assert (node.name, node.subject.node, node.level) == ("Host.Scan.Report", "worker-1", Level.WARNING)
    assert isinstance(infra, Event)
    assert (infra.name, infra.subject.node, failed(infra)) == ("Compliance.Host.Violation", "worker-1", ["KCV0077"])
    assert infra.level is Level.ERROR
    assert isinstance(nsa, Event)
    assert (nsa.name, nsa.level, failed(nsa)) == ("ClusterComplianceReport", Level.WARNING, ["k8s-nsa-1.0/1.0"])
    assert nsa.time == at("2026-11-20T06:00:00+00:00")
    assert items(nsa)["k8s-nsa-1.0/1.0"].text == "Non-root containers (2 failed)"
    assert (
        sbom
        == "items[3]: SbomReport lists packages and finds nothing; of the operator's reports "
        + re.search("ClusterConfig.*are taken", str(sbom))[0]
    )  # type: ignore[index] # it is there
    assert str(seven).startswith("items[5]: Expected `object`, got `int`")


def test_a_list_of_the_api_itself_says_the_kind_once() -> None:
    pod = json.loads((OWN / "operator_pod.json").read_text())
    del pod["kind"], pod["apiVersion"]
    event = only(
        split({"kind": "VulnerabilityReportList", "apiVersion": "aquasecurity.github.io/v1alpha1", "items": [pod]})
    )
    assert event.subject.pod == Pod(name="cart-0")
    assert split({"kind": "List", "items": []}) == ["the list is empty: there is no report in it"]


def test_a_report_that_was_deleted_is_no_finding() -> None:
    told = json.loads((OWN / "operator_webhook.json").read_text())
    assert split({**told, "verb": "delete"}) == [
        "a VulnerabilityReport was deleted: that is no finding, and nothing is taken of it"
    ]


def test_a_compliance_report_of_the_command_line() -> None:
    event = only(own("docker_cis"))
    assert (event.name, event.level, failed(event)) == ("Compliance.Image.Violation", Level.ERROR, ["D.4.1"])
    assert items(event)["D.5.1"].result == "MANUAL"
    assert only(own("docker_cis", Context(node="worker-1"))).name == "Compliance.Host.Violation"
    full = {
        "ID": "k8s-cis-1.23",
        "Title": "CIS Kubernetes Benchmarks v1.23",
        "Version": "1.23",
        "Results": [
            {
                "ID": "5.2.2",
                "Name": "privileged",
                "Severity": "HIGH",
                "Results": [
                    {"Target": "Pod/x", "Misconfigurations": [{"ID": "KSV017", "Severity": "HIGH", "Status": "FAIL"}]}
                ],
            },
            {"ID": "5.2.3", "Name": "host PID", "Severity": "HIGH", "Results": []},
        ],
    }
    event = only(split(full))
    assert (failed(event), event.catalogue_name) == (["K.5.2.2"], None)
    assert event.details().benchmark == "CIS Kubernetes Benchmarks v1.23, 1.23"  # type: ignore[union-attr] # just read


@pytest.mark.parametrize(
    ("scores", "source", "score"),
    [
        ({"nvd": {"V3Score": 5.0}, "redhat": {"V3Score": 9.0}}, "redhat", 5.0),
        ({"nvd": {"V2Score": 5.0}, "redhat": {"V3Score": 9.0}, "amazon": {"V3Score": 4.0}}, "redhat", 9.0),
        ({"redhat": {"V3Score": 9.0}, "amazon": {"V3Score": 4.0}}, "debian", 4.0),
        ({"nvd": {"V2Score": 5.0, "V40Score": 6.0}}, "nvd", 6.0),
        ({"nvd": {"V2Score": 5.0}}, "nvd", 5.0),
        ({"nvd": {"V3Score": 0}}, "nvd", None),
        ({}, "nvd", None),
        (None, "nvd", None),
    ],
)
def test_which_score_counts(scores: object, source: str, score: float | None) -> None:
    event = only(split(vulnerable(CVSS=scores, SeveritySource=source)))
    assert cves(event).vulnerabilities[0].score == score


@pytest.mark.parametrize("date", [None, "", "yesterday", "2026-11-20", "2026-11-20T00:00:00", "0001-01-01T00:00:00Z"])
def test_dates_that_say_nothing_are_none(date: str | None) -> None:
    event = only(split({**vulnerable(PublishedDate=date), "CreatedAt": date}))
    assert (event.time, cves(event).vulnerabilities[0].published) == (None, None)


@pytest.mark.parametrize(
    ("fields", "image", "name"),
    [
        ({"ArtifactName": "nginx:1.27", "Metadata": {"RepoTags": ["nginx:1.27"]}}, "nginx:1.27", "Registry"),
        ({"ArtifactName": "image.tar", "Metadata": {"RepoTags": ["nginx:1.27"]}}, "nginx:1.27", "Registry"),
        ({"ArtifactName": "image.tar", "Metadata": {"Reference": "nginx:1.27"}}, "nginx:1.27", "Registry"),
        ({"ArtifactName": "x", "Metadata": {"RepoDigests": ["n@sha256:1"]}}, "n@sha256:1", "Registry"),
        (
            {"ArtifactName": "n@sha256:1", "Metadata": {"RepoDigests": ["n@sha256:1"], "RepoTags": ["n:1"]}},
            "n@sha256:1",
            "Registry",
        ),
        ({"ArtifactName": "nginx"}, "nginx", "Registry"),
        ({"ArtifactName": "image.tar"}, None, "Registry"),
        ({"ArtifactType": "cyclonedx", "ArtifactName": "bom.json"}, None, "Registry"),
        ({"ArtifactType": "repository", "ArtifactName": "https://git.example/shop"}, None, "Registry"),
        ({"ArtifactType": "vm", "ArtifactName": "disk.vmdk"}, None, "Host"),
        ({"ArtifactType": "", "ArtifactName": "x", "Metadata": {"ImageID": "sha256:1"}}, None, "Registry"),
        ({"ArtifactType": "", "ArtifactName": "x"}, None, "Host"),
    ],
)
def test_what_was_scanned(fields: dict[str, Any], image: str | None, name: str) -> None:
    event = only(split(report(**fields)))
    assert (event.subject.image, event.name) == (image, f"{name}.Scan.Report")


def test_the_operator_names_an_image_as_its_registry_does() -> None:
    told = json.loads((OWN / "operator_pod.json").read_text())
    about = {"repository": "library/nginx", "digest": "sha256:99"}
    told["report"] |= {"registry": {"server": "index.docker.io"}, "artifact": about}
    assert only(split(told)).subject.image == "docker.io/library/nginx@sha256:99"
    told["report"] |= {"registry": None, "artifact": {"repository": "library/nginx"}}
    assert only(split(told)).subject.image == "library/nginx"
    told["report"]["artifact"] = None
    assert only(split(told)).subject.image is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not JSON"),
        (b"# VulnerabilityReport", "not JSON"),
        (b"5", "Expected `object`, got `int`"),
        (b"{}", "got an empty object"),
        (b"[]", "the array is empty"),
        (b"[[]]", "Expected `object`, got `array`"),
        ({"a": 1, "b": 2}, "expected a report of Trivy (--format json) or of its operator, got an object with a, b"),
        ({"bomFormat": "CycloneDX"}, "it is a bill of materials"),
        ({"version": "2.1.0", "runs": []}, "it is SARIF"),
        ({"kind": "Pod", "apiVersion": "v1"}, "got an object of kind Pod"),
        (report(Results=[{"Class": "license", "Licenses": [{}]}]), "the report is of licenses only"),
        (report(Results=5), "Expected `array`, got `int` - at `$.Results`"),
        (vulnerable(Severity=5), "Expected `str`, got `int` - at `$.Results[0].Vulnerabilities[0].Severity`"),
        (vulnerable(CVSS={"nvd": {"V3Score": "x"}}), "at `$.Results[0].Vulnerabilities[0].CVSS"),
        ({"kind": "VulnerabilityReport"}, "missing required field `metadata`"),
        ({"kind": "VulnerabilityReport", "metadata": {}}, "missing required field `report`"),
        ({"kind": "ClusterComplianceReport", "metadata": {}, "status": {}}, "the report has no results yet"),
        ({"verb": "update", "operatorObject": {}}, "got an empty object"),
        ({"verb": "update", "operatorObject": [[1]]}, "expected a report, got an array in an array"),
        ({"kind": "List", "items": [{"kind": "List", "items": []}]}, "items[0]: expected a report, got a list"),
        ({"ClusterName": "x", "Resources": {}}, "Expected `array`, got `object` - at `$.Resources`"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(document: object, reason: str) -> None:
    try:
        told = str(split(document)[-1])
    except EventError as error:
        told = str(error)
    assert reason in told


def test_a_part_that_was_not_cut_is_refused() -> None:
    for name, reason in (("image", "which are two events"), ("cluster", "each of which is an event of its own")):
        with pytest.raises(EventError, match=reason):
            TRIVY.decode((OWN / f"{name}.json").read_bytes(), id=None, received=1.0)


def test_a_context_that_contradicts_the_report_is_refused() -> None:
    for name, context, reason in (
        ("image", Context(image="nginx:1"), "image: the document says registry.example/shop/cart:1.4"),
        ("image", Context(time=datetime(2026, 1, 1, tzinfo=UTC)), "time: "),
        ("operator_pod", Context(namespace="other"), "namespace: the document says shop, its sender other"),
        ("operator_pod", Context(pod="cart-1"), "pod: "),
    ):
        with pytest.raises(EventError, match=reason):
            own(name, context)


# The samples: values read by hand from each file.

SAMPLES = {
    "trivy_alpine39_golden.json": [
        (
            "Registry.Scan.Report",
            "Critical",
            "2021-08-25T12:20:30+00:00",
            {"image": "ghcr.io/aquasecurity/trivy-test-images:alpine-39"},
            {"Critical": 2, "Medium": 4, "fixed": 6},
        )
    ],
    "trivy_debian-buster_golden.json": [
        (
            "Registry.Scan.Report",
            "Critical",
            "2021-08-25T12:20:30+00:00",
            {"image": "ghcr.io/aquasecurity/trivy-test-images:debian-buster"},
            {"Critical": 1, "Low": 1, "fixed": 1},
        )
    ],
    "trivy_image_2.json": [
        (
            "Registry.Scan.Report",
            "Warning",
            "2024-01-15T08:58:29.827537+00:00",
            {"image": "noppaknopsta/example-app:main-159"},
            {"Medium": 1, "Low": 12, "fixed": 1},
        )
    ],
    "trivy_image_scheme2.json": [
        (
            "Registry.Scan.Report",
            "Critical",
            None,
            {"image": "teamdojo:latest"},
            {"Critical": 1, "High": 1, "Medium": 3, "fixed": 5},
        )
    ],
    "trivy_k8s.json": [
        (
            name,
            "Warning",
            None,
            {
                "cluster": "arn:aws:eks:us-east-1:576036489467:cluster/monitoring-test-cluster",
                "namespace": "default",
                "service": service,
                **image,
            },
            found,
        )
        for name, found, images in (
            (
                "Container.Scan.Report",
                {"Medium": 1, "Low": 4, "fixed": 1},
                ({"image": "gcr.io/google_samples/gb-redis-follower:v2"}, {"image": "docker.io/redis:6.0.5"}),
            ),
            ("Compliance.Container.Violation", ["KSV001", "KSV003", "KSV011", "KSV012", "KSV014"], ({}, {})),
        )
        for service, image in zip(("redis-follower", "redis-leader"), images, strict=True)
    ],
    "trivy_misconfig_secrets.json": [
        ("Host.Scan.Report", "Error", None, {}, {"High": 1, "Medium": 1, "fixed": 2}),
        ("Compliance.Host.Violation", "Critical", None, {}, ["DS002", "secret/github-pat", "secret/github-pat"]),
    ],
    "trivy_operator_clustercompliancereport.json": [
        ("ClusterComplianceReport", "Critical", None, {}, ["K.4.2.10", "K.4.2.11"])
    ],
    "trivy_operator_configaudit_many.json": [
        (
            "Compliance.Container.Violation",
            "Warning",
            "2023-03-23T16:22:54+00:00",
            {"namespace": "default", "service": "nginx-deployment"},
            [
                *("KSV014", "KSV016", "KSV030", "KSV015", "KSV011", "KSV012", "KSV018"),
                *("KSV110", "KSV003", "KSV021", "KSV001", "KSV106", "KSV020"),
            ],
        )
    ],
    "trivy_operator_exposedsecret.json": [
        (
            "Compliance.Container.Violation",
            "Critical",
            "2023-03-24T08:34:18+00:00",
            {"namespace": "default", "service": "nginx-deployment", "image": "docker.io/library/secret:latest"},
            ["secret/aws-secret-access-key"],
        )
    ],
    "trivy_operator_vulnerabilityreport_many.json": [
        (
            "Container.Scan.Report",
            "Critical",
            "2023-03-23T16:23:01+00:00",
            {"namespace": "default", "service": "nginx-deployment", "image": "docker.io/library/nginx:alpine"},
            {"Critical": 2, "High": 3, "Medium": 25, "Low": 11, "fixed": 39},
        )
    ],
    "trivy_operator_vulnerabilityreport_single.json": [
        (
            "Container.Scan.Report",
            "Critical",
            "2023-03-23T16:23:01+00:00",
            {"namespace": "default", "service": "nginx-deployment", "image": "docker.io/library/nginx:alpine"},
            {"Critical": 1, "fixed": 1},
        )
    ],
}


def found_in(event: Event) -> object:
    details = event.details()
    if isinstance(details, ComplianceReport):
        return [item.number for item in details.items if item.failed]
    assert isinstance(details, CveReport)
    counts: dict[str, int] = {}
    for one in details.vulnerabilities:
        counts[one.severity] = counts.get(one.severity, 0) + 1
    return counts | {"fixed": sum(one.has_fix for one in details.vulnerabilities)}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples of real reports are not here")
def test_every_sample() -> None:
    files = {file.name for file in SHARED.glob("trivy_*.json")}
    assert files == set(SAMPLES)
    for name, expected in SAMPLES.items():
        events = [event for event in split((SHARED / name).read_bytes()) if isinstance(event, Event)]
        told = [
            (
                event.name,
                event.level.value,
                None if event.time is None else datetime.fromtimestamp(event.time, UTC).isoformat(),
                {
                    field: value
                    for field in ("cluster", "namespace", "service", "image")
                    if (value := getattr(event.subject, field)) is not None
                },
                found_in(event),
            )
            for event in events
        ]
        assert told == expected, name
        assert all(event.subject.container is None and event.subject.pod is None for event in events)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples of real reports are not here")
def test_single_findings_of_the_samples() -> None:
    alpine = cves(only(split((SHARED / "trivy_alpine39_golden.json").read_bytes())))
    assert alpine.vulnerabilities[4] == Vulnerability(
        name="CVE-2019-14697",
        severity="Critical",
        score=9.8,
        package="musl",
        version="1.1.20-r4",
        fixed_version="1.1.20-r5",
        fixed=True,
        published=at("2019-08-06T16:15:00+00:00"),
        link="https://avd.aquasec.com/nvd/cve-2019-14697",
    )
    app = cves(only(split((SHARED / "trivy_image_2.json").read_bytes())))
    assert app.vulnerabilities[2] == Vulnerability(
        name="TEMP-0841856-B18BAF",
        severity="Low",
        package="bash",
        version="5.0-4",
        link="https://security-tracker.debian.org/tracker/TEMP-0841856-B18BAF",
    )
    assert app.vulnerabilities[12].published == at("2023-07-01T05:15:16.103+00:00")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples of real reports are not here")
def test_the_operators_documentation() -> None:
    """Its samples are YAML, of which the second is broken; kubectl -o json writes the same as JSON."""
    text = (SHARED / "trivy_operator_vulnerabilityreport_doc.md").read_text()
    with pytest.raises(EventError, match="not JSON"):
        split(text.encode())
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block
    event = only(split(yaml.safe_load(block[1])))
    assert (event.name, event.level, event.time) == ("Container.Scan.Report", Level.CRITICAL, None)
    assert event.subject == Subject(namespace="default", service="nginx", image="docker.io/library/nginx:1.16")
    assert [(one.name, one.score, one.has_fix) for one in cves(event).vulnerabilities] == [
        ("CVE-2019-20367", 9.1, True),
        ("CVE-2018-25009", 9.1, False),
    ]
