"""A database of every version that ever was is opened by this one, whole; another's or a newer one's is left alone."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.contracts.versions import DATA, NEWEST, NUMBERS, build

from quell.detectors import DETECTORS
from quell.errors import StoreError
from quell.model.action import Severity
from quell.model.decision import OutcomeStatus
from quell.model.flag import Acknowledgement
from quell.model.sighting import NodeSeen
from quell.serve import serving
from quell.settings import Journal, Server, Settings
from quell.storage import (
    agents,
    answers,
    audit,
    dead_letters,
    deliveries,
    deviations,
    documents,
    evidence,
    fingerprints,
    flags,
    idempotency,
    inventory,
    join_tokens,
    key_values,
    names_seen,
    rejects,
    schema,
    sessions,
    summary,
    tokens,
    traces,
    users,
)
from quell.storage.changes import Change
from quell.storage.records import Retention, Settled
from quell.storage.store import Store

#: The data grows old; these tests do not.
FOR_EVER = Retention(max_age=1e12, record_age=1e12)
#: When the data after the first version was written.
WRITTEN = 1795375000.25


# ---- what each version's data says, read as the program reads it


def first(store: Store) -> None:
    given = store.event("given-1")
    assert given is not None
    assert DETECTORS[given.source].decode(given.raw, id=given.id, received=given.received).subject.node == "node-1"
    assert [record.id for record in given.decision.actions] == ["given-1/0", "given-1/1"]
    everything = store.recent(1000)
    assert len(everything) == 61
    assert sum(stored.decision.suppressed for stored in everything) == 6
    assert [store.event(stored.id) for stored in everything] == everything
    assert [item.id for item in store.outbox()] == ["given-1/0/kill/rule/8"]
    assert [outcome.status for outcome in store.outcomes("given-0/0/kill")] == [OutcomeStatus.DONE]
    assert [flag.id for flag in store.flags(10)][-2:] == ["given-1/0/no-agent/rule/8", "given-1/1"]
    snapshot, changes = store.restore()
    assert snapshot is not None
    assert b"refusals" in snapshot
    assert keys(changes) == ["after the snapshot"]
    kept = {(document.kind, document.name): document for document in store.read(documents.all_of)}
    rules = {name: document.id for (kind, name), document in kept.items() if kind == "ResponseRule"}
    assert {"answer": 8, "quiet": 9}.items() <= rules.items()
    assert {("Group", "shop"), ("Webhook", "hook")} <= set(kept)
    (agent,) = store.read(agents.all_of)
    assert (agent.id, agent.public_key, agent.capabilities) == ("agent-1", bytes(range(32)), ("kill",))
    token = store.read(lambda connection: tokens.find(connection, "quell_fixture", WRITTEN))
    assert token is not None
    assert token.role == "viewer"
    assert store.submit(lambda connection: join_tokens.consume(connection, "join-secret", WRITTEN)).result(20)
    assert [reject.raw for reject in store.read(lambda connection: rejects.recent(connection, 5))] == [b'{"name":']
    assert [one.status for one in store.read(lambda connection: deliveries.of(connection, "given-1/webhook/hook"))] == [
        410
    ]
    letter = store.read(lambda connection: dead_letters.get(connection, "given-1/webhook/hook"))
    assert letter is not None
    assert letter.explanation == "410 Gone"
    assert store.read(lambda connection: key_values.get(connection, "documents.revision")) == b"1"


def accounts(store: Store) -> None:
    ann = store.read(lambda connection: users.get(connection, "ann"))
    assert ann is not None
    assert (ann.role, ann.source, ann.password_changed) == ("operator", "local", WRITTEN)
    assert [user.name for user in store.read(users.all_of)] in (["ann"], ["ann", "eve@shop.example"])
    session = store.read(lambda connection: sessions.find(connection, "quell_s_fixture", created_after=0, used_after=0))
    assert session is not None
    assert session.user == "ann"
    token = store.read(lambda connection: tokens.find(connection, "quell_bound", WRITTEN))
    assert token is not None
    assert (token.owner, token.binding) == ("user/ann", tokens.Binding(detectors=("falco",), nodes=("node-*",)))


def audited(store: Store) -> None:
    found = store.read(lambda connection: audit.verify(connection, None))
    assert (found.entries, found.findings) == (3, [])
    newest = store.read(lambda connection: audit.recent(connection, 1))
    assert (str(newest[0].entry.actor), newest[0].entry.note) == ("user/ann", "entry 3")


def repeated(store: Store) -> None:
    answered = store.read(lambda connection: idempotency.find(connection, "token/ci", "key-1", WRITTEN))
    assert answered is not None
    assert (answered.status, answered.body) == (201, b"{}")


def sourced(store: Store) -> None:
    paid = store.read(lambda connection: documents.get(connection, "Group", "paid"))
    assert paid is not None
    assert (paid.source, paid.created, paid.changed_by) == ("git", WRITTEN, "user/ann")
    shop = store.read(lambda connection: documents.get(connection, "Group", "shop"))
    assert shop is not None
    assert (shop.source, shop.created, shop.changed_by) == ("", 0.0, "")


def sighted(store: Store) -> None:
    node = NodeSeen(name="node-1", machine_id="a" * 32)
    assert store.read(inventory.all_of) == [(("agent/agent-1", "node", "node-1"), node)]
    assert store.read(inventory.learned) == {"learned/shop": WRITTEN}


def addressed(store: Store) -> None:
    """Attempts and dead letters by endpoint; those of the first version have theirs from their ids."""
    letters = store.read(dead_letters.counts)
    assert letters == {"hook": 1, "soc": 1}
    soc = store.read(lambda connection: deliveries.paged(connection, 10, None, endpoint="soc"))
    assert [(one.event_id, one.status) for _, one in soc] == [("given-3", 500), ("given-2", 204)]
    standings = store.read(lambda connection: deliveries.standings(connection, ("soc", "hook")))
    assert standings["soc"].last_delivered == WRITTEN
    assert [(one.failures, one.last_error) for one in standings.values()] == [(1, "HTTP 500"), (1, "410 Gone")]


def summed(store: Store) -> None:
    bounds = summary.Bounds(suppressed=True)
    rows = store.read(lambda connection: summary.following(connection, bounds, 0, 1 << 62, 10, newer=True))
    assert [(row.seq, row.traits is None, row.rules) for row in rows] == [
        (1, True, None),
        (2, False, frozenset(("quiet", "rule/9"))),
    ]
    assert [trait.name for trait, shown in (rows[1].traits or {}).items() if shown] == ["Container.Start"]


def ordered(store: Store) -> None:
    kept = store.read(lambda connection: documents.all_of(connection, "ResponseRule"))
    assert [(document.name, document.position) for document in kept] == [
        ("first", -(2 << 24)),
        ("second", -(1 << 24)),
        ("answer", 8 << 24),
        ("quiet", 9 << 24),
    ]
    [seen] = store.read(names_seen.all_of)
    assert (seen.category, seen.name, seen.source) == (
        "security-event",
        "Netcat Remote Code Execution in Container",
        "falco",
    )


def deviating(store: Store) -> None:
    [(_, found)] = store.read(lambda connection: deviations.find(connection, deviations.Wanted(policies=["web"])))
    assert (found.checksum, found.count, found.last, found.status) == ("c1", 3, WRITTEN + 60.25, "open")
    assert found.deviation.addition == {"processPolicy": [{"id": "nc", "name": "nc", "exe": ["/bin/nc"]}]}
    assert found.example is not None
    assert found.example.subject == found.subject
    [counts] = store.read(deviations.counts)
    assert counts.instances == ("aa", "bb!")
    [kept] = store.read(fingerprints.all_of)
    assert (kept.kind, kept.name, kept.body) == ("image", "docker.io/library/nginx:1.27", b"\x80")


def traced(store: Store) -> None:
    kept = store.read(lambda connection: flags.get(connection, "given-11/0"))
    assert kept is not None
    assert (kept.flag.repeats, kept.flag.last) == (2, WRITTEN + 60)
    assert kept.acknowledged == Acknowledgement(by="user/ann", time=WRITTEN, note="known")
    [trace] = store.read(traces.open_ones)
    assert (trace.id, trace.score) == (kept.trace, 20.0)
    assert [process.name for process in trace.processes] == ["nc", "sh", "systemd"]
    # What the columns say of the flags of the first version is read from them.
    found = store.read(lambda connection: flags.search(connection, flags.Bounds(red=True), lambda _: True, limit=10))
    assert [each.flag.id for each in found.flags] == ["given-11/0", "given-1/1"]
    ops = flags.Bounds(red=False, severities=frozenset((Severity.MEDIUM,)), acknowledged=False)
    found = store.read(lambda connection: flags.search(connection, ops, lambda _: True, limit=10))
    assert [each.flag.id for each in found.flags] == ["given-1/0/no-agent/rule/8"]


def evident(store: Store) -> None:
    (kept,) = store.read(lambda connection: evidence.of_event(connection, "given-1"))
    (process,) = kept.gathered.processes
    assert (kept.agent, process.arguments, kept.gathered.missing) == ("a1", ("nc", "-l"), {"tree": "not within 200 ms"})
    (sha256,) = kept.copies
    assert store.read(lambda connection: evidence.piece(connection, sha256, 0)) == b"\x7fELF-like"
    assert store.read(lambda connection: evidence.is_right(connection, sha256))


def provided(store: Store) -> None:
    """Who is from a provider is found by what the provider knows them by, and has no password."""
    eve = store.read(lambda connection: users.of_subject(connection, "https://login.shop.example", "248289761001"))
    assert eve is not None
    assert (eve.name, eve.source, eve.password_changed) == ("eve@shop.example", "oidc", None)
    assert store.read(lambda connection: users.password_of(connection, eve.name)) is None


def answered(store: Store) -> None:
    """The six suppressed events are among what `first` reads."""
    assert store.read(answers.kept) == {1}
    alike = [stored.decision for stored in store.recent(60) if stored.decision.suppressed]
    assert {record.asked_by for decision in alike for record in decision.actions} == {("rule/9",)}
    assert {decision.matches[0].name for decision in alike} == {"quiet"}


CHECKS: dict[int, Callable[[Store], None]] = {
    1: first,
    2: accounts,
    3: audited,
    4: repeated,
    5: sourced,
    6: sighted,
    7: addressed,
    8: summed,
    9: ordered,
    10: deviating,
    11: traced,
    12: evident,
    13: provided,
    14: answered,
}


def keys(changes: Iterator[Change]) -> list[str]:
    return [getattr(one, "key", "") for change in changes if isinstance(change, Settled) for one in change.changes]


# ---- every version


def test_every_migration_has_data_and_a_check() -> None:
    """Whoever adds migration NNNN adds tests/data/migrations/NNNN.sql, and what it says to CHECKS."""
    fixtures = sorted(int(path.stem) for path in DATA.glob("*.sql"))
    assert fixtures == NUMBERS
    assert sorted(CHECKS) == NUMBERS


@pytest.mark.parametrize("version", NUMBERS)
def test_a_database_of_every_version_is_read_whole(version: int, tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    build(path, version)
    before = counts(path)
    assert all(before[table] for table in tables_with_data(version)), "the data of a version has no rows"
    with Store.open(path, retention=FOR_EVER):
        pass
    after = counts(path)
    assert {table: after.get(table) for table in before} == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert structure(connection) == structure_of(NEWEST, tmp_path)
    with Store.open(path, retention=FOR_EVER) as store:
        for number in NUMBERS:
            if number <= version:
                CHECKS[number](store)


@pytest.mark.parametrize("version", NUMBERS)
def test_a_controller_starts_on_every_version(version: int, tmp_path: Path) -> None:
    build(tmp_path / "quell.db", version)

    async def ask() -> tuple[httpx.Response, httpx.Response]:
        settings = Settings(server=Server(port=0), journal=Journal(max_age="36500d"))
        async with serving(tmp_path, settings) as running:
            token = (tmp_path / "admin.token").read_text().strip()
            async with httpx.AsyncClient(
                base_url=running.url, headers={"Authorization": f"Bearer {token}"}, timeout=30
            ) as client:
                return await client.get("/v1/documents/rule/answer"), await client.get("/v1/events/given-1")

    rule, event = asyncio.run(ask())
    assert rule.is_success, rule.text
    assert event.is_success, event.text
    assert event.json()["event"]["subject"]["process"]["pid"] == 4711


# ---- what is not migrated


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    build(path, NEWEST)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={NEWEST + 1}")
    with pytest.raises(StoreError, match=f"version {NEWEST + 1}; this Quell knows versions up to {NEWEST}"):
        Store.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NEWEST + 1,)
    assert not list(tmp_path.glob("*.before-*"))


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE places (name TEXT)")
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    path.write_bytes(b"this is a text, and a long one at that" * 40)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(path)
    assert path.read_bytes().startswith(b"this is a text")


# ---- the copy before a migration


def test_the_database_before_a_migration_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    build(path, 1)
    before = dump(path)
    with Store.open(path, retention=FOR_EVER):
        pass
    (kept,) = tmp_path.glob("*.before-*")
    assert kept.name == "quell.db.before-0001"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert dump(kept) == before
    # Going back, and forward again.
    for name in ("quell.db", "quell.db-wal", "quell.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copyfile(kept, path)
    with Store.open(path, retention=FOR_EVER) as store:
        first(store)


def test_only_the_last_copy_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "quell.db"
    build(path, NUMBERS[-2])
    older = tmp_path / "quell.db.before-0000"
    older.write_bytes(b"older")
    for _ in range(2):
        with Store.open(path, retention=FOR_EVER):
            pass
        assert [copy.name for copy in tmp_path.glob("*.before-*")] == [f"quell.db.before-{NUMBERS[-2]:04}"]


def test_nothing_is_kept_where_nothing_is_migrated(tmp_path: Path) -> None:
    for _ in range(2):
        with Store.open(tmp_path / "quell.db"):
            pass
    assert not list(tmp_path.glob("*.before-*"))


# ---- interruptions

#: For each line "PATH N": prepares that database in a process that is killed before its Nth statement, and prints how it ended.
KILLED = """
import itertools, os, pathlib, signal, sys
from quell.storage import schema
for line in sys.stdin:
    path, statement = line.rstrip("\\n").rsplit(" ", 1)
    child = os.fork()
    if child == 0:
        try:
            connection = schema.connect(pathlib.Path(path))
            left = itertools.count(int(statement), -1)
            connection.set_trace_callback(lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(left) == 1 else None)
            schema.prepare(connection)
            os._exit(0)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def killed() -> Iterator[Callable[[Path, int], int]]:
    """The exit code of a process that prepares a database and is killed before this statement of it."""
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:

        def run(path: Path, statement: int) -> int:
            assert parent.stdin is not None
            assert parent.stdout is not None
            parent.stdin.write(f"{path} {statement}\n")
            parent.stdin.flush()
            code = parent.stdout.readline()
            assert code, f"nothing came of statement {statement}"
            return int(code)

        yield run
        assert parent.stdin is not None
        parent.stdin.close()


