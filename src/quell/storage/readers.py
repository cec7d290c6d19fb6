"""Connections for reading, lent to any thread."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quell.errors import StoreError
from quell.storage import schema

#: Idle connections that are kept.
KEEP = 4


class Readers:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """One that nobody else uses meanwhile and that cannot write. Raises StoreError after close."""
        if self._closed:
            raise StoreError("the store is closed")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = schema.connect(self._path, read_only=True)
        try:
            yield connection
        finally:
            if connection.in_transaction:
                connection.rollback()
            if self._closed or len(self._idle) >= KEEP:
                connection.close()
            else:
                self._idle.append(connection)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
