"""The stand-in's answers: a request in, an answer or a stream out; the HTTP around it is in server.py, and what changes
the cluster in writing.py.

It answers as kube-apiserver does, and where that would let a client's mistake pass (an unknown query parameter, a
method it has no use for) it refuses.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct
from tests.support.kubernetes import statuses, writing
from tests.support.kubernetes.cluster import Cluster, Event, Object, User, key_of, typed
from tests.support.kubernetes.resources import ACCESS_REVIEW, EVICTION, RESOURCES, Resource
from tests.support.kubernetes.selectors import Test, selection
from tests.support.kubernetes.statuses import Failure

_LIST = frozenset({"limit", "continue", "resourceVersion", "labelSelector", "fieldSelector"})
_WATCH = frozenset(
    {"watch", "resourceVersion", "allowWatchBookmarks", "timeoutSeconds", "labelSelector", "fieldSelector"}
)
_JSON = "application/json"
_PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
#: Seconds a watch lasts that names no end.
_WATCH_SECONDS = 1800.0
VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64"}


class Request(Struct, frozen=True):
    """target: path and query. user: by a client's certificate."""

    method: str
    target: str
    headers: dict[str, str]
    user: User | None = None
    body: bytes = b""


class Answer(Struct, frozen=True):
    status: int
    body: Any
    #: Of a watch: one JSON object each, None while there is nothing to send.
    stream: Iterator[Any] | None = None


