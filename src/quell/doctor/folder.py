"""The folders that Quell keeps: who may look into them, and what they stand on."""

from __future__ import annotations

import errno
import os
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from quell.doctor.finding import Case, Found, missing, ok, warning

#: Write-ahead logs need memory shared between processes and locks, which these lack or have only by halves.
_REMOTE = frozenset(
    (
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "virtiofs",
    )
)
_SHORT_LIVED = {
    "tmpfs": "lost when the machine stops",
    "ramfs": "lost when the machine stops",
    "overlay": "lost with the container",
}

#: Bytes below which nothing works for long, and what the log of the store may take beside the journal.
_LEAST, _LOG_BYTES = 64 << 20, 128 << 20
#: Seconds: a commit waits for one of these, and a kill waits for the commit.
_SLOW = 0.02
_TRIES, _LONGEST_TRY = 12, 0.6

_SECRETS = ("admin.token", "ingest.token", "controller.key", "quell.db", "quell.db-wal")
_AGENT_SECRETS = ("key", "agent.json", "ledger", "outbox")


def permissions(case: Case) -> Found:
    return _private(case.state, _SECRETS, "the journal, keys and tokens")


def agent_permissions(case: Case) -> Found:
    return _private(case.agent_state, _AGENT_SECRETS, "the agent's key and ledger")


def file_system(case: Case) -> Found:
    """Write-ahead logging is tried on a database of its own, which is removed."""
    why = "The store is a SQLite database with a write-ahead log"
    there = _nearest(case.state)
    kind = _kind(there)
    if kind in _REMOTE:
        return warning(f"{there} is on {kind}", f"{why}, which network file systems can damage: use a local disk.")
    if not os.access(there, os.W_OK | os.X_OK):
        return warning(f"{there} ({kind}) cannot be tried as user {os.geteuid()}", f"{why}: run this as its owner.")
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".quell-doctor-", dir=there) as folder,
            closing(sqlite3.connect(Path(folder) / "try.db")) as connection,
        ):
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("CREATE TABLE one (n INTEGER)")
            connection.commit()
    except (OSError, sqlite3.Error) as error:
        return missing(f"{there} ({kind}): a database cannot be made: {error}", f"{why}: use another folder (--state).")
    if mode != "wal":
        return missing(f"{there} ({kind}) allows no write-ahead log", f"{why}: use a folder on a local disk (--state).")
    if kind in _SHORT_LIVED:
        return warning(
            f"{there} is on {kind}: {_SHORT_LIVED[kind]}", f"{why}; events, keys and tokens shall outlive that."
        )
    return ok(f"{kind}, write-ahead log works", f"{why}.")


def room(case: Case) -> Found:
    why = "When the disk is full ingest answers 503 and nothing is done"
    there = _nearest(case.state)
    facts = os.statvfs(there)
    free = facts.f_bavail * facts.f_frsize
    limit = _journal_bytes(case)
    kept = sum(_size(case.state / name) for name in ("quell.db", "quell.db-wal"))
    if free < _LEAST:
        return missing(f"{_mib(free)} free at {there}", f"{why}: make room, or use another folder (--state).")
    if free + kept < limit + _LOG_BYTES:
        return warning(
            f"{_mib(free)} free at {there}, the journal may grow to {_mib(limit)}",
            f"{why}: make room, or lower journal.max_bytes.",
        )
    return ok(f"{_mib(free)} free, enough for a journal of {_mib(limit)}", f"{why}.")


def latency(case: Case) -> Found:
    """Measured on a file that never has a name."""
    why = "Nothing is acknowledged or done before it is on disk, so each answer takes at least one of these"
    there = _nearest(case.state)
    try:
        seconds = _sync_seconds(there)
    except OSError as error:
        return warning(f"cannot be measured at {there}: {error.strerror}", f"{why}: run this as the folder's owner.")
    middle, longest = statistics.median(seconds) * 1000, max(seconds) * 1000
    told = f"fdatasync takes {middle:.2g} ms, at most {longest:.2g}"
    if middle > _SLOW * 1000:
        return warning(told, f"{why}: use a faster disk, or one that others do not keep busy.")
    return ok(told, f"{why}.")


def _private(folder: Path, names: tuple[str, ...], holds: str) -> Found:
    why = f"It holds {holds}, for its owner alone"
    try:
        facts = folder.stat()
    except FileNotFoundError:
        parent = _nearest(folder)
        if os.access(parent, os.W_OK | os.X_OK):
            return warning(f"{folder} is not there yet", f"{why}: the first start makes it.")
        return missing(
            f"{folder} is not there, and {parent} may not be written by user {os.geteuid()}",
            f"{why}: make it, or choose another one (--state).",
        )
    except PermissionError:
        return warning(f"user {os.geteuid()} may not look at {folder}", f"{why}: run this as its owner.")
    if not folder.is_dir():
        return missing(f"{folder} is no folder", f"{why}: choose another one (--state).")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return warning(
            f"{folder} belongs to user {facts.st_uid} and is closed to user {os.geteuid()}",
            f"{why}: run this as its owner.",
        )
    if facts.st_mode & 0o077:
        return missing(f"{folder} is open to others (mode {facts.st_mode & 0o777:o})", f"{why}: chmod 700 {folder}")
    open_files = [name for name in names if _mode(folder / name) & 0o077]
    if open_files:
        return missing(
            f"others may read {', '.join(open_files)} in {folder}", f"{why}: chmod 600 them, renew what leaked."
        )
    return ok(f"{folder}, for user {facts.st_uid} alone", f"{why}.")


def _sync_seconds(folder: Path) -> list[float]:
    """Of writing 4 KiB until it is on disk, some times over."""
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        file, path = tempfile.mkstemp(prefix=".quell-doctor-", dir=folder)
        Path(path).unlink()
    seconds: list[float] = []
    try:
        while len(seconds) < _TRIES and sum(seconds) < _LONGEST_TRY:
            started = time.perf_counter()
            os.write(file, bytes(4096))
            os.fdatasync(file)
            seconds.append(time.perf_counter() - started)
    finally:
        os.close(file)
    return seconds


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    there = folder.absolute()
    while not there.is_dir() and there != there.parent:
        there = there.parent
    return there


def _kind(folder: Path) -> str:
    """The type of its file system, of proc_pid_mountinfo(5)."""
    device = folder.stat().st_dev
    found = "unknown"
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        fields = line.split()
        if fields[2] == f"{os.major(device)}:{os.minor(device)}":
            found = fields[fields.index("-") + 1]
    return found


def _journal_bytes(case: Case) -> int:
    from quell.configuration import load_configuration
    from quell.errors import SettingError
    from quell.settings import Settings

    try:
        return load_configuration(case.config).settings.journal.max_bytes
    except SettingError:
        return Settings().journal.max_bytes  # the check of the settings says what is wrong with them


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"
