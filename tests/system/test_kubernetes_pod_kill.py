"""Pods ended through the API of their cluster: a real controller over HTTP, and the stand-in. SEMANTICS sections 8 to 10."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pods import KILLS, NODE, RULE, SHOP, TOKEN, WATCHES, Place, PodCluster, body, placed
from running import wait_for
from tests.support.kubernetes.cluster import permissions
from tests.support.kubernetes.kubeconfig import kubeconfig
from tests.support.kubernetes.objects import container_id, disruption_budget
from tests.support.kubernetes.server import serving
from tests.support.kubernetes.statuses import Failure

USER = "system:serviceaccount:quell:quell-controller"
BUSY = Failure(429, "TooManyRequests", "the server has received too many requests", {})
ILL = Failure(503, "ServiceUnavailable", "etcdserver: leader changed", {})


@pytest.fixture
def standin() -> Iterator[PodCluster]:
    with serving(PodCluster()) as standin:
        assert isinstance(standin, PodCluster)
        yield standin


@pytest.fixture
def place(standin: PodCluster, tmp_path: Path) -> Iterator[Place]:
    with placed(standin, tmp_path) as place:
        yield place


def counted(place: Place) -> float:
    """Pods that were ended, as the metrics say. They are this process's: another test may have added to them."""
    told = re.search(
        r'^quell_commands_total\{action="agentKillPod",reason="",status="done"\} (\S+)$',
        place.admin.get("/metrics").raise_for_status().text,
        re.MULTILINE,
    )
    return 0.0 if told is None else float(told[1])


def test_a_pod_is_deleted_under_its_uid_and_its_successor_stays(place: Place) -> None:
    standin = place.standin
    standin.cluster.succeeded.add((SHOP, "web-1"))
    uid, before = standin.run()["metadata"]["uid"], counted(place)
    event = place.event(uid=uid)
    outcome = place.outcome(event)
    assert outcome["status"] == "done", outcome
    facts = outcome["facts"]
    assert (facts["uid"], facts["node"], facts["grace"], facts["status"]) == (uid, NODE, 0, 200)
    assert 0 <= facts["seconds"] <= outcome["duration"] < 20
    (deletion,) = standin.deletions()
    assert deletion.target == f"/api/v1/namespaces/{SHOP}/pods/web-1"
    assert body(deletion) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Background",
        "preconditions": {"uid": uid},
    }
    assert standin.there() not in (None, uid)
    (action,) = place.record(event)["decision"]["actions"]
    assert (action["status"], action["agent"]) == ("granted", "kubernetes:default")
    entry = place.admin.get("/v1/audit", params={"kind": "action"}).raise_for_status().json()["items"][0]["entry"]
    assert (entry["verb"], entry["name"], entry["after"]["status"]) == ("agentKillPod", "shop/web-1", "done")
    assert entry["after"]["agent"] == "kubernetes:default"
    wait_for(lambda: counted(place) == before + 1, what="that it is counted")
    assert place.flags(event) == []


def test_it_is_ended_once_and_nothing_waits(place: Place) -> None:
    place.standin.run()
    event = place.event(uid=place.standin.there())
    place.outcome(event)
    wait_for(lambda: place.server.controller.cluster_actions.waiting() == 0, what="that nothing waits")
    assert place.server.controller.store.outbox() == []
    assert len(place.standin.deletions()) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_pod_is_found_by_its_name_alone(standin: PodCluster, tmp_path: Path, known: bool) -> None:
    """By the inventory's uid, or, where that knows nothing, because it was there before the event."""
    if not known:
        standin.cluster.allow(TOKEN, USER, *KILLS)
    with placed(standin, tmp_path) as place:
        uid = standin.run()["metadata"]["uid"]
        if known:
            place.knows()
        event = place.event()
        outcome = place.outcome(event)
        assert (outcome["status"], outcome["facts"]["uid"]) == ("done", uid)
        assert (target(place, event).get("uid") is not None) is known
        assert standin.there() is None


def target(place: Place, event: str) -> Any:
    """As it was decided."""
    return place.record(event)["decision"]["actions"][0]["target"]


def test_a_pod_is_found_by_its_uid_alone(place: Place) -> None:
    uid = place.standin.run()["metadata"]["uid"]
    place.knows()
    outcome = place.outcome(place.event(None, uid=uid, namespace=None))
    assert outcome["status"] == "done", outcome


