"""Names of events that were sent and are in no catalogue. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import Struct


class NameSeen(Struct, frozen=True, gc=False, kw_only=True):
    category: str
    name: str
    #: Of a security event: incident, threat or violation; "" otherwise.
    kind: str = ""
    #: The detector that sent it.
    source: str
    #: When it was noted, epoch seconds.
    seen: float


def put(connection: sqlite3.Connection, names: Iterable[NameSeen]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO names_seen (category, name, kind, source, seen) VALUES (?, ?, ?, ?, ?)",
        [(each.category, each.name, each.kind, each.source, each.seen) for each in names],
    )


def delete(connection: sqlite3.Connection, keys: Iterable[tuple[str, str]]) -> None:
    """keys: (category, name)."""
    connection.executemany("DELETE FROM names_seen WHERE category = ? AND name = ?", keys)


def all_of(connection: sqlite3.Connection) -> list[NameSeen]:
    """Oldest first."""
    rows = connection.execute("SELECT category, name, kind, source, seen FROM names_seen ORDER BY seen, name")
    return [
        NameSeen(category=category, name=name, kind=kind, source=source, seen=seen)
        for category, name, kind, source, seen in rows
    ]
