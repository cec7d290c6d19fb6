"""kube-bench's reports as events: on inputs of our own, and on every sample of real reports where these are at hand."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quell.detectors import DETECTORS, Divided
from quell.detectors.context import NOTHING, Context
from quell.detectors.kube_bench import KubeBench
from quell.detectors.likeness import looks_like
from quell.detectors.produces import produced_by
from quell.errors import EventError
from quell.model.details import ComplianceItem, ComplianceReport
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "tests/inputs"
OWN = INPUTS / "kube-bench"
SHARED = ROOT / "../shared/samples/detectors"
KUBE_BENCH = KubeBench()
WHEN = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def split(document: object, context: Context = NOTHING) -> list[Event]:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    events = []
    for part in KUBE_BENCH.split(raw, context):
        if isinstance(part, EventError):
            raise part
        assert isinstance(part, bytes)
        events.append(KUBE_BENCH.decode(part, id=None, received=100.0))
    return events


def report(event: Event) -> ComplianceReport:
    found = event.details()
    assert isinstance(found, ComplianceReport)
    return found


def failed(event: Event) -> list[str]:
    return [item.number for item in report(event).items if item.failed]


def control(**fields: Any) -> dict[str, Any]:
    return {"tests": [{"results": [{"test_number": "1.1", "status": "FAIL", **fields}]}]}


def test_the_table_has_it() -> None:
    assert isinstance(DETECTORS["kube-bench"], KubeBench)


def test_each_kind_of_node_is_an_event() -> None:
    master, node, policies = split(
        (OWN / "report.json").read_bytes(), Context(node="worker-1", cluster="prod", time=WHEN)
    )
    for event in (master, node):
        assert (event.category, event.name, event.catalogue_name, event.level) == (
            Category.COMPLIANCE,
            "Compliance.Host.Violation",
            "Compliance.Host.Violation",
            Level.WARNING,
        )
        assert (event.time, event.subject) == (WHEN.timestamp(), Subject(cluster="prod", node="worker-1"))
    assert failed(master) == ["K.1.1.12"]
    assert failed(node) == ["K.4.1.1", "K.4.2.6", "K.5.12"]
    assert (policies.name, policies.catalogue_name, policies.level) == ("Kubernetes Policies", None, Level.INFO)
    assert report(master) == ComplianceReport(
        items=(
            ComplianceItem(
                number="K.1.1.1", failed=False, result="PASS", text="API server pod specification file permissions"
            ),
            ComplianceItem(
                number="K.1.1.12", failed=True, result="FAIL", level="Warning", text="etcd data directory ownership"
            ),
            ComplianceItem(
                number="K.1.1.9", failed=False, result="WARN", text="Container Network Interface file permissions"
            ),
            ComplianceItem(number="K.1.1.10", failed=False, result="INFO", text="skipped by the operator"),
            ComplianceItem(number="K.1.1.20", failed=False, result="FAIL", text="for a person to look at"),
        ),
        benchmark="Control Plane Security Configuration, benchmark cis-1.9, 1.30",
    )


def test_it_says_neither_where_nor_when() -> None:
    event = split((OWN / "report.json").read_bytes())[0]
    assert (event.time, event.subject) == (None, Subject())
    assert not event.id_given


def test_all_shapes_are_the_same() -> None:
    whole = json.loads((OWN / "report.json").read_text())
    expected = [failed(event) for event in split(whole)]
    assert [failed(event) for event in split(whole["Controls"])] == expected
    assert [failed(event) for one in whole["Controls"] for event in split(one)] == expected
    assert [failed(event) for event in split({"Controls": whole["Controls"]})] == expected


def test_a_benchmark_of_docker_has_its_letter() -> None:
    assert failed(split({**control(), "text": "Docker Security Configuration"})[0]) == ["D.1.1"]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not JSON"),
        (b"[INFO] 1 Master Node", "not JSON"),
        (b"7", "Expected `object`, got `int`"),
        (b"{}", "got an empty object"),
        (b"[]", "the report has no controls"),
        ({"Controls": []}, "the report has no controls"),
        ({"Controls": None}, "the report has no controls"),
        ({"Controls": {}}, "Expected `array`, got `object`"),
        ({"Totals": {}}, "it has only the totals"),
        ({"SchemaVersion": 2}, "got an object with SchemaVersion"),
        ([{"tests": []}, {}], "[1]: Object missing required field `tests`"),
        ({"Controls": [5]}, "Controls[0]: Expected `object`, got `int`"),
        (
            {"quell": {"container": "4f"}, "document": {}},
            "container: no such document can be given one; there are cluster, machine_id, node, time",
        ),
        (control(status=1), "Expected `str`, got `int` - at `$.tests[0].results[0].status`"),
        (control(test_number=None), "Expected `str`, got `null` - at `$.tests[0].results[0].test_number`"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(document: object, reason: str) -> None:
    with pytest.raises(EventError, match=re.escape(reason)):
        split(document)


#: (name, benchmark, items, failed), read by hand from each file.
MASTER, ETCD = "Master Node Security Configuration", "Etcd Node Configuration"
PLANE, WORKER = "Control Plane Configuration", "Worker Node Security Configuration"
VIOLATION = "Compliance.Host.Violation"
ETCD_1 = (ETCD, f"{ETCD}, benchmark 1.15", 1, [])
PLANE_1 = (PLANE, f"{PLANE}, benchmark 1.5", 1, [])
MASTER_1 = (MASTER, f"{MASTER}, benchmark 1.5", 1, [])
SAMPLES: dict[str, list[tuple[str, str, int, list[str]]]] = {
    "kube-bench_result_upstream.json": [MASTER_1, ETCD_1, PLANE_1],
    "kube-bench_controlsCollection_upstream.json": [ETCD_1, PLANE_1, MASTER_1],
    "kube-bench_many.json": [
        (VIOLATION, f"{PLANE}, benchmark 1.5", 1, ["3.1.1"]),
        (VIOLATION, f"{WORKER}, benchmark 1.5", 23, ["4.1.2", "4.1.5", "4.2.11"]),
    ],
    "kube-bench_controls.json": [
        (
            VIOLATION,
            f"{MASTER}, benchmark 1.6",
            65,
            [
                *("1.1.1", "1.1.2", "1.1.3", "1.1.4", "1.1.5", "1.1.6", "1.1.7", "1.1.8", "1.1.11", "1.1.12", "1.1.13"),
                *("1.1.14", "1.1.15", "1.1.16", "1.1.17", "1.1.18", "1.1.19", "1.2.6", "1.2.16", "1.2.21", "1.2.22"),
                *("1.2.23", "1.2.24", "1.2.25", "1.3.2", "1.4.1"),
            ],
        ),
        (ETCD, f"{ETCD}, benchmark 1.6", 7, []),
        (PLANE, f"{PLANE}, benchmark 1.6", 3, []),
        (
            VIOLATION,
            f"{WORKER}, benchmark 1.6",
            23,
            ["4.1.1", "4.1.2", "4.1.5", "4.1.9", "4.1.10", "4.2.1", "4.2.2", "4.2.3", "4.2.6", "4.2.7"],
        ),
        ("Kubernetes Policies", "Kubernetes Policies, benchmark 1.6", 24, []),
    ],
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples of real reports are not here")
def test_every_sample() -> None:
    assert {file.name for file in SHARED.glob("kube-bench_*")} == set(SAMPLES)
    for name, expected in SAMPLES.items():
        events = split((SHARED / name).read_bytes(), Context(node="worker-1"))
        told = [
            (
                event.name,
                report(event).benchmark,
                len(report(event).items),
                [number.removeprefix("K.") for number in failed(event)],
            )
            for event in events
        ]
        assert told == expected, name
        for event in events:
            assert event.level is (Level.WARNING if failed(event) else Level.INFO)
            assert (event.time, event.subject) == (None, Subject(node="worker-1"))


@pytest.mark.parametrize("name", ["trivy", "kube-bench"])
def test_the_catalogue_names_of_its_events_are_those_it_says_it_makes(name: str) -> None:
    detector = DETECTORS[name]
    assert isinstance(detector, Divided)
    made = set()
    for file in sorted((INPUTS / name).glob("*.json")):
        for context in (NOTHING, Context(node="worker-1")):
            with contextlib.suppress(EventError):
                parts = [part for part in detector.split(file.read_bytes(), context) if isinstance(part, bytes)]
                made |= {detector.decode(part, id=None, received=1.0).catalogue_name for part in parts}
    assert made - {None} == produced_by(name) - {"Compliance.Test.Name"}


def test_whose_format_a_document_seems_to_be() -> None:
    for folder in ("trivy", "kube-bench", "falco"):
        for file in sorted((INPUTS / folder).glob("*.json")):
            if file.stem in ("operator_list", "totals", "docker_cis"):
                continue
            assert looks_like(file.read_bytes()) == folder, file
    assert looks_like(b'{"name": "Container.Start", "subject": {}}') == "native"
    assert looks_like(b'{"auditID": "x"}') == "k8s-audit"
    assert looks_like(b'{"event_type": "alert", "timestamp": "x"}') == "suricata"
    for nothing in (b"", b"{}", b"[]", b"7", b"[7]", b'{"a": 1}', b"\xff"):
        assert looks_like(nothing) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples of real reports are not here")
def test_whose_format_the_samples_seem_to_be() -> None:
    for file in sorted(SHARED.glob("*.json")):
        prefix = file.name.partition("_")[0]
        if prefix in ("trivy", "kube-bench", "falco"):
            assert looks_like(file.read_bytes()) == prefix, file.name
