"""Wakes whoever waits for files to change in a folder, also in one that does not exist yet. inotify(7), no polling."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import PurePath

import structlog

_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x008, 0x040, 0x080, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _OVERFLOW, _IGNORED, _ONLYDIR = 0x400, 0x800, 0x4000, 0x8000, 0x0100_0000
_MASK = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_EVENT = struct.Struct("=iIII")
_BUFFER = 64 << 10
#: Reads at one wake; between two such the loop does its other work.
_AT_ONCE = 16

#: Called with the name of an entry that was written, made, renamed or removed; "": anything may have changed.
Changed = Callable[[str], None]

_log = structlog.get_logger(__name__)


class Folders:
    """Everything here runs on the event loop's thread. Names are decoded as file names are (os.fsdecode)."""

    def __init__(self) -> None:
        """Raises OSError where the kernel gives no inotify instance."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "no inotify instance (fs.inotify.max_user_instances)")
        self._wanted: dict[str, Changed] = {}
        #: By the number of a watch: the paths it stands for. Two paths that lead to one folder have one watch.
        self._paths: dict[int, set[str]] = {}
        self._watches: dict[str, int] = {}
        #: By an existing folder: the wanted paths below it that are not there yet.
        self._awaited: dict[str, set[str]] = {}
        self._full = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._readable)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._file)
        os.close(self._file)

    def watch(self, path: str, changed: Changed) -> None:
        """From now on until unwatch. Whether the folder is there already is for the caller to look, afterwards."""
        self._wanted[path] = changed
        self._arm(path)

    def unwatch(self, path: str) -> None:
        """Paths that are not watched are ignored."""
        if self._wanted.pop(path, None) is not None:
            for awaited in [each for each, paths in self._awaited.items() if path in paths]:
                self._awaited[awaited].discard(path)
                self._release(awaited)
            self._release(path)

    def _arm(self, path: str) -> None:
        """Watch the folder, or else the nearest one above it that is there."""
        while not self._add(path):
            above = next((str(each) for each in PurePath(path).parents if self._add(str(each))), None)
            if above is None:
                return
            self._awaited.setdefault(above, set()).add(path)
            below = next(str(each) for each in (PurePath(path), *PurePath(path).parents) if str(each.parent) == above)
            if not self._add(below):
                return
            # It was made between the two looks: no event tells of it.
            self._awaited[above].discard(path)
            self._release(above)

    def _add(self, path: str) -> bool:
        if path in self._watches:
            return True
        number = self._libc.inotify_add_watch(self._file, os.fsencode(path), _MASK)
        if number < 0:
            code = ctypes.get_errno()
            if code == errno.ENOSPC and not self._full:
                self._full = True
                _log.warning("not every folder of containers is watched: fs.inotify.max_user_watches is reached")
            return False
        self._watches[path] = number
        self._paths.setdefault(number, set()).add(path)
        return True

    def _release(self, path: str) -> None:
        """Give up a watch that nothing needs any more."""
        if path in self._wanted or self._awaited.get(path):
            return
        self._awaited.pop(path, None)
        number = self._watches.pop(path, None)
        if number is None:
            return
        paths = self._paths[number]
        paths.discard(path)
        if not paths:
            del self._paths[number]
            self._libc.inotify_rm_watch(self._file, number)

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                events = os.read(self._file, _BUFFER)
            except BlockingIOError:
                return
            start = 0
            while start < len(events):
                number, mask, _, length = _EVENT.unpack_from(events, start)
                start += _EVENT.size
                name = os.fsdecode(events[start : start + length].rstrip(b"\0"))
                start += length
                self._happened(number, mask, name)

    def _happened(self, number: int, mask: int, name: str) -> None:
        if mask & _OVERFLOW:
            for path in list(self._wanted):
                self._arm(path)
                self._call(path, "")
            return
        gone = bool(mask & (_IGNORED | _DELETE_SELF | _MOVE_SELF))
        for path in list(self._paths.get(number, ())):
            if gone:
                self._lose(path, number, ignored=bool(mask & _IGNORED))
            else:
                if path in self._wanted:
                    self._call(path, name)
                if mask & (_CREATE | _MOVED_TO):
                    self._appeared(path, name)

    def _appeared(self, folder: str, name: str) -> None:
        made = os.path.join(folder, name)  # noqa: PTH118 - on every event
        for path in [each for each in self._awaited.get(folder, ()) if each == made or each.startswith(made + "/")]:
            self._awaited[folder].discard(path)
            self._arm(path)
            if path in self._watches:
                self._call(path, "")
        self._release(folder)

    def _lose(self, path: str, number: int, *, ignored: bool) -> None:
        """The folder itself is gone: wait for it, and for what lay below it, anew."""
        self._watches.pop(path, None)
        paths = self._paths.get(number, set())
        paths.discard(path)
        if not paths:
            self._paths.pop(number, None)
            if not ignored:
                self._libc.inotify_rm_watch(self._file, number)
        again = self._awaited.pop(path, set())
        if path in self._wanted:
            again.add(path)
        for each in again:
            self._arm(each)
            self._call(each, "")

    def _call(self, path: str, name: str) -> None:
        if (changed := self._wanted.get(path)) is not None:
            changed(name)
