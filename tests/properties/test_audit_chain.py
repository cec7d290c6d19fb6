"""The audit log: whatever is altered, removed, moved or cut off is found, at its place, in the database and in an export."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quell.channel.keys import public_key, public_text
from quell.errors import LinkError, StoreError
from quell.model.audit import Actor, AuditEntry, Base, Fault, Verification
from quell.storage import audit, audit_export
from quell.storage.chain import GENESIS, link
from quell.storage.records import Noted
from quell.storage.store import Store

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
COUNT = 12
quick = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.integers(1, COUNT)

Row = tuple[int, int, bytes, bytes]


def entry(n: int, name: str = "") -> AuditEntry:
    actor = Actor(kind="user", name=f"user{n % 3}", address="192.0.2.7")
    return AuditEntry(actor=actor, verb="change", kind="rule", name=name or f"rule {n}", before={"n": n}, after=[n])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    """A log that a store wrote: alone, several at once, and with outcomes."""
    path = tmp_path_factory.mktemp("audit") / "quell.db"
    with Store.open(path, key=KEY) as store:
        for n in range(1, COUNT - 3):
            store.submit(lambda connection, n=n: audit.append(connection, entry(n), time.time())).result()

        def several(connection: sqlite3.Connection) -> None:
            for n in range(COUNT - 3, COUNT):
                audit.append(connection, entry(n), time.time())

        store.submit(several).result()
        store.record_outcomes([], lambda error: None, (), [Noted(entry=entry(COUNT), time=time.time())])
        store.submit(lambda connection: None).result()
    return sqlite3.connect(path, check_same_thread=False)


@pytest.fixture
def log(written: sqlite3.Connection) -> Callable[[], sqlite3.Connection]:
    def fresh() -> sqlite3.Connection:
        copy = sqlite3.connect(":memory:")
        written.backup(copy)
        return copy

    return fresh


def checked(connection: sqlite3.Connection, key: Ed25519PrivateKey = KEY) -> Verification:
    return audit.verify(connection, key.public_key())


def rows(connection: sqlite3.Connection) -> list[Row]:
    return list(audit.rows(connection, 0, COUNT))


def flipped(data: bytes, place: int, bits: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def put(connection: sqlite3.Connection, row: Row) -> None:
    n, at, body, end = row
    connection.execute("UPDATE audit SET time = ?, body = ?, hash = ? WHERE n = ?", (at, body, end, n))


def test_what_was_written_holds(log: Callable[[], sqlite3.Connection]) -> None:
    found = checked(log())
    assert (found.findings, found.entries, found.last, found.complete) == ([], COUNT, COUNT, True)
    assert found.head is not None
    assert found.head.hash == found.hash


@quick
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=30), min_size=1, max_size=5))
def test_any_text_holds(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    connection = sqlite3.connect(tmp_path_factory.getbasetemp() / f"{time.time_ns()}.db")
    connection.close()
    with Store.open(tmp_path_factory.getbasetemp() / f"{time.time_ns()}.db", key=KEY) as store:
        noted = [Noted(entry=entry(n, name), time=time.time()) for n, name in enumerate(names)]
        store.record_outcomes([], lambda error: None, (), noted)
        store.submit(lambda connection: None).result()
        assert store.read(lambda connection: audit.verify(connection, KEY.public_key())).findings == []
        kept = store.read(lambda connection: audit.recent(connection, 100))
    assert [record.entry.name for record in reversed(kept)] == [one.entry.name for one in noted]


@quick
@given(numbers, st.sampled_from(["time", "body", "hash"]), st.integers(0, 500), st.integers(1, 255))
def test_any_altered_byte_is_found(
    log: Callable[[], sqlite3.Connection], n: int, column: str, place: int, bits: int
) -> None:
    with log() as connection:
        _, at, body, end = rows(connection)[n - 1]
        match column:
            case "time":
                row = (n, at ^ (bits << place % 40), body, end)
            case "body":
                row = (n, at, flipped(body, place, bits), end)
            case _:
                row = (n, at, body, flipped(end, place, bits))
        put(connection, row)
        finding = checked(connection).findings[0]
        assert len(audit.recent(connection, 100)) == COUNT
    assert (finding.n, finding.fault) == (n, Fault.ALTERED)


@quick
@given(st.sets(numbers, min_size=1, max_size=4))
def test_removed_entries_are_found(log: Callable[[], sqlite3.Connection], gone: set[int]) -> None:
    with log() as connection:
        connection.executemany("DELETE FROM audit WHERE n = ?", [(n,) for n in gone])
        findings = checked(connection).findings
    first = min(gone)
    tail = set(range(first, COUNT + 1)) == gone
    assert (findings[0].n, findings[0].fault) == (first, Fault.CUT_OFF if tail else Fault.MISSING)
    assert (Fault.CUT_OFF in {finding.fault for finding in findings}) is (COUNT in gone)


@quick
@given(numbers, numbers)
def test_two_swapped_entries_are_found(log: Callable[[], sqlite3.Connection], one: int, other: int) -> None:
    assume(one != other)
    with log() as connection:
        before = rows(connection)
        put(connection, (one, *before[other - 1][1:]))
        put(connection, (other, *before[one - 1][1:]))
        finding = checked(connection).findings[0]
    first, second = sorted((one, other))
    assert (finding.n, finding.fault) == (first, Fault.REORDERED)
    assert str(second) in finding.detail


@quick
@given(st.integers(1, COUNT - 1))
def test_a_removed_entry_is_found_when_the_rest_is_numbered_anew(
    log: Callable[[], sqlite3.Connection], gone: int
) -> None:
    with log() as connection:
        connection.execute("DELETE FROM audit WHERE n = ?", (gone,))
        for n in range(gone + 1, COUNT + 1):
            connection.execute("UPDATE audit SET n = ? WHERE n = ?", (n - 1, n))
        finding = checked(connection).findings[0]
    assert finding.n == gone


@quick
@given(numbers, st.sampled_from([None, OTHER]))
def test_a_chain_made_anew_is_found(
    log: Callable[[], sqlite3.Connection], n: int, forger: Ed25519PrivateKey | None
) -> None:
    """Whoever can write the database can link everything anew, but cannot sign the end with the controller's key."""
    with log() as connection:
        before = GENESIS if n == 1 else rows(connection)[n - 2][3]
        for m, at, body, _ in rows(connection)[n - 1 :]:
            changed = body.replace(b"192.0.2.7", b"192.0.2.8") if m == n else body
            before = link(before, m, at, changed)
            put(connection, (m, at, changed, before))
        if forger is not None:
            signature = forger.sign(b"quell.audit-head.v1\0" + COUNT.to_bytes(8, "big") + before)
            connection.execute("UPDATE audit_head SET hash = ?, signature = ?", (before, signature))
        faults = {finding.fault for finding in checked(connection).findings}
    assert faults == ({Fault.REWRITTEN} if forger is None else {Fault.SIGNATURE})


