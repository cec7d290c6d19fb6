"""Many rows by one statement.

Python's sqlite3 lets go of the interpreter lock around every step of a statement and then has to win it back from a
busy event loop, up to a switch interval each time. So rows go in by one `INSERT ... SELECT ... FROM json_each(rows)`;
json has no bytes, so those of all rows are joined to a second value of which each row takes its part by substr.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

_encode = msgspec.json.Encoder().encode


def statement(head: str, plain: int, blobs: int = 1) -> str:
    """An INSERT of rows of `plain` values followed by `blobs` bytes. head: "INSERT INTO table (column, ...)".

    Where the two values come from is left open: {rows} and {bytes}, to be filled in by str.format.
    """
    values = [f"value ->> {n}" for n in range(plain)]
    # After the plain values: where each of the bytes is, and how long.
    values += [f"substr({{bytes}}, (value ->> {n}) + 1, value ->> {n + 1})" for n in range(plain, plain + 2 * blobs, 2)]
    return f"{head} SELECT {', '.join(values)} FROM json_each({{rows}}) WHERE true"  # noqa: S608 - made of literals


def pack(rows: Iterable[tuple[Sequence[object], bytes]]) -> tuple[str, bytes] | tuple[None, None]:
    """The two values for rows of plain values and one bytes each; None of no rows."""
    plain: list[list[object]] = []
    parts: list[bytes] = []
    at = 0
    for values, part in rows:
        plain.append([*values, at, len(part)])
        parts.append(part)
        at += len(part)
    return (rows_text(plain), b"".join(parts)) if plain else (None, None)


def run(connection: sqlite3.Connection, sql: str, rows: tuple[str, bytes] | tuple[None, None]) -> None:
    """A `statement` by itself, for what `pack` made."""
    connection.execute(sql.format(rows="?1", bytes="?2"), rows)


def rows_text(rows: Sequence[Sequence[object]]) -> str:
    """Plain values as a value for json_each."""
    return _encode(rows).decode()


def texts(values: Iterable[str]) -> str:
    """Texts as a value for json_each."""
    return _encode(list(values)).decode()
