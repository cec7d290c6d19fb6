"""Whether two ways to write an image mean different images."""

from __future__ import annotations

from typing import NamedTuple

_DIGITS = 12


class Reference(NamedTuple):
    repository: str
    tag: str
    digest: str


def reference(image: str) -> Reference:
    """Docker Hub's names are written with and without their registry; without a tag it is latest."""
    name, _, digest = image.partition("@")
    head, separator, tag = name.rpartition(":")
    if not separator or "/" in tag:
        head, tag = name, "" if digest else "latest"
    for prefix in ("index.docker.io/", "docker.io/", "library/"):
        head = head.removeprefix(prefix)
    return Reference(head, tag, digest)


def differ(one: str, other: str) -> bool:
    """Only what both say is compared: a tag and a digest may be the same image."""
    if one == other or one.startswith("sha256:") or other.startswith("sha256:"):
        return False
    first, second = reference(one), reference(other)
    if first.repository != second.repository:
        return True
    tags = bool(first.tag and second.tag) and first.tag != second.tag
    digests = bool(first.digest and second.digest) and first.digest != second.digest
    return tags or digests


def same_id(one: str, other: str) -> bool:
    """Detectors shorten image ids to 12 digits or more, and leave the algorithm out."""
    first, second = one.removeprefix("sha256:"), other.removeprefix("sha256:")
    length = min(len(first), len(second))
    return first[:length] == second[:length] if length >= _DIGITS else first == second
