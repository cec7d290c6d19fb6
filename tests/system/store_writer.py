"""A process to be killed: it writes to a store as fast as it can and says on its output what is acknowledged.

Usage: store_writer.py PATH RUN. One line a thing: "event ID", "outcome ID", "document NAME", after the commit.
Its state is the list of the keys of all changes it made; it takes a snapshot of it now and then.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from quell import ids
from quell.errors import StoreError
from quell.model.action import Severity
from quell.model.decision import CooldownStarted, Decision, Flag, FlagClass, Outcome, OutcomeStatus
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject
from quell.storage import documents
from quell.storage.changes import Change
from quell.storage.documents import Document
from quell.storage.records import Entry, OutboxItem
from quell.storage.store import Store

CHANCE = random.SystemRandom()


def keys_of(change: Change) -> list[str]:
    return [one.key for one in change.changes if isinstance(one, CooldownStarted)]


def restored(store: Store) -> list[str]:
    snapshot, changes = store.restore()
    state = [] if snapshot is None else json.loads(snapshot)
    for change in changes:
        state += keys_of(change)
    return list(state)


def entry(run: int, serial: int) -> Entry:
    """Every third id is a given one; every second event has all that can follow from one."""
    given = serial % 3 == 0
    event_id = f"given/{run}/{serial}" if given else ids.uuid7()
    event = Event(
        id=event_id,
        id_given=given,
        time=None,
        received=time.time(),
        source="native",
        category=Category.EVENT,
        name="x",
        level=Level.INFO,
        subject=Subject(),
        raw=json.dumps({"run": run, "serial": serial, "fill": os.urandom(CHANCE.randrange(300)).hex()}).encode(),
    )
    decision = Decision(event_id=event_id, time=event.received, revision=run)
    if serial % 2:
        return Entry(event=event, decision=decision, own_id=not given)
    return Entry(
        event=event,
        decision=Decision(
            event_id=event_id,
            time=event.received,
            revision=run,
            changes=(CooldownStarted(key=f"event {event_id}", at=1.0, until=2.0),),
        ),
        outbox=(OutboxItem(id=f"{event_id}/1", channel="agent:a", body=b"x" * 50, created=event.received),),
        flags=(
            Flag(
                id=f"{event_id}/2",
                flag_class=FlagClass.RED,
                severity=Severity.HIGH,
                name="f",
                time=event.received,
                event_id=event_id,
            ),
        ),
        own_id=not given,
    )


def failure(future: Future[None]) -> StoreError | None:
    error = future.exception()
    return None if error is None else StoreError(str(error))


def main(path: Path, run: int) -> None:
    store = Store.open(path)
    state = restored(store)
    said = threading.Lock()
    slots = threading.Semaphore(20)

    def say(lines: list[str], error: StoreError | None) -> None:
        if error is not None:
            sys.stderr.write(f"a write failed: {error}\n")
            os._exit(3)
        with said:
            # One write, so that a killed process leaves at most the last line torn.
            os.write(1, "".join(f"{line}\n" for line in lines).encode())
        slots.release()

    os.write(1, b"ready\n")
    serial = 0
    for turn in itertools.count():
        slots.acquire()
        entries = [entry(run, serial + n) for n in range(CHANCE.choice((1, 1, 3, 20, 300)))]
        serial += len(entries)
        for one in entries:
            state += keys_of(one.decision)
        store.append(entries, lambda error, entries=entries: say([f"event {one.event.id}" for one in entries], error))  # type: ignore[misc]
        settled = [item.id for one in entries for item in one.outbox][:3]
        if settled:
            slots.acquire()
            state += [f"outcome {settled[0]}"]
            store.record_outcomes(
                [Outcome(id=item_id, status=OutcomeStatus.DONE, time=time.time()) for item_id in settled],
                lambda error, settled=settled: say([f"outcome {item_id}" for item_id in settled], error),  # type: ignore[misc]
                (CooldownStarted(key=f"outcome {settled[0]}", at=1.0, until=2.0),),
            )
        if turn % 5 == 0:
            slots.acquire()
            name = f"{run}/{turn}"

            def change(connection: object, name: str = name) -> None:
                # Two rows of one transaction: both or none.
                for kind in ("Group", "Webhook"):
                    documents.put(connection, Document(kind=kind, name=name, body=b"{}"))  # type: ignore[arg-type]

            future = store.submit(change, point="documents")
            future.add_done_callback(lambda future, name=name: say([f"document {name}"], failure(future)))  # type: ignore[misc]
        if turn % 7 == 3:
            slots.acquire()
            store.snapshot(json.dumps(state).encode(), lambda error: say([], error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
