"""Random tokens of the API, kept as their SHA-256 only. Functions over a connection: see quell.storage."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3

from msgspec import Struct


class Token(Struct, frozen=True, kw_only=True):
    name: str
    #: admin, viewer or ingest.
    role: str
    created: float
    #: None: does not expire.
    expires: float | None = None
    last_used: float | None = None


def new_secret() -> str:
    """What the holder shows: 256 random bits, so a plain hash is enough to keep it by."""
    return "quell_" + secrets.token_urlsafe(32)


def hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def put(connection: sqlite3.Connection, secret: str, token: Token) -> None:
    """Adds a token; one of the same name is replaced, so the secret it had no longer works."""
    connection.execute("DELETE FROM tokens WHERE name = ?", (token.name,))
    connection.execute(
        "INSERT OR REPLACE INTO tokens (hash, name, role, created, expires, last_used) VALUES (?, ?, ?, ?, ?, ?)",
        (hashed(secret), token.name, token.role, token.created, token.expires, token.last_used),
    )


def find(connection: sqlite3.Connection, secret: str, now: float) -> Token | None:
    """None: unknown or expired."""
    row = connection.execute(
        "SELECT name, role, created, expires, last_used FROM tokens WHERE hash = ? AND (expires IS NULL OR expires > ?)",
        (hashed(secret), now),
    ).fetchone()
    return None if row is None else _token(row)


def touch(connection: sqlite3.Connection, name: str, now: float) -> None:
    """Notes that it was used. Worth a write once a minute at most."""
    connection.execute("UPDATE tokens SET last_used = ? WHERE name = ?", (now, name))


def delete(connection: sqlite3.Connection, name: str) -> bool:
    """False: there was none."""
    return connection.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount > 0


def all_of(connection: sqlite3.Connection) -> list[Token]:
    """By name, the expired too."""
    rows = connection.execute("SELECT name, role, created, expires, last_used FROM tokens ORDER BY name")
    return [_token(row) for row in rows]


def _token(row: tuple[str, str, float, float | None, float | None]) -> Token:
    name, role, created, expires, last_used = row
    return Token(name=name, role=role, created=created, expires=expires, last_used=last_used)
