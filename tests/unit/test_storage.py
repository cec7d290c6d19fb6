"""What is particular to the store on SQLite: the file, its migrations, a full disk, the log, and the nouns it keeps."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell import ids
from quell.errors import StoreError, StoreFull
from quell.model.action import SuppressLog
from quell.model.answer import NOTHING, Answer, settled
from quell.model.decision import Ask, Decision, Evidence, Match
from quell.model.event import Category, Event, Level
from quell.model.subject import Container, Subject
from quell.storage import (
    agents,
    checkpoint,
    dead_letters,
    deliveries,
    documents,
    group,
    join_tokens,
    key_values,
    outbox,
    rejects,
    schema,
    tokens,
)
from quell.storage.agents import Agent
from quell.storage.dead_letters import DeadLetter
from quell.storage.deliveries import Delivery, Standing
from quell.storage.documents import Document
from quell.storage.records import Batch, Entry, OutboxItem, Reject, Retention
from quell.storage.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "quell.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path) as opened:
        yield opened


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    """An empty store's database, by itself."""
    Store.open(path).close()
    opened = schema.connect(path)
    yield opened
    opened.close()


def entries(count: int, size: int = 100) -> list[Entry]:
    made = []
    for _ in range(count):
        event = Event(
            id=ids.uuid7(),
            time=None,
            received=time.time(),
            source="native",
            category=Category.EVENT,
            name="x",
            level=Level.INFO,
            subject=Subject(),
            raw=os.urandom(size),
        )
        made.append(
            Entry(event=event, decision=Decision(event_id=event.id, time=event.received, revision=1), own_id=True)
        )
    return made


def append_batch(store: Store, batch: Batch) -> StoreError | None:
    told: list[StoreError | None] = []
    ready = threading.Event()

    def done(error: StoreError | None) -> None:
        told.append(error)
        ready.set()

    store.append_batch(batch, done)
    assert ready.wait(20)
    return told[0]


def append(store: Store, made: list[Entry]) -> StoreError | None:
    return append_batch(store, Batch.of(made))


# ---- the file


def test_nobody_else_may_read_the_files(path: Path) -> None:
    before = os.umask(0)
    try:
        with Store.open(path) as store:
            append(store, entries(3))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(
        ("quell.db", "quell.db-wal", "quell.db-shm", "quell.db-orders", "quell.db.lock"), 0o600
    )
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_second_process_is_told_who_has_the_store(path: Path, store: Store) -> None:
    script = "import sys; from quell.storage.store import Store; Store.open(sys.argv[1])"
    ran = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert f"in use by process {os.getpid()}" in ran.stderr.splitlines()[-1]
    with pytest.raises(StoreError, match="in use"):
        Store.open(path)
    assert append(store, entries(1)) is None
    store.close()
    assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == 0


