"""The stand-in for the Kubernetes API answers as the real one does.

Its behaviour is tried on inputs of its own, and, where ../shared is beside this checkout, against every exchange with a
real API server.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.support.kubernetes import disruption
from tests.support.kubernetes.cluster import Cluster, Event, key_of, permissions
from tests.support.kubernetes.objects import disruption_budget, node, pod
from tests.support.kubernetes.resources import BY_NAME, Resource
from tests.support.kubernetes.rest import Answer, Permission, Request, Rest, asked_for
from tests.support.kubernetes.statuses import Failure

ROOT = Path(__file__).resolve().parents[2]
EXCHANGES = ROOT / "../shared/samples/kubernetes/exchanges.json"


def rest() -> Rest:
    cluster = Cluster(version=10)
    cluster.allow("admin", "admin", everything=True)
    cluster.allow("viewer", "viewer", permissions("get list watch", "pods", "shop"))
    for name in ("a", "b", "c"):
        cluster.put("pods", pod(name, "shop", labels={"app": name}))
    cluster.put("pods", pod("d", "yard", node="node-2"))
    cluster.put("nodes", node("node-1"))
    return Rest(cluster)


def ask(
    api: Rest,
    target: str,
    user: str = "admin",
    method: str = "GET",
    accept: str = "application/json",
    body: Any = None,
) -> Answer:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    headers = {"authorization": f"Bearer {user}", "accept": accept, "content-type": kind}
    return api.answer(Request(method, target, headers, body=b"" if body is None else json.dumps(body).encode()))


def stream(answer: Answer) -> list[Any]:
    """All of a watch, which has to end by itself."""
    assert answer.stream is not None
    return [one for one in answer.stream if one is not None]


def names(answer: Answer) -> list[str]:
    return [thing["metadata"]["name"] for thing in answer.body["items"]]


def test_pages_are_of_one_moment() -> None:
    api = rest()
    first = ask(api, "/api/v1/pods?limit=2")
    assert names(first) == ["a", "b"]
    assert first.body["metadata"]["remainingItemCount"] == 2
    api.cluster.delete("pods", "c", "shop")
    api.cluster.put("pods", pod("aa", "shop"))
    second = ask(api, f"/api/v1/pods?limit=2&continue={first.body['metadata']['continue']}")
    assert names(second) == ["c", "d"]
    assert second.body["metadata"] == {"resourceVersion": first.body["metadata"]["resourceVersion"]}


def test_a_page_that_is_forgotten_expires() -> None:
    api = rest()
    rest_of = ask(api, "/api/v1/pods?limit=2").body["metadata"]["continue"]
    api.cluster.compact()
    answer = ask(api, f"/api/v1/pods?limit=2&continue={rest_of}")
    assert (answer.status, answer.body["reason"]) == (410, "Expired")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/v1/pods?labelSelector=app%3Da", ["a"]),
        ("/api/v1/pods?labelSelector=app%21%3Da", ["b", "c", "d"]),
        ("/api/v1/pods?labelSelector=app", ["a", "b", "c"]),
        ("/api/v1/pods?labelSelector=%21app", ["d"]),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-2", ["d"]),
        ("/api/v1/namespaces/shop/pods", ["a", "b", "c"]),
        ("/api/v1/namespaces/nowhere/pods", []),
    ],
)
def test_selectors(target: str, expected: list[str]) -> None:
    assert names(ask(rest(), target)) == expected


def test_a_watch_brings_what_happened_since() -> None:
    api = rest()
    version = ask(api, "/api/v1/pods").body["metadata"]["resourceVersion"]
    api.cluster.label("pods", "a", {"app": "other"}, "shop")
    api.cluster.put("nodes", node("node-2"))
    api.cluster.delete("pods", "b", "shop")
    target = f"/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion={version}"
    events = stream(ask(api, target + "&allowWatchBookmarks=true"))
    assert [event["type"] for event in events] == ["MODIFIED", "DELETED", "BOOKMARK"]
    assert events[0]["object"]["kind"] == "Pod"
    assert events[1]["object"]["metadata"]["resourceVersion"] == str(api.cluster.version)
    assert events[2]["object"]["metadata"] == {"resourceVersion": str(api.cluster.version)}
    left = stream(ask(api, target + "&labelSelector=app%3Da"))
    assert [event["type"] for event in left] == ["DELETED"], "it no longer fits the selector"


def test_a_watch_without_a_version_begins_with_all_there_is() -> None:
    events = stream(ask(rest(), "/api/v1/pods?watch=1&timeoutSeconds=1"))
    assert [(event["type"], event["object"]["metadata"]["name"]) for event in events] == [
        ("ADDED", name) for name in "abcd"
    ]


def test_a_watch_from_a_forgotten_version_ends_with_an_error() -> None:
    api = rest()
    api.cluster.compact()
    target = "/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion=11"
    (event,) = stream(ask(api, target))
    assert event["type"] == "ERROR"
    assert event["object"]["code"] == 410
    assert event["object"]["message"] == f"too old resource version: 11 ({api.cluster.version})"
    api.expired_at_once = True
    assert ask(api, target).status == 410


@pytest.mark.parametrize(
    ("request_line", "token", "expected"),
    [
        ("GET /api/v1/pods", "wrong", 401),
        ("GET /api/v1/pods", "viewer", 403),
        ("GET /api/v1/namespaces/shop/pods", "viewer", 200),
        ("GET /api/v1/nodes/node-1", "viewer", 403),
        ("GET /api/v1/nodes/node-9", "admin", 404),
        ("GET /api/v1/gadgets", "admin", 404),
        ("GET /apis/v1/pods", "admin", 404),
        ("GET /api/v1/pods/a", "admin", 404),
        ("GET /api/v1/namespaces/shop/nodes", "admin", 404),
        ("DELETE /api/v1/namespaces/shop/pods", "admin", 405),
        ("DELETE /api/v1/namespaces/shop/services/a", "admin", 405),
        ("DELETE /api/v1/namespaces/shop/pods/a", "viewer", 403),
        ("DELETE /api/v1/namespaces/shop/pods/a?uid=1", "admin", 400),
        ("DELETE /api/v1/namespaces/shop/pods/z", "admin", 404),
        ("POST /api/v1/namespaces/shop/pods/a", "admin", 405),
        ("POST /api/v1/namespaces/shop/pods", "admin", 400),
        ("GET /api/v1/namespaces/shop/pods/a/eviction", "admin", 405),
        ("POST /api/v1/namespaces/shop/services/a/eviction", "admin", 404),
        ("GET /api/v1/pods?limt=5", "admin", 400),
        ("GET /api/v1/pods?limit=many", "admin", 400),
        ("GET /api/v1/pods?limit=5&limit=5", "admin", 400),
        ("GET /api/v1/pods?continue=%%%", "admin", 400),
        ("GET /api/v1/pods?watch=1&resourceVersion=new", "admin", 400),
        ("GET /api/v1/pods?watch=1&limit=5", "admin", 400),
        ("GET /api/v1/pods?fieldSelector=spec.image%3Dx", "admin", 400),
        ("GET /api/v1/pods?labelSelector=app%20in%20%28a%29", "admin", 400),
    ],
)
def test_what_is_wrong_is_refused(request_line: str, token: str, expected: int) -> None:
    method, target = request_line.split()
    answer = ask(rest(), target, token, method)
    assert answer.status == expected
    if expected != 200:
        assert answer.body["kind"] == "Status"
        assert answer.body["code"] == expected


def test_only_json_is_spoken() -> None:
    assert ask(rest(), "/api/v1/pods", accept="application/vnd.kubernetes.protobuf").status == 406


# ---- what changes the cluster

WEB_1 = "/api/v1/namespaces/shop/pods/web-1"


def web(*names: str, budget: int | None = None) -> Rest:
    """A service's pods, all ready. budget: how many of them a disruption budget wants."""
    cluster = Cluster()
    cluster.controllers.append(disruption.count)
    cluster.allow("admin", "admin", everything=True)
    for name in names or ("web-1",):
        cluster.put("pods", pod(name, "shop", labels={"app": "web"}))
    if budget is not None:
        cluster.put("poddisruptionbudgets", disruption_budget("web", "shop", {"app": "web"}, budget))
    return Rest(cluster)


