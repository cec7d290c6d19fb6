"""What stands behind the sensor: kept handles, notices, and events that wait for the controller."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from quell.agent.events import Notices
from quell.agent.outbox import Outbox
from quell.agent.pidfds import Pidfds
from quell.agent.sensor import Sensor
from quell.channel.messages import Observed
from quell.model.subject import Subject


def observed(number: int, size: int = 10) -> Observed:
    return Observed(id=f"id-{number}", raw=b"x" * size, received=float(number))


def refuse(lost: int) -> None:
    raise AssertionError(f"{lost} lost")


def is_kept(keeper: Pidfds | Sensor, pid: int) -> bool:
    handle = keeper.kept(pid)
    if handle is not None:
        os.close(handle)
    return handle is not None


def test_handles_are_closed_when_their_process_ends() -> None:
    handles = Pidfds()
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfd = os.pidfd_open(process.pid)
        handles.hold(process.pid, pidfd)
        handles.sweep()
        assert is_kept(handles, process.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 5)[0]
        handles.sweep()
        assert not is_kept(handles, process.pid)
        assert len(handles) == 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pidfd)
    handles.close()


def test_handles_are_bounded_and_the_oldest_go_first() -> None:
    handles = Pidfds(most=2)
    for number in (1, 2, 1, 3):
        handles.hold(number, os.pidfd_open(os.getpid()))
    assert [number for number in (1, 2, 3) if is_kept(handles, number)] == [1, 3]
    before = len(list(Path("/proc/self/fd").iterdir()))
    handles.close()
    assert before - len(list(Path("/proc/self/fd").iterdir())) == 3


def test_a_handle_is_not_closed_while_it_is_duplicated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its number would be another file's by then, and that file what a kill is proved on."""
    handles, duplicating, duplicate = Pidfds(most=1), threading.Event(), os.dup
    assert handles.kept(1) is None
    handles.hold(1, os.pidfd_open(1))

    def slow(number: int) -> int:
        duplicating.set()
        closing.join(0.3)
        return duplicate(number)

    def close() -> None:
        assert duplicating.wait(20)
        handles.hold(2, os.pidfd_open(os.getpid()))
        taken.append(os.open("/dev/null", os.O_RDONLY))

    monkeypatch.setattr(os, "dup", slow)
    taken: list[int] = []
    closing = threading.Thread(target=close)
    closing.start()
    mine = handles.kept(1)
    closing.join(20)
    assert mine is not None
    assert os.readlink(f"/proc/self/fd/{mine}") != "/dev/null"  # noqa: PTH115 - no path
    assert not is_kept(handles, 1)
    for number in (mine, *taken):
        os.close(number)
    handles.close()


def test_a_notice_is_said_at_once_and_then_kept_for_a_minute() -> None:
    told: list[dict[str, object]] = []

    async def scenario() -> None:
        notices = Notices(Subject(node="n"), lambda _id, raw: told.append(json.loads(raw)), lambda: 7.0)
        notices.note("Sensor.Events.Lost", "{count} lost", 3)
        notices.note("Sensor.Events.Lost", "{count} lost", 4)
        notices.note("Agent.Events.Lost", "{count} given up")

    asyncio.run(scenario())
    assert [(event["name"], event["details"]) for event in told] == [
        ("Sensor.Events.Lost", {"message": "3 lost"}),
        ("Agent.Events.Lost", {"message": "1 given up"}),
    ]
    assert told[0]["category"] == "event"
    assert told[0]["level"] == "Warning"
    assert told[0]["subject"] == {"node": "n"}
    assert told[0]["time"] == 7.0


def test_what_was_counted_meanwhile_is_said_after_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quell.agent.events._NOTICE_SECONDS", 0.02)
    told: list[str] = []

    async def scenario() -> None:
        second = asyncio.Event()

        def tell(_identity: str, raw: bytes) -> None:
            told.append(json.loads(raw)["details"]["message"])
            if len(told) == 2:
                second.set()

        notices = Notices(Subject(), tell, time.time)
        for count in (1, 2, 3):
            notices.note("x", "{count}", count)
        async with asyncio.timeout(5):
            await second.wait()
        # With nothing more to say, the next one is said at once again.
        await asyncio.sleep(0.06)
        notices.note("x", "{count}", 9)

    asyncio.run(scenario())
    assert told == ["1", "5", "9"]


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    first = Outbox(path, refuse)
    for number in range(4):
        first.put(observed(number))
    first.acknowledge(["id-1", "unknown"])
    first.close()
    second = Outbox(path, refuse)
    # An acknowledgement is not written down: a repetition is harmless, a write for each is not.
    assert second.waiting() == [observed(number) for number in range(4)]
    second.acknowledge([f"id-{number}" for number in range(4)])
    assert len(second) == 0
    assert path.stat().st_size == 0
    second.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "outbox"
    first = Outbox(path, refuse)
    first.put(observed(1))
    first.put(observed(2))
    first.close()
    path.write_bytes(path.read_bytes()[:-cut])
    second = Outbox(path, refuse)
    assert second.waiting() == [observed(1)]
    second.put(observed(3))
    second.close()
    third = Outbox(path, refuse)
    assert third.waiting() == [observed(1), observed(3)]
    third.close()


@pytest.mark.parametrize("bound", [{"most_events": 3}, {"most_bytes": 30}])
def test_at_the_bound_the_oldest_are_given_up_and_counted(tmp_path: Path, bound: dict[str, int]) -> None:
    lost: list[int] = []
    outbox = Outbox(tmp_path / "outbox", lost.append, **bound)
    for number in range(5):
        outbox.put(observed(number))
    assert [event.id for event in outbox.waiting()] == ["id-2", "id-3", "id-4"]
    assert lost == [1, 1]
    outbox.close()


def test_the_file_does_not_grow_while_something_always_waits(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    outbox = Outbox(path, refuse)
    outbox.put(observed(0))
    for number in range(1, 200):
        outbox.put(observed(number, 100_000))
        outbox.acknowledge([f"id-{number}"])
    assert path.stat().st_size < 6_000_000
    outbox.close()
    again = Outbox(path, refuse)
    assert observed(0) in again.waiting()
    again.close()
