"""A dry run of a pod's end: the API's own dry run, under the uid, and every check before it. SEMANTICS sections 8 and 10."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import time as now
from typing import Any

import pytest
from pods import NODE, SHOP, TOKEN, WATCHES, Place, PodCluster, body, placed
from tests.support.kubernetes.cluster import permissions
from tests.support.kubernetes.objects import disruption_budget
from tests.support.kubernetes.server import serving

USER = "system:serviceaccount:quell:quell-controller"


@pytest.fixture
def standin() -> Iterator[PodCluster]:
    with serving(PodCluster()) as standin:
        assert isinstance(standin, PodCluster)
        yield standin


@pytest.fixture
def place(standin: PodCluster, tmp_path: Path) -> Iterator[Place]:
    with placed(standin, tmp_path) as place:
        yield place


def dry_run(place: Place, *, node: str = NODE, namespace: str = SHOP, **pod: Any) -> Any:
    event = {
        "name": "Container.Suspicious.Process",
        "time": now(),
        "subject": {"node": node, "namespace": namespace, "pod": {"name": "web-1", **pod}},
    }
    answer = place.admin.post("/v1/dry-runs", json={"event": event}).raise_for_status().json()
    return answer["decision"]["actions"][0], answer.get("rehearsals", [None])[0]


def test_the_api_is_asked_and_the_pod_stays(place: Place) -> None:
    uid = place.standin.run()["metadata"]["uid"]
    action, rehearsal = dry_run(place, uid=uid)
    assert action["status"] == "granted"
    assert (rehearsal["would"], rehearsal["by"]) == ("done", "kubernetes:default")
    assert (rehearsal["facts"]["uid"], rehearsal["facts"]["status"]) == (uid, 200)
    (deletion,) = place.standin.deletions()
    assert (body(deletion)["dryRun"], body(deletion)["preconditions"]) == (["All"], {"uid": uid})
    assert place.standin.there() == uid
    outcome = place.outcome(place.event(uid=uid))
    assert outcome["status"] == "done"
    assert "dryRun" not in body(place.standin.deletions()[-1])
    assert place.standin.there() is None


def test_another_pod_another_node_and_none_are_told(place: Place) -> None:
    _, rehearsal = dry_run(place, uid="00000000-0000-0000-0000-000000000000")
    assert rehearsal["would"] == "gone"
    uid = place.standin.run()["metadata"]["uid"]
    _, rehearsal = dry_run(place, uid="00000000-0000-0000-0000-000000000000")
    assert (rehearsal["would"], rehearsal["reason"]) == ("gone", "gone")
    _, rehearsal = dry_run(place, uid=uid, node="node-2")
    assert (rehearsal["would"], rehearsal["reason"]) == ("refused", "identity")
    action, rehearsal = dry_run(place, uid=uid, namespace="kube-system")
    assert (action["reason"], rehearsal) == ("protected", None)
    assert place.standin.deletions() == []


def test_a_budget_that_cannot_spare_it_refuses_and_one_that_can_is_not_spent(place: Place) -> None:
    cluster = place.standin.cluster
    first = place.standin.run("web-1")["metadata"]["uid"]
    place.standin.run("web-2")
    cluster.put("poddisruptionbudgets", disruption_budget("web", SHOP, {"app": "web"}, 1))
    for _ in range(3):
        _, rehearsal = dry_run(place, uid=first)
        assert rehearsal["would"] == "done", rehearsal
    cluster.put("poddisruptionbudgets", disruption_budget("web", SHOP, {"app": "web"}, 2))
    _, rehearsal = dry_run(place, uid=first)
    assert (rehearsal["would"], rehearsal["reason"]) == ("refused", "disruption-budget")


def test_a_right_that_is_missing_is_named(standin: PodCluster, tmp_path: Path) -> None:
    standin.cluster.allow(TOKEN, USER, WATCHES, permissions("get", "pods"), permissions("list", "poddisruptionbudgets"))
    with placed(standin, tmp_path) as place:
        uid = standin.run()["metadata"]["uid"]
        _, rehearsal = dry_run(place, uid=uid)
        assert rehearsal["would"] == "failed"
        assert "delete" in rehearsal["explanation"]
        assert standin.there() == uid
