"""The audit log as a file that can be kept elsewhere and checked there: a line that says where it begins and ends, and
who signed that, then a line an entry (NDJSON).

Entries stand in it byte for byte as they are stored, for their hashes are of these bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from quell.errors import StoreError
from quell.model.audit import Base, Head, Verification
from quell.storage import audit
from quell.storage.audit import Ends
from quell.storage.chain import Chain, Row

FORMAT = 1

_encode = msgspec.json.Encoder().encode


class Opening(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line."""

    quell_audit: int
    base: Base
    head: Head
    #: The controller's public key, as quell.channel.keys writes it.
    key: str


class _Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    n: int
    #: Microseconds since the epoch.
    micros: int
    hash: str
    entry: msgspec.Raw


_opening = msgspec.json.Decoder(Opening).decode
_line = msgspec.json.Decoder(_Line).decode


def opening(ends: Ends, key: str) -> bytes:
    """The first line. StoreError: there is nothing to export."""
    if ends.head is None:
        raise StoreError("the audit log has no signed head: it is empty, or its head was removed")
    return _encode(Opening(quell_audit=FORMAT, base=ends.base, head=ends.head, key=key)) + b"\n"


def lines(connection: sqlite3.Connection, after: int, upto: int) -> bytes:
    """The lines of entries after one and up to another; b"" if there is none."""
    return b"".join([_written(row) for row in audit.rows(connection, after, upto)])


class Export:
    """An export that is being read. StoreError: the file is none."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        first = file.readline()
        try:
            self.opening = _opening(first)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(f"{name} is no export of an audit log: its first line: {error}") from error
        if self.opening.quell_audit != FORMAT or _encode(self.opening) + b"\n" != first:
            raise StoreError(f"{name} is no export of an audit log that this version knows: see its first line")
        self._file = file
        #: The last entry that was read.
        self.last = self.opening.base.n

    def rows(self) -> Iterator[Row]:
        """The entries. What is no line of an export comes as an entry that cannot hold."""
        for raw in self._file:
            row = _read(raw) or (self.last + 1, 0, b"", b"")
            self.last = row[0]
            yield row


def verify_file(
    path: Path,
    key: Callable[[str], Ed25519PublicKey],
    *,
    noted: tuple[str, ...] = (),
    progress: Callable[[int, int], object] = lambda _entries, _of: None,
) -> Verification:
    """Check an export. key: the key that must have signed it, given the one that the file names.

    progress: called with the entries checked so far, and how many there should be. StoreError: the file is no export.
    """
    with path.open("rb") as file:
        export = Export(file, str(path))
        base, head = export.opening.base, export.opening.head
        chain = Chain(base, noted=noted)
        rows = export.rows()
        chain.follow(rows, head, progress=lambda entries: progress(entries, head.n - base.n))
        for _ in rows:
            continue  # to know where it ends
        chain.finish(base, head, export.last, key(export.opening.key))
    return chain.verification(head, complete=True)


def _written(row: Row) -> bytes:
    n, time, body, kept = row
    return _encode(_Line(n=n, micros=time, hash=kept.hex(), entry=msgspec.Raw(body))) + b"\n"


def _read(raw: bytes) -> Row | None:
    """None: not a line as an export has them."""
    try:
        line = _line(raw)
        row = (line.n, line.micros, bytes(line.entry), bytes.fromhex(line.hash))
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None
    # Written in another way it may mean the same, but it is not what was exported.
    return row if _written(row) == raw else None
