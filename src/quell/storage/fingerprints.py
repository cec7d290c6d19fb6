"""What images and services did while they were watched. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import Struct


class Kept(Struct, frozen=True, gc=False, kw_only=True):
    """Times in epoch seconds."""

    #: image or service.
    kind: str
    name: str
    first: float
    last: float
    #: As quell.controller.learning writes it.
    body: bytes


def put(connection: sqlite3.Connection, kept: Iterable[Kept]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO fingerprints (kind, name, first, last, body) VALUES (?, ?, ?, ?, ?)",
        [(each.kind, each.name, each.first, each.last, each.body) for each in kept],
    )


def delete(connection: sqlite3.Connection, keys: Iterable[tuple[str, str]]) -> None:
    """keys: (kind, name)."""
    connection.executemany("DELETE FROM fingerprints WHERE kind = ? AND name = ?", keys)


def all_of(connection: sqlite3.Connection) -> list[Kept]:
    """Those first that were not heard of for longest."""
    rows = connection.execute("SELECT kind, name, first, last, body FROM fingerprints ORDER BY last, kind, name")
    return [Kept(kind=kind, name=name, first=first, last=last, body=body) for kind, name, first, last, body in rows]
