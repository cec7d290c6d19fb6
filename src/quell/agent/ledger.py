"""What this agent was ordered to do and did, written before it is done. SEMANTICS section 9.

A file of lines, each the checksum of its JSON and the JSON, only ever added to. A command is written before its action
(and synced, unless the action ends with the machine: docs/adr/0029), its outcome is written and synced after; a torn last
line is cut off, a damaged one is skipped and counted. When half of a large file says nothing any more, it is written anew
beside the old one and renamed over it.

After the last line there is room: zeros that are on disk already. A line written over them changes nothing but data, so
that its sync need not wait for the file system's journal, as it must where a file grows.
"""

from __future__ import annotations

import fcntl
import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from quell.disk import sync_folder, write_at
from quell.errors import StoreError
from quell.faults import point
from quell.model.decision import Command, Outcome

#: Seconds after a command's expiry for which its acknowledged outcome is remembered, longer than any delivery repeats it.
KEEP = 3600.0
#: Acknowledged outcomes remembered at most, which bounds file and memory; a forgotten one has also long expired.
MOST_REMEMBERED = 10_000
#: A file beside the ledger: a person has opened what is isolated while the agent has the ledger.
RELEASED = "released"
#: Bytes below which the file is not worth writing anew.
_SMALL = 1 << 20
#: Bytes of room that are made at a time, when less than half of them are left. What is to be written meanwhile waits for it,
#: so it is done seldom.
_ROOM = 1 << 20


#: What the same command has to know when it comes again after a crash, such as how it was before.
Noted = dict[str, str | int | float | list[int]]


class Closed(Struct, frozen=True, kw_only=True, tag="closed", omit_defaults=True):
    """A quarantine in force: what is closed under this key, so that it can be opened again after a restart."""

    key: str
    boot_id: str
    #: Inode of each network namespace, and the kernel's number for it (0: not known).
    namespaces: tuple[tuple[int, int], ...]
    strict: bool = False
    #: TCP ports open to the machine's own addresses, unless strict.
    ports: tuple[int, ...] = ()
    #: Addresses that may reach it, unless strict.
    investigators: tuple[str, ...] = ()
    #: Epoch seconds at which this agent opens it again by itself; None: only when told.
    until: float | None = None
    #: When the newest command that closed it was issued, epoch seconds by the controller's clock.
    issued: float = 0.0


class _Begun(Struct, frozen=True, kw_only=True, tag="begun", omit_defaults=True):
    command: Command
    noted: Noted = {}


class _Ended(Struct, frozen=True, kw_only=True, tag="ended"):
    outcome: Outcome
    expires: float


class _Acknowledged(Struct, frozen=True, kw_only=True, tag="acknowledged"):
    ids: tuple[str, ...]


class _Opened(Struct, frozen=True, kw_only=True, tag="opened", omit_defaults=True):
    key: str
    #: As in Closed, of the command that opened it; 0: it was no command.
    issued: float = 0.0


_Record = _Begun | _Ended | _Acknowledged | Closed | _Opened
_decoder: msgspec.json.Decoder[_Record] = msgspec.json.Decoder(_Record)
_encode = msgspec.json.Encoder().encode


