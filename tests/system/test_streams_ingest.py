"""Kubernetes audit events and Suricata's eve.json through a live controller, as kube-apiserver and shippers post them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live
from running import wait_for
from webhook_parts import Receiver

from quell.configuration import Configuration
from quell.settings import Settings

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
EVENT_LIST = INPUTS / "kubernetes_audit/event_list.json"
EVE = INPUTS / "suricata/eve.json"
AUDIT_PATH = "/v1/events/k8s-audit"

RULES = """\
apiVersion: quell.dev/v1
kind: Webhook
metadata: {name: team}
spec: {url: "URL", type: JSON, allow_http: true}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: denied}
spec: {event: admission-control, criteria: ["name:Admission.Control.Denied"], actions: [webhook], webhooks: [team]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: exec}
spec:
  event: admission-control
  criteria: [{type: name, value: "create pods/exec"}, "namespace:shop"]
  actions: [{makeOpsFlag: {severity: high}}]
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: injection}
spec:
  event: threat
  criteria: ["name:SQL.Injection", "level:>=Error"]
  actions: [{makeRedFlag: {severity: high}}, quarantine]
  allow_broad: true
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Live]:
    settings = Settings().with_values({"webhooks.allow_networks": ["127.0.0.1/32", "::1/128"]})
    with live(tmp_path_factory.mktemp("streams") / "s", configuration=Configuration(settings=settings)) as running:
        with running.client("admin") as admin:
            text = RULES.replace("URL", receiver.url)
            admin.post("/v1/documents", content=text).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def token(admin: httpx.Client, name: str, **binding: Any) -> dict[str, str]:
    asked = {"role": "ingest", "name": name, **binding}
    secret = admin.post("/v1/tokens", json=asked).raise_for_status().json()["token"]
    return {"Authorization": f"Bearer {secret}"}


def explained(admin: httpx.Client, event_id: str) -> dict[str, Any]:
    found: dict[str, Any] = admin.get(f"/v1/events/{event_id}").raise_for_status().json()
    return found


def matched(explanation: dict[str, Any]) -> list[str]:
    return [match["name"] for match in explanation["decision"].get("matches", ())]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_an_event_list_as_kube_apiserver_posts_it(server: Live, admin: httpx.Client, receiver: Receiver) -> None:
    """With its Accept and User-Agent, and ?timeout=30s, which client-go adds; no header or parameter of one's own."""
    headers = token(admin, "kube-apiserver", detectors=["k8s-audit"], clusters=["prod"])
    headers |= {"Content-Type": "application/json", "Accept": "application/json, */*", "User-Agent": "kube-apiserver"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=20, verify=NO_TLS) as sender:
        answer = sender.post(f"{AUDIT_PATH}?timeout=30s", content=EVENT_LIST.read_bytes())
    assert answer.status_code == 202, answer.text
    receipt = answer.json()
    assert receipt["rejected"] == []
    assert receipt["skipped"] == {"stage RequestReceived, which a later stage of the same request repeats": 1}
    assert len(receipt["ids"]) == 11
    denied = explained(admin, receipt["ids"][0])
    assert denied["event"]["subject"]["cluster"] == "prod"
    assert matched(denied) == ["denied"]
    wait_for(lambda: len(receiver.requests) >= 3, what="the webhooks of three denied requests")
    bodies = [json.loads(request.body) for request in receiver.requests]
    assert any("validation.gatekeeper.sh" in json.dumps(body) for body in bodies)
    assert len(bodies) == 3


def test_an_exec_is_decided_once_though_it_is_written_twice(admin: httpx.Client) -> None:
    events = json.loads(EVENT_LIST.read_bytes())["items"]
    start, end = (event for event in events if event["objectRef"].get("subresource") == "exec")
    for event in (start, end):
        event["auditID"] = "another-exec"
    first = admin.post(AUDIT_PATH, json=start).raise_for_status().json()["ids"]
    assert matched(explained(admin, first[0])) == ["exec"]
    before = len(admin.get("/v1/flags").json()["items"])
    assert admin.post(AUDIT_PATH, json=end).raise_for_status().json()["ids"] == first
    assert len(admin.get("/v1/flags").json()["items"]) == before
    assert explained(admin, first[0])["event"]["time"] == 1795362007.118904


