"""Reports of scanners over HTTP and by the command line, and what rules make of them."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from command import quell
from live import NO_TLS, Live, live
from scripted_agent import NODE, ScriptedAgent

from quell.cli import sending
from quell.cli.demo.listener import Listener
from quell.detectors import POSTED
from quell.detectors.context import MEANINGS, NOTHING
from quell.settings import Ingest

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ROOT / "tests/inputs"
SHARED = ROOT / "../shared/samples/detectors"
KIB = 1024
LIMITS = Ingest(max_body=1024 * KIB, max_unpacked=2048 * KIB, max_event=64 * KIB, max_report=512 * KIB)
CONTAINER = "4f5e2c1b9a8d" + "0" * 52
DAY = 86400.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("reports") / "s", LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


@pytest.fixture(scope="module")
def sender(server: Live) -> Iterator[httpx.Client]:
    with server.client("ingest") as client:
        yield client


def read(name: str) -> bytes:
    return (INPUTS / f"{name}.json").read_bytes()


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text[:500]
    body: dict[str, Any] = response.json()
    return body


def taken(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 202, answer.text[:500]
    ids: list[str] = answer.json()["ids"]
    return ids


def record(admin: httpx.Client, identifier: str) -> dict[str, Any]:
    told: dict[str, Any] = admin.get(f"/v1/events/{identifier}").raise_for_status().json()
    return told


def scan(severity: str = "HIGH", count: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "SchemaVersion": 2,
        "CreatedAt": datetime.now(UTC).isoformat(),
        "ArtifactName": "registry.example/shop/cart:1.4",
        "ArtifactType": "container_image",
        "Results": [
            {
                "Target": "registry.example/shop/cart:1.4 (debian 12)",
                "Class": "os-pkgs",
                "Vulnerabilities": [
                    {"VulnerabilityID": f"CVE-2026-{n:04}", "PkgName": "p", "Severity": severity, **fields}
                    for n in range(count)
                ],
            }
        ],
    }


def apply(admin: httpx.Client, *documents: dict[str, Any]) -> None:
    text = yaml.safe_dump_all([{"apiVersion": "quell.dev/v1", **document} for document in documents])
    admin.post("/v1/documents?source=reports&prune=true&unquarantine=true", content=text).raise_for_status()


def rule(name: str, event: str, criteria: list[str], actions: list[Any], **spec: Any) -> dict[str, Any]:
    return {
        "kind": "ResponseRule",
        "metadata": {"name": name},
        "spec": {"event": event, "criteria": criteria, "actions": actions, **spec},
    }


def matched(told: dict[str, Any]) -> list[str]:
    return sorted(match["name"] for match in told["decision"].get("matches", ()))


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/octet-stream",
        "text/json",
    ],
)
def test_a_file_posted_as_it_is(sender: httpx.Client, admin: httpx.Client, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = sender.post(
        f"/v1/events/kube-bench?node=n-{kind and len(kind)}", content=read("kube-bench/report"), headers=headers
    )
    ids = taken(answer)
    assert [record(admin, one)["event"]["name"] for one in ids] == [
        "Compliance.Host.Violation",
        "Compliance.Host.Violation",
        "Kubernetes Policies",
    ]
    packed = gzip.compress(read("kube-bench/report"))
    assert (
        len(
            taken(sender.post("/v1/events/kube-bench", content=packed, headers={**headers, "Content-Encoding": "gzip"}))
        )
        == 3
    )


def test_a_form_is_told_how_to_be_posted(sender: httpx.Client) -> None:
    told = problem(sender.post("/v1/events/trivy", files={"file": read("trivy/image")}), 415)
    assert "curl --data-binary @FILE" in told["detail"]
    told = problem(sender.post("/v1/events/trivy", content=b"a=1", headers={"Content-Type": "text/plain"}), 415)
    assert "curl --data-binary @FILE" in told["detail"]


def test_what_a_report_does_not_say_is_given_beside_it(sender: httpx.Client, admin: httpx.Client) -> None:
    answer = sender.post(
        f"/v1/events/trivy?node=worker-1&container={CONTAINER}&namespace=shop", content=read("trivy/image")
    )
    scanned, checked = taken(answer)
    assert answer.json()["notes"] == [
        "2 licenses were found: they are neither vulnerabilities nor compliance, and are not taken"
    ]
    told = record(admin, scanned)["event"]
    assert told["name"] == "Container.Scan.Report"
    assert told["subject"] == {
        "node": "worker-1",
        "namespace": "shop",
        "container": {"id": CONTAINER},
        "image": "registry.example/shop/cart:1.4",
    }
    assert record(admin, checked)["event"]["name"] == "Compliance.Container.Violation"


def test_the_same_report_twice_is_one_decision(sender: httpx.Client, admin: httpx.Client) -> None:
    first = taken(sender.post("/v1/events/trivy?node=twice", content=read("trivy/image")))
    again = taken(sender.post("/v1/events/trivy?node=twice", content=read("trivy/image")))
    assert first == again
    elsewhere = taken(sender.post("/v1/events/trivy?node=elsewhere", content=read("trivy/image")))
    assert not set(first) & set(elsewhere)
    listed = [row["id"] for row in admin.get("/v1/events", params={"limit": 1000}).json()["items"]]
    assert [listed.count(one) for one in (*first, *elsewhere)] == [1] * 4


def test_parameters_that_are_wrong(sender: httpx.Client) -> None:
    told = problem(sender.post("/v1/events/trivy?nod=a", content=read("trivy/image")), 400)
    assert told["detail"].startswith('unknown parameter "nod": there are cluster, container, container_name, image')
    assert told["problems"][0]["nearest"] == "node"
    told = problem(sender.post("/v1/events/kube-bench?container=a", content=read("kube-bench/report")), 400)
    assert told["detail"] == 'unknown parameter "container": there are cluster, machine_id, node, time'
    problem(sender.post("/v1/events?node=a", json={"name": "Container.Start"}), 400)
    told = problem(sender.post("/v1/events/trivy?namespace=other", content=read("trivy/operator_pod")), 400)
    assert told["detail"] == "namespace: the document says shop, its sender other"


def test_good_parts_are_taken_and_the_others_told_and_kept(sender: httpx.Client, admin: httpx.Client) -> None:
    answer = sender.post("/v1/events/trivy?cluster=prod", content=read("trivy/operator_list"))
    assert len(taken(answer)) == 4
    reasons = [reject["reason"] for reject in answer.json()["rejected"]]
    assert reasons[0].startswith("items[3]: SbomReport lists packages and finds nothing")
    assert reasons[1] == "items[5]: Expected `object`, got `int`"
    kept = admin.get("/v1/rejects", params={"limit": 2}).json()["items"]
    assert {reject["reason"] for reject in kept} == set(reasons)
    assert {reject["source"] for reject in kept} == {"trivy"}


def test_a_report_that_is_as_long_as_its_parts_is_not_taken_for_them(server: Live, sender: httpx.Client) -> None:
    """The text of a request is kept where its lines are its events: parts of a report say more than the report's text."""
    report = read("trivy/image").replace(b"shop/cart", b"shop/long").replace(b"sha256:", b"sha256:9")
    parts = [part for part in POSTED["trivy"].split(report, NOTHING) if isinstance(part, bytes)]
    padding = sum(map(len, parts)) + len(parts) - 1 - len(report)
    assert len(parts) > 1
    assert padding > 0
    identifiers = taken(sender.post("/v1/events/trivy", content=report + b" " * padding))
    stored = [server.controller.store.event(identifier) for identifier in identifiers]
    assert [one.raw for one in stored if one] == parts