@quick
@given(st.sampled_from(["n", "hash", "signature"]), st.integers(0, 100), st.integers(1, 255))
def test_an_altered_head_is_found(log: Callable[[], sqlite3.Connection], column: str, place: int, bits: int) -> None:
    with log() as connection:
        (value,) = connection.execute(f"SELECT {column} FROM audit_head").fetchone()  # noqa: S608 - three words
        changed = value ^ bits if column == "n" else flipped(value, place, bits)
        connection.execute(f"UPDATE audit_head SET {column} = ?", (changed,))  # noqa: S608
        assert Fault.SIGNATURE in {finding.fault for finding in checked(connection).findings}
        connection.execute("DELETE FROM audit_head")
        assert [finding.fault for finding in checked(connection).findings] == [Fault.UNSIGNED]


@quick
@given(st.integers(1, COUNT - 1), st.integers(1, COUNT))
def test_checked_in_parts_it_is_the_same(log: Callable[[], sqlite3.Connection], size: int, broken: int) -> None:
    with log() as connection:
        start: Base | None = None
        taken = 0
        while True:
            found = audit.verify(connection, KEY.public_key(), start=start, limit=size)
            taken += found.entries
            if found.complete:
                break
            start = Base(n=found.last, hash=found.hash)
        assert (taken, found.findings) == (COUNT, [])
        connection.execute("UPDATE audit SET time = time + 1 WHERE n = ?", (broken,))
        start = None
        while not (found := audit.verify(connection, KEY.public_key(), start=start, limit=size)).complete:
            start = Base(n=found.last, hash=found.hash)
        assert [finding.n for finding in found.findings] == [broken]


def exported(connection: sqlite3.Connection) -> bytes:
    ends = audit.ends(connection)
    key = public_text(KEY.public_key())
    return audit_export.opening(ends, key) + audit_export.lines(connection, ends.base.n, ends.last)


def faults_of(path: Path) -> set[Fault]:
    return {finding.fault for finding in audit_export.verify_file(path, public_key).findings}


@quick
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_altered_byte_of_an_export_is_found(
    log: Callable[[], sqlite3.Connection], tmp_path: Path, place: int, bits: int
) -> None:
    path = tmp_path / "export.ndjson"
    whole = exported(log())
    path.write_bytes(whole)
    assert faults_of(path) == set()
    path.write_bytes(flipped(whole, place, bits))
    try:
        found = faults_of(path)
    except (LinkError, StoreError):
        return  # the first line is wrong: the file is no export any more
    assert found


@quick
@given(st.integers(1, COUNT), st.integers(1, COUNT))
def test_lines_of_an_export_that_are_gone_or_moved_are_found(
    log: Callable[[], sqlite3.Connection], tmp_path: Path, one: int, other: int
) -> None:
    path = tmp_path / "export.ndjson"
    lines = exported(log()).splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:one] + lines[one + 1 :]))
    assert faults_of(path) == {Fault.CUT_OFF if one == COUNT else Fault.MISSING}
    path.write_bytes(b"".join(lines[:one]))
    assert faults_of(path) == {Fault.CUT_OFF}
    if one != other:
        lines[one], lines[other] = lines[other], lines[one]
        path.write_bytes(b"".join(lines))
        assert Fault.REORDERED in faults_of(path)
