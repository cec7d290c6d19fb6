"""Which executables hold the same program, whatever they are called. Equality is size and SHA-256.

A file is read only if its size is that of a known one, and once: the answer is kept for (device, inode, size, time of
change), which any write to the file alters.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from quell.agent.file_status import FileStatus, file_status

_MOST_ANSWERS = 4096
_CHUNK = 1 << 20


class Executable(Struct, frozen=True):
    """A file as it is executed. path may be /proc/PID/exe, which opens the very file that runs."""

    path: str
    status: FileStatus

    @classmethod
    def at(cls, path: str) -> Executable:
        """Raises OSError."""
        return cls(path, file_status(path))


class Contents:
    """Known programs by content."""

    def __init__(self, known: Iterable[Path] = ()) -> None:
        self._by_size: dict[int, list[str]] = {}
        self._digests: dict[FileStatus, bytes] = {}
        for path in known:
            with contextlib.suppress(OSError):
                same_size = self._by_size.setdefault(path.stat().st_size, [])
                if str(path) not in same_size:
                    same_size.append(str(path))

    def original(self, file: Executable) -> str | None:
        """The known executable that this one is, or is a copy of."""
        candidates = self._by_size.get(file.status.size)
        return self._equal(file, candidates, self._digest) if candidates else None

    def equals_one(self, file: Executable, paths: Sequence[str]) -> bool:
        """Whether an exception for these files holds.

        The candidate is always read: a program in memory can be written to without a trace in its times.
        """
        return self._equal(file, paths, lambda candidate: _read_digest(candidate.path)) is not None

    def _equal(self, file: Executable, paths: Sequence[str], digest: Callable[[Executable], bytes]) -> str | None:
        for path in paths:
            with contextlib.suppress(OSError):  # either may be gone by now: then they cannot be compared
                other = Executable.at(path)
                if other.status.size == file.status.size and self._digest(other) == digest(file):
                    return path
        return None

    def _digest(self, file: Executable) -> bytes:
        known = self._digests.get(file.status)
        if known is None:
            if len(self._digests) >= _MOST_ANSWERS:
                self._digests.clear()
            known = self._digests[file.status] = _read_digest(file.path)
        return known


def _read_digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as content:  # noqa: PTH123 - as small as can be: it runs while a process waits to be judged
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
