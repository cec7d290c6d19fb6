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