def options(**given: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "DeleteOptions", **given}


def uid_of(api: Rest, name: str = "web-1") -> str:
    uid: str = api.cluster.objects["pods"]["shop", name]["metadata"]["uid"]
    return uid


def test_without_a_grace_period_a_pod_is_gone_at_once() -> None:
    api = web()
    version = api.cluster.version
    answer = ask(api, WEB_1, method="DELETE", body=options(gracePeriodSeconds=0, preconditions={"uid": uid_of(api)}))
    assert answer.status == 200
    assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 0
    assert ask(api, WEB_1).status == 404
    assert [event.type for event in api.cluster.events if event.version > version] == ["MODIFIED", "DELETED"]
    assert ask(api, WEB_1, method="DELETE", body=options()).status == 404


def test_with_a_grace_period_it_ends_when_the_kubelet_says_so() -> None:
    api = web()
    api.cluster.kubelet_seconds = None
    answer = ask(api, WEB_1, method="DELETE", body=options(gracePeriodSeconds=5))
    assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 5
    told = ask(api, WEB_1)
    assert told.body["metadata"]["deletionTimestamp"] == answer.body["metadata"]["deletionTimestamp"]
    longer = ask(api, WEB_1, method="DELETE", body=options(gracePeriodSeconds=60))
    assert longer.body["metadata"]["deletionGracePeriodSeconds"] == 5, "it only ever becomes shorter"
    api.cluster.kubelet_seconds = 0.0
    api.cluster.stop("web-1", "shop")
    assert ask(api, WEB_1).status == 404


