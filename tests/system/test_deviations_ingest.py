"""Ready-made deviations through a live controller: decided by the policy they name, kept as rejects if they are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import quell
from live import Live, live

INPUTS = Path(__file__).resolve().parents[1] / "inputs/deviation"
PATH = "/v1/events/deviation"

DOCUMENTS = """\
apiVersion: spyderbat/v1
kind: SpyderbatPolicy
metadata: {name: shop-web, type: container, uid: "pol:shop00000001"}
spec:
  mode: enforce
  containerSelector: {matchFields: {containerID: "3f2a*"}}
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
  processPolicy: [{id: web_0, name: web, exe: [/bin/web], euser: [www-data]}]
  networkPolicy: {ingress: [], egress: []}
  response:
    default: [{makeRedFlag: {severity: high}}]
    actions: [{agentKillProcess: {processSelector: {matchFields: {exe: "/usr/bin/nc*"}}}}]
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: odd images}
spec: {event: deviation, criteria: ["name:Container.Image.Deviation"], actions: [{makeOpsFlag: {severity: low}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: connections}
spec: {event: violation, criteria: ["name:Network.Violation"], actions: [{makeOpsFlag: {severity: low}}]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("deviations") / "s") as running:
        with running.client("admin") as admin:
            admin.post("/v1/documents", content=DOCUMENTS).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def decided(admin: httpx.Client, event_id: str) -> tuple[list[str], list[tuple[str, str, str | None]]]:
    """What matched, and what became of each action: word, status, reason."""
    decision = admin.get(f"/v1/events/{event_id}").raise_for_status().json()["decision"]
    actions = [(each["action"]["type"], each["status"], each.get("reason")) for each in decision.get("actions", ())]
    return [match["name"] for match in decision.get("matches", ())], actions


def record(**more: Any) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((INPUTS / "process_record.json").read_bytes())
    return told | more


def test_a_record_is_decided_by_the_policy_that_it_names(admin: httpx.Client) -> None:
    receipt = admin.post(PATH, json=record()).raise_for_status().json()
    assert receipt["ids"] == ["dev:n4Kd0QxT2hw:BCxyz:0"]
    matched, actions = decided(admin, receipt["ids"][0])
    assert matched == ["shop-web"]
    # No agent is there, and even with one the record has no start that would prove the process; and it is of long ago.
    assert [(word, status) for word, status, _ in actions] == [
        ("agentKillProcess", "refused"),
        ("makeRedFlag", "granted"),
    ]
    again = admin.post(PATH, json=record()).raise_for_status().json()
    assert again["ids"] == receipt["ids"]


def test_an_array_and_lines(admin: httpx.Client) -> None:
    cluster = json.loads((INPUTS / "cluster_object.json").read_bytes())
    array = admin.post(PATH, json=[cluster, record(id="dev:a:b:1")]).raise_for_status().json()
    assert [decided(admin, each)[0] for each in array["ids"]] == [["odd images"], ["shop-web"]]
    text = (INPUTS / "network_objects.json").read_bytes()
    lines = admin.post(PATH, content=text, headers={"Content-Type": "application/x-ndjson"}).raise_for_status().json()
    assert len(lines["ids"]) == 4
    # They do not say of which container: whether the policy's scope takes them is open, and its flags are made.
    assert {tuple(sorted(decided(admin, each)[0])) for each in lines["ids"]} == {("connections", "shop-web")}


def test_what_is_none_is_kept_as_a_reject(admin: httpx.Client) -> None:
    wrong = record(id="dev:a:b:2", policy_mode="dry")
    receipt = admin.post(PATH, json=[wrong, {"schema": "event_redflag:x:1"}, record(id="dev:a:b:3")]).json()
    assert len(receipt["ids"]) == 1
    reasons = [
        "Invalid enum value 'dry' - at `$.policy_mode`",
        "Expected `event_deviation:…`, got `event_redflag:x:1` - at `$.schema`",
    ]
    assert [each["reason"] for each in receipt["rejected"]] == reasons
    kept = admin.get("/v1/rejects", params={"limit": 2}).raise_for_status().json()["items"]
    assert {(each["source"], each["reason"]) for each in kept} == {("deviation", reason) for reason in reasons}


def test_a_deviation_sent_as_a_native_event_is_told_where_it_belongs(admin: httpx.Client) -> None:
    told = admin.post("/v1/events", json=record()).json()
    assert "post it to /v1/events/deviation, or send it with --from deviation" in told["detail"]


def test_the_command_line_sends_them(server: Live, admin: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "deviation.json"
    file.write_text(json.dumps(record(id="dev:cli:b:1")))
    sent = quell("events", "send", "--from", "deviation", str(file), url=server.url, state=server.folder)
    assert (sent.returncode, sent.stdout.split()) == (0, ["dev:cli:b:1"])
    place = ["--node", "worker-9", "--container", "3f2a9c0d1e4b", "--namespace", "shop"]
    line = (INPUTS / "network_objects.json").read_bytes().splitlines()[0]
    file.write_bytes(line)
    # The second is like the first, within the hour.
    for _ in range(2):
        sent = quell("events", "send", "--from", "deviation", *place, str(file), url=server.url, state=server.folder)
        assert sent.returncode == 0, sent.stderr
        matched, actions = decided(admin, sent.stdout.split()[0])
        assert sorted(matched) == ["connections", "shop-web"]
    assert ("makeRedFlag", "refused", "cooldown") in actions
