"""What changes the cluster: create, patch, delete, evict, and the question whether one may.

As kube-apiserver does it; where that would let a client's mistake pass (an option that it does not know) this refuses.
"""

from __future__ import annotations

import json
import re
from typing import Any

from msgspec import Struct
from tests.support.kubernetes import disruption, statuses
from tests.support.kubernetes.cluster import PODS, Cluster, Object, User, key_of, typed
from tests.support.kubernetes.resources import BY_NAME, Resource

_DELETE_OPTIONS = {
    *("kind", "apiVersion", "gracePeriodSeconds", "preconditions", "dryRun", "propagationPolicy", "orphanDependents"),
}
_EVICTION = {"kind", "apiVersion", "metadata", "deleteOptions"}
_POLICIES = ("Background", "Foreground", "Orphan")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAME_SAID = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)


class DeleteOptions(Struct, frozen=True):
    """grace None: the pod's own."""

    grace: int | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


def read(body: bytes, content_type: str, *types: str) -> Any:
    """Failure: of another type, or no JSON object."""
    if content_type.partition(";")[0].strip() not in types:
        raise statuses.unsupported_media_type(types)
    try:
        value = json.loads(body)
    except ValueError as error:
        raise statuses.bad_request(f"couldn't get version/kind; json parse error: {error}") from error
    if not isinstance(value, dict):
        raise statuses.bad_request("couldn't get version/kind; json parse error: expected an object")
    return value