def test_finalizers_keep_a_pod_that_is_being_deleted() -> None:
    api = web()
    there = api.cluster.objects["pods"]["shop", "web-1"]
    api.cluster.put("pods", {**there, "metadata": {**there["metadata"], "finalizers": ["example.org/wait"]}})
    assert ask(api, WEB_1, method="DELETE", body=options(gracePeriodSeconds=0)).status == 200
    assert "deletionTimestamp" in ask(api, WEB_1).body["metadata"]


@pytest.mark.parametrize(
    ("target", "body", "deleted"),
    [
        (WEB_1, options(gracePeriodSeconds=0, dryRun=["All"]), False),
        (WEB_1 + "?dryRun=All", options(gracePeriodSeconds=0), True),
        (WEB_1 + "?dryRun=All&gracePeriodSeconds=0", None, False),
    ],
)
def test_a_dry_run_counts_where_the_options_are_read(target: str, body: Any, deleted: bool) -> None:
    """With a body the query's is ignored, and the pod really deleted."""
    api = web()
    version = api.cluster.version
    answer = ask(api, target, method="DELETE", body=body)
    assert answer.status == 200
    assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 0
    assert ask(api, WEB_1).status == (404 if deleted else 200)
    assert (api.cluster.version != version) is deleted


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (options(preconditions={"uid": "another"}), 409, "Conflict"),
        (options(preconditions={"resourceVersion": "1"}), 409, "Conflict"),
        (options(dryRun=["Some"]), 422, "Invalid"),
        (options(gracePeriodSeconds=-1), 422, "Invalid"),
        (options(propagationPolicy="background"), 422, "Invalid"),
        (options(uid="x"), 400, "BadRequest"),
        ({"apiVersion": "v1", "kind": "Pod"}, 400, "BadRequest"),
        ([], 400, "BadRequest"),
    ],
)
def test_what_does_not_hold_or_makes_no_sense_deletes_nothing(body: Any, status: int, reason: str) -> None:
    api = web()
    answer = ask(api, WEB_1, method="DELETE", body=body)
    assert (answer.status, answer.body["reason"]) == (status, reason)
    assert ask(api, WEB_1).status == 200


def test_a_body_of_another_type_is_not_read() -> None:
    api = web()
    headers = {"authorization": "Bearer admin", "content-type": "application/yaml"}
    assert api.answer(Request("DELETE", WEB_1, headers, body=b"{}")).status == 415


def test_a_successor_has_the_name_and_another_uid() -> None:
    api = web()
    api.cluster.succeeded.add(("shop", "web-1"))
    first = uid_of(api)
    ask(api, WEB_1, method="DELETE", body=options(gracePeriodSeconds=0, preconditions={"uid": first}))
    assert uid_of(api) != first
    again = ask(api, WEB_1, method="DELETE", body=options(gracePeriodSeconds=0, preconditions={"uid": first}))
    assert again.status == 409


def evict(api: Rest, name: str, **more: Any) -> Answer:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "shop"}, **more}
    return ask(api, f"/api/v1/namespaces/shop/pods/{name}/eviction", method="POST", body=body)


def test_an_eviction_takes_a_place_of_the_budget() -> None:
    api = web("web-1", "web-2", "web-3", budget=2)
    api.cluster.kubelet_seconds = None
    assert evict(api, "web-1", deleteOptions=options(dryRun=["All"])).status == 201
    assert "deletionTimestamp" not in ask(api, WEB_1).body["metadata"]
    assert evict(api, "web-1").status == 201
    refused = evict(api, "web-2")
    assert (refused.status, refused.body["details"]["causes"][0]["reason"]) == (429, "DisruptionBudget")
    assert evict(api, "web-1").status == 201, "what is ending already disturbs nobody"
    assert evict(api, "web-9").status == 404