def test_several_reports_a_line_each(sender: httpx.Client) -> None:
    lines = [
        json.dumps(json.loads(read(name))).encode() for name in ("trivy/rootfs", "trivy/cluster", "trivy/clean_image")
    ]
    answer = sender.post("/v1/events/trivy", content=b"\n".join([*lines, b"{", b"{}"]))
    assert len(taken(answer)) == 1 + 7 + 1
    assert [reject["line"] for reject in answer.json()["rejected"]] == [4, 5]
    assert answer.json()["notes"][0].startswith("element 2: Deployment/shop/pay could not be scanned")


def test_nothing_to_take_is_no_fault(sender: httpx.Client) -> None:
    told = json.loads(read("trivy/operator_webhook")) | {"verb": "delete"}
    answer = sender.post("/v1/events/trivy", json=told)
    assert taken(answer) == []
    assert "was deleted" in answer.json()["notes"][0]


def test_a_report_may_be_larger_than_an_event(sender: httpx.Client, admin: httpx.Client) -> None:
    large = scan(count=1500, Title="x" * 100)
    text = json.dumps(large, indent=1).encode()
    assert LIMITS.max_event < len(text) < LIMITS.max_report
    (identifier,) = taken(sender.post("/v1/events/trivy", content=text))
    assert len(record(admin, identifier)["event"]["details"]["vulnerabilities"]) == 1500
    huge = json.dumps(scan(count=5000, Title="x" * 100)).encode()
    told = problem(sender.post("/v1/events/trivy", content=huge), 400)
    assert f"more than the {LIMITS.max_report} that are taken" in told["detail"]
    event = {"name": "Container.Start", "details": {"message": "x" * (LIMITS.max_event)}}
    problem(sender.post("/v1/events", json=event), 400)
    problem(sender.post("/v1/events/trivy", content=b" " * (LIMITS.max_body + 1)), 413)


