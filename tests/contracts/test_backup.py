"""A backup holds what was committed when it began; a restore takes it whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.contracts.versions import NEWEST, build
from tests.system.store_writer import entry

from quell.errors import StoreError
from quell.model.audit import QUELL, AuditEntry, Fault
from quell.storage import archive, audit, backup, schema
from quell.storage.archive import KEY, Manifest, Member
from quell.storage.restore import check, restore
from quell.storage.store import Store

#: An Ed25519 key of these tests only.
PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f
-----END PRIVATE KEY-----
"""
SECRETS = {KEY: PEM, "admin.token": b"quell_a\n", "ingest.token": b"quell_b\n"}
NOW = 1795375000.25


def make_state(folder: Path) -> Path:
    """A state folder as a controller leaves it, with an agent's in it."""
    (folder / "agent").mkdir(parents=True)
    (folder / "agent" / "agent.json").write_text("the agent's")
    for name, content in SECRETS.items():
        (folder / name).write_bytes(content)
    return folder


def append(store: Store, run: int, start: int, count: int) -> list[str]:
    """Ids, once they are acknowledged."""
    entries = [entry(run, start + n) for n in range(count)]
    done = threading.Event()
    errors: list[StoreError | None] = []
    store.append(entries, lambda error: (errors.append(error), done.set()))  # type: ignore[func-returns-value]
    assert done.wait(20)
    assert errors == [None]
    return [one.event.id for one in entries]


def save(database: Path, to: Path) -> Manifest:
    manifest, file = backup.make(database, NOW)
    with file:
        to.write_bytes(file.read())
    return manifest


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, list[str]]:
    """A backup, what it says of itself, and the ids of its events."""
    folder = make_state(tmp_path_factory.mktemp("made") / "state")
    with Store.open(folder / "quell.db") as store:
        ids = append(store, 1, 0, 40)
        path = folder.parent / "backup.tar.zst"
        return path, save(folder / "quell.db", path), ids


