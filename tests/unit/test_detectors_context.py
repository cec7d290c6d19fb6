"""What a sender says beside a document: kept in its bytes, never against it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from quell.api.given import given
from quell.api.problem import Refusal
from quell.detectors.context import MEANINGS, NOTHING, Context, gathered, moment, opened, placed, wrapped
from quell.errors import EventError
from quell.model.subject import Container, Pod, Subject

DOCUMENT = b'{"SchemaVersion": 2}'
WHEN = datetime(2026, 11, 22, 15, 40, tzinfo=UTC)


def test_every_word_has_a_meaning() -> None:
    assert list(MEANINGS) == list(Context.__struct_fields__)


def test_a_document_without_context_stays_as_it_is() -> None:
    assert wrapped(DOCUMENT, NOTHING) == DOCUMENT
    assert opened(DOCUMENT) == (DOCUMENT, NOTHING)
    assert opened(b"[1]") == (b"[1]", NOTHING)


def test_what_is_wrapped_opens_again() -> None:
    context = Context(node="worker-1", cluster="prod", time=WHEN)
    line = wrapped(b"\n" + DOCUMENT + b"\n", context)
    assert (
        line
        == b'{"quell":{"cluster":"prod","node":"worker-1","time":"2026-11-22T15:40:00Z"},"document":' + DOCUMENT + b"}"
    )
    assert opened(line) == (DOCUMENT, context)
    assert wrapped(*opened(line)) == line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"quell": {"nodes": "a"}, "document": {}}', "unknown field `nodes`"),
        (b'{"quell": {"node": ""}, "document": {}}', "length >= 1"),
        (b'{"quell": {"node": "a"}}', "missing required field `document`"),
        (b'{"quell": {"node": "a"}, "document": {}, "more": 1}', "unknown field `more`"),
        (b'{"quell": {"time": "2026-11-22T15:40:00"}, "document": {}}', "timezone"),
    ],
)
def test_an_envelope_that_is_none(line: bytes, message: str) -> None:
    with pytest.raises(EventError, match=re.escape(message)):
        opened(line)


def test_what_is_in_the_envelope_and_beside_it_is_joined() -> None:
    line = wrapped(DOCUMENT, Context(node="worker-1"))
    assert gathered(line, Context(cluster="prod")) == (DOCUMENT, Context(cluster="prod", node="worker-1"))
    assert gathered(DOCUMENT, Context(cluster="prod")) == (DOCUMENT, Context(cluster="prod"))
    with pytest.raises(EventError, match="node: the envelope says worker-1, the request worker-2"):
        gathered(line, Context(node="worker-2"))


def test_a_subject_is_completed() -> None:
    subject = Subject(image="library/nginx:1.27", container=Container(id="4f5e2c1b9a8d" + "0" * 52))
    context = Context(
        cluster="prod",
        node="worker-1",
        machine_id="9a",
        namespace="shop",
        pod="cart-1",
        pod_uid="u-1",
        container="4f5e2c1b9a8d",
        container_name="cart",
        image="docker.io/library/nginx:1.27",
        service="cart",
    )
    assert placed(subject, context) == Subject(
        cluster="prod",
        node="worker-1",
        machine_id="9a",
        namespace="shop",
        pod=Pod(name="cart-1", uid="u-1"),
        container=Container(id="4f5e2c1b9a8d" + "0" * 52, name="cart"),
        image="library/nginx:1.27",
        service="cart",
    )
    assert placed(Subject(), Context(container="4f")) == Subject(container=Container(id="4f"))


@pytest.mark.parametrize(
    ("subject", "context", "word"),
    [
        (Subject(node="a"), Context(node="b"), "node"),
        (Subject(cluster="a"), Context(cluster="b"), "cluster"),
        (Subject(namespace="a"), Context(namespace="b"), "namespace"),
        (Subject(image="a:1"), Context(image="a:2"), "image"),
        (Subject(image="shop/nginx"), Context(image="nginx"), "image"),
        (Subject(container=Container(id="4f5e2c1b9a8d")), Context(container="4f5e"), "container"),
        (Subject(container=Container(id="4f", name="x")), Context(container_name="y"), "container_name"),
        (Subject(pod=Pod(name="a")), Context(pod="b"), "pod"),
        (Subject(pod=Pod(uid="a")), Context(pod_uid="b"), "pod_uid"),
        (Subject(), Context(container_name="y"), "container_name"),
    ],
)
def test_what_contradicts_the_document_is_refused(subject: Subject, context: Context, word: str) -> None:
    with pytest.raises(EventError, match=f"^{word}: "):
        placed(subject, context)


def test_a_time_is_the_documents_or_the_senders() -> None:
    assert moment(5.0, NOTHING) == 5.0
    assert moment(None, NOTHING) is None
    assert moment(None, Context(time=WHEN)) == WHEN.timestamp()
    assert moment(WHEN.timestamp(), Context(time=WHEN)) == WHEN.timestamp()
    with pytest.raises(EventError, match="time"):
        moment(5.0, Context(time=WHEN))


def test_a_query() -> None:
    takes = frozenset(("node", "time"))
    assert given(b"node=worker%201&time=2026-11-22T15:40:00Z", takes) == Context(node="worker 1", time=WHEN)
    assert given(b"time=2026-11-22T15:40:00%2B00:00", takes) == Context(time=WHEN)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"nod=a", 'unknown parameter "nod": there are node, time'),
        (b"node=a&node=a", 'the parameter "node" is given twice'),
        (b"node=", "length >= 1"),
        (b"node=" + b"a" * 1025, "length <= 1024"),
        (b"node=%ff", "cannot be read"),
        (b"node=\xff", "cannot be read"),
        (b"node=%0a", "printable"),
        (b"time=yesterday", "RFC3339"),
    ],
)
def test_a_query_that_is_refused(query: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=re.escape(message)) as refused:
        given(query, frozenset(("node", "time")))
    assert refused.value.status == 400


def test_a_detector_without_documents_takes_no_parameters() -> None:
    with pytest.raises(Refusal, match="there are none here"):
        given(b"node=a", frozenset())
