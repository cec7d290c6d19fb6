"""The ledger: synced before the action, whole after any crash, bounded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quell.agent.ledger import KEEP, MOST_REMEMBERED, Closed, Ledger
from quell.errors import StoreError
from quell.model.action import KillProcess
from quell.model.decision import Command, Outcome, OutcomeStatus
from quell.model.subject import Process, ProcessTarget

CLOSED = Closed(key="pod-1", boot_id="b", namespaces=((7, 70),), until=5.0)


def command(name: str, expires: float = 100.0) -> Command:
    target = ProcessTarget(node="n", process=Process(pid=1, start_ticks=2))
    return Command(id=name, agent="a", action=KillProcess(), target=target, issued=1.0, expires=expires, nonce=name)


def outcome(name: str) -> Outcome:
    return Outcome(id=name, status=OutcomeStatus.DONE, time=3.0, duration=0.1, facts={"pid": 1, "namespaces": [7]})


def lines(ledger: Ledger) -> bytes:
    """The file without the room at its end."""
    return ledger.path.read_bytes().rstrip(b"\0")


def reopened(ledger: Ledger) -> Ledger:
    ledger.close()
    return Ledger(ledger.path)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def test_what_was_begun_and_ended_is_known_after_a_restart(ledger: Ledger) -> None:
    for name in ("a", "b"):
        ledger.begin(command(name))
    ledger.end(command("a"), outcome("a"))
    for _ in range(2):
        assert ledger.find("a") == outcome("a")
        assert not ledger.begun("a")
        assert ledger.find("b") is None
        assert ledger.begun("b")
        assert ledger.unfinished() == (command("b"),)
        assert ledger.pending() == (outcome("a"),)
        ledger = reopened(ledger)
    ledger.close()


def test_an_acknowledged_outcome_is_not_sent_again_and_still_answers(ledger: Ledger) -> None:
    for name in ("a", "b"):
        ledger.end(command(name), outcome(name))
    ledger.acknowledge(["a", "never heard of"])
    for _ in range(2):
        assert ledger.pending() == (outcome("b"),)
        assert ledger.find("a") == outcome("a")
        ledger = reopened(ledger)
    ledger.close()


def test_quarantines_in_force_are_kept(ledger: Ledger) -> None:
    ledger.begin(command("a"), CLOSED)
    ledger.note(Closed(key="pod-2", boot_id="b", namespaces=()))
    ledger.end(command("b"), outcome("b"), "pod-2")
    for _ in range(2):
        assert ledger.closed() == (CLOSED,)
        ledger = reopened(ledger)
    ledger.note("pod-1")
    assert ledger.closed() == ()
    ledger.close()


def test_lines_are_written_into_room_that_is_on_disk_already(ledger: Ledger) -> None:
    size, number = ledger.path.stat().st_size, 0
    while ledger.path.stat().st_size == size:
        left = size - len(lines(ledger))
        assert left > 100_000
        ledger.end(command(f"n{number}"), outcome(f"n{number}"))
        # As the executor calls it after each command.
        assert not ledger.compact(now=0.0)
        number += 1
    assert number > 100
    ledger = reopened(ledger)
    assert len(ledger.pending()) == number
    assert ledger.damaged == 0
    assert ledger.path.stat().st_size - len(lines(ledger)) > 100_000
    ledger.close()


def test_every_torn_end_is_cut_off_and_written_over(ledger: Ledger) -> None:
    ledger.begin(command("a"))
    whole = len(lines(ledger))
    ledger.begin(command("b"))
    data = lines(ledger)
    ledger.close()
    for length in range(whole, len(data)):
        # As far as the file goes, and in room that was there before.
        ledger.path.write_bytes(data[:length] + bytes(length % 3 * 1000))
        torn = Ledger(ledger.path)
        assert [each.id for each in torn.unfinished()] == ["a"]
        assert torn.damaged == 0
        torn.begin(command("c"))
        torn = reopened(torn)
        assert [each.id for each in torn.unfinished()] == ["a", "c"]
        torn.close()


def test_a_damaged_line_in_the_middle_loses_no_other(ledger: Ledger) -> None:
    ledger.begin(command("a"))
    first = len(lines(ledger))
    ledger.begin(command("b"))
    data = bytearray(ledger.path.read_bytes())
    ledger.close()
    for position in range(0, first - 1, 7):
        broken = bytearray(data)
        broken[position] ^= 0x01
        ledger.path.write_bytes(broken)
        damaged = Ledger(ledger.path)
        assert "b" in [each.id for each in damaged.unfinished()]
        assert "a" not in [each.id for each in damaged.unfinished()]
        assert damaged.damaged >= 1
        damaged.close()


def test_a_second_agent_is_refused(ledger: Ledger) -> None:
    with pytest.raises(StoreError, match="in use"):
        Ledger(ledger.path)
    ledger.close()
    Ledger(ledger.path).close()


def test_a_ledger_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing/ledger"):
        Ledger(tmp_path / "missing" / "ledger")


def test_it_is_for_the_owner_alone(ledger: Ledger) -> None:
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    ledger.close()


def test_a_full_disk_takes_nothing_and_leaves_the_ledger_whole(tmp_path: Path) -> None:
    # The kernel's own full device: a write fails with ENOSPC, as on a full disk.
    ledger = Ledger(tmp_path / "ledger")
    ledger.begin(command("a"))
    good, ledger._file = ledger._file, os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StoreError, match="No space left"):
        ledger.begin(command("b"))
    os.close(ledger._file)
    ledger._file = good
    assert not ledger.begun("b")
    ledger.begin(command("c"))
    ledger = reopened(ledger)
    assert [each.id for each in ledger.unfinished()] == ["a", "c"]
    ledger.close()


def test_compaction_keeps_what_is_still_needed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quell.agent.ledger._SMALL", 1 << 16)
    ledger.note(CLOSED)
    ledger.begin(command("unfinished"))
    ledger.begin(command("unfinished and long expired", expires=0.0))
    ledger.end(command("never acknowledged"), outcome("never acknowledged"))
    for number in range(1000):
        name = f"n{number}"
        ledger.end(command(name, expires=0.0 if number < 990 else 100.0), outcome(name))
        ledger.acknowledge([name])
    before = len(lines(ledger))
    assert ledger.compact(now=KEEP + 50)
    assert len(lines(ledger)) < before / 50
    assert not ledger.compact(now=KEEP + 50)
    for _ in range(2):
        assert ledger.closed() == (CLOSED,)
        assert [each.id for each in ledger.unfinished()] == ["unfinished"]
        assert [each.id for each in ledger.pending()] == ["never acknowledged"]
        assert ledger.find("n989") is None
        assert ledger.find("n990") == outcome("n990")
        ledger.begin(command("unfinished"))
        ledger = reopened(ledger)
    ledger.close()
    assert not ledger.path.with_name("ledger.new").exists()


def test_a_small_file_is_left_as_it_is(ledger: Ledger) -> None:
    ledger.end(command("a", expires=0.0), outcome("a"))
    ledger.acknowledge(["a"])
    assert not ledger.compact(now=KEEP + 1)
    ledger.close()


_CRASH = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_agent_ledger import command, outcome
from quell.agent.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.begin(command("a"))
ledger.end(command("a"), outcome("a"))
print("survived")
"""


@pytest.mark.parametrize(
    ("fault", "begun", "ended"),
    [
        ("agent.ledger-before-write", False, False),
        ("agent.ledger-after-write", True, False),
        ("agent.ledger-before-write:2", True, False),
        ("agent.ledger-after-write:2", False, True),
    ],
)
def test_a_crash_at_each_write(tmp_path: Path, fault: str, begun: bool, ended: bool) -> None:
    path = tmp_path / "ledger"
    code = _CRASH.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "QUELL_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    ledger = Ledger(path)
    assert ledger.begun("a") is begun
    assert (ledger.find("a") is not None) is ended
    ledger.close()


def test_memory_is_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quell.agent.ledger.MOST_REMEMBERED", 50)
    monkeypatch.setattr("quell.agent.ledger._SMALL", 1)
    for number in range(300):
        ledger.end(command(f"n{number}"), outcome(f"n{number}"))
        ledger.acknowledge([f"n{number}"])
        ledger.compact(now=0.0)
    assert ledger.find("n0") is None
    assert ledger.find("n299") == outcome("n299")
    assert len(ledger._ended) <= 120
    assert MOST_REMEMBERED >= 1000
    ledger.close()