def test_budgets_count_what_is_healthy() -> None:
    api = web("web-1", "web-2", budget=1)
    budget = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/web"
    assert ask(api, budget).body["status"]["disruptionsAllowed"] == 1
    api.cluster.delete("pods", "web-2", "shop")
    told = ask(api, budget).body["status"]
    assert (told["disruptionsAllowed"], told["currentHealthy"], told["desiredHealthy"]) == (0, 1, 1)


def test_a_right_is_needed_for_each_request_and_noted() -> None:
    api = web(budget=1)
    api.cluster.allow("some", "some", permissions("get", "pods", "shop"))
    for method, target, status in (
        ("GET", WEB_1, 200),
        ("DELETE", WEB_1, 403),
        ("POST", WEB_1 + "/eviction", 403),
        ("GET", "/apis/policy/v1/namespaces/shop/poddisruptionbudgets", 403),
    ):
        assert ask(api, target, "some", method, body={}).status == status
    assert api.needed == {
        Permission("get", "", "pods", "shop"),
        Permission("delete", "", "pods", "shop"),
        Permission("create", "", "pods/eviction", "shop"),
        Permission("list", "policy", "poddisruptionbudgets", "shop"),
    }


# ---- the exchanges with a real API server


@functools.cache
def told() -> list[Any]:
    return json.loads(EXCHANGES.read_text())["exchanges"] if EXCHANGES.exists() else []


def exchanges() -> list[Any]:
    if not EXCHANGES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the shared samples are not beside this checkout"))]
    return [pytest.param(one, id=one["name"]) for one in told()]


def resource_of(path: str) -> Resource | None:
    """The kind whose objects a path names; None for /version and the like."""
    try:
        return asked_for(urlsplit(path).path).resource
    except Failure:
        return None


def bare(thing: Any, resource: Resource) -> Any:
    return {name: value for name, value in thing.items() if name not in resource.typed}


def pod_once(uid: str, version: int) -> Any:
    """A pod as it was at a version, before anybody deleted it, of all that the real server said."""
    found: list[Any] = []
    for one in told():
        answer = one["response"]
        body = answer.get("body") or {}
        for thing in (body, *body.get("items", ()), *(event["object"] for event in answer.get("stream", ()))):
            metadata = thing.get("metadata", {})
            if metadata.get("uid") == uid and "deletionTimestamp" not in metadata:
                found.append(thing)
    return bare(max((thing for thing in found if version_of(thing) <= version), key=version_of), BY_NAME["pods"])


def version_of(thing: Any) -> int:
    return int(thing["metadata"]["resourceVersion"])


def as_it_was(exchange: dict[str, Any]) -> Rest:
    """A stand-in whose cluster is as the real one must have been when it answered."""
    cluster = Cluster()
    cluster.allow("admin", "admin", everything=True)
    cluster.allow("limited service account", "system:serviceaccount:payments:viewer")
    body, resource = exchange["response"].get("body"), resource_of(exchange["request"]["path"])
    if exchange["request"]["method"] != "GET":
        before_a_change(cluster, exchange)
    elif resource is not None and body and "items" in body:
        things = body["items"]
        if "continue" in body["metadata"]:
            # There was another one after this page.
            last = things[-1]
            things = [*things, {**last, "metadata": {**last["metadata"], "name": last["metadata"]["name"] + "-2"}}]
        cluster.hold(resource.name, things, int(body["metadata"]["resourceVersion"]))
    elif resource is not None and body and body["kind"] == resource.kind:
        cluster.hold(resource.name, [bare(body, resource)], int(body["metadata"]["resourceVersion"]))
    for event in exchange["response"].get("stream", []):
        thing = bare(event["object"], BY_NAME["pods"])
        version = int(thing["metadata"]["resourceVersion"])
        cluster.version = version
        if event["type"] != "BOOKMARK":
            before = None if event["type"] == "ADDED" else cluster.objects["pods"].get(key_of(thing), thing)
            cluster.events.append(Event(version, event["type"], "pods", thing, before))
            cluster.objects["pods"][key_of(thing)] = thing
    return Rest(cluster)


