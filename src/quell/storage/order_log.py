"""Orders that may go before their event's transaction is on disk: what they follow from is kept here first. docs/adr/0033.

A file beside the database, made once and then only written over: to sync it changes nothing but data, and waits for nothing
that others have to write. It holds what was ordered and is not in the journal yet, which is some milliseconds' worth; what a
crash leaves in it is journaled at the next opening.
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import msgspec
import structlog
from msgspec import Struct

from quell import faults
from quell.disk import sync_folder, write_at
from quell.model.decision import Decision, Flag, Repetition
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject
from quell.storage.records import Entry, OutboxItem

#: Records that it has place for, and bytes of each: orders beyond either wait for the journal.
SLOTS, SLOT_BYTES = 16, 16 << 10
#: Free bytes of the file system below which they do as well: what the journal may have no room for is not done before.
ROOM_BYTES = 64 << 20
#: Seconds of a sync above which it was slow, and for which it is then left: the event loop waits for it.
SLOW, PAUSE = 0.02, 10.0

#: Before each record: its number, the length of its body, and the checksum of both and the body. Nought: it is in the journal.
_HEAD = struct.Struct(">QII")
_NOTHING = bytes(_HEAD.size)

_log = structlog.get_logger("quell.storage")


class _Kept(Struct, frozen=True, array_like=True):
    """An entry without what the journal does not keep of its event."""

    id: str
    received: float
    source: str
    category: Category
    level: Level
    name: str
    catalogue_name: str | None
    raw: bytes
    decision: Decision
    outbox: tuple[OutboxItem, ...]
    flags: tuple[Flag, ...]
    repetitions: tuple[Repetition, ...]

    @classmethod
    def of(cls, entry: Entry) -> Self:
        event = entry.event
        return cls(
            event.id,
            event.received,
            event.source,
            event.category,
            event.level,
            event.name,
            event.catalogue_name,
            event.raw,
            entry.decision,
            entry.outbox,
            tuple([flag for flag in entry.flags if isinstance(flag, Flag)]),
            tuple([flag for flag in entry.flags if isinstance(flag, Repetition)]),
        )

    def entry(self) -> Entry:
        """As it is journaled: looked up by its id whoever gave it that, since it may be there already."""
        event = Event(
            id=self.id,
            id_given=True,
            time=None,
            received=self.received,
            source=self.source,
            category=self.category,
            name=self.name,
            catalogue_name=self.catalogue_name,
            level=self.level,
            subject=Subject(),
            raw=self.raw,
        )
        return Entry(event=event, decision=self.decision, outbox=self.outbox, flags=(*self.flags, *self.repetitions))


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[_Kept, ...])


class OrderLog:
    """Safe to use from several threads of the one process that has the store."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic, slow: float = SLOW) -> None:
        """Opens or makes the file. Where it cannot be made it keeps nothing, and every order waits for the journal."""
        self.path = path
        self._clock = clock
        self._slow = slow
        self._lock = threading.Lock()
        #: One after the other, so that no page is written over while the disk still reads it.
        self._free = deque(range(SLOTS))
        self._number = time.time_ns()
        self._not_before = float("-inf")
        self._file: int | None = None
        try:
            self._file = _opened(path)
        except OSError as error:
            _log.warning("there is no order log, so orders wait for the journal", path=str(path), reason=error.strerror)

    def keep(self, entries: Sequence[Entry]) -> int | None:
        """The slot in which they are on disk now: their orders may go, and they must be appended to the journal next.

        None: they are not, and have to wait for the journal. Blocks for one sync.
        """
        with self._lock:
            file = self._file
            if file is None or not self._free or self._clock() < self._not_before or not _has_room(file):
                return None
            body = _encode([_Kept.of(entry) for entry in entries])
            if _HEAD.size + len(body) > SLOT_BYTES:
                return None
            self._number += 1
            slot = self._free[0]
            try:
                faults.point("orders.before-write")
                write_at(file, _head(self._number, body) + body, slot * SLOT_BYTES)
                faults.point("orders.after-write")
                started = self._clock()
                os.fdatasync(file)
                faults.point("orders.after-sync")
            except OSError as error:
                _log.error("an order could not be kept, so it waits for the journal", reason=error.strerror)
                self._not_before = self._clock() + PAUSE
                _forget(file, slot)
                return None
            if self._clock() - started > self._slow:
                self._not_before = self._clock() + PAUSE
            return self._free.popleft()

    def journaled(self, slot: int) -> None:
        """What is in it is in the journal."""
        with self._lock:
            if self._file is not None:
                # Not synced: what a crash of the machine brings back is in the journal, and left out there.
                _forget(self._file, slot)
            if slot not in self._free:
                self._free.append(slot)

    def left(self) -> list[Entry]:
        """What is kept here, in order. What this version cannot read is put aside for people."""
        with self._lock:
            if self._file is None:
                return []
            bodies = _bodies(os.pread(self._file, SLOTS * SLOT_BYTES, 0))
        found: list[Entry] = []
        for body in bodies:
            try:
                found += [kept.entry() for kept in _decoder.decode(body)]
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.put_aside(f"this version cannot read it: {error}")
        return found

    def put_aside(self, why: str) -> None:
        """Something of it cannot be journaled: keep a copy that nothing here touches again. OSError."""
        aside = self.path.with_name(f"{self.path.name}.{time.time_ns()}")
        shutil.copy2(self.path, aside)
        _log.error("an order that was given before a crash could not be journaled", reason=why, kept_in=str(aside))

    def clear(self) -> None:
        """All of it is in the journal."""
        for slot in range(SLOTS):
            self.journaled(slot)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


def _opened(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size, whole = os.fstat(file).st_size, SLOTS * SLOT_BYTES
        if size < whole:
            write_at(file, bytes(whole - size), size)
            os.fsync(file)
            sync_folder(path.parent)
    except BaseException:
        os.close(file)
        raise
    return file


def _has_room(file: int) -> bool:
    facts = os.fstatvfs(file)
    return facts.f_bavail * facts.f_frsize >= ROOM_BYTES


def _bodies(content: bytes) -> list[bytes]:
    """Of the records that are whole and not in the journal, as they were written."""
    found: dict[int, bytes] = {}
    for at in range(0, len(content) - _HEAD.size, SLOT_BYTES):
        number, length, _ = _HEAD.unpack_from(content, at)
        body = content[at + _HEAD.size : at + min(_HEAD.size + length, SLOT_BYTES)]
        if number and content.startswith(_head(number, body), at):
            found[number] = body
    return [found[number] for number in sorted(found)]


def _head(number: int, body: bytes) -> bytes:
    return _HEAD.pack(number, len(body), zlib.crc32(body, zlib.crc32(number.to_bytes(8, "big"))))


def _forget(file: int, slot: int) -> None:
    try:
        os.pwrite(file, _NOTHING, slot * SLOT_BYTES)
    except OSError as error:
        _log.error("the order log could not be written", reason=error.strerror)
