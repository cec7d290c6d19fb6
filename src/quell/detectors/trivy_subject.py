"""What a report of Trivy is about: which of the four kinds of scan it is, whose, and of which image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from quell.detectors.trivy_form import Metadata, OperatorObject, OperatorReport, Report, Resource, Result
from quell.model.subject import Pod, Subject

CONTAINER, HOST, REGISTRY, PLATFORM = "container", "host", "registry", "platform"

#: ArtifactType: what lies somewhere and does not run; the rest are file systems of machines.
_AT_REST = frozenset(("container_image", "image", "repository", "cyclonedx", "spdx"))
_IMAGES = frozenset(("container_image", "image", "cyclonedx", "spdx"))
_WORKLOADS = frozenset(
    (
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "ReplicaSet",
        "ReplicationController",
        "Job",
        "CronJob",
        "DeploymentConfig",
    )
)
_NODES = frozenset(("Node", "NodeComponents", "NodeInfo"))
#: What a Deployment adds to the names of its ReplicaSets.
_HASH = re.compile(r"-[0-9bcdfghjklmnpqrstvwxz]{5,10}$")
#: `nginx:1.27 (debian 12.5)`: how the target of a system's packages is named.
_TARGET = re.compile(r"(\S+) \([a-z][\w. -]*\)")


def of_report(told: Report) -> str:
    if told.artifact_type:
        return REGISTRY if told.artifact_type in _AT_REST else HOST
    about = told.metadata
    return REGISTRY if about is not None and (about.image_id or about.repo_tags or about.reference) else HOST


def of_resource(kind: str, name: str, namespace: str) -> tuple[str, Subject]:
    """An object of a cluster: workloads are containers; nodes and what the cluster itself is made of, the platform."""
    where = namespace or None
    if kind == "Pod":
        return CONTAINER, Subject(namespace=where, pod=Pod(name=name))
    if kind in _WORKLOADS:
        return CONTAINER, Subject(namespace=where, service=_HASH.sub("", name) if kind == "ReplicaSet" else name)
    if kind in _NODES:
        return PLATFORM, Subject(node=name or None)
    return PLATFORM, Subject(namespace=where)


def of_operator(told: OperatorObject) -> tuple[str, Subject]:
    """By the labels with which the operator says whose report it is."""
    labels, artifact = told.metadata.labels or {}, None if told.report is None else told.report.artifact
    if artifact is not None and artifact.node_name:
        return HOST, Subject(node=artifact.node_name)
    if told.kind == "ImageVulnerabilityReport":
        return REGISTRY, Subject()
    return of_resource(
        labels.get("trivy-operator.resource.kind", ""),
        labels.get("trivy-operator.resource.name", ""),
        labels.get("trivy-operator.resource.namespace") or told.metadata.namespace,
    )


def image_of_report(told: Report) -> str | None:
    """The name it was asked for by, if the image has it; else its own; a file that it lay in is none."""
    about = told.metadata or Metadata()
    tags, digests = _said(about.repo_tags), _said(about.repo_digests)
    if about.reference:
        return about.reference
    if told.artifact_name in (*tags, *digests):
        return told.artifact_name
    if tags or digests:
        return (tags or digests)[0]
    if told.artifact_type and told.artifact_type not in _IMAGES:
        return None
    if (
        told.artifact_name
        and told.artifact_type
        and not told.artifact_name.endswith((".tar", ".tar.gz", ".tgz", ".json"))
    ):
        return told.artifact_name
    return image_of_targets(told.results or ())


def image_of_targets(results: Iterable[Result]) -> str | None:
    """From the name of the target that has the system's packages; None where there is none, or several."""
    found = {match[1] for result in results if (match := _TARGET.fullmatch(result.target))}
    return found.pop() if len(found) == 1 else None


def image_of_resource(told: Resource) -> str | None:
    """None where it has several images."""
    several = told.metadata if isinstance(told.metadata, list) else [told.metadata or Metadata()]
    names = {name for one in several for name in (_said(one.repo_tags) or _said(one.repo_digests))[:1]}
    if names:
        return names.pop() if len(names) == 1 else None
    return image_of_targets(told.results or ())


def image_of_operator(told: OperatorReport) -> str | None:
    artifact = told.artifact
    if artifact is None or not artifact.repository:
        return None
    server = "" if told.registry is None else told.registry.server
    name = f"{server}/{artifact.repository}" if server else artifact.repository
    # Everybody but Docker's own client calls it docker.io.
    name = name.removeprefix("index.") if server == "index.docker.io" else name
    if artifact.tag:
        return f"{name}:{artifact.tag}"
    return f"{name}@{artifact.digest}" if artifact.digest else name


def _said(names: Sequence[str] | None) -> list[str]:
    return [name for name in names or () if name]
