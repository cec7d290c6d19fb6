"""The file that a backup is: a tar in zstd, a manifest first, and after it a hash over everything before.

The hash stands in a skippable frame (RFC 8878, 3.1.2), which every reader of zstd passes over: `tar --zstd -tf` lists
an archive. It shows damage, not forgery: whoever can write the file can write its hash. So nothing of an archive is
believed: names are of a fixed form, and every size and hash is compared before anything is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import msgspec
import zstandard
from msgspec import Struct

from quell.errors import StoreError

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "quell.db"
KEY = "controller.key"
#: What may be in an archive: the database, keys, certificates and token files. No path, nothing hidden.
MEMBER = re.compile(r"quell\.db|[a-z0-9][a-z0-9_-]{0,80}\.(?:key|token|crt)")

#: Bytes read, compressed or hashed at once: each step lets go of the interpreter lock for about a millisecond.
STEP = 1 << 20
#: A little compression is nearly free; most of a journal is compressed already.
_LEVEL = 1
_MANIFEST_BYTES = 1 << 20

#: Magic, length of what follows, mark, SHA-256 of all before.
_TRAILER = struct.Struct("<II8s32s")
_SKIPPABLE = 0x184D2A51
_MARK = b"quellsum"

#: Called with what is being done, and bytes done and in all.
Progress = Callable[[str, int, int], None]


def unseen(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


class Member(Struct, frozen=True, kw_only=True):
    name: str
    #: Bytes.
    size: int
    #: Hex.
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What an archive says of itself."""

    format: int
    #: The version of the program that made it, and of the database in it.
    quell: str
    schema: int
    #: When its copy of the database began: what was acknowledged before is in it.
    time: float
    events: int
    #: The newest event and its group of the journal; "" and 0: there is none.
    newest_event: str
    newest_sequence: int
    members: tuple[Member, ...]


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