def content(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- what is in it


def test_a_restored_folder_has_everything(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    path, manifest, ids = made
    folder = tmp_path / "new"
    done = restore(path, folder, force=False, now=NOW)
    assert done.manifest == manifest
    assert done.aside is None
    assert (manifest.events, manifest.newest_event, manifest.schema) == (40, ids[-1], NEWEST)
    assert {name: (folder / name).read_bytes() for name in SECRETS} == SECRETS
    assert not (folder / "agent").exists(), "the agent's state is the agent's"
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    with Store.open(folder / "quell.db") as store:
        assert store.known_ids(ids) == set(ids)
        assert len(store.flags(1000)) == 20
        assert len(store.outbox()) == 20


def test_a_backup_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = make_state(tmp_path / "state")
    (folder / backup.STAGING).mkdir()
    (folder / backup.STAGING / "quell.db").write_bytes(b"what a crash left")
    with Store.open(folder / "quell.db") as store:
        append(store, 1, 0, 5)
        before = {path.name for path in folder.iterdir()} - {backup.STAGING}
        _, file = backup.make(folder / "quell.db", NOW)
        with file:
            assert os.fstat(file.fileno()).st_nlink == 0
            assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        assert {path.name for path in folder.iterdir()} == before


def test_whatever_was_acknowledged_before_is_in_it(tmp_path: Path) -> None:
    """While another thread writes on, and what comes during the backup does not tear it."""
    folder = make_state(tmp_path / "state")
    acknowledged: list[str] = []
    stop = threading.Event()
    with Store.open(folder / "quell.db") as store:

        def write() -> None:
            start = 0
            while not stop.is_set():
                acknowledged.extend(append(store, 1, start, 50))
                start += 50

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for turn in range(4):
                deadline = time.monotonic() + 20
                wanted = 500 * (turn + 1)
                while len(acknowledged) < wanted and time.monotonic() < deadline:
                    time.sleep(0.005)
                before = acknowledged.copy()
                assert len(before) >= wanted
                path = tmp_path / f"{turn}.tar.zst"
                manifest = save(folder / "quell.db", path)
                restored = tmp_path / f"restored-{turn}"
                restore(path, restored, force=False, now=NOW)
                with Store.open(restored / "quell.db") as copy:
                    assert copy.known_ids(before) == set(before)
                    everything = copy.recent(1_000_000)
                    assert len(everything) == manifest.events >= len(before)
                    # Whole commits: each event of even number with its flag and its outbox item.
                    assert len(copy.outbox()) == len(copy.flags(1_000_000)) == manifest.events / 2
        finally:
            stop.set()
            writer.join(20)
        assert len(acknowledged) > len(before), "nothing was written beside the last backup"


class Interleaved(sqlite3.Connection):
    """Copies a page a step, and lets somebody commit after each."""

    between: Callable[[], object]
    steps = 0

    def backup(self, target: sqlite3.Connection, **_: object) -> None:  # type: ignore[override]
        def step(_status: int, _left: int, _total: int) -> None:
            self.steps += 1
            self.between()

        super().backup(target, pages=1, progress=step)


def test_commits_during_a_copy_are_not_in_it_and_do_not_begin_it_anew(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    with Store.open(path) as store:
        before = append(store, 1, 0, 300)
        after: list[str] = []
        with closing(sqlite3.connect(path, isolation_level=None, factory=Interleaved)) as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            assert pages > 20
            connection.between = lambda: after.extend(append(store, 2, len(after), 1))
            schema.copy(connection, tmp_path / "copy.db")
            assert connection.steps == pages
    assert len(after) == pages
    with Store.open(tmp_path / "copy.db") as copy:
        assert copy.known_ids(before + after) == set(before)


def test_other_programs_can_read_it(made: tuple[Path, Manifest, list[str]]) -> None:
    """A tar in zstd, by the libraries that everybody has."""
    path, manifest, _ = made
    plain = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert tar.getnames() == ["manifest.json", *(member.name for member in manifest.members)]
        assert all(found.mode == 0o600 for found in tar)


def test_a_backup_of_an_older_version_is_migrated(tmp_path: Path) -> None:
    folder = make_state(tmp_path / "state")
    build(folder / "quell.db", 1)
    manifest = save(folder / "quell.db", tmp_path / "old.tar.zst")
    assert manifest.schema == 1
    done = restore(tmp_path / "old.tar.zst", tmp_path / "new", force=False, now=NOW)
    assert done.schema == NEWEST
    with closing(schema.connect(tmp_path / "new" / "quell.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NEWEST,)
    assert not list((tmp_path / "new").glob("*.before-*")), "the backup itself is the copy from before"


def test_the_audit_log_is_checked_and_goes_on(tmp_path: Path) -> None:
    key = load_pem_private_key(PEM, password=None)
    assert isinstance(key, Ed25519PrivateKey)
    folder = make_state(tmp_path / "state")
    with Store.open(folder / "quell.db", key=key) as store:
        for n in range(3):
            record = AuditEntry(actor=QUELL, verb="change", kind="setting", name=f"number {n}")
            store.submit(lambda connection, record=record: audit.append(connection, record, NOW)).result(20)  # type: ignore[misc]
        save(folder / "quell.db", tmp_path / "good.tar.zst")
    done = restore(tmp_path / "good.tar.zst", tmp_path / "new", force=False, now=NOW)
    assert done.findings == ()
    with Store.open(tmp_path / "new" / "quell.db", key=key) as store:
        assert store.read(lambda connection: audit.verify(connection, key.public_key())).findings == []
        verbs = [record.entry.verb for record in store.read(lambda connection: audit.recent(connection, 10))]
    assert verbs == ["restore", "change", "change", "change"]

    with closing(schema.connect(folder / "quell.db")) as connection:
        connection.execute(
            "UPDATE audit SET body = CAST(replace(CAST(body AS TEXT), 'number 1', 'number 7') AS BLOB) WHERE n = 2"
        )
    save(folder / "quell.db", tmp_path / "altered.tar.zst")
    done = restore(tmp_path / "altered.tar.zst", tmp_path / "altered", force=False, now=NOW)
    assert [(finding.fault, finding.n) for finding in done.findings] == [(Fault.ALTERED, 2)]


def test_nobody_stays_logged_in(tmp_path: Path) -> None:
    folder = make_state(tmp_path / "state")
    build(folder / "quell.db", NEWEST)
    save(folder / "quell.db", tmp_path / "backup.tar.zst")
    restore(tmp_path / "backup.tar.zst", tmp_path / "new", force=False, now=NOW)
    for state, expected in ((folder, 1), (tmp_path / "new", 0)):
        with closing(sqlite3.connect(state / "quell.db")) as connection:
            # One with a password, and one whom a provider vouches for.
            assert connection.execute("SELECT count(*) FROM users").fetchone() == (2,)
            assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (expected,)


# ---- damage


def test_every_flipped_byte_is_found(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    whole = made[0].read_bytes()
    damaged = tmp_path / "damaged.tar.zst"
    damaged.write_bytes(whole)
    with damaged.open("r+b", buffering=0) as file:
        for place in range(len(whole)):
            file.seek(place)
            file.write(bytes([whole[place] ^ 0x10]))
            with pytest.raises(StoreError, match=r"damaged|no backup"):
                archive.read(damaged)
            file.seek(place)
            file.write(whole[place : place + 1])
    assert archive.read(damaged) == made[1]


def test_every_cut_is_found(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    whole = made[0].read_bytes()
    damaged = tmp_path / "damaged.tar.zst"
    damaged.write_bytes(whole + b"\0")
    for length in (len(whole) + 1, *range(len(whole) - 1, -1, -1)):
        os.truncate(damaged, length)
        with pytest.raises(StoreError, match=r"damaged|no backup"):
            archive.read(damaged)


def test_damage_changes_nothing(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    whole = made[0].read_bytes()
    damaged = tmp_path / "damaged.tar.zst"
    damaged.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(StoreError):
        restore(damaged, tmp_path / "new", force=False, now=NOW)
    assert not (tmp_path / "new").exists()
    folder = make_state(tmp_path / "state")
    build(folder / "quell.db", NEWEST)
    before = content(folder)
    with pytest.raises(StoreError):
        restore(damaged, folder, force=True, now=NOW)
    assert {**content(folder), "quell.db.lock": b""} == {**before, "quell.db.lock": b""}


def test_another_file_is_no_backup(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"something else " * 100)
    with pytest.raises(StoreError, match="no backup of Quell"):
        check(other, NOW)
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nowhere", NOW)


# ---- archives that are whole, and wrong


def forged(path: Path, manifest: bytes | None, members: Sequence[tuple[tarfile.TarInfo | str, bytes]]) -> Path:
    """An archive whose own hash is right, whatever is in it."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for found, body in [*([("manifest.json", manifest)] if manifest is not None else []), *members]:
            information = tarfile.TarInfo(found) if isinstance(found, str) else found
            if information.isreg():
                information.size = len(body)
            tar.addfile(information, io.BytesIO(body))
    packed = zstandard.ZstdCompressor().compress(plain.getvalue())
    end = (
        (0x184D2A51).to_bytes(4, "little") + (40).to_bytes(4, "little") + b"quellsum" + hashlib.sha256(packed).digest()
    )
    path.write_bytes(packed + end)
    return path


def parts(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    plain = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        files = {found.name: tar.extractfile(found).read() for found in tar}  # type: ignore[union-attr]
    return msgspec.json.decode(files.pop("manifest.json"), type=Manifest), files


def listed(manifest: Manifest, files: dict[str, bytes], **changed: object) -> bytes:
    """The manifest that lists these files as they are."""
    members = tuple(
        Member(name=name, size=len(body), sha256=hashlib.sha256(body).hexdigest()) for name, body in files.items()
    )
    return msgspec.json.encode(msgspec.structs.replace(manifest, **{"members": members, **changed}))


def link(name: str, to: str) -> tarfile.TarInfo:
    information = tarfile.TarInfo(name)
    information.type, information.linkname = tarfile.SYMTYPE, to
    return information


Forge = Callable[[Path, Manifest, dict[str, bytes]], Path]


def _with_file(name: str) -> Forge:
    return lambda path, m, f: forged(path, listed(m, {**f, name: b"x"}), [*f.items(), (name, b"x")])


def _unlisted(found: tarfile.TarInfo | str) -> Forge:
    return lambda path, m, f: forged(path, listed(m, f), [*f.items(), (found, b"x")])


def _without(name: str) -> Forge:
    def forge(path: Path, m: Manifest, f: dict[str, bytes]) -> Path:
        left = {kept: body for kept, body in f.items() if kept != name}
        return forged(path, listed(m, left), list(left.items()))

    return forge


def _changed(**changed: object) -> Forge:
    return lambda path, m, f: forged(path, listed(m, f, **changed), list(f.items()))


def _database(change: Callable[[bytes], bytes]) -> Forge:
    def forge(path: Path, m: Manifest, f: dict[str, bytes]) -> Path:
        files = {**f, "quell.db": change(f["quell.db"])}
        return forged(path, listed(m, files), list(files.items()))

    return forge


def _key_of(content: bytes) -> Forge:
    def forge(path: Path, m: Manifest, f: dict[str, bytes]) -> Path:
        files = {**f, KEY: content}
        return forged(path, listed(m, files), list(files.items()))

    return forge


def _torn(database: bytes) -> bytes:
    """A page of it is missing from the middle, as a copy by `cp` would lose what was in the log."""
    return database[:8192] + bytes(4096) + database[12288:]


def _renumbered(number: int) -> Callable[[bytes], bytes]:
    """application_id (offset 68) of another program."""
    return lambda database: database[:68] + number.to_bytes(4, "big") + database[72:]


def _huge(path: Path, m: Manifest, f: dict[str, bytes]) -> Path:
    members = (Member(name="quell.db", size=1 << 60, sha256="0" * 64), Member(name=KEY, size=1, sha256="0" * 64))
    return forged(path, listed(m, f, members=members), list(f.items()))


WRONG: dict[str, tuple[Forge, str]] = {
    "no manifest": (lambda path, _, f: forged(path, None, list(f.items())), "does not begin with a manifest.json"),
    "manifest is no JSON": (lambda path, _, f: forged(path, b"{", list(f.items())), "manifest.json cannot be read"),
    "manifest lacks a field": (lambda path, _, f: forged(path, b'{"format": 1}', list(f.items())), "cannot be read"),
    "another format": (_changed(format=2), "of format 2; this Quell knows format 1"),
    "a newer store": (_changed(schema=NEWEST + 1), f"version {NEWEST + 1}; this Quell knows versions up to {NEWEST}"),
    "a path that leads out": (_with_file("../evil.key"), "'../evil.key', which is no name of a file"),
    "an absolute path": (_with_file("/etc/evil.key"), "'/etc/evil.key', which is no name of a file"),
    "a file of another kind": (_with_file("cron.sh"), "'cron.sh', which is no name of a file"),
    "a hidden file": (_with_file(".key"), "'.key', which is no name of a file"),
    "a file that is not listed": (_unlisted("other.key"), "holds 'other.key', which its manifest does not list"),
    "a path that is not listed": (_unlisted("../../etc/x"), "holds '../../etc/x', which its manifest does not list"),
    "a file twice": (_unlisted("controller.key"), "holds 'controller.key', which its manifest does not list"),
    "no database": (_without("quell.db"), "lacks quell.db"),
    "no key": (_without("controller.key"), "lacks controller.key"),
    "a member is missing": (
        lambda path, m, f: forged(path, listed(m, f), [(n, b) for n, b in f.items() if n != "admin.token"]),
        "lacks admin.token, which its manifest lists",
    ),
    "a link instead of a file": (
        lambda path, m, f: forged(
            path, listed(m, {**f, KEY: b""}), [*((n, b) for n, b in f.items() if n != KEY), (link(KEY, "/etc/x"), b"")]
        ),
        "holds 'controller.key', which its manifest does not list as a file",
    ),
    "a wrong hash": (
        lambda path, m, f: forged(path, listed(m, f), list({**f, "admin.token": b"quell_c\n"}.items())),
        "admin.token has the hash",
    ),
    "a wrong size": (
        lambda path, m, f: forged(path, listed(m, f), list({**f, "admin.token": b"longer than it was"}.items())),
        "admin.token has 18 bytes, expected 8",
    ),
    "more than there is room for": (_huge, "has room for"),
    "a damaged database": (_database(_torn), "database is damaged|database cannot be used|malformed"),
    "a database without events": (_changed(events=41), "events and newest event of its database are"),
    "a database of another program": (_database(_renumbered(1)), "database of another program"),
    "no key in its file": (_key_of(b"nothing"), "controller.key holds no private key"),
    "no SQLite": (_database(lambda _: b"this is a text, and a long one at that" * 40), "database cannot be used"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_archive_is_refused(case: str, made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    forge, expected = WRONG[case]
    path = forge(tmp_path / "forged.tar.zst", *parts(made[0]))
    around = tmp_path / "around"
    around.mkdir()
    with pytest.raises(StoreError, match=expected):
        restore(path, around / "state", force=False, now=NOW)
    assert list(around.iterdir()) == []
    with pytest.raises(StoreError, match=expected):
        check(path, NOW)


def test_the_forger_can_make_a_right_one(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    """So that what is refused above is refused for what was changed."""
    manifest, files = parts(made[0])
    path = forged(tmp_path / "right.tar.zst", listed(manifest, files), list(files.items()))
    assert check(path, NOW).manifest == manifest


# ---- where it goes


def test_a_folder_in_use_is_refused(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with Store.open(folder / "quell.db") as store:
        ids = append(store, 2, 0, 5)
        for force in (False, True):
            with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
                restore(made[0], folder, force=force, now=NOW)
        assert store.known_ids(ids) == set(ids)


def test_what_is_there_is_refused_or_moved_aside(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    folder = make_state(tmp_path / "state")
    build(folder / "quell.db", NEWEST)
    (folder / "quell.db.before-0001").write_bytes(b"older")
    (folder / "notes.txt").write_text("a person's")
    before = content(folder)
    with pytest.raises(StoreError, match=r"is not empty \(admin.token, controller.key, .*--force"):
        restore(made[0], folder, force=False, now=NOW)
    assert {**content(folder), "quell.db.lock": b""} == {**before, "quell.db.lock": b""}

    (folder / "admin.token").write_bytes(b"another\n")
    before = content(folder)
    aside = restore(made[0], folder, force=True, now=NOW).aside
    assert aside == folder / "before-restore-20261122T191640Z"
    moved = content(aside)
    assert {name: before[name] for name in moved} == moved
    assert {"quell.db", "quell.db.before-0001", *SECRETS} <= set(moved)
    assert (folder / "admin.token").read_bytes() == SECRETS["admin.token"]
    assert (folder / "agent" / "agent.json").read_text() == "the agent's"
    assert (folder / "notes.txt").read_text() == "a person's"
    with Store.open(folder / "quell.db") as store:
        assert store.known_ids(made[2]) == set(made[2])

    again = restore(made[0], folder, force=True, now=NOW).aside
    assert again == folder / "before-restore-20261122T191640Z-2"


def test_an_agents_folder_counts_as_empty(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    folder = tmp_path / "state"
    (folder / "agent").mkdir(parents=True)
    (folder / "agent" / "agent.json").write_text("the agent's")
    assert restore(made[0], folder, force=False, now=NOW).aside is None
    assert (folder / "agent" / "agent.json").read_text() == "the agent's"


def test_a_check_changes_nothing(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    before = made[0].read_bytes()
    doing: list[str] = []
    assert check(made[0], NOW, lambda what, _done, _total: doing.append(what)).manifest == made[1]
    assert list(dict.fromkeys(doing)) == ["check", "unpack", "verify"]
    assert made[0].read_bytes() == before


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="root gives files away")
def test_root_restores_for_the_owner(made: tuple[Path, Manifest, list[str]], tmp_path: Path) -> None:
    folder = make_state(tmp_path / "state")
    os.chown(folder, 65534, 65533)
    restore(made[0], folder, force=True, now=NOW)
    mine = [path for path in folder.iterdir() if path.name != "agent"]
    assert {path.name for path in mine} >= {"quell.db", "quell.db.lock", "before-restore-20261122T191640Z", *SECRETS}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in mine} == {(65534, 65533)}


#: Restores argv[1] to argv[2] and is killed at the argv[3]-th step: before it marks the folder, renames or removes.
KILLED = """
import itertools, os, pathlib, signal, sys
from quell.storage.restore import restore
left = itertools.count(int(sys.argv[3]), -1)
def hook(event, arguments):
    marking = event == "open" and str(arguments[0]).endswith("restoring")
    if (marking or event in ("os.rename", "os.remove", "os.rmdir")) and next(left) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
restore(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), force=True, now=1795375000.25)
"""


def test_a_killed_restore_leaves_the_old_the_new_or_says_so(
    made: tuple[Path, Manifest, list[str]], tmp_path: Path
) -> None:
    seen = set()
    for step in range(1, 100):
        folder = make_state(tmp_path / f"state-{step}")
        (folder / "admin.token").write_bytes(b"old\n")
        with Store.open(folder / "quell.db") as store:
            old = append(store, 2, 0, 3)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, made[0], folder, str(step)], check=False, timeout=60, cwd=Path.cwd()
        )
        assert done.returncode in (0, -signal.SIGKILL)
        state = found(folder, old, made[2])
        seen.add(state)
        restore(made[0], folder, force=state != "neither", now=NOW)
        assert found(folder, old, made[2]) == "new"
        assert not (folder / ".restore").exists()
        kept = [path for path in folder.rglob("quell.db") if known(path, old) == set(old)]
        assert len(kept) == 1, "the database from before is not there any more"
        if done.returncode == 0:
            break
    assert seen == {"old", "neither", "new"}


def found(folder: Path, old: list[str], new: list[str]) -> str:
    """What a controller would start on; "neither": it would not start."""
    try:
        with Store.open(folder / "quell.db") as store:
            events = store.known_ids(old + new)
    except StoreError as error:
        assert "run the same `quell restore` again" in str(error)  # noqa: PT017 - one of three ways it may end
        return "neither"
    token = (folder / "admin.token").read_bytes()
    assert (events, token) in ((set(old), b"old\n"), (set(new), SECRETS["admin.token"])), "half of each"
    return "old" if events == set(old) else "new"


def known(path: Path, ids: list[str]) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        supplied = {event_id for (event_id,) in connection.execute("SELECT id FROM event_ids")}
        own = b"".join(raw for (raw,) in connection.execute("SELECT own FROM journal"))
    return {
        event_id
        for event_id in ids
        if event_id in supplied or ("/" not in event_id and bytes.fromhex(event_id.replace("-", "")) in own)
    }