@pytest.mark.parametrize(
    ("container", "status"), [(None, "refused"), ("f" * 64, "refused"), (container_id("web-1")[:12], "done")]
)
def test_a_pod_of_the_same_name_could_have_been_made_after_the_event(
    standin: PodCluster, tmp_path: Path, container: str | None, status: str
) -> None:
    """The event has no uid, and nothing else is known: only a container of the pod proves that it is the one."""
    standin.cluster.allow(TOKEN, USER, *KILLS)
    with placed(standin, tmp_path, safety_command_ttl="1s") as place:
        uid = standin.run(age=0)["metadata"]["uid"]
        event = place.event(container=None if container is None else {"id": container})
        outcome = place.outcome(event)
        assert (outcome["status"], outcome.get("reason")) == (status, "identity" if status == "refused" else None)
        assert standin.there() == (uid if status == "refused" else None)
        if status == "refused":
            assert "could have been made after the event" in outcome["explanation"]
            assert place.flags(event) == ["Response refused: identity"]


def test_another_pod_has_the_name_by_now(place: Place) -> None:
    there = place.standin.run()["metadata"]["uid"]
    outcome = place.outcome(place.event(uid="00000000-0000-0000-0000-000000000000"))
    assert (outcome["status"], outcome["reason"]) == ("gone", "gone")
    assert there in outcome["explanation"]
    assert place.standin.there() == there
    assert place.standin.deletions() == []