class Ledger:
    """Safe to use from several threads of one process; a second process is refused."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. StoreError: it cannot be used, or another agent uses it."""
        self.path = path
        #: Lines that were not what had been written.
        self.damaged = 0
        self._lock = threading.Lock()
        self._begun: dict[str, _Begun] = {}
        self._ended: dict[str, _Ended] = {}
        self._unacknowledged: dict[str, None] = {}
        self._closed: dict[str, Closed] = {}
        #: When the command was issued that last opened what had this key.
        self._opened: dict[str, float] = {}
        try:
            self._file = _open_locked(path)
            #: Bytes of lines, and of the file with the room after them.
            self._size, self._whole = self._replay()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        self._floor = self._size
        self._make_room()

    def find(self, command_id: str) -> Outcome | None:
        """The recorded outcome of a command that has ended; None if it has not."""
        ended = self._ended.get(command_id)
        return ended.outcome if ended else None

    def acknowledged(self, command_id: str) -> bool:
        """Whether the controller has recorded what became of it: it has no reason to order it again."""
        return command_id in self._ended and command_id not in self._unacknowledged

    def begun(self, command_id: str) -> bool:
        """Whether the command was begun, before a crash, and never ended."""
        return command_id in self._begun

    def is_known(self, command_id: str) -> bool:
        """Whether the command was begun, or has ended."""
        return command_id in self._begun or command_id in self._ended

    def unfinished(self) -> tuple[Command, ...]:
        """Commands begun and never ended: a crash came between."""
        with self._lock:
            return tuple(begun.command for begun in self._begun.values())

    def noted(self, command_id: str) -> Noted:
        """What was noted when the command was begun; nothing if it was not, or has ended."""
        begun = self._begun.get(command_id)
        return begun.noted if begun else {}

    def pending(self) -> tuple[Outcome, ...]:
        """Outcomes that the controller has not acknowledged, in the order they came about."""
        with self._lock:
            return tuple(self._ended[each].outcome for each in self._unacknowledged)

    def closed(self) -> tuple[Closed, ...]:
        """The quarantines in force."""
        with self._lock:
            return tuple(self._closed.values())

    def opened(self, key: str) -> float:
        """When the newest command was issued that opened this key; 0: none that is remembered."""
        return self._opened.get(key, 0.0)

    def begin(
        self,
        command: Command,
        closed: Closed | None = None,
        *,
        noted: Noted | None = None,
        sync: bool = True,
        wait: bool = True,
    ) -> bool:
        """Write, before its action, that a command is begun, and what its action will have closed. StoreError: it is not.

        sync: False where nothing of the action outlives the machine. The line then outlives this process at once, and the
        machine with the outcome that follows. wait: False: it is not written, and False, if another thread is writing.
        """
        begun = _Begun(command=command, noted=noted or {})
        return self._write([begun] if closed is None else [begun, closed], sync=sync, wait=wait)

    def end(self, command: Command, outcome: Outcome, *more: Closed | str) -> None:
        """Write a command's outcome, and what is closed now or (a key) open again."""
        changes = [each if isinstance(each, Closed) else _Opened(key=each, issued=command.issued) for each in more]
        self._write([*changes, _Ended(outcome=outcome, expires=command.expires)])

    def note(self, change: Closed | str) -> None:
        """Write what is closed now or (a key) open again without a command: the end of a lease, a person on the machine."""
        self._write([change if isinstance(change, Closed) else _Opened(key=change)])

    def acknowledge(self, ids: Iterable[str]) -> None:
        """The controller has recorded these outcomes: they need not be sent again."""
        known = tuple(each for each in ids if each in self._unacknowledged)
        if known:
            self._write([_Acknowledged(ids=known)], sync=False)  # if it is lost, an outcome is sent twice

    def compact(self, now: float) -> bool:
        """Write the file anew if half of it says nothing any more. True: it was. Else there is room for what comes next."""
        with self._lock:
            if self._size < max(_SMALL, 2 * self._floor):
                self._make_room()
                return False
            self._forget(now)
            self._rewrite()
            return True

    def close(self) -> None:
        os.close(self._file)

    def _forget(self, now: float) -> None:
        over = len(self._ended) - len(self._unacknowledged) - MOST_REMEMBERED
        for command_id, ended in list(self._ended.items()):
            if command_id in self._unacknowledged:
                continue
            if over > 0 or ended.expires + KEEP < now:
                del self._ended[command_id]
                over -= 1
        self._opened = {key: issued for key, issued in self._opened.items() if issued + KEEP >= now}
        for command_id, begun in list(self._begun.items()):
            # One that waits for its end has notes, and ends by itself.
            if not begun.noted and begun.command.expires + KEEP < now:
                del self._begun[command_id]

    def _write(self, records: Sequence[_Record], *, sync: bool = True, wait: bool = True) -> bool:
        lines = b"".join(_line(record) for record in records)
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            point("agent.ledger-before-write")
            try:
                write_at(self._file, lines, self._size)
                if sync:
                    os.fdatasync(self._file)
            except OSError as error:
                self._cut()
                raise StoreError(f"{self.path}: {error.strerror}") from error
            point("agent.ledger-after-write")
            self._size += len(lines)
            self._whole = max(self._whole, self._size)
            for record in records:
                self._apply(record)
        finally:
            self._lock.release()
        return True

    def _make_room(self) -> None:
        """None on a full disk: then the file grows with each line."""
        if self._whole - self._size >= _ROOM // 2:
            return
        try:
            write_at(self._file, bytes(_ROOM), self._size)
            os.fdatasync(self._file)
            self._whole = self._size + _ROOM
        except OSError:
            self._cut()

    def _cut(self) -> None:
        """Take back a line that was written in part, so that the next one starts a line of its own."""
        self._whole = self._size
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            return  # replay cuts it, or skips it as damaged

    def _apply(self, record: _Record) -> None:
        match record:
            case _Begun(command=command):
                self._begun[command.id] = record
            case _Ended(outcome=outcome):
                self._begun.pop(outcome.id, None)
                self._ended[outcome.id] = record
                self._unacknowledged[outcome.id] = None
            case _Acknowledged(ids=ids):
                for each in ids:
                    self._unacknowledged.pop(each, None)
            case Closed(key=key):
                self._closed[key] = record
            case _Opened(key=key, issued=issued):
                self._closed.pop(key, None)
                if issued:
                    self._opened[key] = issued

    def _replay(self) -> tuple[int, int]:
        """Read all records; a torn last line is cut off. Bytes of lines, and of the file."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].split(b"\n")[:-1]:
            record = _parse(line)
            if record is None:
                self.damaged += 1
            else:
                self._apply(record)
        if data.count(b"\0", whole) < len(data) - whole:
            os.ftruncate(self._file, whole)
            return whole, whole
        return whole, len(data)

    def _rewrite(self) -> None:
        records: list[_Record] = list(self._begun.values())
        records += self._ended.values()
        records.append(_Acknowledged(ids=tuple(each for each in self._ended if each not in self._unacknowledged)))
        records += [_Opened(key=key, issued=issued) for key, issued in self._opened.items()]
        records += self._closed.values()
        lines = b"".join(_line(record) for record in records)
        beside = self.path.with_name(self.path.name + ".new")
        try:
            beside.unlink(missing_ok=True)
            file = _open_locked(beside)
            write_at(file, lines, 0)
            os.fdatasync(file)
            beside.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise StoreError(f"{self.path}: {error.strerror}") from error
        os.close(self._file)
        self._file, self._size, self._whole, self._floor = file, len(lines), len(lines), len(lines)
        self._make_room()


class Imagined(Ledger):
    """What a ledger would hold, for a dry run: it begins with all that another one holds, and is never written."""

    def __init__(self, of: Ledger) -> None:
        self.path = of.path
        self.damaged = 0
        self._lock = threading.Lock()
        with of._lock:  # noqa: SLF001 - the same class's
            self._begun = dict(of._begun)  # noqa: SLF001
            self._ended = dict(of._ended)  # noqa: SLF001
            self._unacknowledged = dict(of._unacknowledged)  # noqa: SLF001
            self._closed = dict(of._closed)  # noqa: SLF001
            self._opened = dict(of._opened)  # noqa: SLF001

    def compact(self, now: float) -> bool:  # noqa: ARG002 - there is no file
        return False

    def close(self) -> None:
        pass

    def _write(self, records: Sequence[_Record], *, sync: bool = True, wait: bool = True) -> bool:  # noqa: ARG002 - as above
        with self._lock:
            for record in records:
                self._apply(record)
        return True


def _line(record: _Record) -> bytes:
    body = _encode(record)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _parse(line: bytes) -> _Record | None:
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            return None
        return _decoder.decode(line[9:])
    except (ValueError, msgspec.MsgspecError):
        return None


def _open_locked(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise StoreError(f"{path} is in use by another agent") from None
    return file
