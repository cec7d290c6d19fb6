"""Falco's marked alerts at a live controller: compared with policies, and no events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live
from tests.unit.test_detectors_falco_observation import TALK, alert

POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: web, type: container}
spec:
  mode: audit
  containerSelector: {matchFields: {image: "docker.io/library/nginx:*"}}
  processPolicy:
    - {id: nginx, name: nginx, exe: [/usr/sbin/nginx], euser: [www-data]}
  networkPolicy: {ingress: [], egress: []}
  response: {default: [{makeRedFlag: {severity: high}}]}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "s") as running:
        yield running


def send(client: httpx.Client, *lines: bytes) -> httpx.Response:
    return client.post("/v1/events/falco", content=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"})


def found(client: httpx.Client) -> dict[str, Any]:
    policy: dict[str, Any] = client.get("/v1/policies/web").raise_for_status().json()
    deviations: dict[str, Any] = policy["deviations"]
    return deviations


def test_they_are_compared_with_policies_and_have_no_ids(server: Live) -> None:
    with server.client("admin") as admin:
        admin.post("/v1/documents", content=POLICY, headers={"Content-Type": "application/yaml"}).raise_for_status()
        ordinary = alert(tags=("shell",))
        answer = send(admin, alert(), ordinary, alert(**TALK), alert(**(TALK | {"fd.sip": "127.0.0.1"})))
        assert answer.status_code == 202
        receipt = answer.json()
        assert (len(receipt["ids"]), receipt["observed"]) == (1, 2)
        assert receipt["skipped"] == {"connections within a network namespace": 1}
        assert receipt["rejected"] == []
        assert found(admin) == {"unique": 2, "total": 2}
        events = admin.get("/v1/events").raise_for_status().json()["items"]
        assert [each["id"] for each in events if each["source"] == "falco"] == receipt["ids"]


def test_one_alone_is_answered_without_an_id(server: Live) -> None:
    with server.client("ingest") as falco:
        answer = falco.post("/v1/events/falco", content=alert(), headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()) == (202, {"ids": [], "rejected": [], "observed": 1})


def test_what_lacks_something_is_rejected_with_its_line(server: Live) -> None:
    with server.client("admin") as admin:
        answer = send(admin, alert("proc.pid"), alert(), b"", b'{"tags": ["quell_observation"], ')
        assert answer.status_code == 202
        receipt = answer.json()
        assert receipt["observed"] == 1
        assert [each["line"] for each in receipt["rejected"]] == [1, 4]
        assert "proc.pid" in receipt["rejected"][0]["reason"]
        answer = send(admin, alert("proc.pid"))
        assert answer.status_code == 400
        kept = admin.get("/v1/rejects").raise_for_status().json()["items"]
        assert {each["source"] for each in kept} == {"falco"}


def test_a_bound_token_speaks_of_its_own_nodes_only(server: Live) -> None:
    with server.client("admin") as admin:
        wanted = {"name": "falco-node-1", "role": "ingest", "detectors": ["falco"], "nodes": ["node-1"]}
        token = admin.post("/v1/tokens", json=wanted).raise_for_status().json()["token"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}, verify=NO_TLS) as falco:
        assert send(falco, alert()).json()["observed"] == 1
        answer = send(falco, alert(**{"evt.hostname": "node-2"}))
        assert answer.status_code == 403
        assert "node-2" in answer.text
        mixed = send(falco, alert(), alert(**{"evt.hostname": "node-2"}))
        assert (mixed.status_code, mixed.json()["observed"], len(mixed.json()["rejected"])) == (202, 1, 1)
        assert json.loads(mixed.content)["ids"] == []
