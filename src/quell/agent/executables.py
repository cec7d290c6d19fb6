"""Which files some patterns of paths mean, with no directory listed again that has not changed.

What is protected is asked on the way of every kill, and listing all those directories takes longer than the rest of it.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import time
from collections.abc import Iterable

#: Of a directory: device, inode, and when it was last changed, nanoseconds. Nobody can set the latter.
_Mark = tuple[int, int, int]
#: Nanoseconds within which a directory may change again without its time saying so: as coarse as the kernel's clock, and more.
_COARSE = 100_000_000


class _Listing:
    """The names in a directory."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._like: dict[str, list[str]] = {}

    def like(self, part: str) -> list[str]:
        found = self._like.get(part)
        if found is None:
            shown = self._names if part.startswith(".") else [name for name in self._names if not name.startswith(".")]
            found = self._like[part] = fnmatch.filter(shown, part)
        return found


class Executables:
    """The files that absolute patterns, as of glob(7), mean now or meant before: a daemon runs on from a file that an
    upgrade has replaced. Not safe to use from several threads.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = dict.fromkeys(patterns)
        self._ids: set[tuple[int, int]] = set()
        self._listed: dict[str, tuple[_Mark, _Listing]] = {}

    def add(self, pattern: str) -> None:
        self._patterns[pattern] = None

    def ids(self) -> set[tuple[int, int]]:
        """Device and inode of each."""
        looked_at: dict[str, _Listing] = {}
        for pattern in self._patterns:
            for path in self._paths(pattern, looked_at):
                try:
                    status = os.stat(path)  # noqa: PTH116 - so many of them, on the way to a kill
                except OSError:
                    continue
                self._ids.add((status.st_dev, status.st_ino))
        return self._ids

    def _paths(self, pattern: str, looked_at: dict[str, _Listing]) -> list[str]:
        """What it may mean: without wildcards that need not be there. looked_at: directories, for the other patterns too."""
        paths = [""]
        for part in pattern.split("/")[1:]:
            if not glob.has_magic(part):
                paths = [f"{path}/{part}" for path in paths]
                continue
            found: list[str] = []
            for path in paths:
                listing = looked_at.get(path)
                if listing is None:
                    listing = looked_at[path] = self._look(path or "/")
                found += [f"{path}/{name}" for name in listing.like(part)]
            paths = found
        return paths

    def _look(self, directory: str) -> _Listing:
        try:
            # In this order: what comes after the look at its time is seen by the next.
            now = time.time_ns()
            status = os.stat(directory)  # noqa: PTH116 - as above
            mark = status.st_dev, status.st_ino, status.st_ctime_ns
            listed = self._listed.get(directory)
            if listed is not None and listed[0] == mark:
                return listed[1]
            listing = _Listing(os.listdir(directory))  # noqa: PTH208 - as above
        except OSError:
            return _Listing([])
        if mark[2] < now - _COARSE:
            self._listed[directory] = mark, listing
        else:
            self._listed.pop(directory, None)
        return listing
