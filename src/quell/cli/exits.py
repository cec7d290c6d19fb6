"""What the exit code of every command means, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from quell.errors import ApiError, DocumentError, EventError, QuellError, SettingError, Unreachable


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    INPUT = 3
    UNREACHABLE = 4
    FORBIDDEN = 5


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the thing asked for failed, or is not there",
    Exit.USAGE: "the command line is wrong",
    Exit.INPUT: "a document, an event or a setting is wrong; nothing of it was applied",
    Exit.UNREACHABLE: "the controller cannot be reached",
    Exit.FORBIDDEN: "the token is missing, unknown, expired, or may not do this",
}


def exit_of(error: QuellError) -> Exit:
    match error:
        case DocumentError() | EventError() | SettingError():
            return Exit.INPUT
        case Unreachable():
            return Exit.UNREACHABLE
        case ApiError(status=401 | 403):
            return Exit.FORBIDDEN
        case ApiError(status=400 | 413 | 415 | 422):
            return Exit.INPUT
        case _:
            return Exit.FAILED