def test_a_killed_migration_leaves_one_version_or_the_next(tmp_path: Path, killed: Callable[[Path, int], int]) -> None:
    original = tmp_path / "original.db"
    build(original, 1)
    with closing(sqlite3.connect(original)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    known = {number: structure_of(number, tmp_path) for number in NUMBERS}
    reached = set()
    for statement in range(1, 1000):
        folder = tmp_path / f"killed-{statement}"
        folder.mkdir()
        path = folder / "quell.db"
        shutil.copyfile(original, path)
        code = killed(path, statement)
        assert code in (0, -signal.SIGKILL)
        with closing(sqlite3.connect(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            assert structure(connection) == known[version], f"killed before statement {statement}"
        with Store.open(path, retention=FOR_EVER) as store:
            first(store)
        assert not list(folder.glob(".*")), "a copy that was cut short is still there"
        reached.add(version)
        if code == 0:
            break
        shutil.rmtree(folder)
    assert reached == set(NUMBERS), "not every step was interrupted"


# ---- looking at databases


def counts(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}  # noqa: S608


def tables_with_data(version: int) -> set[str]:
    """Those whose rows the data of the versions up to this one says."""
    text = "".join((DATA / f"{number:04}.sql").read_text() for number in NUMBERS if number <= version)
    return {line.split()[2] for line in text.splitlines() if line.startswith("INSERT INTO")}


def structure(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name").fetchall()


def structure_of(version: int, folder: Path) -> list[tuple[str, str, str]]:
    path = folder / f"reference-{version}.db"
    if not path.exists():
        build(path, version)
    with closing(sqlite3.connect(path)) as connection:
        return structure(connection)


def dump(path: Path) -> list[str]:
    with closing(schema.connect(path, read_only=True)) as connection:
        return list(connection.iterdump())