def test_ids_of_large_reports_stay_in_the_order_of_the_journal(sender: httpx.Client, admin: httpx.Client) -> None:
    resources = [
        {"Kind": "Pod", "Namespace": "shop", "Name": f"p-{n}", "Results": scan(count=60)["Results"]} for n in range(60)
    ]
    text = json.dumps({"ClusterName": "prod", "Resources": resources}).encode()
    assert len(text) > 256 * KIB
    ids = taken(sender.post("/v1/events/trivy", content=text))
    assert len(ids) == 60
    assert ids == sorted(ids)
    listed = [row["id"] for row in admin.get("/v1/events", params={"limit": 60}).json()["items"]]
    assert listed == ids[::-1]


def test_another_detectors_format_is_recognised(sender: httpx.Client) -> None:
    hint = "this looks like {0}'s format: post it to /v1/events/{0}, or send it with --from {0}"
    told = problem(sender.post("/v1/events/trivy", content=read("kube-bench/report")), 400)
    assert told["detail"].endswith(hint.format("kube-bench"))
    told = problem(sender.post("/v1/events/kube-bench", content=read("trivy/image")), 400)
    assert told["detail"].endswith(hint.format("trivy"))
    told = problem(sender.post("/v1/events", content=read("trivy/image")), 400)
    assert told["detail"].endswith(hint.format("trivy"))
    told = problem(sender.post("/v1/events/trivy", json={"name": "Container.Start", "subject": {}}), 400)
    assert "post it to /v1/events, or send it with --from native" in told["detail"]


def test_a_bound_token_is_held_to_what_it_gives(server: Live, admin: httpx.Client) -> None:
    body = {"role": "ingest", "name": "bound", "detectors": ["kube-bench", "trivy"], "nodes": ["worker-1"]}
    secret = admin.post("/v1/tokens", json=body).raise_for_status().json()["token"]
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=20, verify=NO_TLS
    ) as bound:
        report = read("kube-bench/report")
        assert len(taken(bound.post("/v1/events/kube-bench?node=worker-1", content=report))) == 3
        told = problem(bound.post("/v1/events/kube-bench?node=worker-2", content=report), 403)
        assert "may send about nodes worker-1, the event is about worker-2" in told["detail"]
        told = problem(bound.post("/v1/events/kube-bench", content=report), 403)
        assert "the event names none" in told["detail"]
        enveloped = b'{"quell":{"node":"worker-2"},"document":' + report + b"}"
        problem(bound.post("/v1/events/kube-bench", content=enveloped), 403)
        problem(bound.post("/v1/events/falco", content=b"{}"), 403)


