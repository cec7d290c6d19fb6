"""Logins that last, kept by the SHA-256 of their secrets. Functions over a connection: see quell.storage."""

from __future__ import annotations

import secrets
import sqlite3

from msgspec import Struct

from quell.storage.tokens import hashed

#: What the secret of a session begins with, so that it is looked for among sessions only. A token is letters, digits,
#: - and _: none ever begins like this.
PREFIX = "quell_s."

_COLUMNS = "id, user, token, cookie, created, last_used, address, program"


class Session(Struct, frozen=True, kw_only=True):
    """Times in epoch seconds."""

    id: str
    #: Whose it is: a user's, or opened by the login link that the holder of a token asked for.
    user: str | None = None
    token: str | None = None
    #: A browser's; otherwise its secret is shown as a bearer's token.
    cookie: bool
    created: float
    #: To the minute.
    last_used: float
    #: Where the login came from, and with which program.
    address: str = ""
    program: str = ""

    @property
    def holder(self) -> str:
        """As an actor is written: user/alice, token/ci."""
        return f"user/{self.user}" if self.user is not None else f"token/{self.token}"


def new_secret() -> str:
    """256 random bits, so a plain hash is enough to keep it by."""
    return PREFIX + secrets.token_urlsafe(32)


def put(connection: sqlite3.Connection, secret: str, session: Session, most: int) -> None:
    """Adds a session; a holder keeps the `most` newest."""
    connection.execute(
        f"INSERT INTO sessions (hash, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own columns
        (
            hashed(secret),
            session.id,
            session.user,
            session.token,
            int(session.cookie),
            session.created,
            session.last_used,
            session.address,
            session.program,
        ),
    )
    connection.execute(
        "DELETE FROM sessions WHERE id IN"
        " (SELECT id FROM sessions WHERE user IS ? AND token IS ? ORDER BY created DESC, id DESC LIMIT -1 OFFSET ?)",
        (session.user, session.token, most),
    )


def find(connection: sqlite3.Connection, secret: str, *, created_after: float, used_after: float) -> Session | None:
    """None: unknown or run out."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM sessions WHERE hash = ? AND created > ? AND last_used > ?",  # noqa: S608 - our own columns
        (hashed(secret), created_after, used_after),
    ).fetchone()
    return None if row is None else _session(row)


def get(connection: sqlite3.Connection, identifier: str) -> Session | None:
    """By its id, run out or not."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM sessions WHERE id = ?", (identifier,)).fetchone()  # noqa: S608 - our own columns
    return None if row is None else _session(row)


def touch(connection: sqlite3.Connection, identifier: str, now: float) -> None:
    """Notes that it was used. Worth a write once a minute at most."""
    connection.execute("UPDATE sessions SET last_used = max(last_used, ?) WHERE id = ?", (now, identifier))


def delete(connection: sqlite3.Connection, identifier: str) -> bool:
    """False: there was none."""
    return connection.execute("DELETE FROM sessions WHERE id = ?", (identifier,)).rowcount > 0


def delete_of(connection: sqlite3.Connection, *, user: str | None = None, token: str | None = None) -> int:
    """Ends all of one holder; how many there were."""
    return connection.execute("DELETE FROM sessions WHERE user IS ? AND token IS ?", (user, token)).rowcount


def all_of(
    connection: sqlite3.Connection, *, created_after: float, used_after: float, user: str | None, token: str | None
) -> list[Session]:
    """Those of one holder that have not run out, newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM sessions WHERE user IS ? AND token IS ? AND created > ? AND last_used > ?"  # noqa: S608 - our own columns
        " ORDER BY id DESC",
        (user, token, created_after, used_after),
    )
    return [_session(row) for row in rows]


def run_out(connection: sqlite3.Connection, *, created_before: float, used_before: float) -> list[Session]:
    """Deletes those that were opened, or last used, no later; what they were."""
    rows = connection.execute(
        f"DELETE FROM sessions WHERE created <= ? OR last_used <= ? RETURNING {_COLUMNS}",  # noqa: S608 - our own columns
        (created_before, used_before),
    ).fetchall()
    return [_session(row) for row in rows]


def _session(row: tuple[str, str | None, str | None, int, float, float, str, str]) -> Session:
    identifier, user, token, cookie, created, last_used, address, program = row
    return Session(
        id=identifier,
        user=user,
        token=token,
        cookie=bool(cookie),
        created=created,
        last_used=last_used,
        address=address,
        program=program,
    )
