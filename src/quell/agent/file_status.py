"""Which file a path leads to, as this kernel knows it: nobody else is asked.

Files may be served by another machine or by a process (NFS, FUSE). To stat one there waits for an answer, which whoever
serves it may never give; and what is looked at here belongs to those one has to reckon with. Which file it is, and what was
last known of it, the kernel says without asking: statx(2), AT_STATX_DONT_SYNC.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

_AT_FDCWD = -100
_DONT_SYNC = 0x4000
_BASIC = 0x07FF
#: Of struct statx: inode; size; seconds and nanoseconds of the last change; major and minor number of the device.
_FIELDS = struct.Struct("=32xQQ48xqI28xII")
_Statx = ctypes.c_char * 256


class FileStatus(NamedTuple):
    device: int
    inode: int
    size: int
    #: Nanoseconds, status change: unlike the modification time it cannot be set.
    changed: int


def file_status(path: str, directory: int | None = None) -> FileStatus:
    """Of the file itself, links followed; a relative path begins in an open directory. OSError.

    Where there is no statx (Linux before 4.11, another C library), whoever serves the file is asked after all: ASKS_NOBODY.
    """
    if _statx is None:
        found = os.stat(path, dir_fd=directory)
        return FileStatus(found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)
    told = _Statx()
    if _statx(_AT_FDCWD if directory is None else directory, os.fsencode(path), _DONT_SYNC, _BASIC, told):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    inode, size, seconds, nanoseconds, major, minor = _FIELDS.unpack_from(told)
    return FileStatus(os.makedev(major, minor), inode, size, seconds * 1_000_000_000 + nanoseconds)


def _found() -> ctypes._NamedFuncPointer | None:
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return None
    statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    # A kernel may not have it, or a filter of system calls may keep it from this process.
    return None if statx(_AT_FDCWD, b"/", _DONT_SYNC, _BASIC, _Statx()) else statx


_statx = _found()
#: file_status waits for nobody here.
ASKS_NOBODY = _statx is not None