def test_it_is_replaced_between_the_look_and_the_deletion(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """409 by UID: the API itself keeps the successor."""
    standin = place.standin
    uid = standin.run()["metadata"]["uid"]
    came = standin.came

    def replaced(call: Any) -> None:
        if call.method == "DELETE" and standin.there() == uid:
            standin.cluster.succeeded.add((SHOP, "web-1"))
            standin.cluster.delete("pods", "web-1", SHOP)
        came(call)

    monkeypatch.setattr(standin, "came", replaced)
    outcome = place.outcome(place.event(uid=uid))
    assert (outcome["status"], outcome["facts"]["status"]) == ("gone", 409)
    assert standin.there() not in (None, uid)


def test_a_pod_younger_than_the_event_is_another_whatever_the_inventory_says(place: Place) -> None:
    """The event gives only a name, and the inventory the uid of the pod that has it by now."""
    uid = place.standin.run(age=0)["metadata"]["uid"]
    place.knows()
    event = place.event(time=time.time() - 30)
    outcome = place.outcome(event)
    assert target(place, event)["uid"] == uid
    assert (outcome["status"], outcome["reason"]) == ("refused", "identity")
    assert "s after the event, it is another one" in outcome["explanation"]
    assert place.standin.there() == uid


def test_a_pod_that_is_not_there_is_gone(place: Place) -> None:
    outcome = place.outcome(place.event("web-9", uid="11111111-0000-0000-0000-000000000000"))
    assert (outcome["status"], outcome.get("explanation", "")) == ("gone", "")
    elsewhere = place.outcome(place.event("web-9", uid="11111111-0000-0000-0000-000000000000", node="far-away"))
    assert elsewhere["status"] == "gone"
    assert "nothing is known of a node far-away" in elsewhere["explanation"]


def test_a_404_of_something_else_is_no_pod_that_is_gone(standin: PodCluster, tmp_path: Path) -> None:
    """Such as of a proxy, or of another server."""
    with placed(standin, tmp_path, safety_command_ttl="2s") as place:
        uid = standin.run()["metadata"]["uid"]
        place.knows()
        standin.failing_of = "/pods/"
        standin.failing += [Failure(404, "NotFound", "the server could not find the requested resource", {})]
        outcome = place.outcome(place.event(uid=uid))
        assert (outcome["status"], outcome["facts"]["status"]) == ("failed", 404)
        assert standin.there() == uid


@pytest.mark.parametrize("known", [True, False])
def test_a_pod_of_another_node_is_not_touched(place: Place, known: bool) -> None:
    """By a token that may only speak of one node, naming the pod of another."""
    uid = place.standin.run(node="node-2")["metadata"]["uid"]
    if known:
        place.knows()
    asked = {"name": "falco-1", "role": "ingest", "nodes": [NODE]}
    secret = place.admin.post("/v1/tokens", json=asked).raise_for_status().json()["token"]
    event = place.event(uid=uid, token=secret)
    outcome = place.outcome(event)
    assert (outcome["status"], outcome["reason"]) == ("refused", "identity")
    assert outcome["explanation"] == "pod shop/web-1 is on node-2, the event happened on node-1"
    assert place.flags(event) == ["Response refused: identity"]
    assert place.standin.deletions() == []


def test_a_machine_is_compared_where_the_event_names_one(place: Place) -> None:
    uid = place.standin.run()["metadata"]["uid"]
    wait_for(lambda: bool(place.server.controller.inventory.machines_of(NODE)), what="the node")
    (machine,) = place.server.controller.inventory.machines_of(NODE)
    other = place.outcome(place.event(uid=uid, node=None, machine_id="f" * 32))
    assert (other["status"], other["reason"]) == ("refused", "identity")
    assert place.outcome(place.event(uid=uid, node=None, machine_id=machine))["status"] == "done"


def test_a_mirror_pod_is_protected(place: Place) -> None:
    thing = place.standin.run("etcd-1")
    annotated = {**thing["metadata"], "annotations": {"kubernetes.io/config.mirror": "c0ffee"}}
    place.standin.cluster.put("pods", {**thing, "metadata": annotated})
    event = place.event("etcd-1", uid=thing["metadata"]["uid"])
    outcome = place.outcome(event)
    assert (outcome["status"], outcome["reason"]) == ("refused", "protected")
    assert "pod shop/etcd-1 mirrors a static pod" in outcome["explanation"]
    assert place.flags(event) == ["Response refused: protected"]
    assert place.standin.deletions() == []


def test_a_disruption_budget_is_respected_and_named(place: Place) -> None:
    standin = place.standin
    standin.cluster.put("poddisruptionbudgets", disruption_budget("web", SHOP, {"app": "web"}, 1))
    first, second = (standin.run(name)["metadata"]["uid"] for name in ("web-1", "web-2"))
    assert place.outcome(place.event("web-1", uid=first))["status"] == "done"
    event = place.event("web-2", uid=second)
    outcome = place.outcome(event)
    assert (outcome["status"], outcome["reason"]) == ("refused", "disruption-budget")
    said = "disruption budget shop/web allows 0 more: it wants 1 healthy pods and has 1"
    assert outcome["explanation"] == said
    assert place.flags(event) == ["Response refused: disruption-budget"]
    assert standin.there("web-2") == second


def test_one_place_of_a_budget_is_not_taken_twice(standin: PodCluster, tmp_path: Path) -> None:
    """Kubernetes counts a budget anew some time after a pod has gone; both are asked for before that."""
    standin.cluster.controllers.clear()
    for name in ("web-1", "web-2"):
        standin.run(name)
    budget = disruption_budget("web", SHOP, {"app": "web"}, 1)
    counted = {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1}
    standin.cluster.put("poddisruptionbudgets", {**budget, "status": counted})
    with placed(standin, tmp_path) as place:
        events = [place.event(name, uid=standin.there(name)) for name in ("web-1", "web-2")]
        outcomes = [place.outcome(event) for event in events]
        assert sorted(outcome["status"] for outcome in outcomes) == ["done", "refused"]
        assert len(standin.deletions()) == 1
        (refused,) = [outcome for outcome in outcomes if outcome["status"] == "refused"]
        assert "1 of them taken by Quell a moment ago" in refused["explanation"]


def test_budgets_can_be_ignored_by_setting(standin: PodCluster, tmp_path: Path) -> None:
    standin.cluster.put("poddisruptionbudgets", disruption_budget("web", SHOP, {"app": "web"}, 5))
    standin.cluster.allow(TOKEN, USER, WATCHES, KILLS[0])
    with placed(standin, tmp_path, kubernetes_disruption_budgets="ignore") as place:
        uid = standin.run()["metadata"]["uid"]
        assert place.outcome(place.event(uid=uid))["status"] == "done"
        assert standin.targets("poddisruptionbudgets") == []


@pytest.mark.parametrize(
    ("left", "missing"),
    [
        ((permissions("get", "pods"), KILLS[1]), "delete on pods"),
        ((permissions("delete", "pods"), KILLS[1]), "get on pods"),
        ((KILLS[0],), 'list on poddisruptionbudgets in API group "policy"'),
        ((permissions("get delete", "pods", "elsewhere"), KILLS[1]), "get on pods"),
    ],
)
def test_a_missing_permission_is_named(standin: PodCluster, tmp_path: Path, left: Any, missing: str) -> None:
    standin.cluster.allow(TOKEN, USER, WATCHES, *left)
    with placed(standin, tmp_path) as place:
        uid = standin.run()["metadata"]["uid"]
        event = place.event(uid=uid)
        outcome = place.outcome(event)
        assert (outcome["status"], outcome["reason"], outcome["facts"]["status"]) == ("failed", "failed", 403)
        assert outcome["explanation"].startswith(f"the role has to allow {missing}: ")
        assert "quell rbac" in outcome["explanation"]
        assert place.flags(event) == ["Response failed: failed"]
        assert standin.there() == uid


def test_what_passes_is_tried_again(place: Place) -> None:
    uid = place.standin.run()["metadata"]["uid"]
    place.knows()
    place.standin.failing_of = "/pods/"
    place.standin.failing += [BUSY, ILL]
    outcome = place.outcome(place.event(uid=uid))
    assert outcome["status"] == "done", outcome
    assert outcome["duration"] > 1, "as long as Retry-After says"


def test_what_waits_for_a_person_is_done_through_the_api_once_approved(place: Place) -> None:
    asking = RULE.replace("GRACE", "0").replace("  actions:", "  approval: true\n  actions:")
    place.admin.post("/v1/documents", content=asking).raise_for_status()
    uid = place.standin.run()["metadata"]["uid"]
    event = place.event(uid=uid)
    (held,) = place.admin.get("/v1/approvals").raise_for_status().json()["items"]
    assert (held["event"], held["agent"]) == (event, "kubernetes:default")
    assert place.standin.there() == uid
    asked = {"id": held["id"], "verdict": "approve", "note": "seen"}
    place.admin.post("/v1/approvals", json=asked).raise_for_status()
    assert place.outcome(event)["status"] == "done"
    assert place.standin.there() is None


@pytest.mark.parametrize("succeeded", [True, False])
def test_an_answer_that_is_lost_is_no_second_deletion(place: Place, succeeded: bool) -> None:
    """It was deleted, and nobody said so."""
    standin = place.standin
    if succeeded:
        standin.cluster.succeeded.add((SHOP, "web-1"))
    uid = standin.run()["metadata"]["uid"]
    standin.losing.append("DELETE")
    outcome = place.outcome(place.event(uid=uid))
    assert outcome["status"] == "gone"
    assert outcome["explanation"].startswith("an earlier attempt, of whose answer nothing is known, may have ended it")
    assert (standin.there() is not None) is succeeded
    assert len(standin.deletions()) == 1


@pytest.mark.parametrize("ended", [True, False])
def test_after_its_time_it_is_only_looked_at(standin: PodCluster, tmp_path: Path, ended: bool) -> None:
    """The controller was stopped while it waited for the end of a pod, and is back when the command has expired."""
    standin.cluster.kubelet_seconds = None
    with placed(standin, tmp_path, grace=60, safety_command_ttl="3s") as place:
        uid = standin.run()["metadata"]["uid"]
        event = place.event(uid=uid)
        wait_for(lambda: len(standin.deletions()) == 1, what="the deletion")
        over = time.monotonic() + 3.0
    if ended:
        standin.cluster.delete("pods", "web-1", SHOP)
    else:
        # As if somebody had taken the deletion back, which nobody can: the pod is there and does not end.
        thing = standin.cluster.objects["pods"][SHOP, "web-1"]
        metadata = {key: value for key, value in thing["metadata"].items() if not key.startswith("deletion")}
        standin.cluster.put("pods", {**thing, "metadata": metadata})
    wait_for(lambda: time.monotonic() > over, what="the end of the command's time")
    with placed(standin, tmp_path) as place:
        outcome = place.outcome(event)
        assert outcome["status"] == ("gone" if ended else "expired"), outcome
    assert len(standin.deletions()) == 1


def test_an_api_that_is_away_ends_in_expired_and_in_no_agents_command(standin: PodCluster, tmp_path: Path) -> None:
    with placed(standin, tmp_path, safety_command_ttl="2s") as place:
        uid = standin.run()["metadata"]["uid"]
        place.knows()
        standin.stop()
        event = place.event(uid=uid)
        outcome = place.outcome(event)
        assert (outcome["status"], outcome["reason"]) == ("expired", "expired")
        assert "no answer from the API: ConnectError" in outcome["explanation"]
        assert place.flags(event) == ["Response expired: expired"]
        assert place.server.controller.dispatcher.waiting() == 0
        assert standin.there() == uid


def test_what_waits_is_done_after_a_restart(standin: PodCluster, tmp_path: Path) -> None:
    with placed(standin, tmp_path) as place:
        uid = standin.run()["metadata"]["uid"]
        place.knows()
        standin.stop()
        event = place.event(uid=uid)
    standin.start()
    with placed(standin, tmp_path) as place:
        assert place.outcome(event)["status"] == "done"
    assert standin.there() is None


def test_without_the_api_what_waits_expires_and_goes_to_nobody_else(standin: PodCluster, tmp_path: Path) -> None:
    with placed(standin, tmp_path, safety_command_ttl="3s") as place:
        uid = standin.run()["metadata"]["uid"]
        place.knows()
        standin.stop()
        event = place.event(uid=uid)
    with placed(standin, tmp_path, kubernetes_enabled="off") as place:
        outcome = place.outcome(event)
        assert (outcome["status"], outcome["explanation"]) == ("expired", "no API is configured any more for default")


def test_credentials_that_ran_out_are_read_again(place: Place, tmp_path: Path) -> None:
    standin = place.standin
    uid = standin.run()["metadata"]["uid"]
    place.knows()
    standin.cluster.allow("the-next", USER, WATCHES, *KILLS)
    del standin.cluster.users[TOKEN]
    kubeconfig(tmp_path / "kubeconfig", standin.url, user={"token": "the-next"})
    assert place.outcome(place.event(uid=uid))["status"] == "done"


def test_it_is_waited_for_until_it_is_really_gone(standin: PodCluster, tmp_path: Path) -> None:
    standin.cluster.kubelet_seconds = 1.0
    with placed(standin, tmp_path, grace=5) as place:
        uid = standin.run()["metadata"]["uid"]
        outcome = place.outcome(place.event(uid=uid))
        assert (outcome["status"], outcome["facts"]["grace"]) == ("done", 5)
        assert 1.0 <= outcome["facts"]["seconds"] < 5.0
        assert body(standin.deletions()[0])["gracePeriodSeconds"] == 5


@pytest.mark.parametrize("finalizers", [(), ("example.org/backup",)])
def test_a_pod_that_does_not_end_is_a_failure(standin: PodCluster, tmp_path: Path, finalizers: tuple[str, ...]) -> None:
    standin.cluster.kubelet_seconds = None
    with placed(standin, tmp_path, grace=1, kubernetes_gone_within="1s") as place:
        thing = standin.run()
        if finalizers:
            metadata = {**thing["metadata"], "finalizers": list(finalizers)}
            thing = standin.cluster.put("pods", {**thing, "metadata": metadata})
        outcome = place.outcome(place.event(uid=thing["metadata"]["uid"]))
        assert (outcome["status"], outcome["reason"]) == ("failed", "failed")
        why = "it waits for its finalizers: example.org/backup" if finalizers else "it is still terminating"
        assert outcome["explanation"] == f"its deletion was accepted, but 2 s later {why}"


@pytest.mark.parametrize(
    "subject",
    [
        {"name": "../../nodes/node-1"},
        {"name": "web-1/eviction"},
        {"name": "web-1?dryRun=All"},
        {"name": "Web-1"},
        {"namespace": "shop/pods/web-1"},
        {"namespace": "../kube-system"},
    ],
)
def test_what_is_no_name_never_becomes_part_of_a_path(place: Place, subject: dict[str, str]) -> None:
    place.standin.run()
    name = subject.get("name", "web-1")
    uid = "22222222-0000-0000-0000-000000000000"
    outcome = place.outcome(place.event(name, uid=uid, namespace=subject.get("namespace", SHOP)))
    assert (outcome["status"], outcome["reason"]) == ("refused", "no-target")
    assert [call.target for call in place.standin.calls if name in call.target and "/pods/" in call.target] == []
    assert place.standin.there() is not None


def test_a_pause_holds_for_what_is_being_tried(place: Place) -> None:
    uid = place.standin.run()["metadata"]["uid"]
    place.knows()
    place.standin.failing_of = "/pods/"
    place.standin.failing += [BUSY]
    event = place.event(uid=uid)
    wait_for(lambda: place.standin.failing == [], what="the first attempt")
    place.admin.put("/v1/pause", json={"paused": True, "reason": "test"}).raise_for_status()
    outcome = place.outcome(event)
    assert (outcome["status"], outcome["reason"]) == ("refused", "paused")
    assert place.standin.there() == uid
