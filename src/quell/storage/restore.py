"""A backup put back: checked in full beside the files it replaces, which are moved aside and never deleted.

Files are replaced one by one inside the state folder, which may be a mounted volume and may hold an agent's state as well;
both rule out renaming the folder. A mark that is there meanwhile keeps every controller from starting, so a state folder
is the old one, the restored one, or says that it is neither.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time as clock
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from quell.disk import sync_folder
from quell.errors import StoreError
from quell.ids import uuid7
from quell.model.audit import QUELL, AuditEntry, Finding
from quell.storage import archive, audit, backup, key_values, schema
from quell.storage.archive import Manifest, Progress, unseen
from quell.storage.lock import Lock
from quell.storage.seal import Seal

#: In the state folder, for as long as a backup is unpacked and checked.
_STAGING = ".restore"
_LOCK = f"{archive.DATABASE}.lock"
#: What of a state folder belongs to the controller, and so to what is restored.
_OWNED = ("quell.db", "quell.db-*", "quell.db.before-*", "*.key", "*.token", "*.crt")
#: What may be in a folder that counts as empty.
_IGNORED = frozenset(("agent", "lost+found", _LOCK, _STAGING, backup.STAGING, schema.RESTORING))


#: Under which a restored store says so until its controller has told of it.
RESTORED = "restored"


class RestoredFrom(Struct, frozen=True):
    """id: of this restore. note: for people."""

    id: str
    note: str


class Restored(Struct, frozen=True, kw_only=True):
    manifest: Manifest
    #: The version of the database after migrating it.
    schema: int
    #: What is wrong with the audit log in it: it was so when the backup was made, or somebody changed the backup.
    findings: tuple[Finding, ...] = ()
    #: Where the files that were there before are; None: there were none.
    aside: Path | None = None


def check(path: Path, now: float, told: Progress = unseen) -> Restored:
    """Everything that a restore does but putting files in place. now: epoch seconds. Raises StoreError, OSError."""
    with TemporaryDirectory(prefix="quell-") as scratch:
        return _unpacked(path, Path(scratch), now, told)


def restore(path: Path, folder: Path, *, force: bool, now: float, told: Progress = unseen) -> Restored:
    """Makes `folder` the state folder of the backup at `path`, or leaves it as it is.

    force: move what a controller left in it aside. now: epoch seconds. Raises StoreError if a controller has the folder,
    if there is something in it, or if the backup is damaged or from a newer Quell; OSError.
    """
    with _held(folder):
        interrupted = (folder / schema.RESTORING).exists()
        if not force and not interrupted and (found := _found(folder)):
            raise StoreError(
                f"{folder} is not empty ({', '.join(found[:5])}{', ...' if found[5:] else ''}): name another folder, or "
                "use --force to move what a controller left in it aside"
            )
        staging = folder / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            done = _unpacked(path, staging, now, told)
            _give_to_owner(folder, folder / _LOCK, staging, *staging.iterdir())
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return msgspec.structs.replace(done, aside=_put_in_place(folder, staging, now))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, which no controller can take meanwhile; one that was made for nothing is removed again."""
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = folder / archive.DATABASE
    lock = Lock(database)
    try:
        yield
    except BaseException:
        if made:
            shutil.rmtree(folder)
        raise
    finally:
        lock.release()


def _found(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in _IGNORED)


def _unpacked(path: Path, into: Path, now: float, told: Progress) -> Restored:
    """A backup that is sound in every respect but perhaps the audit log, in `into`, brought to the newest version."""
    newest = schema.migrations()[-1][0]
    manifest = archive.read(path, into, told)
    if manifest.schema > newest:
        raise StoreError(
            f"{path} was made by Quell {manifest.quell} and has a store of version {manifest.schema}; this Quell knows "
            f"versions up to {newest}: use a newer Quell"
        )
    told("verify", 0, 1)
    key = _key(path, into / archive.KEY)
    database = into / archive.DATABASE
    try:
        _check_database(path, database, manifest)
        with closing(schema.connect(database)) as connection:
            schema.prepare(connection, keep=False)
            findings = audit.verify(connection, key.public_key()).findings
            _settle(connection, key, path, manifest, now)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: its database cannot be used: {error}") from error
    told("verify", 1, 1)
    return Restored(manifest=manifest, schema=newest, findings=tuple(findings))


def _settle(connection: sqlite3.Connection, key: Ed25519PrivateKey, path: Path, manifest: Manifest, now: float) -> None:
    """Nobody is logged in any more, who may have logged out since; and the log says where it has a gap."""
    moment = clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(manifest.time))
    note = f"from a backup of {moment}; what came after it is not known here"
    seal = Seal(connection, key, lambda: now)
    connection.execute("BEGIN IMMEDIATE")
    seal.begin()
    connection.execute("DELETE FROM sessions")
    audit.append(connection, AuditEntry(actor=QUELL, verb="restore", kind="backup", name=path.name, note=note), now)
    key_values.put(connection, RESTORED, msgspec.json.encode(RestoredFrom(uuid7(), note)))
    seal.close()
    connection.execute("COMMIT")


def _key(path: Path, file: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StoreError(f"{path}: its {file.name} holds no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(f"{path}: its {file.name} holds another kind of key, expected Ed25519")
    return key


def _check_database(path: Path, database: Path, manifest: Manifest) -> None:
    """Raises StoreError, sqlite3.Error."""
    with closing(schema.connect(database, read_only=True)) as connection:
        faults = [text for (text,) in connection.execute("PRAGMA integrity_check(5)")]
    if faults != ["ok"]:
        raise StoreError(f"{path}: its database is damaged: {'; '.join(faults)}")
    expected = (manifest.schema, manifest.events, manifest.newest_sequence, manifest.newest_event)
    found = backup.facts(database)
    if found != expected:
        raise StoreError(f"{path}: schema, events and newest event of its database are {found}, expected {expected}")


def _put_in_place(folder: Path, staging: Path, now: float) -> Path | None:
    """From here on an interruption leaves a folder that no controller starts on, until a restore succeeds."""
    sync_folder(staging)
    mark = folder / schema.RESTORING
    mark.touch(mode=0o600)
    sync_folder(folder)
    aside = None
    old = sorted({path for pattern in _OWNED for path in folder.glob(pattern)} - {folder / _LOCK})
    if old:
        aside = _aside(folder, now)
        for path in old:
            path.rename(aside / path.name)
        sync_folder(aside)
    for path in sorted(staging.iterdir()):
        path.rename(folder / path.name)
    staging.rmdir()
    sync_folder(folder)
    mark.unlink()
    sync_folder(folder)
    return aside


def _give_to_owner(folder: Path, *paths: Path) -> None:
    """Root restores for the user who owns the folder."""
    if os.geteuid() == 0:
        owner = folder.stat()
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _aside(folder: Path, now: float) -> Path:
    moment = clock.strftime("%Y%m%dT%H%M%SZ", clock.gmtime(now))
    for n in range(1, 1000):
        path = folder / (f"before-restore-{moment}" + (f"-{n}" if n > 1 else ""))
        if not path.exists():
            path.mkdir(mode=0o700)
            _give_to_owner(folder, path)
            return path
    raise StoreError(f"{folder} has a thousand folders of {moment}; remove some")
