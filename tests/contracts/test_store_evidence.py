"""Evidence in the store: kept with its event, bounded in bytes, each copy of an executable once and only if it is right."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.system.running import wait_for

from quell.channel.messages import Evidence, EvidenceAck, EvidencePiece, Hello
from quell.controller.evidence import EvidenceKeeper
from quell.detectors import DETECTORS
from quell.model.action import KillProcess
from quell.model.decision import ActionRecord, Decision, Status
from quell.model.evidence import Executable, Gathered, ProcessEvidence
from quell.model.subject import Process, ProcessTarget
from quell.storage import evidence
from quell.storage.records import Entry, Retention
from quell.storage.store import Store

HELLO = Hello(agent="a1", version="1", node="n1", machine_id="m1", boot_id="b", boot_time=0.0)
CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db", retention=Retention(evidence_bytes=3 << 20)) as store:
        yield store


def journal(store: Store, identifier: str, *, asks: bool = True, agent: str = "a1") -> None:
    raw = b'{"id": "%s", "time": %f, "name": "Host.Suspicious.Process"}' % (identifier.encode(), time.time())
    event = DETECTORS["native"].decode(raw, id=None, received=time.time())
    record = ActionRecord(
        id=f"{identifier}/0",
        action=KillProcess(),
        target=ProcessTarget(node="n1", process=Process(pid=7)),
        asked_by=("rule/8",),
        status=Status.GRANTED,
        agent=agent,
        evidence=asks,
    )
    decision = Decision(event_id=identifier, time=time.time(), revision=1, actions=(record,))
    done: list[Any] = []
    store.append([Entry(event=event, decision=decision)], done.append)
    end = time.monotonic() + 30
    while not done:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert done == [None]


def gathered(identifier: str, content: bytes = CONTENT, sha256: str = "") -> Gathered:
    executable = Executable(
        path="/x",
        size=len(content),
        mode=0o755,
        uid=0,
        gid=0,
        modified=1.0,
        device=1,
        inode=1,
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
        copied=True,
    )
    process = ProcessEvidence(
        pid=7, start_ticks=1, start_time=1.0, boot_id="b", name="x", ppid=1, pgid=7, sid=7, executable=executable
    )
    return Gathered(id=f"{identifier}/0", time=time.time(), seconds=0.001, processes=(process,))


def send(keeper: EvidenceKeeper, told: Gathered, content: bytes, *, piece: int = 100_000) -> int:
    """As an agent does it; how many pieces were asked for."""

    async def run() -> int:
        pieces = 0
        answer = await keeper.take(HELLO, Evidence(facts=msgspec.json.encode(told)))
        while answer is not None and answer.wanted:
            pieces += 1
            data = content[answer.offset : answer.offset + piece]
            sent = EvidencePiece(id=told.id, sha256=answer.wanted, offset=answer.offset, data=data)
            answer = await keeper.take(HELLO, sent)
        assert answer == EvidenceAck(id=told.id)
        return pieces

    return asyncio.run(run())


def test_facts_and_copy_come_whole_and_an_equal_copy_is_not_asked_for_again(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    for identifier in ("e1", "e2"):
        journal(store, identifier)
    assert send(keeper, gathered("e1"), CONTENT) == 11
    assert send(keeper, gathered("e2"), CONTENT) == 0
    digest = hashlib.sha256(CONTENT).hexdigest()
    for identifier in ("e1", "e2"):
        (kept,) = keeper.of_event(identifier)
        assert (kept.event, kept.agent, kept.copies) == (identifier, "a1", (digest,))
    assert keeper.copy_size(digest) == len(CONTENT)

    async def read() -> bytes:
        return b"".join([part async for part in keeper.copy(digest)])

    assert asyncio.run(read()) == CONTENT
    assert [each.id for each in keeper.recent(10)] == ["e2/0", "e1/0"]
    assert [each.id for each in keeper.recent(10, "e2/0")] == ["e1/0"]


def test_a_copy_with_another_hash_is_thrown_away(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    journal(store, "e1")
    assert send(keeper, gathered("e1", sha256="0" * 64), CONTENT) == 11
    (kept,) = keeper.of_event("e1")
    assert kept.copies == ()
    assert keeper.copy_size("0" * 64) is None
    assert store.read(evidence.bytes_of) < 10_000


def test_an_agent_that_has_no_copy_any_more_leaves_the_facts(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    journal(store, "e1")
    assert send(keeper, gathered("e1"), b"") == 1
    assert [each.copies for each in keeper.of_event("e1")] == [()]


def test_it_begins_anew_after_a_lost_link(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    journal(store, "e1")
    told = gathered("e1")

    async def half() -> None:
        answer = await keeper.take(HELLO, Evidence(facts=msgspec.json.encode(told)))
        assert answer is not None
        piece = EvidencePiece(id=told.id, sha256=answer.wanted, offset=0, data=CONTENT[:1000])
        assert await keeper.take(HELLO, piece) == EvidenceAck(id=told.id, wanted=answer.wanted, offset=1000)
        keeper.lost("a1")
        assert await keeper.take(HELLO, piece) is None

    asyncio.run(half())
    send(keeper, told, CONTENT)
    assert keeper.of_event("e1")[0].copies == (hashlib.sha256(CONTENT).hexdigest(),)


@pytest.mark.parametrize(
    "prepare",
    [
        lambda _store: None,
        lambda store: journal(store, "e1", asks=False),
        lambda store: journal(store, "e1", agent="a2"),
    ],
    ids=["no such event", "none was asked for", "another agent was asked"],
)
def test_what_nobody_asked_this_agent_for_is_not_kept(store: Store, prepare: Callable[[Store], None]) -> None:
    keeper = EvidenceKeeper(store)
    prepare(store)
    assert send(keeper, gathered("e1"), CONTENT) == 0
    assert keeper.of_event("e1") == []


def test_nonsense_is_not_answered(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    assert asyncio.run(keeper.take(HELLO, Evidence(facts=b"{"))) is None
    nonsense = EvidencePiece(id="e1/0", sha256="x", offset=0, data=b"x")
    assert asyncio.run(keeper.take(HELLO, nonsense)) is None


def test_above_the_bound_the_oldest_goes_with_its_copy(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    contents = [bytes([n]) * (1 << 20) for n in range(4)]
    for n, content in enumerate(contents):
        journal(store, f"e{n}")
        send(keeper, gathered(f"e{n}", content), content)

    def trim(connection: Any) -> bool:
        return evidence.trim(connection, most=3 << 20, oldest=0.0, rows=10)

    while store.submit(trim).result(30):
        pass
    assert [each.event for each in keeper.recent(10)] == ["e3", "e2"]
    assert keeper.copy_size(hashlib.sha256(contents[0]).hexdigest()) is None
    assert store.read(evidence.bytes_of) <= 3 << 20


def test_it_goes_with_its_event(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    journal(store, "e1")
    send(keeper, gathered("e1"), CONTENT)
    received = time.time() + 10
    assert store.submit(lambda connection: evidence.trim(connection, most=1 << 30, oldest=received, rows=10)).result(30)
    assert keeper.of_event("e1") == []
    assert store.read(evidence.bytes_of) == 0


def test_the_store_forgets_it_once_its_event_is_too_old(tmp_path: Path) -> None:
    with Store.open(tmp_path / "quell.db") as store:
        journal(store, "e1")
        send(EvidenceKeeper(store), gathered("e1"), CONTENT)
    later = time.time() + 5000
    retention = Retention(max_age=3600)
    with Store.open(tmp_path / "quell.db", retention=retention, clock=lambda: later) as store:
        store.submit(lambda _connection: None).result(30)  # what is old is looked for after a commit
        wait_for(lambda: store.event("e1") is None, 90, what="the event's end")
        wait_for(lambda: not EvidenceKeeper(store).of_event("e1"), 90, what="the evidence's end")
        assert store.read(evidence.bytes_of) == 0


def begun(keeper: EvidenceKeeper, told: Gathered, hello: Hello = HELLO, sent: int = 1000) -> None:
    """Its copy is under way, so many bytes of it."""

    async def run() -> None:
        answer = await keeper.take(hello, Evidence(facts=msgspec.json.encode(told)))
        assert answer is not None
        piece = EvidencePiece(id=told.id, sha256=answer.wanted, offset=0, data=CONTENT[:sent])
        assert await keeper.take(hello, piece) is not None

    asyncio.run(run())


def test_of_a_copy_that_never_comes_whole_nothing_stays(store: Store) -> None:
    journal(store, "e1")
    huge = gathered("e1")
    executable = msgspec.structs.replace(huge.processes[0].executable, size=200 << 20)  # type: ignore[type-var]
    huge = msgspec.structs.replace(huge, processes=(msgspec.structs.replace(huge.processes[0], executable=executable),))
    for end in (lambda keeper: keeper.lost("a1"), lambda _: EvidenceKeeper(store)):
        keeper = EvidenceKeeper(store)
        begun(keeper, huge)
        # What its agent says of its size takes room from nobody.
        assert 1000 <= store.read(evidence.bytes_of) < 10_000
        end(keeper)
        store.submit(lambda _: None).result(30)
        assert store.read(evidence.bytes_of) < 1000


def test_a_copy_above_the_bound_is_not_asked_for(store: Store) -> None:
    journal(store, "e1")
    assert send(EvidenceKeeper(store, lambda: len(CONTENT) - 1), gathered("e1"), CONTENT) == 0
    assert send(EvidenceKeeper(store, lambda: len(CONTENT)), gathered("e1"), CONTENT) > 0


def test_an_agent_keeps_its_copy_while_another_one_only_says_that_it_sends_it(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    journal(store, "e1")
    journal(store, "e2", agent="a2")
    other = msgspec.structs.replace(HELLO, agent="a2")
    begun(keeper, gathered("e2"), other)
    facts = Evidence(facts=msgspec.json.encode(gathered("e1")))
    assert asyncio.run(keeper.take(HELLO, facts)) is None
    assert [each.event for each in keeper.recent(10)] == ["e1", "e2"]
    keeper.lost("a2")
    assert send(keeper, gathered("e1"), CONTENT) == 11
    assert keeper.of_event("e1")[0].copies == (hashlib.sha256(CONTENT).hexdigest(),)


def test_facts_that_come_twice_begin_their_copy_anew(store: Store) -> None:
    keeper = EvidenceKeeper(store)
    journal(store, "e1")
    begun(keeper, gathered("e1"))
    assert send(keeper, gathered("e1"), CONTENT) == 11


def test_the_word_of_one_agent_is_not_replaced_by_another_s(store: Store) -> None:
    def keep(agent: str, told: Gathered) -> bool:
        packed = evidence.pack(msgspec.json.encode(told))
        return store.submit(
            lambda connection: evidence.keep(connection, told, packed, event="e1", agent=agent, received=time.time())
        ).result(30)

    told = gathered("e1")
    assert keep("a1", told)
    assert not keep("a2", msgspec.structs.replace(told, processes=()))
    assert keep("a1", told)
    [kept] = store.read(lambda connection: evidence.of_event(connection, "e1"))
    assert (kept.agent, len(kept.gathered.processes)) == ("a1", 1)
