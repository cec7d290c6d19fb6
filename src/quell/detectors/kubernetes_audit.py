"""Kubernetes audit events (audit.k8s.io/v1 and v1beta1), as kube-apiserver's webhook and log backends write them.

A request that changes something, or connects to a pod, goes through admission: its event is of category
admission-control. All others are plain events: reads, what authorization refused, changes that failed for another
reason. docs/kubernetes-audit.md says what becomes what.

One request is written at several stages, under one audit id. RequestReceived is left out. A request that lasts (exec,
attach, port-forward, watch) is written when it starts and when it ends: both have one id here, so that the first counts,
while there is still something to act on, and the second is its repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from hashlib import blake2b
from typing import Annotated, NamedTuple
from urllib.parse import parse_qs

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from quell.catalogue.names import NAMES
from quell.detectors import audit_documents
from quell.detectors.admission import DECISION, refused_by, violated
from quell.detectors.context import Context, Part, opened, placed
from quell.detectors.form import ID
from quell.detectors.kubernetes_objects import NOTHING, Described, described
from quell.detectors.line import read
from quell.detectors.stamps import epoch
from quell.errors import EventError
from quell.ids import uuid7
from quell.model.details import AdmissionReview, Details, PlainDetails
from quell.model.event import Category, Event
from quell.model.subject import Pod, Subject

_VERSIONS = ("audit.k8s.io/v1", "audit.k8s.io/v1beta1")
_STAGES = frozenset((None, "ResponseStarted", "ResponseComplete", "Panic"))
#: Admission's word for what a verb does.
_OPERATIONS = {
    "create": "CREATE",
    "update": "UPDATE",
    "patch": "UPDATE",
    "delete": "DELETE",
    "deletecollection": "DELETE",
    "connect": "CONNECT",
}
#: Subresources that one connects to, with any verb.
_CONNECTED = {
    "pods": frozenset(("exec", "attach", "portforward", "proxy")),
    "services": frozenset(("proxy",)),
    "nodes": frozenset(("proxy",)),
}
#: Opened with POST (SPDY) or with GET (WebSocket): one thing, which Kubernetes' documents call create.
_STREAMS = frozenset(("exec", "attach", "portforward"))
_READS = frozenset(("get", "list", "watch", "head", "options"))
_MAX_NAME = 300
_MAX_AUDIT_ID = 150


class Outcome(StrEnum):
    """What became of a request; the name in the catalogue."""

    ALLOWED = "Admission.Control.Allowed"
    VIOLATION = "Admission.Control.Violation"
    DENIED = "Admission.Control.Denied"
    READ = "Kubernetes.Audit.Read"
    FORBIDDEN = "Kubernetes.Audit.Forbidden"
    FAILED = "Kubernetes.Audit.Failed"
    OTHER = "Kubernetes.Audit.Other"

    @property
    def is_admission(self) -> bool:
        return self in _ADMISSION


_ADMISSION = frozenset((Outcome.ALLOWED, Outcome.VIOLATION, Outcome.DENIED))


class UserInfo(Struct, gc=False):
    username: str | None = None


class ObjectReference(Struct, kw_only=True, gc=False):
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None
    subresource: str | None = None


class Status(Struct, kw_only=True, gc=False):
    status: str | None = None
    message: str | None = None
    code: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None


class Audit(Struct, kw_only=True):
    """One audit event. All but the verb may be missing: some collectors leave out what they do not use."""

    kind: str | None = None
    api_version: str | None = field(name="apiVersion", default=None)
    audit_id: str | None = field(name="auditID", default=None)
    stage: str | None = None
    request_uri: str | None = field(name="requestURI", default=None)
    verb: str | None = None
    user: UserInfo | None = None
    impersonated: UserInfo | None = field(name="impersonatedUser", default=None)
    source_ips: list[str] | None = field(name="sourceIPs", default=None)
    object_ref: ObjectReference | None = field(name="objectRef", default=None)
    response_status: Status | None = field(name="responseStatus", default=None)
    request_object: Raw | UnsetType = field(name="requestObject", default=UNSET)
    response_object: Raw | UnsetType = field(name="responseObject", default=UNSET)
    received: str | None = field(name="requestReceivedTimestamp", default=None)
    staged: str | None = field(name="stageTimestamp", default=None)
    annotations: dict[str, str] | None = None
    #: Panther's, which writes times in UTC without saying so.
    panther_type: str | None = field(name="p_log_type", default=None)
    panther_time: str | None = field(name="p_event_time", default=None)


_audit = msgspec.json.Decoder(Audit)


class KubernetesAudit:
    name = "k8s-audit"
    about = "Kubernetes audit events: an EventList of kube-apiserver's webhook, lines of its log, or cloud wrappings"
    takes = frozenset(("cluster",))
    #: An EventList has up to 400 events with whole objects in them.
    is_report = True
    produces = tuple(outcome.value for outcome in Outcome)

    def split(self, document: bytes, context: Context) -> Sequence[Part]:
        return list(audit_documents.events(document, context))

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """One audit event. Its name is verb and resource, such as `create pods/exec`."""
        document, context = opened(line)
        audit = read(_audit, document)
        _check(audit)
        request = _request(audit)
        own = _id(audit)
        return Event(
            id=id or own or uuid7(),
            id_given=own is not None,
            time=_time(audit),
            received=received,
            source=self.name,
            category=Category.ADMISSION_CONTROL if request.outcome.is_admission else Category.EVENT,
            name=request.name,
            catalogue_name=request.outcome.value,
            level=NAMES[request.outcome].level,
            subject=placed(_subject(audit, request.object), context),
            raw=line,
            decode=details,
        )


def details(line: bytes) -> Details | None:
    """The details of an audit event's line (Event.decode)."""
    audit = read(_audit, opened(line)[0])
    request = _request(audit)
    message, user = _message(audit, request), _user(audit)
    if not request.outcome.is_admission:
        return PlainDetails(message=message, user=user)
    return AdmissionReview(
        message=message,
        user=user,
        operation=request.operation,
        object=_object(audit.object_ref or ObjectReference()),
        images=request.object.images,
        rule=request.rule,
    )