def test_more_than_five_high_vulnerabilities_cut_a_container_off(
    tmp_path: Path,
) -> None:
    with live(tmp_path / "s") as server, server.client("admin") as admin, Listener() as listener:
        agent = ScriptedAgent(admin)
        endpoint = {"url": listener.url, "secret": listener.secret, "allow_http": True, "allow_private": True}
        soc = {"kind": "Webhook", "metadata": {"name": "soc"}, "spec": endpoint}
        apply(
            admin,
            soc,
            rule(
                "high", "cve-report", ["report:container", "cve-high:>5"], ["quarantine", "webhook"], webhooks=["soc"]
            ),
        )
        with agent.linked():

            def send(report: dict[str, Any], query: str = "") -> dict[str, Any]:
                (identifier,) = taken(admin.post(f"/v1/events/trivy?{query}", json=report))
                return record(admin, identifier)

            here = f"node={NODE}&container={CONTAINER}"
            assert matched(send(scan("HIGH", 5), here)) == []
            assert matched(send(scan("MEDIUM", 9), here)) == []
            assert matched(send(scan("HIGH", 6))) == []
            told = send(scan("CRITICAL", 6), here)
            assert matched(told) == ["high"]
            actions = {action["action"]["type"]: action for action in told["decision"]["actions"]}
            assert actions["quarantine"]["status"] == "granted"
            assert actions["quarantine"]["target"]["container_id"] == CONTAINER
            command = agent.ordered()
            assert (command.action.__class__.__name__, command.event_id) == ("Quarantine", told["event"]["id"])
            received = listener.wait_for(told["event"]["id"], 20)
            assert received is not None
            assert received.verified
            # Without a word of where it runs, a workload is known by its name alone: it is told, and nothing is cut off.
            by_name = {
                "ClusterName": "c",
                "Resources": [
                    {
                        "Kind": "Deployment",
                        "Namespace": "shop",
                        "Name": "cart",
                        "Results": scan("HIGH", 6)["Results"],
                    }
                ],
            }
            told = send(by_name)
            actions = {action["action"]["type"]: action for action in told["decision"]["actions"]}
            assert actions["webhook"]["status"] == "granted"
            assert (actions["quarantine"]["status"], actions["quarantine"]["reason"]) == ("refused", "not-applicable")
            assert "does not say which container" in actions["quarantine"]["explanation"]


def test_fixes_dates_names_and_groups(sender: httpx.Client, admin: httpx.Client) -> None:
    group = {
        "kind": "Group",
        "metadata": {"name": "shop"},
        "spec": {"criteria": [{"key": "namespace", "op": "=", "value": "shop"}]},
    }
    flag = [{"makeOpsFlag": {"severity": "low", "impact": "x"}}]
    apply(
        admin,
        group,
        rule("old-fixes", "cve-report", ["cve-high-with-fix:3/30"], flag),
        rule("of-group", "cve-report", ["cve-high:1"], flag, group="shop"),
        rule("by-name", "cve-report", ["cve-name:cve-2026-00"], flag),
        rule("hosts", "cve-report", ["report:host"], flag, group="nodes"),
    )

    def send(report: dict[str, Any], query: str = "") -> list[str]:
        (identifier,) = taken(sender.post(f"/v1/events/trivy?{query}", json=report))
        return matched(record(admin, identifier))

    old = datetime.fromtimestamp(time.time() - 31 * DAY, UTC).isoformat()
    fresh = datetime.fromtimestamp(time.time() - 29 * DAY, UTC).isoformat()
    assert send(scan("HIGH", 4, FixedVersion="2", PublishedDate=old)) == ["by-name", "old-fixes"]
    assert send(scan("HIGH", 3, FixedVersion="2", PublishedDate=old)) == ["by-name"]
    assert send(scan("HIGH", 4, FixedVersion="2", PublishedDate=fresh)) == ["by-name"]
    assert send(scan("HIGH", 4, PublishedDate=old)) == ["by-name"]
    assert send(scan("HIGH", 4, FixedVersion="2")) == ["by-name"]
    assert send(scan(), "namespace=shop&pod=cart-0") == ["by-name", "of-group"]
    deployment = {"Kind": "Deployment", "Namespace": "shop", "Name": "cart", "Results": scan()["Results"]}
    assert send({"ClusterName": "c", "Resources": [deployment]}) == ["by-name", "of-group"]
    assert send({**scan("LOW"), "ArtifactType": "filesystem"}, "node=worker-1") == ["by-name", "hosts"]


