"""Tokens with which an agent may enrol, once and soon. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3

from quell.storage.tokens import hashed

#: Between a token's secret and the fingerprint of the authority that its agent shall trust.
_BETWEEN = "."


def shown(secret: str, fingerprint: str) -> str:
    """A token as its agent gets it. fingerprint: SHA-256 of the authority's certificate; "": there is none to tell."""
    return f"{secret}{_BETWEEN}{fingerprint}" if fingerprint else secret


def put(connection: sqlite3.Connection, secret: str, name: str, created: float, expires: float) -> None:
    """name: for people, such as who asked for it. Those that expired go."""
    connection.execute("DELETE FROM join_tokens WHERE expires <= ?", (created,))
    connection.execute(
        "INSERT INTO join_tokens (hash, name, created, expires) VALUES (?, ?, ?, ?)",
        (hashed(secret), name, created, expires),
    )


def consume(connection: sqlite3.Connection, secret: str, now: float) -> bool:
    """Uses it up; False: unknown, used or expired. For a write, in one transaction with the agent it lets in."""
    found = connection.execute(
        "DELETE FROM join_tokens WHERE hash = ? RETURNING expires > ?", (hashed(secret), now)
    ).fetchone()
    return found is not None and bool(found[0])
