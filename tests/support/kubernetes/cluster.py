"""What the stand-in's cluster holds: objects under resource versions, what happened to them, and who may ask.

Safe to use from several threads. Objects that were stored are never changed, only replaced. Its kubelet ends pods that
are being deleted, and its controllers make successors and count disruption budgets, each as far as a test lets them.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from tests.support.kubernetes.resources import BY_NAME, Resource

Object = dict[str, Any]
#: Namespace ("" for a kind without) and name.
Key = tuple[str, str]

PODS = "pods"


class Event(Struct, frozen=True):
    """One change. type: ADDED, MODIFIED or DELETED. before: the object as it was, None for a new one."""

    version: int
    type: str
    resource: str
    object: Object
    before: Object | None = None


class Rule(Struct, frozen=True):
    """A permission. namespace None: in all of them, and for kinds without."""

    verbs: frozenset[str]
    resources: frozenset[str]
    namespace: str | None = None


class User(Struct, frozen=True):
    """rules None: everything is allowed."""

    name: str
    rules: tuple[Rule, ...] | None = None

    def may(self, verb: str, resource: str, namespace: str) -> bool:
        return self.rules is None or any(
            verb in rule.verbs and resource in rule.resources and rule.namespace in (None, namespace)
            for rule in self.rules
        )


def permissions(verbs: str, resources: str, namespace: str | None = None) -> Rule:
    return Rule(frozenset(verbs.split()), frozenset(resources.split()), namespace)


class Cluster:
    def __init__(self, version: int = 100) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.version = version
        self.objects: dict[str, dict[Key, Object]] = {name: {} for name in BY_NAME}
        self.events: list[Event] = []
        #: What happened up to this version is no longer known.
        self.compacted = 0
        #: Lists of which a page was given, by kind and version: their next page shows the same moment.
        self.snapshots: dict[tuple[str, int], dict[Key, Object]] = {}
        self.users: dict[str, User] = {}
        self.clock: Callable[[], float] = time.time
        self.new_uid: Callable[[], str] = lambda: str(uuid.uuid4())
        #: Seconds in which the kubelet ends a pod that has a grace period; None: it does not answer.
        self.kubelet_seconds: float | None = 0.0
        #: Pods that another takes the name of as soon as they are gone, as a StatefulSet's.
        self.succeeded: set[Key] = set()
        #: Called after each change; the disruption controller (disruption.py) is one such.
        self.controllers: list[Callable[[Cluster], None]] = []
        #: Pods that the kubelet is ending, and when (monotonic clock) it is done.
        self._ending: dict[Key, float] = {}

    def put(self, resource: str, thing: Object) -> Object:
        """Create or replace. uid, creationTimestamp and resourceVersion are given as the API does."""
        with self.changed:
            key = key_of(thing)
            before = self.objects[resource].get(key)
            stored: Object = json.loads(json.dumps(thing))
            self.version += 1
            old = before["metadata"] if before else {}
            stored["metadata"] = {
                **stored["metadata"],
                "uid": stored["metadata"].get("uid") or old.get("uid") or self.new_uid(),
                "creationTimestamp": stored["metadata"].get("creationTimestamp")
                or old.get("creationTimestamp")
                or self.stamp(),
                "resourceVersion": str(self.version),
            }
            self.objects[resource][key] = stored
            self._happened(Event(self.version, "MODIFIED" if before else "ADDED", resource, stored, before))
            return stored

    def label(self, resource: str, name: str, labels: dict[str, str], namespace: str = "") -> Object:
        with self.changed:
            thing = self.objects[resource][namespace, name]
            return self.put(resource, {**thing, "metadata": {**thing["metadata"], "labels": labels}})

    def delete(self, resource: str, name: str, namespace: str = "") -> Object:
        """At once, whatever its grace period."""
        with self.changed:
            before = self.objects[resource].pop((namespace, name))
            self._ending.pop((namespace, name), None)
            self.version += 1
            last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.version)}}
            self._happened(Event(self.version, "DELETED", resource, last, before))
            if resource == PODS and (namespace, name) in self.succeeded:
                self._succeed(before)
            return last

    def stop(self, name: str, namespace: str) -> None:
        """The kubelet ends this pod, which is being deleted."""
        if self.kubelet_seconds is not None:
            with self.changed:
                self._ending[namespace, name] = time.monotonic() + self.kubelet_seconds

    def go_on(self) -> None:
        """What the kubelet has done by now. Called before each answer, and by watches."""
        with self.changed:
            for key in [key for key, end in self._ending.items() if end <= time.monotonic()]:
                pod = self.objects[PODS][key]
                if not pod["metadata"].get("finalizers"):
                    self.delete(PODS, key[1], key[0])

    def compact(self) -> None:
        """Forget what happened and the lists under way: versions and continue tokens from before have expired."""
        with self.changed:
            self.compacted = self.version
            self.events.clear()
            self.snapshots.clear()

    def hold(self, resource: str, things: Iterable[Object], version: int) -> None:
        """As if these had always been there, just as they are."""
        with self.changed:
            self.version = version
            self.objects[resource].update({key_of(thing): thing for thing in things})

    def allow(self, token: str, name: str, *rules: Rule, everything: bool = False) -> None:
        """A user with this token; again for other rules."""
        with self.changed:
            self.users[token] = User(name, None if everything else rules)

    def stamp(self, later: float = 0.0) -> str:
        """Now, or so many seconds after it, as the API writes it."""
        return dt.datetime.fromtimestamp(self.clock() + later, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _succeed(self, gone: Object) -> None:
        forgotten = ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
        metadata = {name: value for name, value in gone["metadata"].items() if name not in forgotten}
        self.put(PODS, {**gone, "metadata": metadata})

    def _happened(self, event: Event) -> None:
        self.events.append(event)
        for controller in self.controllers:
            controller(self)
        self.changed.notify_all()


def key_of(thing: Object) -> Key:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def typed(resource: Resource, thing: Object) -> Object:
    """With kind and apiVersion, which an object in a list does not have."""
    return {**resource.typed, **thing}
