"""What a request to ingest holds: one JSON object, an array of them, or a line each (NDJSON)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from quell.api.problem import Refusal
from quell.detectors.line import malformed

LINES = frozenset(
    (
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
        "application/json-lines",
    )
)
#: Types whose first byte tells which of the three it is. None: not said.
_TOLD_BY_CONTENT = frozenset((None, "application/json", "application/octet-stream"))
#: What programs say of a file that they post without having been told its type, curl's --data-binary first of all.
_POSTED_FILES = frozenset(("application/x-www-form-urlencoded", "text/plain", "text/json"))

#: Elements of one request. Each costs some hundred bytes of memory beside its own.
MAX_ELEMENTS = 100_000
#: Bytes of an array: unlike lines, its elements cannot be counted before they are cut.
MAX_ARRAY = 8 << 20
#: Bytes of a body of lines that is cut without counting them first.
_SHORT = 1 << 20

_elements = msgspec.json.Decoder(list[msgspec.Raw])
_whole = msgspec.json.Decoder(msgspec.Raw)
_SPACE = b" \t\r\n"


class Batch(Struct, frozen=True):
    """The elements' bytes, numbered from 1 by their places: lines, of which blank ones count but are none, or an array's."""

    elements: list[bytes]
    #: Not the sender's only element: numbers mean something.
    several: bool = True

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Each element that is not blank, and its number."""
        for number, element in enumerate(self.elements, 1):
            if element and not element.isspace():
                yield number, element


def split(body: bytes, content_type: str | None, *, posted_files: bool = False, whole: bool = False) -> Batch:
    """The elements of a body, cut without reading them.

    posted_files: also under the types that programs give to files they know nothing of. whole: an array is one element.
    Refusal 415 for a type that is not JSON; 400 with the position for a body that is none; 413 for too many elements.
    """
    kind = None if content_type is None else content_type.partition(";")[0].strip().lower()
    if kind in LINES:
        return _lines(body)
    start = body.lstrip(_SPACE)[:1]
    is_file = posted_files and kind in _POSTED_FILES and start in (b"{", b"[")
    if kind not in _TOLD_BY_CONTENT and not (kind or "").endswith("+json") and not is_file:
        raise _type_not_taken(kind, posted_files)
    if not start:
        raise Refusal(400, "the body is empty; expected an event")
    try:
        if start == b"[" and not whole:
            return _array(body)
        _whole.decode(body)
    except msgspec.DecodeError as error:
        if (start != b"[" or whole) and _is_lines(body):
            return _lines(body)
        raise _not_json(error, body) from error
    except RecursionError as error:
        raise Refusal(400, "not JSON that can be read: nested too deeply") from error
    return Batch([body], several=False)


def _type_not_taken(kind: str | None, posted_files: bool) -> Refusal:
    if posted_files:
        hint = "; post the file itself: curl --data-binary @FILE -H 'Content-Type: application/json'"
    else:
        hint = " (Falco: json_output: true)" if kind == "text/plain" else ""
    return Refusal(
        415,
        f"Content-Type {kind} is not taken; send application/json or application/x-ndjson{hint}",
        headers={"accept": "application/json, application/x-ndjson"},
    )


def _array(body: bytes) -> Batch:
    if len(body) > MAX_ARRAY:
        raise Refusal(413, f"an array may have {MAX_ARRAY} bytes; send smaller ones, or an event a line")
    raws = _elements.decode(body)
    if len(raws) > MAX_ELEMENTS:
        raise _too_many(len(raws))
    return Batch([bytes(raw) for raw in raws])


def _not_json(error: msgspec.DecodeError, body: bytes) -> Refusal:
    """Where a body stops being JSON: byte offset from 0, line and column from 1."""
    fault = malformed(error, body)
    position = len(body) if fault.position is None else fault.position
    line, column = body.count(b"\n", 0, position) + 1, position - body.rfind(b"\n", 0, position)
    return Refusal(
        400,
        f"{fault}, at byte {position} (line {line}, column {column})",
        more={"position": position, "line": line, "column": column},
    )


def _is_lines(body: bytes) -> bool:
    """Whether a body that is not one JSON value is one a line: its first or last line is an object of its own."""
    text = body.strip(_SPACE)
    return b"\n" in text and (_is_object(text.partition(b"\n")[0]) or _is_object(text.rpartition(b"\n")[2]))


def _is_object(line: bytes) -> bool:
    try:
        _whole.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return line.startswith(b"{")


def _lines(body: bytes) -> Batch:
    # A short body is quicker cut than counted.
    if len(body) > _SHORT and (count := body.count(b"\n")) > MAX_ELEMENTS:
        raise _too_many(count)
    lines = body.split(b"\n")
    if b"\r" in body:
        lines = [line.strip(_SPACE) for line in lines]
    if len(lines) > MAX_ELEMENTS + 1:
        raise _too_many(len(lines) - 1)
    if not body.strip(_SPACE):
        raise Refusal(400, "the body is empty; expected an event a line")
    return Batch(lines)


def _too_many(count: int) -> Refusal:
    return Refusal(413, f"{count} elements in one request, more than the {MAX_ELEMENTS} that are taken")
