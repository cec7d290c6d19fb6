"""Reading a line of JSON into a typed form, with errors that say what was expected, what was found, and where."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from quell.errors import EventError

_T = TypeVar("_T")

_POSITION = re.compile(r" ?\(byte (\d+)\)")


def read(decoder: msgspec.json.Decoder[_T], line: bytes) -> _T:
    """The line as the decoder's type. EventError carries the byte offset of what is no JSON."""
    try:
        value = decoder.decode(line)
        if not line.isascii():
            # A field that nobody asked for is skipped unread; it must still be text that can be shown.
            line.decode()
        return value
    except msgspec.ValidationError as error:
        raise EventError(str(error)) from error
    except msgspec.DecodeError as error:
        raise malformed(error, line) from error
    except UnicodeDecodeError as error:
        raise EventError("not UTF-8", _offset_of(error, line)) from error
    except RecursionError as error:
        raise EventError("nested too deeply") from error


def malformed(error: msgspec.DecodeError, line: bytes) -> EventError:
    """The decoder's complaint with its position apart."""
    text = str(error)
    found = _POSITION.search(text)
    if found is None:
        return EventError(
            "JSON ends too early" if "truncated" in text else text, len(line) if "truncated" in text else None
        )
    return EventError(_POSITION.sub("", text).replace("JSON is malformed", "not JSON"), int(found[1]))


def _offset_of(error: UnicodeDecodeError, line: bytes) -> int:
    # The decoder counts from the start of one string; count from the start of the line.
    try:
        line.decode()
    except UnicodeDecodeError as whole:
        return whole.start
    return error.start
