"""What a body to ingest is cut into, before anything of it is read as an event."""

from __future__ import annotations

import pytest

from quell.api.batch import MAX_ARRAY, MAX_ELEMENTS, split
from quell.api.problem import Refusal

JSON, LINES = "application/json", "application/x-ndjson"


@pytest.mark.parametrize(
    ("body", "kind", "elements"),
    [
        (b'{"a": 1}', JSON, [(1, b'{"a": 1}')]),
        (b' \n{"a": 1}', None, [(1, b' \n{"a": 1}')]),
        (b'[ {"a": [1, {}]} ,\n 2]', JSON, [(1, b'{"a": [1, {}]}'), (2, b"2")]),
        (b'{"a":1}\r\n\r\n  {"b":2}\n', LINES, [(1, b'{"a":1}'), (3, b'{"b":2}')]),
        (b'{"a":1}\n{"b":2}', JSON, [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'{"a":1}\nbroken\n', f"{JSON}; charset=utf-8", [(1, b'{"a":1}'), (2, b"broken")]),
        (b'broken\n{"a":1}', None, [(1, b"broken"), (2, b'{"a":1}')]),
        (b"[1]\n[2]", LINES, [(1, b"[1]"), (2, b"[2]")]),
        (b'{\n "a": "x\\ny"\n}', JSON, [(1, b'{\n "a": "x\\ny"\n}')]),
        (b'{"a": 1}', "application/cloudevents+json", [(1, b'{"a": 1}')]),
    ],
)
def test_elements_and_their_numbers(body: bytes, kind: str | None, elements: list[tuple[int, bytes]]) -> None:
    assert list(split(body, kind).numbered()) == elements


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"", JSON, 400),
        (b"\n \r\n", LINES, 400),
        (b'{\n "a": 1,\n}', JSON, 400),
        (b'{\n "a": 1\n}\n}', JSON, 400),
        (b'[{"a": 1}\n{"b": 2}]', JSON, 400),
        (b"[" * 200_000, JSON, 400),
        (b'{"a":' * 200_000, JSON, 400),
        (b"[" + b" " * MAX_ARRAY + b"]", JSON, 413),
        (b"[" + b"1," * MAX_ELEMENTS + b"1]", JSON, 413),
        (b"1\n" * (MAX_ELEMENTS + 1), LINES, 413),
    ],
)
def test_what_is_refused_whole(body: bytes, kind: str, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        split(body, kind)
    assert refused.value.status == status


def test_the_position_is_the_first_byte_that_does_not_fit() -> None:
    body = '{\n  "é": "ü",\n  "b": oops\n}'.encode()
    with pytest.raises(Refusal) as refused:
        split(body, JSON)
    position = body.index(b"oops")
    assert refused.value.more == {"position": position, "line": 3, "column": 8}
    assert f"at byte {position} (line 3, column 8)" in refused.value.detail


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "text/json", JSON, None])
def test_a_file_may_be_posted_under_the_type_that_programs_guess(kind: str | None) -> None:
    assert list(split(b' {\n"a": 1}', kind, posted_files=True).numbered()) == [(1, b' {\n"a": 1}')]
    lines = split(b'{"a": 1}\n{"b": 2}\n', kind, posted_files=True)
    assert list(lines.numbered()) == [(1, b'{"a": 1}'), (2, b'{"b": 2}')]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"a=1", "application/x-www-form-urlencoded"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"{}", "text/html"),
    ],
)
def test_what_is_no_posted_file_is_told_how_to_be_one(body: bytes, kind: str) -> None:
    with pytest.raises(Refusal, match="curl --data-binary @FILE") as refused:
        split(body, kind, posted_files=True)
    assert refused.value.status == 415


def test_an_array_may_be_one_element() -> None:
    assert list(split(b"[1, 2]", JSON, whole=True).numbered()) == [(1, b"[1, 2]")]
    assert list(split(b"[1]\n[2]", LINES, whole=True).numbered()) == [(1, b"[1]"), (2, b"[2]")]
    whole = split(b"[" + b" " * MAX_ARRAY + b"]", JSON, whole=True)
    assert not whole.several
