"""Reading a line of JSON into a typed form, with errors that say what was expected, what was found, and where."""

from __future__ import annotations

import json as stdlib
import re
from typing import TypeVar

import msgspec

from quell.errors import EventError

_T = TypeVar("_T")

#: Bytes up to which a text that is no JSON is read a second time, to find the very place.
_EXACT = 1 << 20
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


def malformed(error: msgspec.DecodeError, text: bytes) -> EventError:
    """What is no JSON in this text, with the byte offset of its first fault."""
    if len(text) <= _EXACT:
        # The quick decoder's offset may be a few bytes late; the standard library's is where the fault begins.
        try:
            stdlib.loads(text)
        except stdlib.JSONDecodeError as exact:
            return EventError(f"not JSON: {exact.msg}", len(exact.doc[: exact.pos].encode(errors="surrogatepass")))
        except UnicodeDecodeError as exact:
            return EventError("not UTF-8", exact.start)
        except RecursionError:
            return EventError("nested too deeply")
    found = _POSITION.search(str(error))
    if found is None:
        return EventError("not JSON: it ends too early or in the middle of a character", len(text))
    return EventError(_POSITION.sub("", str(error)).replace("JSON is malformed", "not JSON"), int(found[1]))


def _offset_of(error: UnicodeDecodeError, line: bytes) -> int:
    # The decoder counts from the start of one string; count from the start of the line.
    try:
        line.decode()
    except UnicodeDecodeError as whole:
        return whole.start
    return error.start
