"""Random tokens of the API, kept as their SHA-256 only. Functions over a connection: see quell.storage."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from typing import Any

import msgspec
from msgspec import Struct

_COLUMNS = "name, role, created, expires, last_used, owner, permissions, binding, old_until"


class Binding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the events may be about that a token sends. Empty: anything. Clusters and nodes may be globs."""

    #: Names of detectors, such as falco.
    detectors: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class Token(Struct, frozen=True, kw_only=True):
    name: str
    #: admin, operator, author, viewer or ingest.
    role: str
    created: float
    #: None: does not expire.
    expires: float | None = None
    last_used: float | None = None
    #: Who made it, as actors are written: user/alice, token/ci; "": Quell, at its first start.
    owner: str = ""
    #: What of its role it may do; None: all of it.
    permissions: tuple[str, ...] | None = None
    #: None: its events may be about anything.
    binding: Binding | None = None
    #: Until when the secret before the last rotation works; None: it does not.
    old_until: float | None = None


def new_secret() -> str:
    """What the holder shows: 256 random bits, so a plain hash is enough to keep it by."""
    return "quell_" + secrets.token_urlsafe(32)


def hashed(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def put(connection: sqlite3.Connection, secret: str, token: Token) -> None:
    """Adds a token; one of the same name is replaced, so the secret it had no longer works."""
    connection.execute("DELETE FROM tokens WHERE name = ?", (token.name,))
    connection.execute(
        "INSERT OR REPLACE INTO tokens (hash, name, role, created, expires, last_used, owner, permissions, binding)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            hashed(secret),
            token.name,
            token.role,
            token.created,
            token.expires,
            token.last_used,
            token.owner,
            _json(token.permissions),
            _json(token.binding),
        ),
    )


def rotate(connection: sqlite3.Connection, name: str, secret: str, old_until: float | None) -> None:
    """A new secret for a token; the one it had works until then, None: no more."""
    connection.execute(
        "UPDATE tokens SET old_hash = CASE WHEN ?2 IS NULL THEN NULL ELSE hash END, old_until = ?2, hash = ?3"
        " WHERE name = ?1",
        (name, old_until, hashed(secret)),
    )


def find(connection: sqlite3.Connection, secret: str, now: float) -> Token | None:
    """None: unknown or expired."""
    digest = hashed(secret)
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM tokens WHERE (hash = ?1 OR (old_hash = ?1 AND old_until > ?2))"  # noqa: S608 - our own columns
        " AND (expires IS NULL OR expires > ?2)",
        (digest, now),
    ).fetchone()
    return None if row is None else _token(row)


def get(connection: sqlite3.Connection, name: str) -> Token | None:
    """Expired or not."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM tokens WHERE name = ?", (name,)).fetchone()  # noqa: S608 - our own columns
    return None if row is None else _token(row)


def touch(connection: sqlite3.Connection, name: str, now: float) -> None:
    """Notes that it was used. Worth a write once a minute at most."""
    connection.execute("UPDATE tokens SET last_used = ? WHERE name = ?", (now, name))


def delete(connection: sqlite3.Connection, name: str) -> bool:
    """False: there was none."""
    return connection.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount > 0


def all_of(connection: sqlite3.Connection) -> list[Token]:
    """By name, the expired too."""
    return [_token(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY name")]  # noqa: S608 - our own columns


def owned_by(connection: sqlite3.Connection, owner: str) -> list[Token]:
    return [token for token in all_of(connection) if token.owner == owner]


def _json(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _token(row: tuple[Any, ...]) -> Token:
    name, role, created, expires, last_used, owner, permissions, binding, old_until = row
    return Token(
        name=name,
        role=role,
        created=created,
        expires=expires,
        last_used=last_used,
        owner=owner,
        permissions=None if permissions is None else msgspec.json.decode(permissions, type=tuple[str, ...]),
        binding=None if binding is None else msgspec.json.decode(binding, type=Binding),
        old_until=old_until,
    )
