"""Selectors of policies: does this part of the subject meet these requirements? SEMANTICS sections 0 (2) and 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import NamedTuple

from quell.catalogue.forms import is_glob
from quell.matching.patterns import glob
from quell.model.policy import Operator, Requirement, Selector, SelectorKind
from quell.model.subject import Subject

#: True or False where the event says enough; None where the thing or the value is not there to say.
Truth = bool | None
Check = Callable[[Subject], Truth]

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


class Missing(Enum):
    """What it means that a part has no value for a key."""

    #: The key is absent; what its value would be, nobody said.
    FIELD = auto()
    #: The labels are listed and this is none of them.
    LABEL = auto()
    #: The labels are not listed at all.
    UNLISTED = auto()


class Part(NamedTuple):
    values: Mapping[str, str | None]
    missing: Missing


def compile_selector(selector: Selector) -> Check:
    """ValueError: a pattern that cannot be read."""
    part_of = _PARTS[selector.kind]
    requirements = tuple(_compiled(requirement) for requirement in selector.requirements)

    def check(subject: Subject) -> Truth:
        part = part_of(subject)
        return None if part is None else every(holds(part) for holds in requirements)

    return check


def compile_trigger(selector: Selector) -> Callable[[Mapping[str, str | None]], Truth]:
    """A traceSelector, which is asked about the trigger of a trace: its triggerClass and triggerAncestors.

    ValueError: a pattern that cannot be read.
    """
    requirements = tuple(_compiled(requirement) for requirement in selector.requirements)
    return lambda trigger: every(holds(Part(trigger, Missing.FIELD)) for holds in requirements)


def every(truths: Iterable[Truth]) -> Truth:
    """False if one is, else None if one is, else True."""
    found = list(truths)
    return False if False in found else None if None in found else True


def _compiled(requirement: Requirement) -> Callable[[Part], Truth]:
    key, operator = requirement.key, requirement.operator
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        wanted = operator is Operator.EXISTS

        def exists(part: Part) -> Truth:
            if part.values.get(key) is not None:
                return wanted
            return None if part.missing is Missing.UNLISTED else not wanted

        return exists
    exact = frozenset(requirement.values)
    patterns = tuple(glob(value) for value in requirement.values if is_glob(value))
    listed = operator is Operator.IN

    def compare(part: Part) -> Truth:
        value = part.values.get(key)
        if value is None:
            return False if part.missing is Missing.LABEL else None
        return (value in exact or any(pattern.matches(value) for pattern in patterns)) is listed

    return compare


def _fields(**values: str | None) -> Part | None:
    """None: nothing of the thing is there."""
    return Part(values, Missing.FIELD) if any(value is not None for value in values.values()) else None


def _cluster(subject: Subject) -> Part | None:
    return _fields(name=subject.cluster, uid=subject.cluster_uid)


def _machine(subject: Subject) -> Part | None:
    return _fields(hostname=subject.node, sourceName=subject.source_name, uid=subject.machine_uid or subject.machine_id)


def _namespace(subject: Subject) -> Part | None:
    """Kubernetes gives every namespace its name as a label, so that one is known where the name is."""
    labels, name = subject.namespace_labels, subject.namespace
    named = {} if name is None else {NAMESPACE_LABEL: name}
    if labels is None:
        return Part(named, Missing.UNLISTED) if named else None
    return Part({**named, **labels}, Missing.LABEL)


def _pod(subject: Subject) -> Part | None:
    pod = subject.pod
    if pod is None:
        return None
    return Part({}, Missing.UNLISTED) if pod.labels is None else Part(pod.labels, Missing.LABEL)


def _container(subject: Subject) -> Part | None:
    container = subject.container
    if container is None:
        return _fields(image=subject.image)
    return _fields(
        image=subject.image, imageID=container.image_id, containerName=container.name, containerID=container.id
    )


def _service(subject: Subject) -> Part | None:
    return _fields(cgroup=subject.service_cgroup, name=subject.service)


def _process(subject: Subject) -> Part | None:
    process = subject.process
    if process is None:
        return None
    return Part({"name": process.name, "exe": process.exe, "euser": process.user}, Missing.FIELD)


def _user(subject: Subject) -> Part | None:
    """Of an event about a user, or of the process; only trace policies ask."""
    process = subject.process
    return _fields(user=subject.user or (process.user if process is not None else None))


_PARTS: Mapping[SelectorKind, Callable[[Subject], Part | None]] = {
    SelectorKind.CLUSTER: _cluster,
    SelectorKind.MACHINE: _machine,
    SelectorKind.NAMESPACE: _namespace,
    SelectorKind.POD: _pod,
    SelectorKind.CONTAINER: _container,
    SelectorKind.SERVICE: _service,
    SelectorKind.PROCESS: _process,
    SelectorKind.USER: _user,
    SelectorKind.TRACE: lambda _: None,
}