class Asked(Struct, frozen=True):
    """What a path names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class Permission(Struct, frozen=True, order=True):
    """What somebody asked for and needed a right for."""

    verb: str
    group: str
    resource: str
    namespace: str


class Rest:
    """bookmark_seconds: how long a watch may bring nothing before a bookmark tells of the version."""

    def __init__(self, cluster: Cluster, *, bookmark_seconds: float = 60.0) -> None:
        self.cluster = cluster
        self.bookmark_seconds = bookmark_seconds
        #: A watch from an expired version is answered 410 at once, in place of an ERROR event.
        self.expired_at_once = False
        #: What was asked for, allowed or not.
        self.needed: set[Permission] = set()

    def answer(self, request: Request) -> Answer:
        try:
            return self._answer(request)
        except Failure as failure:
            return Answer(failure.code, failure.body)

    def _answer(self, request: Request) -> Answer:
        user = self._user(request)
        accepted = request.headers.get("accept", "*/*")
        if not any(form in accepted for form in ("*/*", "application/*", "application/json")):
            raise statuses.not_acceptable()
        self.cluster.go_on()
        parts = urlsplit(request.target)
        if request.method == "GET" and (found := _discovery(parts.path)) is not None:
            return Answer(200, found)
        if (request.method, parts.path) == ("POST", ACCESS_REVIEW):
            return Answer(201, writing.review(user, writing.read(request.body, _type(request), _JSON)))
        asked = asked_for(parts.path)
        parameters = _parameters(parts.query)
        verb = _verb(request.method, asked, parameters)
        self._allow(user, verb, asked)
        if verb in ("get", "list", "watch"):
            return self._read(verb, asked, parameters)
        return self._write(verb, asked, parameters, request)

    def _allow(self, user: User, verb: str, asked: Asked) -> None:
        resource = asked.resource
        name = "/".join(filter(None, (resource.name, asked.subresource)))
        self.needed.add(Permission(verb, resource.group, name, asked.namespace))
        if not user.may(verb, name, asked.namespace):
            raise statuses.forbidden(user, verb, resource, asked.namespace, asked.name, subresource=asked.subresource)

    def _read(self, verb: str, asked: Asked, parameters: dict[str, str]) -> Answer:
        if verb == "get":
            return self._get(asked, parameters)
        _only(parameters, _WATCH if verb == "watch" else _LIST)
        chosen = selection(
            asked.resource.name, parameters.get("labelSelector", ""), parameters.get("fieldSelector", "")
        )
        return (self._watch if verb == "watch" else self._list)(asked, parameters, chosen)

    def _write(self, verb: str, asked: Asked, parameters: dict[str, str], request: Request) -> Answer:
        cluster, namespace, name = self.cluster, asked.namespace, asked.name
        if verb == "delete":
            _only(parameters, frozenset({"dryRun", "gracePeriodSeconds"}))
            options = writing.delete_options(request.body, _type(request), parameters)
            return Answer(200, writing.delete(cluster, namespace, name, options))
        if verb == "patch":
            _only(parameters, frozenset())
            changes = writing.read(request.body, _type(request), *_PATCHES)
            return Answer(200, writing.patch(cluster, asked.resource, namespace, name, changes))
        _only(parameters, frozenset({"dryRun"} if asked.subresource else ()))
        given = writing.read(request.body, _type(request), _JSON)
        if asked.subresource:
            return Answer(201, writing.evict(cluster, namespace, name, given, parameters))
        return Answer(201, writing.create(cluster, asked.resource, namespace, given))

    def _user(self, request: Request) -> User:
        header = request.headers.get("authorization", "")
        if not header:
            return request.user or User("system:anonymous", ())
        kind, _, token = header.partition(" ")
        user = self.cluster.users.get(token)
        if kind != "Bearer" or user is None:
            raise statuses.unauthorized()
        return user

    def _get(self, asked: Asked, parameters: dict[str, str]) -> Answer:
        _only(parameters, frozenset())
        thing = writing.existing(self.cluster, asked.resource, asked.namespace, asked.name)
        return Answer(200, typed(asked.resource, thing))

    def _list(self, asked: Asked, parameters: dict[str, str], chosen: Test) -> Answer:
        resource = asked.resource
        limit = _number(parameters, "limit")
        with self.cluster.changed:
            version, start = self.cluster.version, ""
            if "continue" in parameters:
                if parameters.get("resourceVersion"):
                    raise statuses.bad_request("specifying resource version is not allowed when using continue")
                version, start = _opened(parameters["continue"])
                if (resource.name, version) not in self.cluster.snapshots:
                    raise statuses.page_expired(_token(self.cluster.version, start))
            everything = self.cluster.snapshots.get((resource.name, version), self.cluster.objects[resource.name])
            things = [
                thing
                for key, thing in sorted(everything.items(), key=lambda entry: _path(resource, entry[1]))
                if asked.namespace in ("", key[0]) and _path(resource, thing) >= start and chosen(thing)
            ]
            metadata: dict[str, Any] = {"resourceVersion": str(version)}
            if limit and len(things) > limit:
                self.cluster.snapshots[resource.name, version] = dict(everything)
                # The key after the last one of this page.
                metadata["continue"] = _token(version, _path(resource, things[limit - 1]) + "\0")
                if not (parameters.get("labelSelector") or parameters.get("fieldSelector")):
                    metadata["remainingItemCount"] = len(things) - limit
                things = things[:limit]
        return Answer(
            200,
            {
                "kind": f"{resource.kind}List",
                "apiVersion": resource.api_version,
                "metadata": metadata,
                "items": things,
            },
        )

    def _watch(self, asked: Asked, parameters: dict[str, str], chosen: Test) -> Answer:
        text = parameters.get("resourceVersion", "")
        if text and not text.isdecimal():
            raise statuses.bad_request(f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: invalid syntax')
        seconds = float(_number(parameters, "timeoutSeconds") or _WATCH_SECONDS)
        bookmarks = parameters.get("allowWatchBookmarks", "0") in ("1", "true")
        since = int(text or 0)
        if since and since < self.cluster.compacted:
            failure = statuses.too_old(since, self.cluster.compacted)
            if self.expired_at_once:
                raise failure
            return Answer(200, None, stream=iter([{"type": "ERROR", "object": failure.body}]))
        return Answer(200, None, stream=self._stream(asked, since, chosen, time.monotonic() + seconds, bookmarks))

    def _stream(self, asked: Asked, since: int, chosen: Test, end: float, bookmarks: bool) -> Iterator[Any]:
        resource, cluster = asked.resource, self.cluster
        with cluster.changed:
            version = since or cluster.version
            # Without a version, or with 0: first what there is, as if it had just been added.
            first = [] if since else list(cluster.objects[resource.name].values())
        for thing in first:
            if asked.namespace in ("", key_of(thing)[0]) and chosen(thing):
                yield {"type": "ADDED", "object": typed(resource, thing)}
        marked = time.monotonic()
        while True:
            cluster.go_on()
            with cluster.changed:
                fresh = [event for event in cluster.events if event.version > version]
                if not fresh and time.monotonic() < end:
                    cluster.changed.wait(min(0.1, max(0.0, end - time.monotonic())))
                    fresh = [event for event in cluster.events if event.version > version]
            for event in fresh:
                version = event.version
                if event.resource == resource.name and asked.namespace in ("", key_of(event.object)[0]):
                    told = _told(event, chosen)
                    if told is not None:
                        yield {"type": told, "object": typed(resource, event.object)}
            over = time.monotonic() >= end
            if bookmarks and (over or time.monotonic() - marked >= self.bookmark_seconds):
                marked = time.monotonic()
                yield {
                    "type": "BOOKMARK",
                    "object": {**resource.typed, "metadata": {"resourceVersion": str(version)}, **resource.empty},
                }
            if over:
                return
            yield None


def _told(event: Event, chosen: Test) -> str | None:
    """What a watch with a selector calls a change: what no longer fits it is gone for that watch."""
    now = event.type != "DELETED" and chosen(event.object)
    before = event.before is not None and chosen(event.before)
    if event.type != "DELETED" and event.before is None:
        return event.type if now else None
    return {(True, True): "MODIFIED", (True, False): "ADDED", (False, True): "DELETED"}.get((now, before))


def asked_for(path: str) -> Asked:
    """Failure: no kind of object is served there."""
    for resource in RESOURCES:
        if not path.startswith(resource.root + "/"):
            continue
        words = path.removeprefix(resource.root + "/").split("/")
        namespace = ""
        if resource.namespaced and words[0] == "namespaces" and len(words) > 2:
            namespace, words = words[1], words[2:]
        subresource = words.pop() if len(words) == 3 and (resource.name, words[2]) == ("pods", EVICTION) else ""
        if words[0] == resource.name and len(words) <= 2 and all(words):
            name = words[1] if len(words) == 2 else ""
            if not name or bool(namespace) is resource.namespaced:
                return Asked(resource, namespace, name, subresource)
    raise statuses.no_such_resource()


def _verb(method: str, asked: Asked, parameters: dict[str, str]) -> str:
    """What the right is called that a request needs. Failure: no such request is answered here."""
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(method, "")
    if method == "GET" and not asked.subresource:
        watching = parameters.get("watch", "0") in ("1", "true")
        return "get" if asked.name else "watch" if watching else "list"
    is_of_one = bool(asked.name)
    if verb not in asked.resource.verbs or is_of_one is (verb == "create" and not asked.subresource):
        raise statuses.method_not_allowed()
    if asked.subresource and verb != "create":
        raise statuses.method_not_allowed()
    return verb


def _type(request: Request) -> str:
    return request.headers.get("content-type", "")


def _parameters(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs):
        raise statuses.bad_request("a query parameter stands twice")
    return dict(pairs)


def _only(parameters: dict[str, str], known: frozenset[str]) -> None:
    if unknown := parameters.keys() - known:
        raise statuses.bad_request(f"the stand-in refuses query parameters that do nothing here: {sorted(unknown)}")


def _number(parameters: dict[str, str], name: str) -> int:
    text = parameters.get(name, "0")
    if not text.isdecimal():
        raise statuses.bad_request(
            f'unable to decode query: {name}: strconv.ParseInt: parsing "{text}": invalid syntax'
        )
    return int(text)


def _path(resource: Resource, thing: Object) -> str:
    """As the API orders objects: by their key in etcd."""
    namespace, name = key_of(thing)
    return f"{namespace}/{name}" if resource.namespaced else name


def _token(version: int, start: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _opened(token: str) -> tuple[int, str]:
    try:
        fields = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(fields["rv"]), str(fields["start"])
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise statuses.bad_request("continue key is not valid: illegal base64 data") from error


def _discovery(path: str) -> Any:
    """/version and what kinds there are; None for any other path."""
    groups = sorted({(resource.group, resource.version) for resource in RESOURCES if resource.group})
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*group) for group in groups]}
    here = [resource for resource in RESOURCES if resource.root == path]
    if not here:
        return None
    return {
        "kind": "APIResourceList",
        **({"apiVersion": "v1"} if here[0].group else {}),
        "groupVersion": here[0].api_version,
        "resources": [
            {
                "name": resource.name,
                "singularName": resource.kind.lower(),
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": list(resource.verbs),
            }
            for resource in here
        ],
    }


def _group(name: str, version: str) -> dict[str, Any]:
    preferred = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [preferred], "preferredVersion": preferred}
