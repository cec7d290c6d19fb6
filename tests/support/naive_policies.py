"""What a policy asks for about a subject, and what it lists, read off its text as SEMANTICS section 5 says it.

It shares nothing with quell.documents and quell.matching. It is slow and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tests.support.naive import TRUE, texts_of

from quell.model.subject import Subject

Spec = Mapping[str, Any]
FALSE = {"false", "no", "off", "n"}
OLDER = {"machineUID": "uid", "users": "user", "interactiveUsers": "user", "nonInteractiveUsers": "user"}


def specs_of(text: str | bytes, kind: str) -> dict[str, Spec]:
    """The specs of the policies or rulesets in a text, by name."""
    return {document["metadata"]["name"]: document["spec"] for document in texts_of(text) if document["kind"] == kind}


def asked(spec: Spec, subject: Subject) -> set[tuple[str, str]]:
    """(actions or default, the action's word) of each entry that is asked for."""
    if str(spec.get("enabled", "true")).casefold() in FALSE:
        return set()
    if False in [_selector(kind, value, subject) for kind, value in spec.items() if kind.endswith("Selector")]:
        return set()
    response = spec.get("response") or {}
    specific = {
        word
        for word, parameters in _entries(response.get("actions"))
        if all(_selector(kind, value, subject) for kind, value in parameters.items() if kind.endswith("Selector"))
    }
    # Other systems take entries of default that say nothing.
    default = {word for word, _ in _entries([one for one in response.get("default") or [] if one])} - specific
    return {("actions", word) for word in specific} | {("default", word) for word in default}


def _entries(value: Any) -> Iterator[tuple[str, Spec]]:
    for entry in value or []:
        [(word, parameters)] = ((entry, {}),) if isinstance(entry, str) else entry.items()
        parameters = parameters if isinstance(parameters, Mapping) else {}
        if str(parameters.get("enabled", "true")).casefold() in TRUE:
            yield word, parameters


def _selector(kind: str, selector: Spec, subject: Subject) -> bool | None:
    """None: the subject does not say."""
    there, values = _part(kind, subject)
    if not there:
        return None
    labels = kind in ("podSelector", "namespaceSelector")
    known = not labels or _has_labels(kind, subject)
    truths: list[bool | None] = []
    for key, value in (selector.get("matchFields") or selector.get("matchLabels") or {}).items():
        truths.append(_in(values.get(key), [value], labels, known))
    for one in selector.get("matchFieldsExpressions") or selector.get("matchExpressions") or []:
        found = values.get(one["key"])
        match one["operator"]:
            case "In":
                truths.append(_in(found, one["values"], labels, known))
            case "NotIn":
                inside = _in(found, one["values"], labels, known)
                truths.append((False if labels and known else None) if found is None else not inside)
            case "Exists":
                truths.append(True if found is not None else False if known else None)
            case "DoesNotExist":
                truths.append(False if found is not None else True if known else None)
    for key, value in selector.items():
        if not key.startswith("match"):
            several = value if isinstance(value, list) else [value]
            truths.append(_in(values.get(OLDER.get(key, key)), several, labels, known))
    return False if False in truths else None if None in truths else True


def _in(found: str | None, values: list[str], labels: bool, known: bool) -> bool | None:
    if found is None:
        return False if labels and known else None
    return any(fnmatchcase(found, value) if set(value) & set("*?[") else found == value for value in values)


def _has_labels(kind: str, subject: Subject) -> bool:
    if kind == "podSelector":
        return subject.pod is not None and subject.pod.labels is not None
    return subject.namespace_labels is not None


def _part(kind: str, subject: Subject) -> tuple[bool, Mapping[str, str | None]]:
    """Whether the subject has such a thing, and what is known of it."""
    container, process, pod = subject.container, subject.process, subject.pod
    parts: dict[str, Mapping[str, str | None]] = {
        "clusterSelector": {"name": subject.cluster, "uid": subject.cluster_uid},
        "machineSelector": {"hostname": subject.node, "sourceName": subject.source_name, "uid": subject.machine_id},
        "containerSelector": {
            "image": subject.image,
            "imageID": container.image_id if container else None,
            "containerName": container.name if container else None,
            "containerID": container.id if container else None,
        },
        "serviceSelector": {"name": subject.service, "cgroup": subject.service_cgroup},
        "processSelector": {
            "name": process.name if process else None,
            "exe": process.exe if process else None,
            "euser": process.user if process else None,
        },
    }
    if kind == "processSelector":
        # One of which only the number is known is there all the same, and what is not known of it is absent from it.
        return process is not None, parts[kind]
    if kind in parts:
        return any(value is not None for value in parts[kind].values()), parts[kind]
    if kind == "podSelector":
        return pod is not None, (pod.labels if pod else None) or {}
    own = {} if subject.namespace is None else {"kubernetes.io/metadata.name": subject.namespace}
    return bool(own) or subject.namespace_labels is not None, own | (subject.namespace_labels or {})


def processes(spec: Spec) -> list[tuple[int, str, list[str], list[str], list[tuple[str, int, int]]]]:
    """Depth, name, executables, users and sockets of each process listed, in the order of writing."""

    def below(nodes: Any, depth: int) -> Iterator[Any]:
        for node in nodes or []:
            yield depth, node["name"], node["exe"], node.get("euser") or [], ports(node.get("listeningSockets"))
            yield from below(node.get("children"), depth + 1)

    return list(below(spec.get("processPolicy"), 0))


def connections(spec: Spec) -> list[tuple[str, list[Any], list[tuple[str, int, int]], set[str]]]:
    """Direction, peers as they are written, ports and ids of each rule."""
    network = spec.get("networkPolicy") or {}
    return [
        (direction, rule[peers], ports(rule["ports"]), set(rule.get("processes") or []))
        for direction, peers in (("ingress", "from"), ("egress", "to"))
        for rule in network.get(direction) or []
    ]


def ports(value: Any) -> list[tuple[str, int, int]]:
    return [(one.get("protocol", "TCP"), int(one["port"]), int(one.get("endPort", one["port"]))) for one in value or []]
