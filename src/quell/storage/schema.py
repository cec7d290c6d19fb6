"""The database file: opening, connection settings and numbered migrations."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

import structlog

from quell.errors import StoreError
from quell.model.answer import Answer

#: "Quel": tells `file` and us that the database is ours.
APPLICATION_ID = 0x5175656C
#: Milliseconds to wait for another connection of this process; only checkpoints and the schema ever hold a lock.
BUSY_TIMEOUT = 5_000
#: A file in the state folder, while those of a backup take the places of others (quell.storage.restore).
RESTORING = "restoring"
#: Pages that `copy` takes at once, and bytes of room that are left beside a copy made before a migration.
_COPY_PAGES = 256
_COPY_RESERVE = 16 << 20

_log = structlog.get_logger(__name__)


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, script) of each file NNNN_name.sql, in order, without gaps."""
    found = []
    for file in resources.files("quell.storage").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            found.append((int(match[1]), match[2], file.read_text("utf-8")))
    return sorted(found)


def create(path: Path) -> None:
    """Makes folder (0700) and file (0600) where missing: SQLite gives its -wal and -shm the file's mode.

    Raises StoreError in a folder that is neither the old nor the restored one, OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (path.parent / RESTORING).exists():
        raise StoreError(
            f"a restore into {path.parent} was interrupted while it put files in place: run the same `quell restore` again"
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


class Connection(sqlite3.Connection):
    #: Some of what quell.storage.answers read, by number.
    answers: dict[int, Answer]


def connect(path: Path, *, read_only: bool = False) -> Connection:
    """A connection that begins and ends transactions only when told to. Closing it is the caller's."""
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT / 1000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=Connection,
    )
    connection.answers = {}
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    # Checkpoints are made by their own thread (quell.storage.checkpoint), never inside a commit.
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA temp_store=MEMORY")
    # Some distributions build SQLite to overwrite what is deleted: that would write every event twice.
    connection.execute("PRAGMA secure_delete=OFF")
    if read_only:
        connection.execute("PRAGMA query_only=ON")
    return connection


def copy(connection: sqlite3.Connection, to: Path) -> None:
    """A copy of the database, as of one moment, in the new file `to`, which is not yet on disk for sure.

    What others commit meanwhile is not in it, and nobody waits. The connection must not be in a transaction.
    """
    create(to)
    with closing(sqlite3.connect(to, isolation_level=None)) as target:
        # A copy that a crash tears is thrown away.
        target.execute("PRAGMA synchronous=OFF")
        target.execute("PRAGMA journal_mode=OFF")
        # Held from the first read on, the moment stays the same over all steps; else each commit would begin them anew.
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            connection.backup(target, pages=_COPY_PAGES)
        finally:
            connection.execute("ROLLBACK")


def prepare(connection: sqlite3.Connection, *, keep: bool = True) -> None:
    """Brings the schema to the newest version, each step in a transaction of its own.

    keep: a database that has to be changed is copied to PATH.before-NNNN, its newest version but ours, so that the Quell
    before this one can still be gone back to. Raises StoreError if the file is another program's or from a newer Quell.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreError("the file is a database of another program")
    steps = migrations()
    newest = steps[-1][0]
    if version > newest:
        raise StoreError(
            f"the store is of version {version}; this Quell knows versions up to {newest}: use a newer Quell"
        )
    if not tables:
        # Both have to come before the first table. Incremental: a smaller bound can give room back to the system.
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
    elif keep and version < newest:
        _keep(connection, version)
    for number, name, script in steps:
        if number <= version:
            continue
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id={APPLICATION_ID};\nPRAGMA user_version={number};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise StoreError(f"migration {number:04} ({name}) failed, nothing of it was kept: {error}") from error
    (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"the folder's file system does not allow a write-ahead log (journal mode {mode})")


def _keep(connection: sqlite3.Connection, version: int) -> None:
    """Copies the database beside it before it is migrated, and lets go of the copy before that."""
    path = Path(next(file for _, name, file in connection.execute("PRAGMA database_list") if name == "main"))
    (size,) = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
    place = os.statvfs(path.parent)
    if size + _COPY_RESERVE > place.f_bavail * place.f_frsize:
        # Not migrating would stop the controller for the sake of going back.
        _log.warning("no room for a copy of the store before its migration", path=str(path), bytes=size)
        return
    kept = path.with_name(f"{path.name}.before-{version:04}")
    fresh = path.with_name(f".{kept.name}")
    fresh.unlink(missing_ok=True)
    try:
        copy(connection, fresh)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(kept)
    finally:
        fresh.unlink(missing_ok=True)
    for older in path.parent.glob(f"{path.name}.before-*"):
        if older != kept:
            older.unlink()
