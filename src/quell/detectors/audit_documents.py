"""Documents that hold Kubernetes audit events, cut into these.

kube-apiserver's webhook backend posts an EventList, its log backend writes an event a line. Collectors put events into
records of their own: Azure's diagnostic logs (a record or {"records": […]}, the event a text in properties.log),
CloudWatch's subscriptions ({"logEvents": […]}, a text in message), Elastic (kubernetes.audit), and log shippers that
know nothing of them (a text in log or message).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.structs import replace

from quell.detectors.context import Context, Part, Skipped, gathered, wrapped
from quell.detectors.line import read
from quell.errors import EventError

#: Events of one document, and how many wrappings may lie around one.
MAX_EVENTS = 100_000
_DEPTH = 5
_AZURE = "kube-audit"
_CLUSTERS = "/managedclusters/"


class _Document(Struct, kw_only=True):
    """Of an event or whatever is around it only what tells the two apart."""

    kind: object = None
    audit_id: object = field(name="auditID", default=None)
    stage: object = None
    items: Raw | UnsetType = UNSET
    records: Raw | UnsetType = UNSET
    log_events: Raw | UnsetType = field(name="logEvents", default=UNSET)
    category: object = None
    resource_id: object = field(name="resourceId", default=None)
    properties: Raw | UnsetType = UNSET
    kubernetes: Raw | UnsetType = UNSET
    log: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET


class _Empty(Struct, gc=False):
    pass


class _Properties(Struct):
    log: str


class _Elastic(Struct):
    audit: Raw


_document = msgspec.json.Decoder(_Document)
_several = msgspec.json.Decoder(list[Raw])
_counted = msgspec.json.Decoder(Annotated[list[_Empty], Meta(max_length=MAX_EVENTS)])
_properties = msgspec.json.Decoder(_Properties)
_elastic = msgspec.json.Decoder(_Elastic)
_text = msgspec.json.Decoder(str)


def events(document: bytes, context: Context) -> Iterator[Part]:
    """The events of a document, each with its context, and what else is in it."""
    yield from _parts(*gathered(document, context), _DEPTH)


def _parts(document: bytes, context: Context, depth: int) -> Iterator[Part]:
    if depth == 0:
        raise EventError("wrapped too often: expected an audit event")
    if document.lstrip()[:1] == b"[":
        yield from _each(document, context, depth)
        return
    shape = read(_document, document)
    if shape.kind == "EventList":
        yield from _each(shape.items, context, depth)
    elif shape.kind is not None or shape.audit_id is not None:
        yield _event(document, shape.stage, context)
    elif shape.records is not UNSET:
        yield from _each(shape.records, context, depth)
    elif shape.log_events is not UNSET:
        yield from _each(shape.log_events, context, depth)
    elif isinstance(shape.category, str) and shape.properties is not UNSET:
        yield from _azure(shape, shape.category, shape.properties, context, depth)
    elif shape.kubernetes is not UNSET:
        yield from _parts(bytes(read(_elastic, bytes(shape.kubernetes)).audit), context, depth - 1)
    elif not isinstance(shape.log, UnsetType):
        yield from _line(read(_text, bytes(shape.log)), context, depth)
    elif not isinstance(shape.message, UnsetType):
        yield from _line(read(_text, bytes(shape.message)), context, depth)
    else:
        raise EventError("Expected an audit event, a list of them or a known wrapping, got an object without `kind`")


def _event(document: bytes, stage: object, context: Context) -> Part:
    if stage == "RequestReceived":
        return Skipped("stage RequestReceived, which a later stage of the same request repeats")
    return wrapped(document, context)


def _each(array: Raw | bytes | UnsetType, context: Context, depth: int) -> Iterator[Part]:
    """The parts of an array's elements; one that cannot be read leaves the others."""
    text = b"[]" if isinstance(array, UnsetType) else bytes(array)
    if text.count(b",") >= MAX_EVENTS:
        # Counted without keeping them: of elements of a byte each there could be millions.
        read(_counted, text)
    for element in read(_several, text):
        try:
            # Not `yield from`: an error of the one who takes the parts is not this element's.
            found = list(_parts(bytes(element), context, depth - 1))
        except EventError as error:
            yield error
        else:
            yield from found


def _azure(shape: _Document, category: str, properties: Raw, context: Context, depth: int) -> Iterator[Part]:
    """A record of Azure's diagnostic logs: its resource is the cluster."""
    if not category.startswith(_AZURE):
        yield Skipped(f"Azure log of category {category[:64]}")
        return
    resource = shape.resource_id if isinstance(shape.resource_id, str) else ""
    place = resource.lower().find(_CLUSTERS)
    cluster = resource[place + len(_CLUSTERS) :].partition("/")[0] if place >= 0 else ""
    if cluster and context.cluster is None:
        context = replace(context, cluster=cluster)
    yield from _line(read(_properties, bytes(properties)).log, context, depth)


def _line(text: str, context: Context, depth: int) -> Iterator[Part]:
    if not text.lstrip().startswith("{"):
        yield Skipped("a log line that is not JSON")
        return
    yield from _parts(text.encode(errors="surrogatepass"), context, depth - 1)