def test_numbers_of_a_benchmark(sender: httpx.Client, admin: httpx.Client) -> None:
    flag = [{"makeOpsFlag": {"severity": "low", "impact": "x"}}]
    apply(
        admin,
        rule("number", "compliance", ["number:5.12"], flag),
        rule("name", "compliance", ["name:K.4.1.*"], flag),
        rule("manual", "compliance", ["number:1.1.9"], flag),
        rule("warned", "compliance", ["number:5.1.1"], flag),
        rule("violations", "compliance", ["name:Compliance.Host.Violation"], flag, group="nodes"),
        rule("secrets", "compliance", ["name:secret/*"], flag),
    )
    ids = taken(sender.post("/v1/events/kube-bench?node=worker-1", content=read("kube-bench/report")))
    assert [matched(record(admin, one)) for one in ids] == [["violations"], ["name", "number", "violations"], []]
    ids = taken(sender.post("/v1/events/trivy", content=read("trivy/image")))
    assert [matched(record(admin, one)) for one in ids] == [[], ["secrets"]]


def run(server: Live, *words: str) -> Any:
    return quell("events", "send", *words, url=server.url, state=server.folder)


def test_the_command_line_sends_files(server: Live, admin: httpx.Client, tmp_path: Path) -> None:
    report, image = str(INPUTS / "kube-bench/report.json"), str(INPUTS / "trivy/image.json")
    ran = run(server, "--from", "kube-bench", "--node", "cli-1", report)
    assert ran.returncode == 0, ran.stderr
    ids = ran.stdout.split()
    assert [record(admin, one)["event"]["subject"] for one in ids] == [{"node": "cli-1"}] * 3
    ran = run(
        server,
        "--from",
        "trivy",
        "--machine-id",
        "9a",
        "--container",
        CONTAINER,
        image,
        str(INPUTS / "trivy/rootfs.json"),
    )
    assert (ran.returncode, len(ran.stdout.split())) == (0, 3)
    assert (
        ran.stderr
        == f"{image}: note: 2 licenses were found: they are neither vulnerabilities nor compliance, and are not taken\n"
    )


def test_the_command_line_goes_on_after_a_file_that_is_none(server: Live, tmp_path: Path) -> None:
    report, missing = str(INPUTS / "kube-bench/report.json"), str(tmp_path / "missing.json")
    image = str(INPUTS / "trivy/image.json")
    ran = run(server, "--from", "kube-bench", image, missing, report)
    assert ran.returncode == 3
    assert len(ran.stdout.split()) == 3
    wrong, absent = ran.stderr.splitlines()
    assert wrong.startswith(f"{image}: ")
    assert wrong.endswith("send it with --from trivy")
    assert absent == f"{missing}: No such file or directory"
    ran = run(server, "--from", "trivy", str(INPUTS / "trivy/operator_list.json"), "-o", "json")
    assert ran.returncode == 3
    assert [len(json.loads(ran.stdout)[word]) for word in ("ids", "rejected")] == [4, 2]
    ran = run(server, "--from", "kube-bench", report, image, "-o", "json")
    told = json.loads(ran.stdout)
    assert [(one["file"], len(one["receipt"]["ids"])) for one in told] == [(report, 3), (image, 0)]
    assert "refused" in told[1]