class _Request(NamedTuple):
    """What an audit event is about. name: the detector's own. operation: admission's word; None: not through it."""

    outcome: Outcome
    name: str
    operation: str | None
    object: Described
    rule: str | None
    #: Beside the status: what was violated.
    message: str


def _check(audit: Audit) -> None:
    # In an EventList of kube-apiserver the events themselves have neither kind nor version.
    if audit.kind not in ("Event", None) or (audit.kind is None and audit.audit_id is None):
        raise EventError(f"Expected `Event`, got {f'`{audit.kind[:64]}`' if audit.kind else 'nothing'} - at `$.kind`")
    if audit.api_version is not None and audit.api_version not in _VERSIONS:
        raise EventError(
            f"Expected {' or '.join(_VERSIONS)}, got `{audit.api_version[:64]}` - at `$.apiVersion`"
            + (" (an Event of Kubernetes itself is not an audit event)" if audit.api_version == "v1" else "")
        )
    if audit.kind is not None and audit.api_version is None:
        raise EventError(f"Expected {_VERSIONS[0]}, got nothing - at `$.apiVersion`")
    if audit.stage not in _STAGES:
        raise EventError(f"Expected ResponseStarted, ResponseComplete or Panic, got `{audit.stage}` - at `$.stage`")


def _request(audit: Audit) -> _Request:
    reference, status = audit.object_ref or ObjectReference(), audit.response_status or Status()
    resource, subresource, verb = reference.resource, reference.subresource, audit.verb or ""
    operation = None if resource is None else _OPERATIONS.get(verb)
    if resource is not None and subresource is not None and subresource in _CONNECTED.get(resource, ()):
        operation = "CONNECT"
        if subresource in _STREAMS:
            verb = "create"
    target = resource or (audit.request_uri or "").partition("?")[0] or "request"
    name = f"{verb or 'unknown'} {target}{f'/{subresource}' if subresource else ''}"[:_MAX_NAME]
    annotations, code, said = audit.annotations or {}, status.code or 0, status.message or ""
    found, rule, message = Outcome.OTHER, None, ""
    has_failed = code >= 400 or status.status == "Failure"
    if has_failed and operation is not None and (refused := refused_by(code, said, annotations)) is not None:
        found, rule = Outcome.DENIED, refused.rule
    elif code in (401, 403) or annotations.get(DECISION) == "forbid":
        found = Outcome.FORBIDDEN
    elif operation is not None and has_failed:
        found = Outcome.FAILED
    elif operation is not None:
        found, violation = Outcome.ALLOWED, violated(annotations)
        if violation is not None:
            found, rule, message = Outcome.VIOLATION, ", ".join(violation.rules), violation.message
    elif verb in _READS:
        found = Outcome.READ
    return _Request(found, name, operation, _described(audit, verb), rule, message)


