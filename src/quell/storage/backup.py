"""A backup of a controller that runs: a copy of its database as of one moment, its keys and its tokens, in one file.

The copy is made in a thread, on a connection of its own that keeps to what was committed when it began, so whatever was
acknowledged before is in it, and writing goes on beside it.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from quell import __version__
from quell.errors import StoreError, StoreFull
from quell.storage import archive, journal, schema
from quell.storage.archive import Manifest

#: In the state folder, for as long as a backup is being made; what a crash left of it goes with the next.
STAGING = ".backup"
#: The archive in it.
ARCHIVE = "backup.tar.zst"
#: Bytes that a backup leaves free: writing events comes first.
RESERVE = 64 << 20

#: Beside the database, what a controller needs to be the same again; the agent's folder is the agent's.
_BESIDE = ("*.key", "*.token", "*.crt")


def make(database: Path, now: float) -> tuple[Manifest, BinaryIO]:
    """An archive of the state folder that `database` is in, open for reading; it is gone when it is closed.

    One at a time. now: epoch seconds. Raises StoreFull if there is no room for it beside the database, StoreError.
    """
    staging = database.parent / STAGING
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            manifest = _make(database, staging, now)
            return manifest, (staging / ARCHIVE).open("rb")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except sqlite3.Error as error:
        raise StoreError(f"cannot back up {database}: {error}") from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StoreFull(f"no room in {staging} for a backup") from error
        raise StoreError(f"cannot back up {database}: {error.strerror}: {error.filename}") from error


def _make(database: Path, staging: Path, now: float) -> Manifest:
    _check_room(database)
    files = {}
    # Before the database: the row of a token is committed before its file is written.
    for pattern in _BESIDE:
        for path in sorted(database.parent.glob(pattern)):
            if archive.MEMBER.fullmatch(path.name):
                files[path.name] = Path(shutil.copyfile(path, staging / path.name))
    copy = staging / archive.DATABASE
    with closing(schema.connect(database, read_only=True)) as connection:
        schema.copy(connection, copy)
    files = {archive.DATABASE: copy, **files}
    version, events, sequence, newest = facts(copy)
    manifest = Manifest(
        format=archive.FORMAT,
        quell=__version__,
        schema=version,
        time=now,
        events=events,
        newest_event=newest,
        newest_sequence=sequence,
        members=tuple(archive.member(name, path) for name, path in files.items()),
    )
    archive.write(staging / ARCHIVE, manifest, files)
    for path in files.values():
        path.unlink()
    return manifest


def facts(database: Path) -> tuple[int, int, int, str]:
    """The version of its schema, how many events it has, the newest group of them and the newest of all."""
    with closing(schema.connect(database, read_only=True)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        events, sequence = connection.execute(
            "SELECT coalesce(sum(events), 0), coalesce(max(seq), 0) FROM journal"
        ).fetchone()
        newest = journal.recent(connection, 1, None)
        return version, events, sequence, newest[0].id if newest else ""


def _check_room(database: Path) -> None:
    """For the copy and for the archive made of it."""
    log = database.with_name(database.name + "-wal")
    needed = 2 * (database.stat().st_size + (log.stat().st_size if log.exists() else 0)) + RESERVE
    place = os.statvfs(database.parent)
    free = place.f_bavail * place.f_frsize
    if free < needed:
        raise StoreFull(f"{database.parent} has {free >> 20} MiB free, a backup needs {needed >> 20} MiB for a moment")