def before_a_change(cluster: Cluster, exchange: dict[str, Any]) -> None:
    """What the change needs to find, and the clock and the numbers that it came at."""
    request, body = exchange["request"], exchange["response"]["body"]
    metadata = body.get("metadata", {})
    if metadata.get("resourceVersion"):
        # An object that goes at once is changed and then deleted: two versions.
        at_once = metadata.get("deletionGracePeriodSeconds") == 0
        dry_run = "dryRun" in (request.get("body") or {})
        cluster.version = int(metadata["resourceVersion"]) - (0 if dry_run else 2 if at_once else 1)
    if metadata.get("uid"):
        cluster.new_uid = lambda: metadata["uid"]
        later = metadata.get("deletionGracePeriodSeconds", 0)
        moment = dt.datetime.fromisoformat(metadata.get("deletionTimestamp", metadata["creationTimestamp"]))
        cluster.clock = lambda: moment.timestamp() - later
    if "already exists" in body.get("message", ""):
        cluster.put("namespaces", {"metadata": {"name": "payments"}})
    uid = metadata.get("uid", "") if request["method"] in ("DELETE", "PATCH") else ""
    if "does not match the UID in record" in body.get("message", ""):
        uid = body["message"].partition("UID in record (")[2].partition(")")[0]
    if request["path"].endswith("/eviction"):
        # The pod of this name that was there last; its budget, if it has one, as the server showed it afterwards.
        name = request["body"]["metadata"]["name"]
        uid = [
            event["object"]["metadata"]["uid"]
            for one in told()
            for event in one["response"].get("stream", ())
            if event["object"]["metadata"].get("name") == name
        ][-1]
        (budget,) = [one["response"]["body"] for one in told() if one["name"] == "get pdb"]
        cluster.hold("poddisruptionbudgets", [bare(budget, BY_NAME["poddisruptionbudgets"])], cluster.version)
    if uid:
        there = pod_once(uid, int(metadata.get("resourceVersion", 1_000_000)))
        if request["method"] == "PATCH":
            labels = {key: value for key, value in there["metadata"]["labels"].items() if key != "quarantine"}
            there = {**there, "metadata": {**there["metadata"], "labels": labels}}
        cluster.hold("pods", [there], cluster.version)


@pytest.mark.parametrize("exchange", exchanges())
def test_it_answers_as_the_real_server(exchange: dict[str, Any]) -> None:
    request, expected = exchange["request"], exchange["response"]
    path = request["path"]
    if "stream" in expected:
        # It ended when the time asked for was over; here nothing more comes after what is there.
        path = "&".join(part for part in path.split("&") if not part.startswith("timeoutSeconds")) + "&timeoutSeconds=1"
    answer = ask(as_it_was(exchange), path, request["auth"], request["method"], body=request.get("body"))
    assert answer.status == expected["status"]
    if "stream" in expected:
        assert stream(answer) == expected["stream"]
    elif is_whole(exchange):
        assert answer.body == expected["body"]
    else:
        assert_part_of(answer.body, expected["body"])


def is_whole(exchange: dict[str, Any]) -> bool:
    """The stand-in says all that the real server says: but for what it serves, and defaults of what is created."""
    if exchange["response"]["status"] >= 400:
        return True
    is_created = exchange["request"]["method"] == "POST" and exchange["response"]["body"]["kind"] != "Status"
    return resource_of(exchange["request"]["path"]) is not None and not is_created


def test_every_exchange_is_compared() -> None:
    """None is left out, and what is compared can differ."""
    if not EXCHANGES.exists():
        pytest.skip("the shared samples are not beside this checkout")
    assert len(exchanges()) == len(told()) >= 40
    (conflict,) = [one for one in told() if one["name"] == "delete successor by the old uid"]
    api = as_it_was(conflict)
    api.cluster.objects["pods"].clear()
    request = conflict["request"]
    assert ask(api, request["path"], "admin", "DELETE", body=request["body"]).status == 404


def assert_part_of(ours: Any, real: Any) -> None:
    """What the stand-in says of itself the real one says too; it serves more kinds, groups and verbs."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            assert_part_of(value, real[name])
    elif isinstance(ours, list) and all(isinstance(one, dict) for one in ours):
        for place, one in enumerate(ours):
            word = next((word for word in ("name", "groupVersion") if word in one), None)
            assert_part_of(one, real[place] if word is None else next(each for each in real if each[word] == one[word]))
    elif isinstance(ours, list):
        assert set(ours) <= set(real)
    else:
        assert ours == real
