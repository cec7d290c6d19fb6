"""Many rows by one statement.

Python's sqlite3 lets go of the interpreter lock around every step of a statement and then has to win it back from a
busy event loop, up to a switch interval each time. So rows go in by one `INSERT ... SELECT ... FROM json_each(?1)`;
json has no bytes, so those of all rows are joined to one parameter (?2) of which each row takes its part by substr.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

_encode = msgspec.json.Encoder().encode


def columns(*values: int, blobs: int = 0) -> str:
    """The SELECT's expressions: places of plain values, then `blobs` parts of bytes from place `start` on."""
    plain = [f"value ->> {n}" for n in values]
    start = len(values)
    parts = [f"substr(?2, (value ->> {start + 2 * n}) + 1, value ->> {start + 2 * n + 1})" for n in range(blobs)]
    return ", ".join(plain + parts)


def statement(head: str, plain: int, blobs: int = 1) -> str:
    """An INSERT of rows of `plain` values followed by `blobs` bytes. head: "INSERT INTO table (column, ...)"."""
    return f"{head} SELECT {columns(*range(plain), blobs=blobs)} FROM json_each(?1) WHERE true"


def insert(connection: sqlite3.Connection, sql: str, rows: Iterable[tuple[tuple[object, ...], tuple[bytes, ...]]]) -> None:
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
        connection.execute(sql, (_encode(plain).decode(), b"".join(parts)))


def texts(values: Iterable[str]) -> str:
    """A parameter for json_each."""
    return _encode(list(values)).decode()
