"""Keeps the write-ahead log small without making a commit wait for it, and gives it room from the start.

Where a file grows, its sync waits for the file system's journal too: several times as long as for data alone. So the log
gets zeros to write over. SQLite takes them for what they are: a frame that is not valid, which ends the log.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from quell.storage import schema

#: Bytes of log after which it is copied to the database by a thread of its own, beside the writing.
PASSIVE_BYTES = 8 << 20
#: Bytes of log after which the writer stops to begin it anew: beside steady writing a copy never catches up entirely.
RESTART_BYTES = 64 << 20
#: A log that once grew beyond this is cut back to it when it begins anew.
LIMIT_BYTES = 64 << 20
#: Free bytes of a file system below which the log only grows as it must.
PLENTY_BYTES = 1 << 30


class Checkpoints:
    """Its own thread and connection. ask() never waits."""

    def __init__(self, path: Path) -> None:
        self._wal = path.with_name(path.name + "-wal")
        _make_room(self._wal)
        self._connection = schema.connect(path)
        self._wanted = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="quell-checkpoint", daemon=True)
        self._thread.start()

    def wal_bytes(self) -> int:
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def ask(self) -> None:
        self._wanted.set()

    def close(self) -> None:
        self._closing = True
        self._wanted.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._closing:
                return
            self._wanted.clear()
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error:
                # No room for the database to grow, most likely: nothing is lost, the log keeps it. Asked again later.
                continue


def _make_room(log: Path) -> None:
    """For as much as is written until the log is copied and begins anew. To be called while nobody writes."""
    wanted = PASSIVE_BYTES + PASSIVE_BYTES // 4
    place = os.statvfs(log.parent)
    if place.f_bavail * place.f_frsize < PLENTY_BYTES:
        return
    with contextlib.suppress(OSError), log.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size < wanted:
            file.write(bytes(wanted - size))
            os.fdatasync(file.fileno())


def restart(connection: sqlite3.Connection) -> bool:
    """Copies the rest of the log and begins it anew; False: a reader or the other thread was in the way."""
    try:
        connection.execute("PRAGMA busy_timeout=0")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error:
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout={schema.BUSY_TIMEOUT}")
    return not busy
