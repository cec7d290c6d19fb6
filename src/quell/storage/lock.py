"""One process at a time has a store open."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from quell.errors import StoreError


class Lock:
    """An advisory lock on PATH.lock, held until release() or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError naming the process that holds it."""
        self._path = path.with_name(path.name + ".lock")
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(f"{path} is in use by process {holder}; one controller at a time can have it") from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        # The file stays: unlinking it would let a third process lock a new one beside a waiting second.
        os.close(self._fd)
