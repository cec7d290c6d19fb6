"""What a document does not say and its sender knows: on which machine, in which cluster, of which container.

The journal keeps nothing of an event but its bytes. So what the sender gave beside a document is written into them, in
an envelope around the document: {"quell": {"node": "worker-1"}, "document": …}. A detector that takes documents opens
it first; a document that comes in such an envelope already is as good as one with parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from quell.detectors.form import seconds
from quell.detectors.line import read
from quell.errors import EventError
from quell.model.subject import Container, Pod, Subject


class Skipped(Struct, frozen=True):
    """Something that is sent along and is no finding, such as the log of a flow. The receipt counts it by its reason."""

    reason: str


#: What a document was cut into: the bytes of an event, what cannot be read and why, what is left out by the way, or (as
#: a text) what else was found in it that is no event of ours and is left, for the sender to know.
Part = bytes | EventError | Skipped | str

_Word = Annotated[str, Meta(min_length=1, max_length=1024)]


class Context(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Each word is a parameter of the query, and an option of `quell events send`."""

    cluster: _Word | None = None
    #: The host's name, as agents and Kubernetes know it.
    node: _Word | None = None
    machine_id: _Word | None = None
    namespace: _Word | None = None
    pod: _Word | None = None
    pod_uid: _Word | None = None
    #: The container's id.
    container: _Word | None = None
    container_name: _Word | None = None
    image: _Word | None = None
    service: _Word | None = None
    #: When what the document says was found, RFC 3339 with its zone; for documents without a time.
    time: Annotated[datetime, Meta(tz=True)] | None = None


#: What each word of a context means, for people.
MEANINGS: dict[str, str] = {
    "cluster": "name of the cluster",
    "node": "name of the machine",
    "machine_id": "the machine's /etc/machine-id",
    "namespace": "Kubernetes namespace",
    "pod": "name of the pod",
    "pod_uid": "uid of the pod",
    "container": "id of the container",
    "container_name": "name of the container",
    "image": "image of the container",
    "service": "name of the workload",
    "time": "when it was found (RFC 3339), if the document does not say",
}

NOTHING = Context()


class _Envelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    quell: Context
    document: msgspec.Raw


_OPENING = re.compile(rb'\s*\{\s*"quell"\s*:')
_envelope = msgspec.json.Decoder(_Envelope)
_encode = msgspec.json.Encoder().encode


def wrapped(document: bytes, context: Context) -> bytes:
    """The document with its context; the document itself where there is none."""
    return document if context == NOTHING else b'{"quell":%s,"document":%s}' % (_encode(context), document.strip())


def opened(line: bytes) -> tuple[bytes, Context]:
    """The document, and what came with it. EventError: an envelope that is none of ours."""
    if _OPENING.match(line) is None:
        return line, NOTHING
    envelope = read(_envelope, line)
    return bytes(envelope.document), envelope.quell


def gathered(line: bytes, context: Context, takes: frozenset[str] | None = None) -> tuple[bytes, Context]:
    """The document, and what came with it in its envelope and beside it.

    takes: the words that an envelope may have, None: all. EventError: it has another, or the two contradict each other.
    """
    document, inside = opened(line)
    if inside == NOTHING:
        return document, context
    if takes is not None:
        for word in Context.__struct_fields__:
            if word not in takes and getattr(inside, word) is not None:
                raise EventError(f"{word}: no such document can be given one; there are {', '.join(sorted(takes))}")
    both = {}
    for word in Context.__struct_fields__:
        within, beside = getattr(inside, word), getattr(context, word)
        if within is not None and beside is not None and within != beside:
            raise EventError(f"{word}: the envelope says {within}, the request {beside}")
        both[word] = beside if within is None else within
    return document, Context(**both)


def placed(subject: Subject, context: Context) -> Subject:
    """The subject with what the sender knows. EventError where the document says otherwise."""
    if context == NOTHING:
        return subject
    return msgspec.structs.replace(
        subject,
        cluster=agreed("cluster", subject.cluster, context.cluster),
        node=agreed("node", subject.node, context.node),
        machine_id=agreed("machine_id", subject.machine_id, context.machine_id),
        namespace=agreed("namespace", subject.namespace, context.namespace),
        pod=_pod(subject.pod, context),
        container=_container(subject.container, context),
        image=agreed("image", subject.image, context.image, alike=_same_image),
        service=agreed("service", subject.service, context.service),
    )


def _pod(said: Pod | None, context: Context) -> Pod | None:
    if context.pod is None and context.pod_uid is None:
        return said
    if said is None:
        return Pod(name=context.pod, uid=context.pod_uid)
    name, uid = agreed("pod", said.name, context.pod), agreed("pod_uid", said.uid, context.pod_uid)
    return msgspec.structs.replace(said, name=name, uid=uid)


def _container(said: Container | None, context: Context) -> Container | None:
    identifier, name = context.container, context.container_name
    if said is None:
        if identifier is None and name is not None:
            raise EventError("container_name: a container is named by its id; give container as well")
        return None if identifier is None else Container(id=identifier, name=name)
    agreed("container", said.id, identifier, alike=_same_container)
    return msgspec.structs.replace(said, name=agreed("container_name", said.name, name))


def moment(said: float | None, context: Context) -> float | None:
    """When it happened, epoch seconds: the document's time, else the sender's. EventError where they differ."""
    given = seconds(context.time)
    if said is not None and given is not None and said != given:
        raise EventError("time: the document has a time of its own, and another one was given beside it")
    return given if said is None else said


def agreed(
    word: str, said: str | None, given: str | None, *, alike: Callable[[str, str], bool] = str.__eq__
) -> str | None:
    """What the document says, else what its sender says. EventError where both do and differ."""
    if said is None or given is None:
        return given if said is None else said
    if not alike(said, given):
        raise EventError(f"{word}: the document says {said[:256]}, its sender {given[:256]}")
    return said


def _same_container(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return one == other or (len(short) >= 12 and long.startswith(short))


_DEFAULT_REGISTRY = re.compile(r"(?:index\.|registry-1\.)?docker\.io/(?:library/)?|library/")


def _same_image(one: str, other: str) -> bool:
    """nginx:1.27, library/nginx:1.27 and docker.io/library/nginx:1.27 are one."""
    return _DEFAULT_REGISTRY.sub("", one, count=1) == _DEFAULT_REGISTRY.sub("", other, count=1)
