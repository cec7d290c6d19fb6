"""What is taken of a runtime's files and answers. Labels and names are chosen by whoever made an image, so all is bounded.

A value that is too long is left out whole, never cut: a cut one could equal what a rule asks for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_ID = re.compile(r"[0-9a-f]{64}")
_MOST_LABELS = 64
_LONGEST_KEY, _LONGEST_VALUE = 317, 1024  # Kubernetes: a prefix of 253, a slash, a name of 63
_MOST_BYTES = 16 << 10
#: References of images: a registry's name (253), a path, a tag (128) and a digest (71).
LONGEST_NAME = 1024
#: Bytes of a file or an answer.
LONGEST_FILE = 8 << 20


def identity(text: str) -> str | None:
    """A container's full id, as every runtime known makes it and as control groups have it; None: something else."""
    return text if _ID.fullmatch(text) else None


def text(value: str | None) -> str | None:
    return value if value and len(value) <= LONGEST_NAME else None


def labels(given: Mapping[str, str] | None) -> dict[str, str] | None:
    """As many as fit, in the order given. None stays None: not known."""
    if given is None:
        return None
    kept: dict[str, str] = {}
    size = 0
    for key, value in given.items():
        if not key or len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            continue
        size += len(key.encode(errors="replace")) + len(value.encode(errors="replace"))
        if len(kept) == _MOST_LABELS or size > _MOST_BYTES:
            break
        kept[key] = value
    return kept


def image_id(value: str | None) -> str | None:
    """In the form sha256:<64 hexadecimal digits>; podman and Docker differ."""
    digits = (value or "").removeprefix("sha256:")
    return f"sha256:{digits}" if identity(digits) else None


def content(path: str, most: int = LONGEST_FILE) -> bytes:
    """A file, whole. Raises OSError, also for one that is longer or is no regular file; never waits for a pipe."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as reader:
        found = reader.read(most + 1)
    if len(found or b"") > most:
        raise OSError(f"{path}: longer than {most} bytes")
    return found or b""