def test_options_that_a_detector_does_not_take(server: Live) -> None:
    report = str(INPUTS / "kube-bench/report.json")
    ran = run(server, "--from", "kube-bench", "--container", "x", report)
    assert ran.returncode == 2
    words = " ".join(ran.stderr.replace("│", " ").split())
    assert "with --from kube-bench there are --cluster, --node, --machine-id, --time; got --container" in words
    ran = run(server, "--node", "x", report)
    assert (ran.returncode, "there are none" in ran.stderr) == (2, True)
    ran = run(server, "--from", "kubebench", report)
    assert (ran.returncode, "got kubebench" in ran.stderr) == (2, True)


def test_a_long_file_of_lines_goes_in_several_requests(server: Live, tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": f"long-{n}", "name": "Container.Start", "details": {"message": "x" * 2000}})
        for n in range(900)
    ]
    lines[700] = "{}"
    file = tmp_path / "events.ndjson"
    file.write_text("\n".join(lines))
    size, sending.BATCH = sending.BATCH, 256 * KIB
    try:
        ran = run(server, str(file))
    finally:
        sending.BATCH = size
    assert ran.returncode == 3
    assert ran.stdout.split() == [f"long-{n}" for n in range(900) if n != 700]
    assert ran.stderr.startswith("line 701: ")


def test_what_rules_would_make_of_a_report(server: Live, tmp_path: Path) -> None:
    rules, report = tmp_path / "rule.yaml", tmp_path / "report.json"
    flag = [{"makeOpsFlag": {"severity": "low", "impact": "x"}}]
    rules.write_text(
        yaml.safe_dump({"apiVersion": "quell.dev/v1", **rule("number", "compliance", ["number:4.1.1"], flag)})
    )
    controls = json.loads(read("kube-bench/report"))["Controls"]
    words = ("explain", "-f", str(rules), "--event", str(report), "--detector", "kube-bench")
    report.write_text(json.dumps(controls[1]))
    ran = quell(*words, url=server.url, state=server.folder)
    assert ran.returncode == 0, ran.stderr
    assert "number:4.1.1" in ran.stdout
    report.write_text(json.dumps(controls))
    ran = quell(*words, url=server.url, state=server.folder)
    assert (ran.returncode, ran.stderr) == (3, "quell: the document holds 3 events; give it one of them\n")
    report.write_text("{}")
    assert "got an empty object" in quell(*words, url=server.url, state=server.folder).stderr


def test_every_option_of_the_command_line_is_a_word_of_the_context() -> None:
    page = (ROOT / "docs/cli.md").read_text()
    told = re.findall(r"^\* `--([a-z-]+) <str>`: What the file does not say: (.*)\.$", page, re.MULTILINE)
    assert {word.replace("-", "_"): meaning for word, meaning in told} == MEANINGS


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples of real reports are not here")
@pytest.mark.parametrize(
    ("detector", "file", "events"),
    [
        *(("kube-bench", f"kube-bench_{name}.json", count) for name, count in (("controls", 5), ("many", 2))),
        *(("kube-bench", f"kube-bench_{name}_upstream.json", 3) for name in ("result", "controlsCollection")),
        *(("trivy", f"trivy_{name}_golden.json", 1) for name in ("alpine39", "debian-buster")),
        *(("trivy", f"trivy_{name}.json", 1) for name in ("image_2", "image_scheme2")),
        *(("trivy", f"trivy_{name}.json", count) for name, count in (("k8s", 4), ("misconfig_secrets", 2))),
        *(("trivy", f"trivy_operator_{name}.json", 1) for name in ("clustercompliancereport", "configaudit_many")),
        *(("trivy", f"trivy_operator_{name}.json", 1) for name in ("exposedsecret", "vulnerabilityreport_many")),
        ("trivy", "trivy_operator_vulnerabilityreport_single.json", 1),
    ],
)
def test_every_sample_over_http(
    sender: httpx.Client, admin: httpx.Client, detector: str, file: str, events: int
) -> None:
    answer = sender.post(f"/v1/events/{detector}", content=(SHARED / file).read_bytes())
    ids = taken(answer)
    assert (len(ids), answer.json()["rejected"]) == (events, [])
    for one in ids:
        assert record(admin, one)["event"]["source"] == detector
