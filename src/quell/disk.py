"""What writing so that it stays written needs beside the standard library."""

from __future__ import annotations

import os
from pathlib import Path


def write_at(file: int, content: bytes, at: int) -> None:
    """All of it into the open file, from this byte on. OSError."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def sync_folder(path: Path) -> None:
    """Names made, changed or removed in it outlive a crash of the machine. OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
