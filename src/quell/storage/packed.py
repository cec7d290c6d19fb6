"""Many rows by one statement.

Python's sqlite3 lets go of the interpreter lock around every step of a statement and then has to win it back from a
busy event loop, up to a switch interval each time. So rows go in by one `INSERT ... SELECT ... FROM json_each(?1)`;
json has no bytes, so those of all rows are joined to one parameter (?2) of which each row takes its part by substr.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

_encode = msgspec.json.Encoder().encode


def statement(head: str, plain: int, blobs: int = 1) -> str:
    """An INSERT of rows of `plain` values followed by `blobs` bytes. head: "INSERT INTO table (column, ...)"."""
    values = [f"value ->> {n}" for n in range(plain)]
    # After the plain values: where in ?2 each of the bytes is, and how long.
    values += [f"substr(?2, (value ->> {n}) + 1, value ->> {n + 1})" for n in range(plain, plain + 2 * blobs, 2)]
    return f"{head} SELECT {', '.join(values)} FROM json_each(?1) WHERE true"  # noqa: S608 - made of literals


def insert(
    connection: sqlite3.Connection, sql: str, rows: Iterable[tuple[tuple[object, ...], tuple[bytes, ...]]]
) -> None:
    """Runs a `statement` for all rows, each (plain values, bytes)."""
    plain: list[list[object]] = []
    parts: list[bytes] = []
    at = 0
    for values, blobs in rows:
        row = list(values)
        for blob in blobs:
            row += (at, len(blob))
            parts.append(blob)
            at += len(blob)
        plain.append(row)
    if plain:
        connection.execute(sql, (rows_text(plain), b"".join(parts)))


def rows_text(rows: Sequence[Sequence[object]]) -> str:
    """Plain values as a parameter for json_each."""
    return _encode(rows).decode()


def texts(values: Iterable[str]) -> str:
    """Texts as a parameter for json_each."""
    return _encode(list(values)).decode()