def _described(audit: Audit, verb: str) -> Described:
    """What request and response say of the object: all images of both, the response's word for the rest."""
    asked = described(None if audit.request_object is UNSET else audit.request_object, whole=verb != "patch")
    given = described(None if audit.response_object is UNSET else audit.response_object, whole=True)
    if given == NOTHING:
        return asked
    return Described(
        images=tuple(dict.fromkeys((*asked.images, *given.images))),
        name=given.name or asked.name,
        uid=given.uid or asked.uid,
        labels=given.labels if given.labels is not None else asked.labels,
        node=given.node or asked.node,
    )


def _subject(audit: Audit, found: Described) -> Subject:
    reference = audit.object_ref or ObjectReference()
    resource, name = reference.resource, reference.name or None
    namespace, node, pod = reference.namespace or None, found.node, None
    if resource == "namespaces":
        namespace = namespace or name
    elif resource == "nodes":
        node = name
    elif resource == "pods":
        pod_name, uid = name or found.name, reference.uid or found.uid
        if pod_name or uid:
            pod = Pod(name=pod_name, uid=uid, labels=found.labels)
    user = audit.user.username if audit.user is not None else None
    return Subject(
        node=node,
        namespace=namespace,
        pod=pod,
        image=found.images[0] if len(found.images) == 1 else None,
        user=user or None,
    )


def _user(audit: Audit) -> str | None:
    """Who asked, and in whose name."""
    user = audit.user.username if audit.user is not None else None
    other = audit.impersonated.username if audit.impersonated is not None else None
    return f"{user or 'unknown'} as {other}" if other else user or None


def _object(reference: ObjectReference) -> str | None:
    steps = (reference.namespace, reference.resource, reference.name, reference.subresource)
    return "/".join(step for step in steps if step) or None


def _message(audit: Audit, request: _Request) -> str:
    status = audit.response_status or Status()
    where = _object(audit.object_ref or ObjectReference()) or audit.request_uri or ""
    query = parse_qs((audit.request_uri or "").partition("?")[2]) if request.operation is not None else {}
    about = [f"{_user(audit) or 'somebody'}: {request.name}, {where}" if where else request.name]
    if "container" in query:
        about.append(f"container {query['container'][0]}")
    if "command" in query:
        about.append(f"command {' '.join(query['command'])}")
    if "dryRun" in query:
        about.append("dry run")
    if audit.source_ips:
        # The addresses before the last are the client's own word.
        about.append(f"from {audit.source_ips[-1]}")
    if status.code is not None:
        about.append(f"answered {status.code}")
    text = ", ".join(about)
    return "; ".join(
        part for part in (text, status.message if (status.code or 0) >= 400 else "", request.message) if part
    )


def _time(audit: Audit) -> float | None:
    """Epoch seconds of the stage; None where the event has no time that can be read."""
    is_panther = audit.panther_type is not None
    found = (epoch(text, utc=is_panther) for text in (audit.staged, audit.received, audit.panther_time))
    return next((moment for moment in found if moment is not None), None)


def _id(audit: Audit) -> str | None:
    """The audit id, and a digest of what else is the same at every stage of a request.

    A client may choose the audit id of its request (header Audit-ID): alone it would let one request pass as the repeat
    of another.
    """
    if not audit.audit_id:
        return None
    user = None if audit.user is None else audit.user.username
    told = msgspec.json.encode((audit.audit_id, audit.received, audit.verb, audit.request_uri, user, audit.object_ref))
    asked = b"" if audit.request_object is UNSET else bytes(audit.request_object)
    digest = blake2b(told + asked, digest_size=8).hexdigest()
    shown = audit.audit_id[:_MAX_AUDIT_ID]
    return f"{shown}.{digest}" if ID.fullmatch(shown) is not None else digest
