"""Single facts of the controller, such as the revision of the documents. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3


def get(connection: sqlite3.Connection, key: str) -> bytes | None:
    row = connection.execute("SELECT value FROM key_values WHERE key = ?", (key,)).fetchone()
    return None if row is None else bytes(row[0])


def put(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("INSERT OR REPLACE INTO key_values (key, value) VALUES (?, ?)", (key, value))


def delete(connection: sqlite3.Connection, key: str) -> bool:
    """False: there was none."""
    return connection.execute("DELETE FROM key_values WHERE key = ?", (key,)).rowcount > 0
