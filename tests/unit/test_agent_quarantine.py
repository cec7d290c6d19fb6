"""What the agent keeps isolated, whatever order commands come in, and what it notices by itself. SEMANTICS section 4."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.test_agent_executor import DONE, GONE, ID, NOW, POD, POD_NET, PRIVATE_NET, REFUSED, Rig, quarantine

from quell.agent.ledger import KEEP
from quell.model.action import Quarantine, ReleaseQuarantine
from quell.model.decision import Command, Outcome, Reason
from quell.model.subject import NetworkTarget

TARGET = NetworkTarget(node="n", key=POD, container_id=ID, seen=NOW)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "ledger")
    yield rig
    rig.ledger.close()


def close(rig: Rig, issued: float) -> Command:
    return rig.command(Quarantine(), TARGET, issued=issued)


def open_(rig: Rig, issued: float) -> Command:
    return rig.command(ReleaseQuarantine(), TARGET, issued=issued)


def test_ports_of_probes_stay_open_until_it_is_strict(rig: Rig) -> None:
    def closed() -> list[tuple[bool, tuple[int, ...]]]:
        found = [(deed.strict, deed.ports) for deed in rig.kernel.deeds if deed.netns == POD_NET]
        rig.kernel.deeds.clear()
        return found

    probed = msgspec.structs.replace(TARGET, probe_ports=(8080,))
    outcome = rig.executor.execute(rig.command(Quarantine(), probed, issued=NOW))
    assert outcome.facts["probe_ports"] == [8080]
    assert closed() == [(False, (8080,))]
    rig.restart()
    assert rig.executor.execute(close(rig, NOW + 1)).status is DONE, "one that knows of none closes none"
    assert closed() == [(False, (8080,))]
    outcome = rig.executor.execute(rig.command(Quarantine(strict=True), probed, issued=NOW + 2))
    assert "TCP port 8080" in str(outcome.facts["warning"])
    assert closed() == [(True, ())]


def test_who_may_reach_it_is_what_was_ordered_last(rig: Rig) -> None:
    def ordered(issued: float, *addresses: str) -> tuple[str, ...]:
        command = rig.command(Quarantine(investigator=addresses), TARGET, issued=issued)
        assert rig.executor.execute(command).status is DONE
        (deed, *_) = [deed for deed in rig.kernel.deeds if deed.netns == POD_NET]
        rig.kernel.deeds.clear()
        return deed.investigators

    assert ordered(NOW, "192.0.2.7") == ("192.0.2.7",)
    assert ordered(NOW + 2, "192.0.2.8", "::8") == ("192.0.2.8", "::8")
    rig.restart()
    assert ordered(NOW + 1, "192.0.2.9") == ("192.0.2.8", "::8"), "it was overtaken"
    assert ordered(NOW + 3) == ()


def test_a_release_that_was_overtaken_by_a_new_quarantine_opens_nothing(rig: Rig) -> None:
    assert rig.executor.execute(close(rig, NOW)).status is DONE
    late = open_(rig, NOW + 1)
    assert rig.executor.execute(close(rig, NOW + 2)).status is DONE
    rig.restart()
    outcome = rig.executor.execute(late)
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.STALE)
    assert outcome.explanation == "a later command has isolated it again"
    assert set(rig.kernel._closed) == {POD_NET, PRIVATE_NET}


def test_a_quarantine_that_was_overtaken_by_its_release_closes_nothing(rig: Rig) -> None:
    late = close(rig, NOW)
    assert rig.executor.execute(open_(rig, NOW + 1)).status is DONE
    rig.restart()
    outcome = rig.executor.execute(late)
    assert (outcome.status, outcome.reason) == (REFUSED, Reason.STALE)
    assert outcome.explanation == "a later command has released it"
    assert rig.kernel._closed == {}
    assert rig.executor.execute(close(rig, NOW + 2)).status is DONE


def test_what_was_opened_is_remembered_as_long_as_a_command_could_come_late(rig: Rig) -> None:
    assert rig.executor.execute(open_(rig, NOW + 1)).status is DONE
    rig.ledger._size = 1 << 30
    assert rig.ledger.compact(NOW + KEEP)
    assert rig.ledger.opened(POD) == NOW + 1
    rig.restart()
    assert rig.ledger.opened(POD) == NOW + 1
    rig.ledger._size = 1 << 30
    assert rig.ledger.compact(NOW + KEEP + 2)
    assert rig.ledger.opened(POD) == 0.0


def test_many_in_any_order_end_as_they_were_issued(rig: Rig) -> None:
    commands = [close(rig, NOW + n) if n % 2 == 0 else open_(rig, NOW + n) for n in range(21)]
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda each=each: outcomes.append(rig.executor.execute(each)))
        for each in sorted(commands, key=lambda command: hash(command.nonce))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(outcomes) == 21
    assert set(rig.kernel._closed) == {POD_NET, PRIVATE_NET}, "the last that was issued is a quarantine"
    assert rig.executor.closed() == (POD,)


def test_a_namespace_that_is_gone_ends_its_quarantine(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    assert rig.executor.look(released=False) == ({}, [])
    rig.kernel._given = {pid: each for pid, each in rig.kernel._given.items() if each.netns != PRIVATE_NET}
    assert rig.executor.look(released=False) == ({}, []), "one of its two is still there"
    rig.kernel._given = {pid: each for pid, each in rig.kernel._given.items() if each.netns != POD_NET}
    assert rig.executor.look(released=False) == ({POD: "gone"}, [])
    assert rig.executor.closed() == ()
    rig.restart()
    assert rig.executor.closed() == ()
    assert rig.executor.execute(open_(rig, NOW + 5)).status in (DONE, GONE)


def test_a_new_namespace_of_the_same_inode_is_not_taken_for_the_old_one(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    (closed,) = rig.ledger.closed()
    other = tuple((inode, 12345) for inode, _ in closed.namespaces)
    rig.ledger.note(msgspec.structs.replace(closed, namespaces=other))
    deeds = len(rig.kernel.deeds)
    assert rig.executor.look(released=False) == ({POD: "gone"}, [])
    assert len(rig.kernel.deeds) == deeds


def test_what_somebody_opened_is_closed_again_also_after_a_restart(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID, action=Quarantine(strict=True)) == (DONE, None)
    rig.kernel._closed.clear()
    rig.restart()
    assert rig.executor.look(released=False) == ({}, [POD])
    assert rig.kernel._closed == {POD_NET: True, PRIVATE_NET: True}
    assert rig.executor.look(released=False) == ({}, [])


def test_what_a_person_opened_on_the_machine_stays_open(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    rig.kernel._closed.clear()
    assert rig.executor.look(released=True) == ({POD: "released"}, [])
    assert rig.kernel._closed == {}
    assert rig.executor.closed() == ()


def test_what_was_isolated_after_a_person_opened_the_rest_stays_closed(rig: Rig) -> None:
    assert quarantine(rig, container_id=ID) == (DONE, None)
    assert rig.executor.look(released=True) == ({}, [])
    assert rig.executor.closed() == (POD,)
