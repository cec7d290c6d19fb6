"""The native event format: what it defaults to, what it refuses, and whose event it is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from quell.detectors import DETECTORS
from quell.errors import EventError
from quell.model.details import (
    AdmissionReview,
    ComplianceItem,
    ComplianceReport,
    CveReport,
    Deviation,
    PlainDetails,
    Role,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Ancestor, Container, Pod, Process, Subject

NATIVE = DETECTORS["native"]
PARTIES = {
    "client": {"workload": "c1", "name": "web", "image": "nginx:1", "namespace": "shop", "service": "web.shop"},
    "server": {"workload": "s1", "name": "db", "image": "pg:15", "namespace": "data"},
}
UNMANAGED = {"client": {"ip": "203.0.113.9", "port": 40000}, "server": PARTIES["server"]}


def decode(**fields: Any) -> Event:
    return NATIVE.decode(json.dumps(fields).encode(), id=None, received=100.0)


def refusal(**fields: Any) -> str:
    with pytest.raises(EventError) as refused:
        decode(**fields)
    return str(refused.value)


def security(event: Event) -> SecurityDetails:
    details = event.details()
    assert isinstance(details, SecurityDetails)
    return details


def test_a_name_is_enough_where_the_catalogue_has_it() -> None:
    found = decode(name="host.suspicious.process")
    assert (found.name, found.catalogue_name) == ("host.suspicious.process", "Host.Suspicious.Process")
    assert (found.category, found.kind, found.level) == (Category.SECURITY_EVENT, Kind.INCIDENT, Level.WARNING)
    assert (found.subject, found.time, found.details()) == (Subject(), None, None)


def test_spelling_variants_are_one_name() -> None:
    assert decode(name="ContainerScanReport").catalogue_name == decode(name="Container.Scan.Report").catalogue_name


def test_everything_that_is_said_is_kept() -> None:
    process = {
        "pid": 7,
        "start_ticks": 99,
        "start_time": "2026-03-02T12:30:01.5Z",
        "boot_id": "b",
        "name": "nc",
        "exe": "/usr/bin/nc",
        "cmdline": "nc -l",
        "cwd": "/",
        "ppid": 1,
        "pgid": 7,
        "uid": 0,
        "user": "root",
        "ancestors": ["bash", "init"],
        "content": "memfd",
        "lineage": [["bash", "/usr/bin/bash", "root", 6, 98], ["init", None, None, 1]],
    }
    found = decode(
        id="mine:1",
        time="2026-03-02T12:30:01.123456789Z",
        category="incident",
        name="Mine",
        level="critical",
        source="native",
        subject={
            "cluster": "prod",
            "cluster_uid": "u",
            "node": "n1",
            "machine_id": "m",
            "machine_uid": "mach:1",
            "source_name": "i-0",
            "namespace": "shop",
            "namespace_labels": {"team": "a"},
            "pod": {"name": "p", "uid": "pu", "labels": {"app": "x"}},
            "container": {"id": "c", "name": "cn", "image": "i:1", "image_id": "ii", "host_network": False},
            "service": "s",
            "service_cgroup": "systemd:/s.service",
            "process": process,
            "user": "root",
            "group": "g",
        },
        details={"message": "m", "file": "/etc/shadow", "sensor": "x"},
    )
    assert (found.id, found.id_given, found.time) == ("mine:1", True, 1772454601.123457)
    assert (found.category, found.kind, found.level) == (Category.SECURITY_EVENT, Kind.INCIDENT, Level.CRITICAL)
    assert found.subject == Subject(
        cluster="prod",
        cluster_uid="u",
        node="n1",
        machine_id="m",
        machine_uid="mach:1",
        source_name="i-0",
        namespace="shop",
        namespace_labels={"team": "a"},
        pod=Pod(name="p", uid="pu", labels={"app": "x"}),
        container=Container(id="c", name="cn", image_id="ii", host_network=False),
        image="i:1",
        service="s",
        service_cgroup="systemd:/s.service",
        process=Process(
            **{
                **process,
                "start_time": 1772454601.5,
                "ancestors": ("bash", "init"),
                "lineage": (Ancestor("bash", "/usr/bin/bash", "root", 6, 98), Ancestor("init", pid=1)),
            }
        ),
        user="root",
        group="g",
    )
    assert security(found) == SecurityDetails(message="m", file="/etc/shadow", sensor="x")


def test_what_the_model_says_of_a_process_is_read_again() -> None:
    process = Process(
        pid=7, start_ticks=9, name="nc", lineage=(Ancestor("sh", "/bin/sh", "root", 6, 8), Ancestor("init"))
    )
    line = msgspec.json.encode({"name": "Container.Start", "subject": Subject(process=process)})
    read = NATIVE.decode(line, id=None, received=1.0).subject.process
    assert read == msgspec.structs.replace(process, ancestors=("sh", "init"))
    wrong = refusal(name="Container.Start", subject={"process": {"lineage": [["sh", None, None, "1"]]}})
    assert "$.subject.process.lineage[0]" in wrong


def test_an_empty_text_is_absent() -> None:
    assert decode(name="Container.Start", subject={"namespace": "", "pod": {"name": ""}}).subject == Subject(pod=Pod())


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ({"category": "event", "details": {"message": "m", "user": "u"}}, PlainDetails(message="m", user="u")),
        (
            {
                "category": "CVE-Report",
                "name": "Registry.Scan.Report",
                "details": {
                    "vulnerabilities": [{"name": "CVE-1", "severity": "HIGH", "published": "1970-01-02T00:00:00Z"}]
                },
            },
            CveReport(
                report="registry", vulnerabilities=(Vulnerability(name="CVE-1", severity="High", published=86400.0),)
            ),
        ),
        (
            {"category": "Benchmark", "details": {"items": [{"number": "D.5.4", "failed": True, "result": "WARN"}]}},
            ComplianceReport(items=(ComplianceItem(number="D.5.4", failed=True, result="WARN"),)),
        ),
        (
            {"category": "Admission", "details": {"operation": "CREATE", "images": ["a", "b"]}},
            AdmissionReview(operation="CREATE", images=("a", "b")),
        ),
        (
            {"category": "deviation", "details": {"policy": "p", "what": "egress", "checksum": "c"}},
            Deviation(policy="p", what="egress", checksum="c"),
        ),
        (
            {
                "category": "deviation",
                "details": {
                    "policy": "p",
                    "policy_type": "cluster",
                    "mode": "audit",
                    "what": "container",
                    "addition": {"rules": [{"target": "container::image", "verb": "allow", "values": ["a"]}]},
                    "matched": {"container::image": ["__DEFAULT_DENY__"]},
                },
            },
            Deviation(
                policy="p",
                policy_type="cluster",
                mode="audit",
                what="container",
                addition={"rules": [{"target": "container::image", "verb": "allow", "values": ["a"]}]},
                matched={"container::image": ("__DEFAULT_DENY__",)},
            ),
        ),
    ],
    ids=["event", "cve-report", "compliance", "admission-control", "deviation", "deviation-of-ruleset"],
)
def test_details_are_those_of_the_category(fields: dict[str, Any], details: object) -> None:
    found = decode(**{"name": "mine", **fields})
    assert found.details() == details
    assert NATIVE.decode(found.raw, id=found.id, received=found.received) == found


@pytest.mark.parametrize(
    ("severity", "level"),
    [("Critical", "Critical"), ("High", "Error"), ("Medium", "Warning"), ("Low", "Notice"), ("Info", "Info")],
)
def test_a_threats_level_follows_from_its_severity(severity: str, level: str) -> None:
    assert decode(name="mine", kind="threat", details={"severity": severity}).level == level


def test_a_reporting_side_that_is_the_target_is_the_victim() -> None:
    threat = {"name": "mine", "kind": "threat"}
    victim = decode(**threat, details={"connection": PARTIES, "reporter": "server", "target": "server"})
    assert (victim.subject.container, victim.subject.image) == (Container(id="s1", name="db"), "pg:15")
    assert security(victim).role is Role.VICTIM
    attacker = decode(**threat, details={"connection": PARTIES, "reporter": "client", "target": "server"})
    assert attacker.subject.container == Container(id="c1", name="web")
    assert security(attacker).role is Role.ATTACKER
    told = decode(**threat, subject={"container": {"id": "s1"}}, details={"connection": PARTIES, "target": "server"})
    assert security(told).role is Role.VICTIM
    unknown = decode(**threat, subject={"container": {"id": "zz"}}, details={"connection": PARTIES, "target": "server"})
    assert security(unknown).role is None


def test_dlp_and_waf_have_no_victim() -> None:
    for name in ("DLP.cards.visa", "WAF.web.xss"):
        found = decode(name=name, details={"connection": PARTIES, "reporter": "server", "target": "server"})
        assert found.kind is Kind.THREAT
        assert security(found).role is None


def test_a_violations_subject_is_its_managed_client() -> None:
    found = decode(name="Network.Violation", details={"connection": PARTIES})
    assert found.subject == Subject(
        container=Container(id="c1", name="web"), image="nginx:1", namespace="shop", service="web.shop"
    )
    assert security(found).role is Role.ATTACKER
    server = {"node": "n2", "cluster": "prod", "container": {"id": "s1"}, "process": {"pid": 9}}
    moved = decode(name="Network.Violation", subject=server, details={"connection": PARTIES})
    assert moved.subject.container == Container(id="c1", name="web")
    assert (moved.subject.cluster, moved.subject.node, moved.subject.process) == ("prod", None, None)


def test_the_server_of_an_unmanaged_client_is_a_victim() -> None:
    found = decode(name="Network.Violation", details={"connection": UNMANAGED})
    assert found.subject.container == Container(id="s1", name="db")
    assert security(found).role is Role.VICTIM
    nameless = {"client": {"image": "nginx:1"}, "server": PARTIES["server"]}
    told = decode(name="Network.Violation", subject={"container": {"id": "s1"}}, details={"connection": nameless})
    assert security(told).role is Role.VICTIM


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"subject": {"process": {"pdi": 1}}}, "unknown field `pdi` - at `$.subject.process`"),
        ({"subject": {"process": {"pid": "1"}}}, "Expected `int | null`, got `str` - at `$.subject.process.pid`"),
        ({"subject": {"process": {"pid": -1}}}, "at `$.subject.process.pid`"),
        ({"subject": {"container": {"name": "x"}}}, "missing required field `id` - at `$.subject.container`"),
        ({"subject": {"image": "a", "container": {"id": "c", "image": "b"}}}, "Expected `a` as in subject.image"),
        ({"time": "2026-03-02T12:30:01"}, "at `$.time`"),
        ({"time": -1}, "at `$.time`"),
        ({"time": 1e300}, "at `$.time`"),
        ({"level": "loud"}, "Expected one of Emergency, Alert"),
        ({"kind": "accident"}, "at `$.kind`"),
        ({"category": "treat"}, "did you mean threat?"),
        ({"category": "threat", "kind": "incident"}, "Expected `threat` as in the category"),
        ({"category": "event", "kind": "incident"}, "Expected no kind"),
        ({"source": "quell"}, "Expected `native`"),
        ({"id": "a/b"}, "at `$.id`"),
        ({"id": "a b"}, "at `$.id`"),
        ({"id": "x" * 201}, "at `$.id`"),
        ({"details": {"massage": "m"}}, "unknown field `massage` - at `$.details`"),
        ({"details": []}, "Expected `object`, got `array` - at `$.details`"),
        ({"details": {"connection": {"client": {"port": 99999}}}}, "at `$.details.connection.client.port`"),
        ({"category": "deviation", "details": {}}, "missing required field `policy` - at `$.details`"),
        (
            {"category": "deviation", "details": {"policy": "p", "addition": {"processes": []}}},
            "unknown field `processes` - at `$.details.addition`",
        ),
        (
            {"category": "deviation", "details": {"policy": "p", "mode": "dry"}},
            "Invalid enum value 'dry' - at `$.details.mode`",
        ),
        ({"category": "compliance", "details": {"items": [{"number": "1"}]}}, "at `$.details.items[0]`"),
        (
            {"category": "cve-report", "details": {"vulnerabilities": [{"name": "C", "severity": "bad"}]}},
            "at `$.details.vulnerabilities[0].severity`",
        ),
        (
            {"kind": "threat", "details": {"role": "attacker", "reporter": "client", "target": "client"}},
            "Expected `victim` by the other details, got `attacker` - at `$.details.role`",
        ),
    ],
    ids=str,
)
def test_what_is_not_understood_is_refused_with_its_place(fields: dict[str, Any], reason: str) -> None:
    assert reason in refusal(**{"name": "Host.Suspicious.Process", **fields})


def test_an_unknown_name_needs_a_category_and_is_told_the_nearest() -> None:
    reason = refusal(name="Host.Suspicios.Process")
    assert "`category` is needed" in reason
    assert "Host.Suspicious.Process" in reason
    assert decode(name="Host.Suspicios.Process", category="security-event").catalogue_name is None


def test_a_detectors_events_come_back_equal_from_the_journals_three_values() -> None:
    line = b'{"name": "Container.Quarantined", "source": "quell", "details": {"message": "rule 8"}}'
    found = DETECTORS["quell"].decode(line, id="e/0/quarantined", received=5.0)
    assert found.id_given
    assert DETECTORS["quell"].decode(found.raw, id=found.id, received=5.0) == found
    assert {name: detector.name for name, detector in DETECTORS.items()} == {name: name for name in DETECTORS}