def member(name: str, path: Path) -> Member:
    """Raises OSError."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while part := file.read(STEP):
            digest.update(part)
            size += len(part)
    return Member(name=name, size=size, sha256=digest.hexdigest())


def write(path: Path, manifest: Manifest, files: Mapping[str, Path]) -> None:
    """A new archive of mode 0600, its members from `files` by name, as the manifest lists them. Raises OSError."""
    digest = hashlib.sha256()
    compressing = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    with _private(path) as file:
        for part in _tar(manifest, files):
            packed = compressing.compress(part)
            digest.update(packed)
            file.write(packed)
        packed = compressing.flush()
        digest.update(packed)
        file.write(packed)
        file.write(_TRAILER.pack(_SKIPPABLE, _TRAILER.size - 8, _MARK, digest.digest()))


def _tar(manifest: Manifest, files: Mapping[str, Path]) -> Iterator[bytes]:
    about = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    yield _header(MANIFEST, len(about), manifest.time)
    yield about + _padding(len(about))
    for each in manifest.members:
        yield _header(each.name, each.size, manifest.time)
        with files[each.name].open("rb") as content:
            while part := content.read(STEP):
                yield part
        yield _padding(each.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int, time: float) -> bytes:
    information = tarfile.TarInfo(name)
    information.size, information.mode, information.mtime = size, 0o600, int(time)
    return information.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def read(path: Path, into: Path | None = None, told: Progress = unseen) -> Manifest:
    """Checks everything that an archive says of itself; with `into`, an empty folder, its members are then there, on
    disk and of mode 0600. Raises StoreError if the archive is damaged or not for this Quell, OSError.
    """
    with path.open("rb") as file:
        total = _check_whole(path, file, told)
        file.seek(0)
        try:
            counting = cast("BinaryIO", _Counting(file, "unpack", total, told))
            with (
                zstandard.ZstdDecompressor().stream_reader(counting) as plain,
                tarfile.open(fileobj=plain, mode="r|", bufsize=STEP) as tar,
            ):
                return _unpack(path, tar, into)
        except (zstandard.ZstdError, tarfile.TarError, EOFError, ValueError) as error:
            raise StoreError(f"{path} is damaged: {error}") from error


def _check_whole(path: Path, file: BinaryIO, told: Progress) -> int:
    """Bytes before the trailer, whose hash is right."""
    left = total = os.fstat(file.fileno()).st_size - _TRAILER.size
    file.seek(max(total, 0))
    end = file.read()
    if total <= 0 or len(end) != _TRAILER.size or end[:16] != _TRAILER.pack(_SKIPPABLE, 40, _MARK, b"")[:16]:
        raise StoreError(f"{path} is no backup of Quell, or its end is missing")
    file.seek(0)
    digest = hashlib.sha256()
    while left and (part := file.read(min(STEP, left))):
        digest.update(part)
        left -= len(part)
        told("check", total - left, total)
    if digest.digest() != end[16:]:
        raise StoreError(f"{path} is damaged: its hash is {digest.hexdigest()}, expected {end[16:].hex()}")
    return total


def _unpack(path: Path, tar: tarfile.TarFile, into: Path | None) -> Manifest:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > _MANIFEST_BYTES:
        raise StoreError(f"{path} does not begin with a {MANIFEST}")
    manifest = _manifest(path, _content(path, tar, first).read(first.size))
    if into is not None:
        _check_room(into, sum(each.size for each in manifest.members))
    left = {each.name: each for each in manifest.members}
    while (found := tar.next()) is not None:
        expected = left.pop(found.name, None)
        if expected is None or not found.isreg():
            raise StoreError(f"{path} holds {found.name!r}, which its manifest does not list as a file")
        if found.size != expected.size:
            raise StoreError(f"{path}: {found.name} has {found.size} bytes, expected {expected.size}")
        digest = _take(_content(path, tar, found), None if into is None else into / expected.name)
        if digest != expected.sha256:
            raise StoreError(f"{path}: {found.name} has the hash {digest}, expected {expected.sha256}")
    if left:
        raise StoreError(f"{path} lacks {', '.join(sorted(left))}, which its manifest lists")
    return manifest


def _manifest(path: Path, raw: bytes) -> Manifest:
    try:
        form = msgspec.json.decode(raw, type=_Form).format
        if form != FORMAT:
            raise StoreError(
                f"{path} is of format {form}; this Quell knows format {FORMAT}: use the Quell that made it"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{path}: its {MANIFEST} cannot be read: {error}") from error
    names = [each.name for each in manifest.members]
    for name in names:
        if not MEMBER.fullmatch(name):
            raise StoreError(f"{path} lists {name!r}, which is no name of a file of a controller")
    if len(set(names)) < len(names) or any(each.size < 0 for each in manifest.members):
        raise StoreError(f"{path}: its {MANIFEST} lists a file twice or of a negative size")
    for needed in (DATABASE, KEY):
        if needed not in names:
            raise StoreError(f"{path} lacks {needed}, without which no controller can be restored")
    return manifest


class _Form(Struct):
    format: int


def _content(path: Path, tar: tarfile.TarFile, found: tarfile.TarInfo) -> _Reader:
    content = tar.extractfile(found)
    if content is None:
        raise StoreError(f"{path}: {found.name} is no file")
    return content


def _take(content: _Reader, to: Path | None) -> str:
    """The hash of a member, which is written to a new file if one is named."""
    digest = hashlib.sha256()
    if to is None:
        while part := content.read(STEP):
            digest.update(part)
        return digest.hexdigest()
    with _private(to) as file:
        while part := content.read(STEP):
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check_room(folder: Path, needed: int) -> None:
    facts = os.statvfs(folder)
    free = facts.f_bavail * facts.f_frsize
    if needed > free:
        raise StoreError(f"{folder} has room for {free} bytes, the backup needs {needed}: make room there")


@contextmanager
def _private(path: Path) -> Iterator[BinaryIO]:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        yield file


class _Counting(io.RawIOBase):
    """Reads the first `total` bytes of a file and tells how far it is."""

    def __init__(self, file: BinaryIO, what: str, total: int, told: Progress) -> None:
        self._file = file
        self._what = what
        self._total = self._left = total
        self._told = told

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        part = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(part)
        self._told(self._what, self._total - self._left, self._total)
        return part