def delete_options(body: bytes, content_type: str, query: dict[str, str]) -> DeleteOptions:
    """Of the body if there is one; then those of the query are ignored, a dry run's too."""
    if body:
        return _options(read(body, content_type, "application/json"))
    given: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
    if "dryRun" in query:
        given["dryRun"] = [query["dryRun"]]
    if "gracePeriodSeconds" in query:
        given["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
    return _options(given)


def _options(given: Object) -> DeleteOptions:
    if given.get("kind", "DeleteOptions") != "DeleteOptions" or given.get("apiVersion", "v1") != "v1":
        raise statuses.bad_request("the object provided is unrecognized")
    if unknown := given.keys() - _DELETE_OPTIONS:
        raise statuses.bad_request(f"the stand-in refuses options that do nothing: {sorted(unknown)}")
    dry_run = given.get("dryRun") or []
    if dry_run not in ([], ["All"]):
        raise statuses.invalid_option("dryRun", dry_run, '"All"')
    if given.get("propagationPolicy", "Background") not in _POLICIES:
        raise statuses.invalid_option("propagationPolicy", given["propagationPolicy"], ", ".join(_POLICIES))
    grace = given.get("gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or grace < 0):
        raise statuses.invalid_option("gracePeriodSeconds", grace, "must be greater than or equal to 0")
    preconditions = given.get("preconditions") or {}
    return DeleteOptions(
        grace=grace,
        uid=preconditions.get("uid"),
        version=preconditions.get("resourceVersion"),
        dry_run=bool(dry_run),
    )


def create(cluster: Cluster, resource: Resource, namespace: str, thing: Object) -> Object:
    """The object as it is then."""
    name = thing.get("metadata", {}).get("name", "")
    if thing.get("kind") != resource.kind or thing.get("apiVersion") != resource.api_version:
        raise statuses.bad_request(f"the object provided is no {resource.kind} of {resource.api_version}")
    if resource.name == PODS:
        _validate(name, thing)
    with cluster.changed:
        if (namespace, name) in cluster.objects[resource.name]:
            raise statuses.already_exists(resource, name)
        metadata: Object = {**thing["metadata"], **({"namespace": namespace} if namespace else {})}
        if resource.generations or resource.name == PODS:
            metadata["generation"] = 1
        stored = {key: value for key, value in thing.items() if key not in resource.typed}
        if resource.name == "poddisruptionbudgets":
            zero = dict.fromkeys(("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"), 0)
            stored["status"] = zero
        return typed(resource, cluster.put(resource.name, {**stored, "metadata": metadata}))


def _validate(name: str, thing: Object) -> None:
    causes = []
    if not _NAME.fullmatch(name):
        said = f'Invalid value: "{name}": {_NAME_SAID}'
        causes.append({"reason": "FieldValueInvalid", "message": said, "field": "metadata.name"})
    if not thing.get("spec", {}).get("containers"):
        causes.append({"reason": "FieldValueRequired", "message": "Required value", "field": "spec.containers"})
    if causes:
        raise statuses.invalid(name, causes)


def patch(cluster: Cluster, resource: Resource, namespace: str, name: str, changes: Object) -> Object:
    """A merge patch (RFC 7386), which for maps is what a strategic one is."""
    with cluster.changed:
        return typed(
            resource, cluster.put(resource.name, _merged(existing(cluster, resource, namespace, name), changes))
        )


def _merged(before: Any, changes: Any) -> Any:
    if not isinstance(changes, dict):
        return changes
    merged = dict(before) if isinstance(before, dict) else {}
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def delete(cluster: Cluster, namespace: str, name: str, options: DeleteOptions) -> Object:
    """Of a pod: its last state if it goes at once, else its state while it ends."""
    resource = BY_NAME[PODS]
    with cluster.changed:
        pod = existing(cluster, resource, namespace, name)
        metadata = pod["metadata"]
        if options.uid is not None and options.uid != metadata["uid"]:
            raise statuses.uid_conflict(resource, name, options.uid, metadata["uid"])
        if options.version is not None and options.version != metadata["resourceVersion"]:
            raise statuses.version_conflict(resource, name, options.version, metadata["resourceVersion"])
        grace = _grace(pod, options)
        marked = _marked(cluster, pod, grace)
        if options.dry_run:
            return typed(resource, marked)
        if marked is not pod:
            marked = cluster.put(PODS, marked)
        if grace == 0 and not metadata.get("finalizers"):
            return typed(resource, cluster.delete(PODS, name, namespace))
        cluster.stop(name, namespace)
        return typed(resource, marked)


def _grace(pod: Object, options: DeleteOptions) -> int:
    """Seconds. A pod that runs nowhere, or no more, has none."""
    if not pod["spec"].get("nodeName") or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    own: int = pod["spec"].get("terminationGracePeriodSeconds", 30)
    return own if options.grace is None else options.grace


def _marked(cluster: Cluster, pod: Object, grace: int) -> Object:
    """As being deleted. A grace period that runs can be made shorter, never longer."""
    metadata = pod["metadata"]
    before = metadata.get("deletionGracePeriodSeconds")
    if before is not None and before <= grace:
        return pod
    return {
        **pod,
        "metadata": {
            **metadata,
            "generation": metadata.get("generation", 1) + 1,
            "deletionTimestamp": cluster.stamp(grace),
            "deletionGracePeriodSeconds": grace,
        },
    }


def evict(cluster: Cluster, namespace: str, name: str, given: Object, query: dict[str, str]) -> Object:
    """Delete as far as disruption budgets allow."""
    resource = BY_NAME[PODS]
    if given.get("kind") != "Eviction" or given.get("apiVersion") != "policy/v1" or given.keys() - _EVICTION:
        raise statuses.bad_request("the object provided is no Eviction of policy/v1")
    if key_of(given)[1] != name:
        raise statuses.bad_request("name in URL does not match name in Eviction object")
    asked = dict(given.get("deleteOptions") or {})
    if "dryRun" in query and asked.setdefault("dryRun", [query["dryRun"]]) != [query["dryRun"]]:
        raise statuses.bad_request("Non-matching dry-run options in request and content")
    options = _options(asked)
    with cluster.changed:
        pod = existing(cluster, resource, namespace, name)
        if options.uid is not None and options.uid != pod["metadata"]["uid"]:
            raise statuses.uid_conflict(resource, name, options.uid, pod["metadata"]["uid"])
        disruption.check(cluster, pod, dry_run=options.dry_run)
        delete(cluster, namespace, name, options)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def review(user: User, given: Object) -> Object:
    """SelfSubjectAccessReview: may I?"""
    asked = given["spec"]["resourceAttributes"]
    resource = "/".join(filter(None, (asked["resource"], asked.get("subresource", ""))))
    allowed = user.may(asked["verb"], resource, asked.get("namespace", ""))
    return {**given, "metadata": {}, "status": {"allowed": allowed}}


def existing(cluster: Cluster, resource: Resource, namespace: str, name: str) -> Object:
    thing = cluster.objects[resource.name].get((namespace, name))
    if thing is None:
        raise statuses.not_found(resource, name)
    return thing
