"""Lists as files: lines of JSON, or a table for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum


class FileFormat(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES[self]


_MEDIA_TYPES = {FileFormat.CSV: "text/csv", FileFormat.NDJSON: "application/x-ndjson"}

#: What a spreadsheet takes for the beginning of a formula, full width forms too; events say what attackers choose.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def table(rows: Iterable[list[str]]) -> bytes:
    """RFC 4180. All is quoted, so that no separator of any country's spreadsheets splits a field."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode(errors="replace")


def safe(text: str) -> str:
    """Text that would be a formula gets an apostrophe before it, which spreadsheets do not show."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def moment(seconds: float | None) -> str:
    """Epoch seconds as UTC with milliseconds."""
    if seconds is None:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:f}"
