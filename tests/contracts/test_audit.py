"""The audit log of a store: an entry with its change or not at all, one an outcome, its end always signed, tampering told."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quell.controller.audit_keeper import SLACK, AuditKeeper
from quell.controller.audit_trail import of_outcome
from quell.errors import StoreError
from quell.ids import uuid7
from quell.model.action import KillProcess, ReleaseQuarantine
from quell.model.audit import QUELL, Actor, AuditEntry, Fault, Finding
from quell.model.decision import Command, Decision, Outcome, OutcomeStatus, Reason
from quell.model.event import Category, Event, Level
from quell.model.subject import NetworkTarget, Process, ProcessTarget, Subject
from quell.storage import audit, key_values
from quell.storage.audit import Filter
from quell.storage.records import Entry, Noted
from quell.storage.store import Store

KEY = Ed25519PrivateKey.generate()
NOW = time.time()

Opener = Callable[..., Store]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opener]:
    """Opens the same store each time, after closing it if it is open."""
    opened: list[Store] = []

    def opener(key: Ed25519PrivateKey | None = KEY, **options: Any) -> Store:
        close(*opened)
        opened.append(Store.open(tmp_path / "quell.db", key=key, **options))
        return opened[-1]

    yield opener
    close(*opened)


def close(*stores: Store) -> None:
    for store in stores:
        store.close()


@pytest.fixture
def store(opening: Opener) -> Store:
    return opening()


def entry(name: str, verb: str = "change", kind: str = "thing", actor: Actor = QUELL, **more: Any) -> AuditEntry:
    return AuditEntry(actor=actor, verb=verb, kind=kind, name=name, **more)


def add(store: Store, *entries: AuditEntry, now: float = NOW) -> None:
    def write(connection: sqlite3.Connection) -> None:
        for one in entries:
            audit.append(connection, one, now)

    store.submit(write).result(20)


def noted(name: str, outcome: Outcome | None = None) -> Noted:
    return Noted(entry=entry(name), time=NOW, outcome=outcome and (outcome.id, outcome.status.value))


def record(store: Store, *outcomes: Outcome) -> StoreError | None:
    told: list[StoreError | None] = []
    there = threading.Event()

    def done(error: StoreError | None) -> None:
        told.append(error)
        there.set()

    store.record_outcomes(outcomes, done, (), [noted(outcome.id, outcome) for outcome in outcomes])
    assert there.wait(20)
    return told[0]


def outcome(identifier: str, status: OutcomeStatus = OutcomeStatus.DONE) -> Outcome:
    return Outcome(id=identifier, status=status, time=NOW)


def names(store: Store, **wanted: Any) -> list[str]:
    """Oldest first."""
    found = store.read(lambda connection: audit.recent(connection, 1000, None, Filter(**wanted)))
    return [one.entry.name for one in reversed(found)]


def findings(store: Store) -> list[Finding]:
    return store.read(lambda connection: audit.verify(connection, KEY.public_key())).findings


def outside(path: Path, *statements: str) -> None:
    """What somebody does who can write the file."""
    with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


# ---- with its change or not at all


def test_an_entry_is_there_with_its_change_or_neither_is(store: Store) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        key_values.put(connection, "x", b"2")
        audit.append(connection, entry("two"), NOW)
        raise ValueError("not after all")

    add(store, entry("one"))
    with pytest.raises(ValueError, match="after all"):
        store.submit(broken).result(20)
    add(store, entry("three"))
    assert (names(store), store.read(lambda connection: key_values.get(connection, "x"))) == (["one", "three"], None)
    assert findings(store) == []


def test_in_one_transaction_with_a_neighbour_that_fails(store: Store) -> None:
    """All kinds of writes in one commit of which one has to be taken out: the others stay, in their order."""
    held = threading.Event()
    blocking = store.submit(lambda connection: held.wait(20))
    event = Event(
        id=uuid7(),
        time=NOW,
        received=NOW,
        source="native",
        category=Category.EVENT,
        name="x",
        level=Level.INFO,
        subject=Subject(node="n1"),
        raw=b"{}",
    )
    decided = Entry(event=event, decision=Decision(event_id=event.id, time=NOW, revision=1), own_id=True)
    first = store.submit(lambda connection: audit.append(connection, entry("first"), NOW))
    store.append([decided], lambda error: None, [noted("appended")])
    failing = store.submit(lambda connection: connection.execute("SELECT nothing FROM nowhere"))
    store.record_outcomes([outcome("e/1")], lambda error: None, (), [noted("recorded", outcome("e/1"))])
    last = store.submit(lambda connection: audit.append(connection, entry("last"), NOW))
    held.set()
    for future in (blocking, first, last):
        future.result(20)
    assert isinstance(failing.exception(20), StoreError)
    assert names(store) == ["first", "appended", "recorded", "last"]
    assert findings(store) == []


# ---- one an outcome


def test_an_outcome_that_is_reported_again_has_one_entry(opening: Opener) -> None:
    store = opening()
    assert record(store, outcome("e/1"), outcome("e/2")) is None
    assert record(store, outcome("e/1"), outcome("e/3"), outcome("e/3")) is None
    assert names(store) == ["e/1", "e/2", "e/3"]
    store = opening()
    assert record(store, outcome("e/2")) is None
    assert record(store, outcome("e/2", OutcomeStatus.EXPIRED)) is None  # another fact
    assert names(store) == ["e/1", "e/2", "e/3", "e/2"]
    assert findings(store) == []


def test_what_an_entry_says_of_an_action() -> None:
    process = Process(pid=7, start_ticks=9, name="mysql", exe="/bin/mysql", cmdline="mysql --password=hunter2", uid=0)
    command = Command(
        id="e/1",
        agent="a1",
        action=KillProcess(),
        target=ProcessTarget(node="n1", process=process),
        issued=NOW,
        expires=NOW + 30,
        nonce="n",
        event_id="e",
        asked_by=("rule/8", "policy/shop/default"),
    )
    refused = Outcome(
        id="e/1",
        status=OutcomeStatus.REFUSED,
        reason=Reason.IDENTITY,
        explanation="another",
        time=NOW + 1,
        duration=0.5,
    )
    made = of_outcome(command, refused)
    assert (str(made.actor), made.verb, made.kind, made.name) == (
        "system/quell",
        "agentKillProcess",
        "action",
        "n1/mysql[7]",
    )
    assert made.after["asked_by"] == ("rule/8", "policy/shop/default")
    assert (made.after["status"], made.after["reason"], made.after["agent"]) == ("refused", "identity", "a1")
    assert "hunter2" not in repr(made)
    release = Command(
        id="release/k/1",
        agent="a1",
        action=ReleaseQuarantine(),
        target=NetworkTarget(node="n1", key="k", process=process),
        issued=NOW,
        expires=NOW + 30,
        nonce="n",
        asked_by=("user/alice",),
    )
    made = of_outcome(release, outcome("release/k/1"))
    assert (made.actor, made.verb, made.name) == (Actor(kind="user", name="alice"), "release", "k")
    assert "hunter2" not in repr(made)


# ---- lists


def test_filters_and_pages(store: Store) -> None:
    alice, bot = Actor(kind="user", name="alice"), Actor(kind="token", name="ci")
    add(store, entry("a", actor=alice), entry("b", "create", "token", actor=bot), now=NOW - 100)
    add(store, entry("a", "delete", "token", actor=alice), entry("c"), now=NOW)
    assert names(store) == ["a", "b", "a", "c"]
    assert names(store, actor="user/alice") == ["a", "a"]
    assert names(store, kind="token", name="a") == ["a"]
    assert names(store, verb="create") == ["b"]
    assert names(store, since=NOW) == ["a", "c"]
    assert names(store, until=NOW) == ["a", "b"]
    assert names(store, actor="user/bob") == []
    page = store.read(lambda connection: audit.recent(connection, 2, 4))
    assert [one.n for one in page] == [3, 2]


# ---- the end is signed, and tampering is told


def test_the_end_is_signed_in_the_transaction_of_the_last_entry(store: Store) -> None:
    for count in range(1, 4):
        add(store, entry(str(count)))
        assert store.read(audit.ends).head is not None
        assert findings(store) == []
    record(store, outcome("e/1"))
    ends = store.read(audit.ends)
    assert ends.head is not None
    assert (ends.head.n, ends.last) == (4, 4)
    assert findings(store) == []


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit WHERE n = 3",
        "DELETE FROM audit",
        "UPDATE audit SET hash = zeroblob(32) WHERE n = 3",
        "INSERT INTO audit (n, time, body, hash) SELECT 4, time, body, hash FROM audit WHERE n = 3",
    ],
)
@pytest.mark.parametrize("how", ["while it runs", "while it is closed"])
@pytest.mark.parametrize("what", ["change", "outcome"])
def test_the_next_entry_tells_that_the_end_was_changed(opening: Opener, change: str, how: str, what: str) -> None:
    """Nothing is signed on top of a log that is not as it was left without saying so."""
    store = opening()
    add(store, entry("1"), entry("2"), entry("3"))
    if how == "while it is closed":
        store.close()
    outside(store.path, change)
    if how == "while it is closed":
        store = opening()
    if what == "change":
        add(store, entry("4"))
    else:
        record(store, outcome("4"))
    told = names(store)
    assert told[-2:] == ["log", "4"]
    assert Fault.BROKEN_BEFORE in {finding.fault for finding in findings(store)} or findings(store)[0].fault in {
        Fault.ALTERED,
        Fault.MISSING,
    }
    notes = [one.entry.note for one in store.read(lambda connection: audit.recent(connection, 2))]
    assert "changed from outside" in notes[1]


def test_a_log_of_another_key_is_told(opening: Opener) -> None:
    add(opening(Ed25519PrivateKey.generate()), entry("1"))
    store = opening()
    [finding] = findings(store)
    assert (finding.fault, finding.n) == (Fault.BROKEN_BEFORE, 2)
    assert "not signed with this controller's key" in finding.detail


def test_without_a_key_the_end_is_not_signed(opening: Opener) -> None:
    store = opening(None)
    add(store, entry("1"))
    assert [finding.fault for finding in findings(store)] == [Fault.SIGNATURE]
    assert store.read(lambda connection: audit.verify(connection, None)).findings == []


# ---- cutting


def test_what_is_cut_off_is_told_and_the_rest_holds(opening: Opener) -> None:
    store = opening()
    for n in range(10):
        add(store, entry(str(n)), now=NOW - 1000 + 100 * n)

    def cut(limit: int, age: float = 500) -> int:
        return store.submit(lambda connection: audit.cut(connection, NOW - age, limit, NOW)).result(20)

    assert [cut(3), cut(3), cut(3)] == [3, 2, 0]
    assert names(store) == ["5", "6", "7", "8", "9", "1-3", "4-5"]
    assert findings(store) == []
    assert cut(100, -1) == 6  # never the newest
    assert findings(store) == []
    ends = store.read(audit.ends)
    assert ends.base.n == 11
    store = opening()
    add(store, entry("more"))
    assert findings(store) == []
    outside(store.path, "DELETE FROM audit WHERE n = (SELECT min(n) FROM audit)")
    told = findings(store)
    assert told[0].n <= ends.base.n + 1
    assert told[0].fault is Fault.MISSING


def test_the_keeper_cuts_by_age_once_a_day(opening: Opener, capsys: pytest.CaptureFixture[str]) -> None:
    store, age = opening(), 40 * 86_400.0
    add(store, entry("old"), now=NOW - age - 2 * SLACK)
    add(store, entry("less old"), now=NOW - age - 10)
    add(store, entry("new"), now=NOW)
    assert asyncio.run(AuditKeeper(store, lambda: None, clock=lambda: NOW).look()) == 0
    assert asyncio.run(AuditKeeper(store, lambda: age, clock=lambda: NOW).look()) == 2
    assert asyncio.run(AuditKeeper(store, lambda: age, clock=lambda: NOW).look()) == 0
    assert names(store) == ["new", "1-2"]
    assert findings(store) == []
    assert store.read(audit.ends).head is not None
    head = store.read(audit.ends).head
    assert head is not None
    assert head.hash in capsys.readouterr().out