def test_settings_that_a_power_failure_relies_on(store: Store) -> None:
    def look(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "wal_autocheckpoint", "auto_vacuum")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    # 2: FULL (each commit is on the disk), 2: INCREMENTAL.
    assert store.submit(look).result(20) == ["wal", 2, 0, 2]


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError, match="readonly"):
        store.read(lambda connection: connection.execute("DELETE FROM journal"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot open"):
        Store.open(tmp_path / "file" / "quell.db")


def test_something_else_than_a_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store.open(path)


def test_another_programs_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store.open(path)
    assert path.read_bytes() == before


# ---- migrations


def test_migrations_are_numbered_without_gap() -> None:
    assert [number for number, _, _ in schema.migrations()] == list(range(1, len(schema.migrations()) + 1))


def test_a_newer_store_is_refused_and_left_alone(path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA user_version=1000")
    with pytest.raises(StoreError, match=r"version 1000.*newer Quell"):
        Store.open(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1000,)


def test_a_migration_that_fails_leaves_nothing(path: Path) -> None:
    schema.create(path)
    connection = schema.connect(path)
    # Something of ours is there already, so the first script cannot run through.
    connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    connection.execute("CREATE TABLE flags (x)")
    with pytest.raises(StoreError, match="migration 0001"):
        schema.prepare(connection)
    tables = connection.execute("SELECT name FROM sqlite_schema").fetchall()
    assert tables == [("flags",)]
    assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()


# ---- no room


def test_a_full_database_refuses_and_goes_on_when_there_is_room(store: Store) -> None:
    kept = entries(10)
    assert append(store, kept) is None
    (pages,) = store.submit(lambda connection: connection.execute("PRAGMA page_count").fetchone()).result(20)
    store.submit(lambda connection: connection.execute(f"PRAGMA max_page_count={pages + 20}").fetchone()).result(20)
    lost: list[Entry] = []
    errors: list[StoreError | None] = []
    while not errors or errors[-1] is None:
        made = entries(20, 1000)
        errors.append(append(store, made))
        (kept if errors[-1] is None else lost).extend(made)
        assert len(errors) < 20
    assert isinstance(errors[-1], StoreFull)
    with pytest.raises(StoreFull):
        store.submit(lambda connection: key_values.put(connection, "k", bytes(500_000))).result(20)
    store.submit(lambda connection: connection.execute("PRAGMA max_page_count=1000000").fetchone()).result(20)
    more = entries(50, 1000)
    assert append(store, more) is None
    assert [stored.id for stored in store.recent(1000)] == [entry.event.id for entry in reversed([*kept, *more])]
    assert store.known_ids([entry.event.id for entry in lost]) == set()
    assert store.statistics().queued_bytes == 0


def test_when_the_writer_fails_whoever_waits_is_told(store: Store) -> None:
    def clock() -> float:
        raise ZeroDivisionError

    go = threading.Event()
    store.submit(lambda _: None).result(20)
    # Retention asks for the time between two commits; no error is expected of that.
    store._writer._clock = clock
    store._writer._trim_bytes = 1 << 40
    held = store.submit(lambda _: go.wait(20))
    told: list[StoreError | None] = []
    ready = threading.Event()
    while not store.statistics().queued_entries:
        time.sleep(0.001)
    big = [entries(1, 3_000_000) for _ in range(4)]
    for one in big:
        store.append(one, lambda error: (told.append(error), len(told) == 4 and ready.set()))
    go.set()
    held.result(20)
    assert ready.wait(20)
    assert isinstance(told[-1], StoreError)
    with pytest.raises(StoreError, match="writer ended"):
        store.append(entries(1), lambda _: None)
    found = store.known_ids([one[0].event.id for one in big])
    assert len(found) == told.count(None)


# ---- the write-ahead log and the file's size


def test_the_log_stays_small_under_steady_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PASSIVE_BYTES", 256 << 10)
    monkeypatch.setattr(checkpoint, "RESTART_BYTES", 1 << 20)
    slots = threading.Semaphore(4)
    largest = 0
    with Store.open(path) as store:
        for _ in range(150):
            slots.acquire()
            store.append(entries(100, 1000), lambda _: slots.release())
            largest = max(largest, store.statistics().wal_bytes)
        store.submit(lambda _: None).result(20)
        assert store.statistics().events == 15_000
    # All of it together is more than 15 MB; on a busy machine it is begun anew less often.
    assert largest < 12 << 20
    # Closing leaves one whole file.
    assert not path.with_name("quell.db-wal").exists()
    assert path.stat().st_size > 15_000_000


def test_a_smaller_bound_gives_room_back(path: Path) -> None:
    with Store.open(path) as store:
        for _ in range(60):
            append(store, entries(300, 2000))
    large = path.stat().st_size
    with Store.open(path, retention=Retention(max_bytes=2 << 20, size_step=64 << 10)) as store:
        last = entries(1)
        append(store, last)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and pages(store) > (16 << 20) // 4096:
            append(store, entries(1))
        assert store.event(last[0].event.id) is not None
    assert large > 30 << 20
    assert path.stat().st_size < 16 << 20


def pages(store: Store) -> int:
    return int(store.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0]))


# ---- rows of the journal


def answer(number: int) -> Answer:
    match = Match(ref=f"rule/{number}", name=f"r{number}", evidence=(Evidence(criterion="name:x", value="x"),))
    ask = Ask(action=SuppressLog(), by=match.ref, owner=match.ref)
    found = settled("native", (match,), (ask,))
    assert found is not None
    return found


@pytest.mark.parametrize("count", [1, 7, 300])
def test_events_answered_alike_come_back_each_with_its_own_decision(store: Store, count: int) -> None:
    made = entries(count)
    answers: list[Answer | None] = [(NOTHING, answer(1), answer(2), None)[n % 4] for n in range(count)]
    own = {
        n: msgspec.structs.replace(made[n], decision=msgspec.structs.replace(made[n].decision, default_skipped=("p",)))
        for n in range(3, count, 4)
    }
    added, told = Subject(container=Container(id="c")), ("node: differs",)
    batch = Batch(
        events=[entry.event for entry in made],
        answers=answers,
        times=[5.0] * count,
        revisions=[9] * count,
        sizes=[len(entry.event.raw) for entry in made],
        added=dict.fromkeys(range(0, count, 12), added),
        conflicts=dict.fromkeys(range(1, count, 12), told),
        entries=own,
    )
    assert append_batch(store, batch) is None
    stored = store.recent(count + 1)[::-1]
    assert [one.raw for one in stored] == [entry.event.raw for entry in made]
    for n, (one, given) in enumerate(zip(stored, answers, strict=True)):
        wanted = own[n].decision if given is None else given.decision(one.id, 5.0, 9)
        if n % 12 == 0:
            wanted = msgspec.structs.replace(wanted, added=added)
        elif n % 12 == 1:
            wanted = msgspec.structs.replace(wanted, conflicts=told)
        assert one.decision == wanted
        assert store.event(made[n].event.id) == one
    decided = store.recent(count, decided=True)
    assert len(decided) == sum(1 for each in answers if each is not NOTHING)


def test_of_events_answered_alike_only_those_that_are_new_are_kept(store: Store) -> None:
    made = [msgspec.structs.replace(entry.event, id=f"given-{n}", id_given=True) for n, entry in enumerate(entries(6))]
    first, second = answer(1), answer(2)
    sizes = [len(event.raw) for event in made]
    two = Batch(events=made[1:5:3], answers=[first, NOTHING], times=[1.0] * 2, revisions=[1] * 2, sizes=sizes[1:5:3])
    append_batch(store, two)
    six = Batch(events=made, answers=[first, second] * 3, times=[2.0] * 6, revisions=[2] * 6, sizes=sizes)
    append_batch(store, six)
    stored = {one.id: one.decision for one in store.recent(10)}
    wanted = {event.id: (first, second)[n % 2].decision(event.id, 2.0, 2) for n, event in enumerate(made)}
    wanted["given-1"], wanted["given-4"] = first.decision("given-1", 1.0, 1), NOTHING.decision("given-4", 1.0, 1)
    assert stored == wanted


def test_a_row_holds_few_events_and_bytes() -> None:
    packer = group.Packer()
    for count, size in ((1, 10), (256, 10), (257, 10), (1000, 10), (5, 300_000)):
        made = entries(count, size)
        chunks = packer.chunks(Batch.of(made))
        assert sum(chunk.events for chunk in chunks) == count
        for row in group.rows(chunks):
            held = sum(chunk.events for chunk in row)
            assert held <= group.MAX_EVENTS
            assert held == 1 or sum(len(chunk.columns) + len(chunk.text) for chunk in row) <= group.MAX_BYTES
    events = [entry.event for entry in entries(600)]
    everything = Batch(
        events=events,
        answers=[NOTHING] * 600,
        times=[1.0] * 600,
        revisions=[1] * 600,
        sizes=[len(event.raw) for event in events],
    )
    assert [chunk.events for chunk in packer.chunks(everything)] == [256, 256, 88]
    singles = [chunk for entry in entries(1000) for chunk in packer.chunks(Batch.of([entry]))]
    assert [sum(chunk.events for chunk in row) for row in group.rows(singles)] == [256, 256, 256, 232]


def test_like_events_take_little_room(store: Store) -> None:
    made = entries(2560, 1)
    raw = b'{"output": "a shell was spawned in a container with an attached terminal", "pid": %d}' * 10
    alike = [
        Entry(
            event=Event(
                id=entry.event.id,
                time=None,
                received=entry.event.received,
                source="falco",
                category=Category.EVENT,
                name="x",
                level=Level.INFO,
                subject=Subject(),
                raw=raw % ((n,) * 10),
            ),
            decision=entry.decision,
            own_id=True,
        )
        for n, entry in enumerate(made)
    ]
    append(store, alike)
    (size,) = store.read(lambda connection: connection.execute("SELECT sum(length(body)) FROM journal").fetchone())
    assert size * 5 < sum(len(entry.event.raw) for entry in alike)


# ---- nouns


def test_documents(connection: sqlite3.Connection) -> None:
    rule = Document(kind="ResponseRule", name="a", id=9, revision=3, body=b"{}")
    older = Document(kind="ResponseRule", name="b", id=8, revision=3, body=b"{}")
    same_name = Document(kind="Group", name="a", body=b"[]")
    for document in (rule, older, same_name):
        documents.put(connection, document)
    assert documents.all_of(connection) == [same_name, older, rule]
    assert documents.all_of(connection, "ResponseRule") == [older, rule]
    changed = Document(kind="ResponseRule", name="a", id=9, revision=4, body=b'{"x":1}')
    documents.put(connection, changed)
    assert documents.get(connection, "ResponseRule", "a") == changed
    assert documents.delete(connection, "ResponseRule", "a")
    assert not documents.delete(connection, "ResponseRule", "a")
    assert documents.get(connection, "ResponseRule", "a") is None
    assert documents.get(connection, "Group", "a") == same_name


def test_agents(connection: sqlite3.Connection) -> None:
    first = Agent(id="2", name="b", public_key=b"k" * 32, node="n", enrolled=1.5)
    second = Agent(id="1", name="c", public_key=b"j" * 32, node="m", enrolled=2.5, capabilities=("quarantine",))
    agents.put(connection, second)
    agents.put(connection, first)
    assert agents.all_of(connection) == [first, second]
    again = Agent(id="1", name="a", public_key=b"j" * 32, node="m", enrolled=2.5, seen=9.0)
    agents.put(connection, again)
    assert agents.all_of(connection) == [again, first]
    assert agents.get(connection, "1") == again
    assert agents.delete(connection, "1")
    assert not agents.delete(connection, "1")
    assert agents.get(connection, "1") is None


def test_tokens_are_kept_hashed_and_expire(path: Path, connection: sqlite3.Connection) -> None:
    secret, other = tokens.new_secret(), tokens.new_secret()
    assert secret != other
    token = tokens.Token(name="ci", role="ingest", created=100.0, expires=200.0)
    tokens.put(connection, secret, token)
    assert tokens.find(connection, secret, 199.0) == token
    assert tokens.find(connection, secret, 200.0) is None
    assert tokens.find(connection, other, 150.0) is None
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert secret.removeprefix("quell_").encode() not in path.read_bytes()

    tokens.touch(connection, "ci", 150.0)
    assert tokens.all_of(connection)[0].last_used == 150.0
    endless = tokens.Token(name="ci", role="admin", created=160.0)
    tokens.put(connection, other, endless)
    assert tokens.find(connection, secret, 161.0) is None
    assert tokens.find(connection, other, 1e12) == endless
    assert tokens.delete(connection, "ci")
    assert not tokens.delete(connection, "ci")
    assert tokens.find(connection, other, 161.0) is None


def test_a_join_token_lets_in_once_and_soon(connection: sqlite3.Connection) -> None:
    for secret, expires in (("a", 200.0), ("b", 120.0)):
        join_tokens.put(connection, secret, "admin", 100.0, expires)
    assert not join_tokens.consume(connection, "c", 110.0)
    assert not join_tokens.consume(connection, "b", 120.0)
    assert join_tokens.consume(connection, "a", 199.0)
    assert not join_tokens.consume(connection, "a", 199.0)


def test_key_values(connection: sqlite3.Connection) -> None:
    assert key_values.get(connection, "k") is None
    key_values.put(connection, "k", b"1")
    key_values.put(connection, "k", b"\x00")
    assert key_values.get(connection, "k") == b"\x00"
    assert key_values.delete(connection, "k")
    assert not key_values.delete(connection, "k")
    assert key_values.get(connection, "k") is None


ITEM = OutboxItem(id="e/1/w", channel="webhook:w", body=b"{}", created=1.5, expires=99.5, event_id="e")


def test_the_outbox_counts_postpones_and_limits(connection: sqlite3.Connection) -> None:
    second = OutboxItem(id="e/2/w", channel="webhook:w", body=b"", created=2.0)
    agent = OutboxItem(id="e/3", channel="agent:a", body=b"\xff", created=2.0)
    outbox.insert(connection, [ITEM, second, agent, ITEM])
    assert outbox.counts(connection) == {"webhook:w": 2, "agent:a": 1}
    assert outbox.waiting(connection, "webhook:w", 1) == [ITEM]
    outbox.postpone(connection, ITEM.id, 3, 12.25)
    later = outbox.get(connection, ITEM.id)
    assert later is not None
    assert (later.attempts, later.due, later.body) == (3, 12.25, b"{}")
    assert [item.id for item in outbox.waiting(connection)] == [ITEM.id, second.id, agent.id]
    outbox.delete(connection, [second.id])
    outbox.postpone(connection, second.id, 1, 1.0)
    assert outbox.get(connection, second.id) is None


def test_a_dead_letter_leaves_the_outbox_and_can_be_sent_again(connection: sqlite3.Connection) -> None:
    outbox.insert(connection, [ITEM])
    letter = DeadLetter(item=ITEM, time=50.0, explanation="410 Gone")
    dead_letters.bury(connection, letter)
    assert outbox.waiting(connection) == []
    assert dead_letters.recent(connection, 5) == [letter]
    assert dead_letters.get(connection, ITEM.id) == letter

    again = dead_letters.replay(connection, ITEM.id, 60.0, 70.0)
    assert again is not None
    assert (again.id, again.body, again.created, again.expires, again.attempts) == (ITEM.id, b"{}", 60.0, 70.0, 0)
    assert outbox.waiting(connection) == [again]
    assert dead_letters.recent(connection, 5) == []
    assert dead_letters.replay(connection, ITEM.id, 61.0) is None


def test_deliveries_are_the_history_of_an_item(connection: sqlite3.Connection) -> None:
    history = [
        Delivery(id="a", endpoint="w", time=1.0, attempt=1, explanation="refused"),
        Delivery(id="b", endpoint="w", time=2.0, attempt=1, status=200, delivered=True, duration=0.25),
        Delivery(id="a", endpoint="w", time=3.0, attempt=2, status=503),
    ]
    for delivery in history:
        deliveries.insert(connection, delivery)
    assert deliveries.recent(connection, 2) == [history[2], history[1]]
    assert deliveries.of(connection, "a") == [history[0], history[2]]


def test_deliveries_are_found_by_endpoint_event_and_what_they_came_to(connection: sqlite3.Connection) -> None:
    for n, (event, endpoint, delivered) in enumerate(
        [("e1", "w", False), ("e1", "v", True), ("e1/7", "w", True), ("e2", "w", True), ("e1", "w", True)]
    ):
        deliveries.insert(
            connection,
            Delivery(
                id=f"{event}/webhook/{endpoint}",
                endpoint=endpoint,
                time=float(n),
                attempt=1,
                delivered=delivered,
                event_id=event,
            ),
        )

    def times(limit: int = 9, before: int | None = None, **wanted: Any) -> list[float]:
        return [one.time for _, one in deliveries.paged(connection, limit, before, **wanted)]

    assert times() == [4, 3, 2, 1, 0]
    assert times(endpoint="w") == [4, 3, 2, 0]
    assert times(event_id="e1") == [4, 1, 0]
    assert times(event_id="e1", limit=2) == [4, 1]
    assert times(event_id="e1", before=2) == [0]
    assert times(delivered=False) == [0]
    assert times(endpoint="w", event_id="e1", delivered=True) == [4]
    assert times(event_id="e") == []


def test_how_it_goes_with_an_endpoint_is_read_from_its_history(connection: sqlite3.Connection) -> None:
    def went() -> Standing:
        return deliveries.standings(connection, ["w"])["w"]

    assert went() == Standing()
    for n, delivered in enumerate((False, True, False, False)):
        told = "" if delivered else f"failure {n}"
        deliveries.insert(
            connection,
            Delivery(id="a", endpoint="w", time=float(n), attempt=n, delivered=delivered, explanation=told),
        )
        deliveries.insert(connection, Delivery(id="b", endpoint="v", time=50.0, attempt=1, delivered=True))
        if n == 0:
            assert went() == Standing(failures=1, failing_since=0.0, last_error="failure 0")
        if n == 1:
            assert went() == Standing(last_delivered=1.0)
    assert went() == Standing(last_delivered=1.0, failures=2, failing_since=2.0, last_error="failure 3")


def test_the_dead_letters_of_an_endpoint_are_sent_again_in_order_or_forgotten(connection: sqlite3.Connection) -> None:
    for n in range(6):
        name = "w" if n % 2 else "v"
        item = OutboxItem(
            id=f"e{n}/webhook/{name}", channel=f"webhook:{name}", body=b"{}", created=float(n), attempts=3
        )
        dead_letters.bury(connection, DeadLetter(item=item, time=float(n)))
    assert dead_letters.counts(connection) == {"v": 3, "w": 3}
    assert [letter.time for _, letter in dead_letters.paged(connection, 9, None, endpoint="w")] == [5, 3, 1]
    assert dead_letters.replay_of(connection, "w", 60.0, 2) == 2
    again = outbox.waiting(connection)
    assert [(item.id, item.created, item.attempts) for item in again] == [
        ("e1/webhook/w", 60.0, 0),
        ("e3/webhook/w", 60.0, 0),
    ]
    discarded = dead_letters.discard(connection, "e0/webhook/v")
    assert discarded is not None
    assert discarded.endpoint == "v"
    assert dead_letters.discard(connection, "e0/webhook/v") is None
    assert dead_letters.discard_of(connection, "v", 9) == 2
    assert dead_letters.counts(connection) == {"w": 1}


def test_of_a_reject_the_beginning_is_kept(connection: sqlite3.Connection) -> None:
    raw = bytes(range(256)) * 1000
    rejects.insert(connection, [Reject(id="1", time=1.0, source="native", reason="not JSON", raw=raw)])
    assert rejects.recent(connection, 1)[0].raw == raw[: rejects.RAW_BYTES]