def test_lines_as_the_log_backend_writes_them(admin: httpx.Client) -> None:
    events = json.loads(EVENT_LIST.read_bytes())["items"]
    for event in events:
        event |= {"kind": "Event", "apiVersion": "audit.k8s.io/v1", "auditID": f"log-{event['auditID']}"}
    text = b"\n".join(json.dumps(event).encode() for event in events)
    for headers in ({"Content-Type": "application/x-ndjson"}, {}):
        answer = admin.post(AUDIT_PATH, content=text, headers=headers, params={"cluster": "prod"})
        assert answer.status_code == 202, answer.text
        assert len(answer.json()["ids"]) == 11


def test_a_whole_eve_file(admin: httpx.Client) -> None:
    counted = skipped(admin)
    answer = admin.post(
        "/v1/events/suricata",
        content=EVE.read_bytes(),
        headers={"Content-Type": "application/x-ndjson"},
        params={"node": "worker-1"},
    )
    assert answer.status_code == 202, answer.text
    receipt = answer.json()
    assert receipt["rejected"] == []
    assert receipt["skipped"] == {
        "event_type flow": 2,
        "event_type dns": 1,
        "event_type stats": 1,
        "event_type anomaly": 1,
        "event_type fileinfo": 1,
    }
    assert skipped(admin) == counted + 6
    found = [explained(admin, event_id) for event_id in receipt["ids"]]
    assert [each["event"]["catalogue_name"] for each in found[:2]] == ["SQL.Injection", "SSL.Heartbleed"]
    assert matched(found[0]) == ["injection"]
    assert [matched(each) for each in found[1:]] == [[], [], [], []]
    status = {action["action"]["type"]: action["status"] for action in found[0]["decision"]["actions"]}
    assert status == {"makeRedFlag": "granted", "quarantine": "refused"}
    again = admin.post("/v1/events/suricata", content=EVE.read_bytes()).raise_for_status().json()
    assert again["ids"] == receipt["ids"]


def test_a_file_of_logs_alone_is_no_error(admin: httpx.Client) -> None:
    flows = b"\n".join(json.dumps(line).encode() for line in lines(EVE) if line["event_type"] == "flow")
    answer = admin.post("/v1/events/suricata", content=flows)
    assert (answer.status_code, answer.json()) == (202, {"ids": [], "rejected": [], "skipped": {"event_type flow": 2}})


def test_what_cannot_be_read_is_a_reject_with_its_reason(admin: httpx.Client) -> None:
    good = lines(EVE)[3] | {"flow_id": 99}
    text = json.dumps(good).encode() + b'\n{"event_type":"alert"}\n{"rule":"x"}\n'
    receipt = admin.post("/v1/events/suricata", content=text).raise_for_status().json()
    assert len(receipt["ids"]) == 1
    assert [(each["line"], each["reason"]) for each in receipt["rejected"]] == [
        (2, "Expected what the alert is about, got nothing - at `$.alert`"),
        (3, "Expected a line of eve.json, got an object without `event_type`"),
    ]
    kept = admin.get("/v1/rejects", params={"limit": 2}).raise_for_status().json()["items"]
    assert {each["source"] for each in kept} == {"suricata"}
    none = admin.post(AUDIT_PATH, json={"kind": "Event", "apiVersion": "v1"})
    assert none.status_code == 400
    assert "an Event of Kubernetes itself is not an audit event" in none.json()["detail"]


@pytest.mark.parametrize("query", ["timeout=30s", "cluster=a&cluster=b", "nod=x"])
def test_parameters_that_mean_nothing_are_refused(admin: httpx.Client, query: str) -> None:
    assert admin.post(f"/v1/events/suricata?{query}", content=b"{}").status_code == 400


def skipped(admin: httpx.Client) -> float:
    found = re.search(r'quell_events_skipped_total\{detector="suricata"\} (\S+)', admin.get("/metrics").text)
    return float(found[1]) if found else 0.0
