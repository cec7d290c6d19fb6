"""Ed25519 key files and the text form of public keys."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from quell.disk import sync_folder
from quell.errors import LinkError

_PREFIX = "ed25519:"


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file (PKCS #8, PEM, mode 0600), made at the first call.

    The file appears whole or not at all, and two processes that start together end up with one key. Raises LinkError
    if the file is no Ed25519 key or if others may read it.
    """
    with contextlib.suppress(FileNotFoundError):
        return _load(path)
    key, pem = new_key()
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(fresh, pem)
    try:
        os.link(fresh, path)  # unlike rename, it never replaces a key that another process has just put there
    except FileExistsError:
        return _load(path)
    finally:
        fresh.unlink()
    sync_folder(path.parent)
    return key


def new_key() -> tuple[Ed25519PrivateKey, bytes]:
    """A key, and the text of its file."""
    key = Ed25519PrivateKey.generate()
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(path: Path) -> Ed25519PrivateKey:
    """FileNotFoundError; LinkError as load_or_create_key."""
    return _load(path)


def save_private(path: Path, content: bytes) -> None:
    """Replace a file by one of mode 0600; a reader sees the old content or the new, after a power loss too."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    write_private(fresh, content)
    fresh.replace(path)
    sync_folder(path.parent)


def write_private(path: Path, content: bytes) -> None:
    """A new file of mode 0600 on disk. A leftover of the same name is removed first."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def public_text(key: Ed25519PublicKey) -> str:
    """One line of text, "ed25519:" and base64, as enrolment and controller.pub carry it."""
    return _PREFIX + base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def public_key(text: str) -> Ed25519PublicKey:
    """The inverse of public_text; surrounding blanks are ignored. Raises LinkError."""
    text = text.strip()
    if not text.startswith(_PREFIX):
        raise LinkError(f'a public key starts with "{_PREFIX}", got {text[:16]!r}')
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text.removeprefix(_PREFIX), validate=True))
    except (binascii.Error, ValueError) as error:
        raise LinkError(f"not an Ed25519 public key: {error}") from error


def _load(path: Path) -> Ed25519PrivateKey:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise LinkError(f"{path} may be read by others: chmod 600 it, or remove it to enrol anew")
        content = file.read()
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LinkError(f"{path} holds no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LinkError(f"{path} holds another kind of key, expected Ed25519")
    return key
