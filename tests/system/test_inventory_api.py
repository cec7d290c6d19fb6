"""The inventory over HTTP and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import NO_TLS, Live, live
from tests.system.command import Ran
from tests.system.command import quell as run

from quell.model.sighting import ContainerSeen, NamespaceSeen, NodeSeen, PodSeen, Sightings

CONTAINERS = {name: f"{number:x}" * 64 for number, name in enumerate(("web", "db", "job"), start=10)}
GROUP = """\
apiVersion: quell.dev/v1
kind: Group
metadata: {name: fronts}
spec:
  comment: what faces the outside
  criteria: [{key: app, op: "=", value: web}]
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: watch-fronts}
spec: {event: security-event, group: fronts, actions: [suppress-log]}
"""


def pod(name: str, namespace: str, node: str) -> PodSeen:
    container = ContainerSeen(id=CONTAINERS[name], name=name, image=f"reg/{name}:1", running=name != "job")
    return PodSeen(
        uid=f"uid-{name}",
        name=f"{name}-1",
        namespace=namespace,
        node=node,
        labels={"app": name, "tier": "x"},
        owner_name=name,
        containers=(container,),
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("inventory") / "s") as running:
        told = Sightings(
            source="kubernetes/prod",
            seen=(
                NodeSeen(name="n1", kubernetes=True, addresses=("10.0.0.1",)),
                NodeSeen(name="n2", kubernetes=True),
                NamespaceSeen(name="shop", labels={"env": "prod"}),
                pod("web", "shop", "n1"),
                pod("db", "shop", "n2"),
                pod("job", "dev", "n2"),
            ),
        )
        running.controller.take_sightings(told)
        with running.client("admin") as admin:
            admin.post("/v1/documents", content=GROUP).raise_for_status()
        yield running


@pytest.fixture(scope="module")
def viewer(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as admin:
        secret = admin.post("/v1/tokens", json={"role": "viewer", "name": "reader"}).raise_for_status().json()["token"]
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, verify=NO_TLS) as client:
        yield client


def items(client: httpx.Client, path: str, **params: Any) -> list[dict[str, Any]]:
    found, cursor = [], None
    while True:
        answer = client.get(path, params={**params, "limit": 2, **({} if cursor is None else {"cursor": cursor})})
        page = answer.raise_for_status().json()
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"web", "db", "job"}),
        ({"node": "n2"}, {"db", "job"}),
        ({"namespace": "sh*"}, {"web", "db"}),
        ({"image": "reg/db:*"}, {"db"}),
        ({"label": "app=web"}, {"web"}),
        ({"label": ["tier", "app=?b"]}, {"db"}),
        ({"label": "absent"}, set()),
        ({"group": "fronts"}, {"web"}),
        ({"group": "nv.db.shop"}, {"db"}),
        ({"running": "false"}, {"job"}),
        ({"running": "true", "node": "n2"}, {"db"}),
    ],
)
def test_workloads_by_what_they_are(viewer: httpx.Client, filters: dict[str, Any], expected: set[str]) -> None:
    found = items(viewer, "/v1/workloads", **filters)
    assert {each["name"] for each in found} == expected
    assert [each["id"] for each in found] == sorted(each["id"] for each in found)


def test_one_workload_says_all_and_is_found_by_a_short_id(viewer: httpx.Client) -> None:
    told = viewer.get(f"/v1/workloads/{CONTAINERS['web'][:12]}").raise_for_status().json()
    assert told["id"] == CONTAINERS["web"]
    assert told["groups"] == ["all", "containers", "nv.web.shop", "fronts"]
    assert (told["pod_name"], told["namespace_labels"], told["sources"]) == (
        "web-1",
        {"env": "prod"},
        ["kubernetes/prod"],
    )
    missing = viewer.get(f"/v1/workloads/{'f' * 64}")
    assert (missing.status_code, missing.json()["status"]) == (404, 404)


def test_wrong_filters_are_refused(viewer: httpx.Client) -> None:
    assert viewer.get("/v1/workloads", params={"group": "no-such"}).status_code == 404
    assert viewer.get("/v1/workloads", params={"image": "[z-a]"}).status_code == 400
    assert viewer.get("/v1/groups/no-such/members").status_code == 404


def test_groups_and_their_members(viewer: httpx.Client) -> None:
    listed = {group["name"]: group for group in items(viewer, "/v1/groups")}
    kinds = {name: group["kind"] for name, group in listed.items()}
    assert kinds == {
        "all": "reserved",
        "containers": "reserved",
        "external": "reserved",
        "nodes": "reserved",
        "fronts": "defined",
        "nv.db.shop": "learned",
        "nv.web.shop": "learned",
    }
    assert (listed["fronts"]["members"], listed["fronts"]["rules"]) == (1, ["watch-fronts"])
    assert [member["name"] for member in items(viewer, "/v1/groups/fronts/members")] == ["web"]
    assert [member["id"] for member in items(viewer, "/v1/groups/nodes/members")] == ["n1", "n2"]
    assert len(items(viewer, "/v1/groups/containers/members")) == 2


def test_nodes(viewer: httpx.Client) -> None:
    found = items(viewer, "/v1/nodes")
    assert [(node["name"], node["cluster"], node["workloads"]) for node in found] == [
        ("n1", "prod", 1),
        ("n2", "prod", 1),
    ]
    assert (found[0]["addresses"], found[0]["kubernetes"]) == (["10.0.0.1"], True)


def quell(server: Live, *words: str) -> Ran:
    return run(*words, url=server.url, state=server.folder)


def test_the_command_line_shows_workloads_nodes_and_groups(server: Live) -> None:
    table = quell(server, "get", "workloads")
    assert table.returncode == 0, table.stderr
    rows = table.stdout.splitlines()
    assert rows[0].split() == ["ID", "NAME", "NAMESPACE", "NODE", "IMAGE", "SERVICE", "STATE"]
    assert [row.split()[1] for row in rows[1:]] == ["web", "db", "job"]
    assert rows[3].endswith("stopped")
    one = quell(server, "get", "workload", CONTAINERS["db"][:12]).stdout
    assert "nv.db.shop" in one
    assert "kubernetes/prod" in one
    assert [each["name"] for each in json.loads(quell(server, "get", "workloads", "w*", "-o", "json").stdout)] == [
        "web"
    ]
    assert quell(server, "get", "workload", "absent").returncode != 0
    assert "10.0.0.1" in quell(server, "get", "nodes").stdout
    groups = quell(server, "get", "groups").stdout
    assert "learned" in groups
    assert "what faces the outside" in groups
    members = json.loads(quell(server, "get", "group", "fronts", "-o", "json").stdout)
    assert [member["id"] for member in members["members"]] == [CONTAINERS["web"]]


def test_groups_as_yaml_are_documents_that_can_be_applied_again(server: Live, tmp_path: Path) -> None:
    for words in (("groups",), ("group", "fronts")):
        written = quell(server, "get", *words, "-o", "yaml").stdout
        assert "learned" not in written
        file = tmp_path / "groups.yaml"
        file.write_text(written)
        applied = quell(server, "apply", "-f", str(file))
        assert applied.returncode == 0, applied.stderr
        assert "unchanged" in applied.stdout
