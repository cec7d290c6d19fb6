"""The stand-in for the Kubernetes API answers as the real one does.

Its behaviour is tried on inputs of its own, and, where ../shared is beside this checkout, against every exchange with a
real API server that reads something.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.support.kubernetes.cluster import Cluster, Event, key_of, permissions
from tests.support.kubernetes.objects import node, pod
from tests.support.kubernetes.resources import Resource
from tests.support.kubernetes.rest import Answer, Request, Rest, asked_for
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


def ask(api: Rest, target: str, user: str = "admin", method: str = "GET", accept: str = "application/json") -> Answer:
    return api.answer(Request(method, target, {"authorization": f"Bearer {user}", "accept": accept}))


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
        ("DELETE /api/v1/namespaces/shop/pods/a", "admin", 405),
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


# ---- the exchanges with a real API server


def exchanges() -> list[Any]:
    if not EXCHANGES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the shared samples are not beside this checkout"))]
    told = json.loads(EXCHANGES.read_text())["exchanges"]
    return [pytest.param(one, id=one["name"]) for one in told if one["request"]["method"] == "GET"]


def resource_of(path: str) -> Resource | None:
    """The kind whose objects a path names; None for /version and the like."""
    try:
        return asked_for(urlsplit(path).path).resource
    except Failure:
        return None


def as_it_was(exchange: dict[str, Any]) -> Rest:
    """A stand-in whose cluster is as the real one must have been when it answered."""
    cluster = Cluster()
    cluster.allow("admin", "admin", everything=True)
    cluster.allow("limited service account", "system:serviceaccount:payments:viewer")
    body, resource = exchange["response"].get("body"), resource_of(exchange["request"]["path"])
    if resource is not None and body and "items" in body:
        things = body["items"]
        if "continue" in body["metadata"]:
            # There was another one after this page.
            last = things[-1]
            things = [*things, {**last, "metadata": {**last["metadata"], "name": last["metadata"]["name"] + "-2"}}]
        cluster.hold(resource.name, things, int(body["metadata"]["resourceVersion"]))
    elif resource is not None and body and body["kind"] == resource.kind:
        thing = {name: value for name, value in body.items() if name not in resource.typed}
        cluster.hold(resource.name, [thing], int(body["metadata"]["resourceVersion"]))
    for event in exchange["response"].get("stream", []):
        thing = {name: value for name, value in event["object"].items() if name not in ("kind", "apiVersion")}
        version = int(thing["metadata"]["resourceVersion"])
        cluster.version = version
        if event["type"] != "BOOKMARK":
            before = None if event["type"] == "ADDED" else cluster.objects["pods"].get(key_of(thing), thing)
            cluster.events.append(Event(version, event["type"], "pods", thing, before))
            cluster.objects["pods"][key_of(thing)] = thing
    return Rest(cluster)


@pytest.mark.parametrize("exchange", exchanges())
def test_reads_are_answered_as_by_the_real_server(exchange: dict[str, Any]) -> None:
    path, expected = exchange["request"]["path"], exchange["response"]
    if "stream" in expected:
        # It ended when the time asked for was over; here nothing more comes after what is there.
        path = "&".join(part for part in path.split("&") if not part.startswith("timeoutSeconds")) + "&timeoutSeconds=1"
    answer = ask(as_it_was(exchange), path, exchange["request"]["auth"])
    assert answer.status == expected["status"]
    if "stream" in expected:
        assert stream(answer) == expected["stream"]
    elif resource_of(path) is not None:
        assert answer.body == expected["body"]
    else:
        assert_part_of(answer.body, expected["body"])


def assert_part_of(ours: Any, real: Any) -> None:
    """What the stand-in says of itself the real one says too; it serves more kinds, groups and verbs."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            assert_part_of(value, real[name])
    elif isinstance(ours, list) and all(isinstance(one, dict) for one in ours):
        for one in ours:
            word = "name" if "name" in one else "groupVersion"
            assert_part_of(one, next(other for other in real if other[word] == one[word]))
    elif isinstance(ours, list):
        assert set(ours) <= set(real)
    else:
        assert ours == real
