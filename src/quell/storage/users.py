"""People who may log in. Functions over a connection: see quell.storage.

The hash of a password never leaves by User; whoever checks one asks for it alone.
"""

from __future__ import annotations

import sqlite3

from msgspec import Struct

_COLUMNS = "name, role, created, password_changed, last_login, disabled, version, locked_until, source"

#: Where users come from: made here, with a password; or from a provider of logins, without one.
LOCAL, OIDC = "local", "oidc"


class User(Struct, frozen=True, kw_only=True):
    """Times in epoch seconds."""

    #: In lower case.
    name: str
    role: str
    created: float
    #: None: there is no password, the user comes from a provider.
    password_changed: float | None
    last_login: float | None = None
    disabled: bool = False
    #: Rises with every change that somebody made.
    version: int = 1
    #: After too many failed logins.
    locked_until: float | None = None
    #: local, or oidc: from the provider of logins.
    source: str = LOCAL

    def is_locked(self, now: float) -> bool:
        return self.locked_until is not None and self.locked_until > now


def add(connection: sqlite3.Connection, user: User, password: str, *, issuer: str = "", subject: str = "") -> bool:
    """password: its hash; "": there is none. issuer, subject: whom the provider knows the user as, if one does.

    False: there is one of that name.
    """
    return (
        connection.execute(
            "INSERT OR IGNORE INTO users"
            " (name, role, password, created, password_changed, disabled, source, issuer, subject)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                user.name,
                user.role,
                password,
                user.created,
                user.password_changed or 0.0,
                int(user.disabled),
                user.source,
                issuer or None,
                subject or None,
            ),
        ).rowcount
        > 0
    )


def get(connection: sqlite3.Connection, name: str) -> User | None:
    row = connection.execute(f"SELECT {_COLUMNS} FROM users WHERE name = ?", (name,)).fetchone()  # noqa: S608 - our own columns
    return None if row is None else _user(row)


def of_subject(connection: sqlite3.Connection, issuer: str, subject: str) -> User | None:
    """Whom this provider knows by this id."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM users WHERE issuer = ? AND subject = ?",  # noqa: S608 - our own columns
        (issuer, subject),
    ).fetchone()
    return None if row is None else _user(row)


def all_of(connection: sqlite3.Connection) -> list[User]:
    """By name."""
    return [_user(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM users ORDER BY name")]  # noqa: S608 - our own columns


def has_any(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM users LIMIT 1").fetchone() is not None


def password_of(connection: sqlite3.Connection, name: str) -> str | None:
    """The hash of the password; None: there is no such user, or none with a password."""
    row = connection.execute("SELECT password FROM users WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0]) or None


def enabled(connection: sqlite3.Connection, role: str) -> list[str]:
    """Names of those who have this role and are not disabled."""
    return [name for (name,) in connection.execute("SELECT name FROM users WHERE role = ? AND disabled = 0", (role,))]


def change(connection: sqlite3.Connection, name: str, *, role: str, disabled: bool) -> None:
    connection.execute(
        "UPDATE users SET role = ?, disabled = ?, version = version + 1 WHERE name = ?", (role, int(disabled), name)
    )


def set_password(connection: sqlite3.Connection, name: str, password: str, now: float) -> None:
    """password: its hash. Failures before it count no more, and a lock ends."""
    connection.execute(
        "UPDATE users SET password = ?, password_changed = ?, version = version + 1,"
        " failures = 0, failing_since = NULL, locked_until = NULL WHERE name = ?",
        (password, now, name),
    )


def rehashed(connection: sqlite3.Connection, name: str, before: str, after: str) -> None:
    """The same password hashed anew, if it is still the same."""
    connection.execute("UPDATE users SET password = ? WHERE name = ? AND password = ?", (after, name, before))


def delete(connection: sqlite3.Connection, name: str) -> None:
    """Its sessions go with it."""
    connection.execute("DELETE FROM users WHERE name = ?", (name,))


def logged_in(connection: sqlite3.Connection, name: str, now: float) -> None:
    connection.execute(
        "UPDATE users SET last_login = ?, failures = 0, failing_since = NULL, locked_until = NULL WHERE name = ?",
        (now, name),
    )


def failed(
    connection: sqlite3.Connection, name: str, now: float, *, most: int, window: float, lock: float
) -> float | None:
    """Count a failed login. Until when the account is locked if this was one too many within the window; else None.

    While it is locked nothing is counted, so that guessing on does not make it longer.
    """
    row = connection.execute(
        "SELECT failures, failing_since, locked_until FROM users WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        return None
    failures, since, locked_until = row
    if locked_until is not None and locked_until > now:
        return None
    if since is None or now - since >= window:
        failures, since = 0, now
    failures += 1
    until = now + lock if failures >= most else None
    kept = (0, None, until) if until is not None else (failures, since, None)
    connection.execute(
        "UPDATE users SET failures = ?, failing_since = ?, locked_until = ? WHERE name = ?", (*kept, name)
    )
    return until


def unlock(connection: sqlite3.Connection, name: str) -> bool:
    """False: it was not locked. Failures before it count no more in any case."""
    (locked,) = connection.execute("SELECT locked_until IS NOT NULL FROM users WHERE name = ?", (name,)).fetchone()
    connection.execute(
        "UPDATE users SET failures = 0, failing_since = NULL, locked_until = NULL WHERE name = ?", (name,)
    )
    return bool(locked)


def locks_over(connection: sqlite3.Connection, now: float) -> list[str]:
    """Ends the locks whose time is over; names of their accounts."""
    found = connection.execute("SELECT name FROM users WHERE locked_until <= ? ORDER BY name", (now,)).fetchall()
    connection.execute("UPDATE users SET locked_until = NULL WHERE locked_until <= ?", (now,))
    return [name for (name,) in found]


def _user(row: tuple[str, str, float, float, float | None, int, int, float | None, str]) -> User:
    name, role, created, password_changed, last_login, disabled, version, locked_until, source = row
    return User(
        name=name,
        role=role,
        created=created,
        password_changed=password_changed if source == LOCAL else None,
        last_login=last_login,
        disabled=bool(disabled),
        version=version,
        locked_until=locked_until,
        source=source,
    )
