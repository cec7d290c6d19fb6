"""A store whose process is killed, at any moment and at each named point, and a disk without room."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.store_writer import entry, restored

from quell.errors import StoreError, StoreFull
from quell.storage import documents
from quell.storage.store import Store

#: What is tried differs from run to run; the failure says what was found.
CHANCE = random.SystemRandom()
WRITER = Path(__file__).with_name("store_writer.py")
SOURCE = Path(__file__).resolve().parents[2] / "src"


class Acknowledged:
    """What the killed processes said is on disk."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.outcomes: set[str] = set()
        self.documents: set[str] = set()

    def hear(self, output: bytes) -> None:
        # What follows the last line end was torn by the kill.
        for line in output[: output.rfind(b"\n") + 1].decode().splitlines():
            kind, _, name = line.partition(" ")
            if kind == "event":
                self.events.append(name)
            elif kind == "outcome":
                self.outcomes.add(name)
            elif kind == "document":
                self.documents.add(name)


def start(path: Path, run: int, fault: str = "") -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{SOURCE.parent}"}
    environment["QUELL_FAULT"] = fault
    return subprocess.Popen([sys.executable, WRITER, path, str(run)], stdout=subprocess.PIPE, env=environment)


def listen(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Its output until it ends, or for so long after it is ready; then it is killed."""
    assert process.stdout is not None
    output = b""
    deadline = time.monotonic() + 30
    while True:
        ready, _, _ = select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))
        piece = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not piece:
            break
        if not output:
            deadline = time.monotonic() + seconds
        output += piece
        if time.monotonic() >= deadline:
            break
    process.kill()
    # Commits it made before the signal may have been said already.
    output += process.stdout.read()
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    return output


def check(path: Path, told: Acknowledged) -> None:
    with Store.open(path) as store:
        stored = store.recent(1_000_000)
        events = [one.id for one in reversed(stored)]
        assert [name for name, count in Counter(events).items() if count > 1] == []
        assert set(told.events) <= set(events), "an acknowledged event is gone"
        positions = {event_id: n for n, event_id in enumerate(events)}
        places = [positions[event_id] for event_id in told.events]
        assert places == sorted(places), "the order of the journal is not that of the acknowledgements"

        # Nothing half: what follows from an event is there just if the event is.
        decided = [one.id for one in reversed(stored) if one.decision.changes]
        assert {flag.id for flag in store.flags(1_000_000)} == {f"{event_id}/2" for event_id in decided}
        waiting = [item.id for item in store.outbox()]
        assert len(waiting) == len(set(waiting))
        rows = store.read(lambda connection: connection.execute("SELECT id FROM outcomes").fetchall())
        settled = {row[0] for row in rows}
        assert len(settled) == len(rows)
        assert told.outcomes <= settled, "an acknowledged outcome is gone"
        assert settled | set(waiting) == {f"{event_id}/1" for event_id in decided}
        assert not settled & set(waiting)

        # The state is what the journal says, in its order.
        state = restored(store)
        assert [key.removeprefix("event ") for key in state if key.startswith("event ")] == decided
        outcomes = [key.removeprefix("outcome ") for key in state if key.startswith("outcome ")]
        assert len(outcomes) == len(set(outcomes))
        assert set(outcomes) <= settled

        # Every event can be looked up by its id, generated or given.
        for event_id in CHANCE.sample(events, min(50, len(events))):
            found = store.event(event_id)
            assert found is not None
            assert found.id == event_id
        assert store.known_ids(events) == set(events)

        kept = store.read(documents.all_of)
        groups = {one.name for one in kept if one.kind == "Group"}
        assert groups == {one.name for one in kept if one.kind == "Webhook"}
        assert told.documents <= groups, "an acknowledged document is gone"
        assert store.read(lambda c: c.execute("PRAGMA integrity_check").fetchone()) == ("ok",)


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_is_half(tmp_path: Path) -> None:
    for store in range(3):
        told = Acknowledged()
        path = tmp_path / str(store) / "quell.db"
        for run in range(10):
            told.hear(listen(start(path, run), CHANCE.uniform(0, 0.1)))
            check(path, told)
        assert told.events
        assert told.outcomes
        assert told.documents


POINTS = [
    f"{name}.{moment}:{count}"
    for name in ("journal", "outcome", "documents")
    for moment in ("before-commit", "after-commit")
    for count in (1, 3)
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_point_of_a_commit(tmp_path: Path, point: str) -> None:
    told = Acknowledged()
    path = tmp_path / "quell.db"
    for run, fault in enumerate((point, "")):
        told.hear(listen(start(path, run, fault), 20 if fault else 0.02))
        check(path, told)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.root
def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    path = small_disk / "quell.db"
    ballast = small_disk / "something else"
    ballast.write_bytes(bytes(1 << 20))
    kept: list[str] = []
    lost: list[str] = []

    def append(store: Store, serial: int) -> StoreError | None:
        entries = [entry(0, serial * 100 + n) for n in range(100)]
        told: list[StoreError | None] = []
        ready = threading.Event()
        store.append(entries, lambda error: (told.append(error), ready.set()))
        assert ready.wait(20)
        (kept if told[0] is None else lost).extend(one.event.id for one in entries)
        return told[0]

    with Store.open(path) as store:
        serial = 0
        while (error := append(store, serial)) is None:
            serial += 1
            assert serial < 1000, "the disk never got full"
        assert isinstance(error, StoreFull)
        assert isinstance(append(store, serial + 1), StoreFull)
        assert set(kept) == store.known_ids(kept)
        assert store.known_ids(lost) == set()
        ballast.unlink()
        assert append(store, serial + 2) is None
        assert [one.id for one in store.recent(100_000)] == kept[::-1]
    with Store.open(path) as store:
        assert [one.id for one in store.recent(100_000)] == kept[::-1]
