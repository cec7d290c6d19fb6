"""Garbled audit events, eve lines and deviations: an event or an EventError, nothing else, and what the journal keeps decodes alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quell.detectors import POSTED, Divided
from quell.detectors.context import NOTHING, Context
from quell.errors import EventError

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
EVENT_LIST = json.loads((INPUTS / "kubernetes_audit/event_list.json").read_bytes())
#: Documents of one event, or of none.
DOCUMENTS = {
    "deviation": [
        json.loads(line)
        for file in sorted((INPUTS / "deviation").iterdir())
        for line in (file.read_bytes().splitlines() if file.stem == "network_objects" else [file.read_bytes()])
    ],
    "k8s-audit": EVENT_LIST["items"],
    "suricata": [json.loads(line) for line in (INPUTS / "suricata/eve.json").read_bytes().splitlines()],
}
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def taken(name: str, document: bytes) -> int:
    """How many events the document gives; each is the same when the journal decodes it again."""
    detector = POSTED[name]
    assert isinstance(detector, Divided)
    count = 0
    for context in (NOTHING, Context(cluster="c")):
        try:
            parts = detector.split(document, context)
        except EventError:
            continue
        for part in parts:
            if not isinstance(part, bytes):
                continue
            try:
                event = detector.decode(part, id=None, received=5.0)
            except EventError:
                continue
            again = detector.decode(event.raw, id=event.id, received=5.0)
            assert again == event
            assert again.details() == event.details()
            count += 1
    return count


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for key, each in inside for place in places(each, (*way, key)))]


@pytest.mark.parametrize(("name", "count"), [("deviation", 12), ("k8s-audit", 22), ("suricata", 10)])
def test_whole_documents_are_taken(name: str, count: int) -> None:
    documents = [EVENT_LIST] if name == "k8s-audit" else DOCUMENTS[name]
    assert sum(taken(name, json.dumps(each).encode()) for each in documents) == count


@pytest.mark.parametrize("name", DOCUMENTS)
@settings(deadline=None)
@given(data=st.data())
def test_another_value_anywhere(name: str, data: st.DataObject) -> None:
    line = data.draw(st.sampled_from(DOCUMENTS[name]))
    copy = json.loads(json.dumps(line))
    way = data.draw(st.sampled_from(places(line)))
    junk = data.draw(JUNK)
    if not way:
        copy = junk
    else:
        inner = copy
        for step in way[:-1]:
            inner = inner[step]
        inner[way[-1]] = junk
    taken(name, json.dumps(copy).encode())


@pytest.mark.parametrize("name", DOCUMENTS)
@settings(deadline=None)
@given(data=st.data())
def test_cut_and_flipped_bytes(name: str, data: st.DataObject) -> None:
    text = bytearray(json.dumps(data.draw(st.sampled_from(DOCUMENTS[name]))).encode())
    place = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        del text[place:]
    else:
        text[place] = data.draw(st.integers(0, 255))
    taken(name, bytes(text))


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(
    "field", ["requestObject", "annotations", "alert", "metadata", "kubernetes", "log", "deviation", "spec"]
)
def test_nested_too_deeply(name: str, field: str) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        deep = opening * 5000 + b"1" + closing * 5000
        taken(name, b'{"event_type":"alert","kind":"Event","auditID":"1","%s":%s}' % (field.encode(), deep))
        taken(name, b'{"%s":%s}' % (field.encode(), deep))
        taken(name, b'{"kind":"GuardianDeviation","schema":"event_deviation","%s":%s}' % (field.encode(), deep))
