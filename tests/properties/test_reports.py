"""Whatever is sent as a report: it is events that the journal gives back equal, or an EventError; never anything else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quell.detectors import DETECTORS, Divided
from quell.detectors.context import NOTHING, Context
from quell.detectors.likeness import looks_like
from quell.errors import EventError
from quell.model.details import ComplianceReport, CveReport

INPUTS = Path(__file__).parents[1] / "inputs"
DOCUMENTS = {
    (folder, file.stem): file.read_bytes()
    for folder in ("trivy", "kube-bench")
    for file in sorted((INPUTS / folder).glob("*.json"))
}
CASES = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(max_size=20) | st.sampled_from(
    (
        "container_image",
        "os-pkgs",
        "config",
        "secret",
        "FAIL",
        "VulnerabilityReport",
        "List",
        "delete",
        "CRITICAL",
        "\ud800",
    )
)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from(("prod", "worker-1", "shop", "cart-0", "4f5e2c1b9a8d", "nginx:1.27"))
contexts = st.builds(
    Context,
    **{word: st.none() | words for word in Context.__struct_fields__ if word != "time"},
    time=st.none() | st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - with timezones
)


def check(name: str, document: bytes, context: Context) -> int:
    """How many events it is."""
    detector = DETECTORS[name]
    assert isinstance(detector, Divided)
    looks_like(document)
    given_words = {word for word in Context.__struct_fields__ if getattr(context, word) is not None}
    context = Context(**{word: getattr(context, word) for word in given_words & detector.takes})
    try:
        parts = detector.split(document, context)
    except EventError:
        return 0
    count = 0
    for part in parts:
        if not isinstance(part, bytes):
            assert str(part)
            continue
        try:
            event = detector.decode(part, id=None, received=5.0)
        except EventError:
            continue
        count += 1
        again = detector.decode(event.raw, id=event.id, received=event.received)
        assert again == event
        assert again.details() == event.details()
        assert isinstance(event.details(), CveReport | ComplianceReport)
        for word in ("cluster", "node", "namespace", "service"):
            assert getattr(context, word) in (None, getattr(event.subject, word))
    return count


@pytest.mark.parametrize(
    ("name", "document"), [(key[0], text) for key, text in DOCUMENTS.items()], ids=map("/".join, DOCUMENTS)
)
def test_our_inputs_are_events_with_and_without_context(name: str, document: bytes) -> None:
    expected = 0 if b'"Controls"' not in document and b'"Totals"' in document else 1
    assert check(name, document, NOTHING) >= expected
    assert check(name, document, Context(cluster="prod", container="4f5e2c1b9a8d", node="worker-1")) >= expected


@CASES
@given(key=st.sampled_from(sorted(DOCUMENTS)), cut=st.floats(0, 1), context=contexts)
def test_a_report_that_is_cut_short(key: tuple[str, str], cut: float, context: Context) -> None:
    document = DOCUMENTS[key]
    check(key[0], document[: int(cut * len(document))], context)


@CASES
@given(
    key=st.sampled_from(sorted(DOCUMENTS)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_report_with_other_bytes(key: tuple[str, str], flips: list[tuple[float, int]]) -> None:
    document = bytearray(DOCUMENTS[key])
    for place, byte in flips:
        document[int(place * len(document))] = byte
    check(key[0], bytes(document), NOTHING)


@CASES
@given(key=st.sampled_from(sorted(DOCUMENTS)), value=values, context=contexts, data=st.data())
def test_a_report_with_another_value_somewhere(
    key: tuple[str, str], value: Any, context: Context, data: st.DataObject
) -> None:
    document = json.loads(DOCUMENTS[key])
    places = _places(document)
    holder, member = places[data.draw(st.integers(0, len(places) - 1))]
    how = data.draw(st.sampled_from(("replace", "remove", "rename", "double")))
    if how == "replace":
        holder[member] = value
    elif how == "remove":
        del holder[member]
    elif isinstance(holder, dict):
        holder[data.draw(texts)] = holder[member] if how == "double" else holder.pop(member)
    else:
        holder.append(holder[member])
    check(key[0], json.dumps(document).encode(), context)


@CASES
@given(value=values, name=st.sampled_from(("trivy", "kube-bench")), context=contexts)
def test_any_json(value: Any, name: str, context: Context) -> None:
    check(name, json.dumps(value).encode(), context)


@pytest.mark.parametrize("name", ["trivy", "kube-bench"])
@pytest.mark.parametrize(
    "opening",
    [
        *(b"[", b'{"a":', b'{"Results":[', b'{"Controls":[', b'{"quell":{},"document":'),
        *(b'{"kind":"List","items":[', b'{"verb":"update","operatorObject":'),
    ],
)
@pytest.mark.parametrize("depth", [200, 500, 900, 100_000])
def test_a_report_that_is_nested_deeply(name: str, opening: bytes, depth: int) -> None:
    assert check(name, opening * depth, NOTHING) == 0
    closing = {b"[": b"]"}.get(opening, b"}" if opening.endswith(b":") else b"]}")
    assert check(name, opening * depth + b"1" + closing * depth, NOTHING) == 0


def _places(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [place for key, inner in value.items() for place in ((value, key), *_places(inner))]
    if isinstance(value, list):
        return [place for key, inner in enumerate(value) for place in ((value, key), *_places(inner))]
    return []
