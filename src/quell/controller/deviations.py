"""Deviations as they repeat: which of them become events, and how often each came. SEMANTICS section 5, ADR 0019.

On the event loop's thread only. Counts are in memory and written about once a second; what a deviation says is written
once. A process or container counts once for each checksum, also when its agent tells of it again after a lost link or a
restart: digests of the last ones are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import structlog

from quell import metrics
from quell.clock import Clock
from quell.controller.guardian_settings import GuardianSettings
from quell.errors import StoreError
from quell.model.details import Deviation
from quell.model.observation import Observation
from quell.model.repeats import Standing
from quell.model.subject import Subject
from quell.setting import read_age, read_budget
from quell.storage import deviations as stored
from quell.storage.deviations import Counts, Told
from quell.storage.store import Store

#: Seconds after which a repeat becomes an event again where nothing is done to processes.
AGAIN = 3600.0
#: Policies' bounds of rows, all together.
POLICIES = 20
#: Processes and containers that are remembered of one deviation over a restart, and of all in memory.
REMEMBERED, INSTANCES = 32, 65_536
#: Rows written in one go.
SAVED = 1000

_log = structlog.get_logger(__name__)


class Found(NamedTuple):
    """A deviation of one process or container."""

    #: The policy's name.
    policy: str
    deviation: Deviation
    #: Of its event.
    name: str
    subject: Subject
    #: Epoch seconds.
    time: float
    #: What tells this process or container from all others.
    instance: str
    example: Observation | None = None


class _Row:
    """One policy and checksum."""

    __slots__ = (
        "checksum",
        "count",
        "event_id",
        "event_time",
        "events",
        "first",
        "last",
        "omitted",
        "policy",
        "recent",
        "saved",
        "status",
        "subject",
        "told",
        "what",
        "window",
    )

    def __init__(self, counts: Counts, told: Told | None = None, subject: Subject | None = None) -> None:
        """told: what is still to be written of it; None: it is."""
        self.policy = counts.policy
        self.checksum = counts.checksum
        self.what = counts.what
        self.status = counts.status
        self.first = counts.first
        self.last = counts.last
        self.count = counts.count
        self.events = counts.events
        self.omitted = counts.omitted
        self.event_id = counts.event_id
        self.event_time = counts.event_time
        self.recent = deque(counts.instances, maxlen=REMEMBERED)
        self.told = told
        self.subject = subject
        #: When it became an event of late.
        self.window: deque[float] = deque()

    @property
    def key(self) -> stored.Key:
        return self.policy, self.checksum

    @property
    def counts(self) -> Counts:
        return Counts(
            policy=self.policy,
            checksum=self.checksum,
            what=self.what,
            status=self.status,
            first=self.first,
            last=self.last,
            count=self.count,
            events=self.events,
            omitted=self.omitted,
            event_id=self.event_id,
            event_time=self.event_time,
            instances=tuple(self.recent),
        )


class Deviations:
    def __init__(self, store: Store, settings: GuardianSettings, clock: Clock) -> None:
        """StoreError."""
        self._store = store
        self._clock = clock
        self._most = settings.deviations
        self._age = read_age(settings.deviations_age)
        self._of_checksum = read_budget(settings.events_checksum)
        self._of_policy = read_budget(settings.events_policy)
        #: By policy, then checksum; the one not seen for longest first.
        self._rows: dict[str, OrderedDict[str, _Row]] = {}
        #: All, likewise.
        self._all: OrderedDict[stored.Key, _Row] = OrderedDict()
        #: Digest of policy, checksum and instance -> whether it became an event that something is done for.
        self._instances: OrderedDict[str, bool] = OrderedDict()
        self._windows: dict[str, deque[float]] = {}
        self._changed: dict[stored.Key, _Row] = {}
        self._gone: dict[stored.Key, None] = {}
        for counts in sorted(store.read(stored.counts), key=lambda counts: counts.last):
            self._keep(_Row(counts))
            for word in counts.instances:
                self._remember(word.removesuffix("!"), word.endswith("!"))

    # ---- found

    def count(self, found: Found, *, acts: bool) -> str | None:
        """Takes one that was found. The id of the event that it is to become; None: it is only counted.

        acts: something is done to each such process, so that each new one becomes an event, within bounds; else the
        first does, and after an hour another one.
        """
        checksum = found.deviation.checksum or ""
        row = self._all.get((found.policy, checksum))
        digest = _digest(found.policy, checksum, found.instance)
        acted = self._instances.get(digest)
        if row is not None and (acted or (acted is False and not acts)):
            self._instances.move_to_end(digest)
            self._seen(row, found)
            return None
        if row is None:
            row = self._new(found, checksum)
        if acted is None:
            row.count += 1
        self._seen(row, found)
        identifier = self._event(row, digest, acts=acts)
        self._remember(digest, acts and identifier is not None)
        self._note(row, digest, acts=acts and identifier is not None)
        return identifier

    def note(self, found: Found, event_id: str) -> None:
        """One that came ready-made, as an event."""
        checksum = found.deviation.checksum or ""
        row = self._all.get((found.policy, checksum)) or self._new(found, checksum)
        digest = _digest(found.policy, checksum, found.instance)
        if digest not in self._instances:
            row.count += 1
            row.events += 1
            row.event_id, row.event_time = event_id, self._clock()
            self._remember(digest, False)
            self._note(row, digest, acts=False)
        self._seen(row, found)

    def _new(self, found: Found, checksum: str) -> _Row:
        counts = Counts(
            policy=found.policy, checksum=checksum, what=found.deviation.what, first=found.time, last=found.time
        )
        told = Told(name=found.name, deviation=found.deviation, example=found.example)
        row = _Row(counts, told, found.subject)
        self._keep(row)
        of_policy = self._rows[found.policy]
        if len(of_policy) > self._most:
            self._drop(next(iter(of_policy.values())))
        elif len(self._all) > self._most * POLICIES:
            self._drop(next(iter(self._all.values())))
        return row

    def _seen(self, row: _Row, found: Found) -> None:
        row.last = max(row.last, found.time)
        row.subject = found.subject
        if row.status is not Standing.OPEN:
            row.status = Standing.OPEN
        self._all.move_to_end(row.key)
        self._rows[row.policy].move_to_end(row.checksum)
        self._changed[row.key] = row

    def _event(self, row: _Row, digest: str, *, acts: bool) -> str | None:
        now = self._clock()
        if not acts and row.events and now - row.event_time < AGAIN:
            return None
        of_policy = self._windows.setdefault(row.policy, deque())
        if _is_full(row.window, self._of_checksum, now) or _is_full(of_policy, self._of_policy, now):
            row.omitted += 1
            metrics.deviation_omitted()
            return None
        row.window.append(now)
        of_policy.append(now)
        row.events += 1
        row.event_time = now
        row.event_id = f"deviation/{digest}{'/acts' if acts else ''}"
        return row.event_id

    def _remember(self, digest: str, acts: bool) -> None:
        self._instances[digest] = acts
        self._instances.move_to_end(digest)
        while len(self._instances) > INSTANCES:
            self._instances.popitem(last=False)

    @staticmethod
    def _note(row: _Row, digest: str, *, acts: bool) -> None:
        if not acts and digest in row.recent:
            return
        if acts and digest in row.recent:
            row.recent.remove(digest)
        row.recent.append(f"{digest}!" if acts else digest)

    def _keep(self, row: _Row) -> None:
        self._rows.setdefault(row.policy, OrderedDict())[row.checksum] = row
        self._all[row.key] = row
        self._gone.pop(row.key, None)

    def _drop(self, row: _Row) -> None:
        of_policy = self._rows[row.policy]
        del of_policy[row.checksum], self._all[row.key]
        if not of_policy:
            del self._rows[row.policy]
        self._changed.pop(row.key, None)
        self._gone[row.key] = None

    # ---- kept

    def tick(self) -> None:
        """About once a second: forget what is too old, write what is new."""
        now = self._clock()
        while self._all and self._age is not None:
            oldest = next(iter(self._all.values()))
            if oldest.last >= now - self._age:
                break
            self._drop(oldest)
        idle = [policy for policy, times in self._windows.items() if not times or times[-1] < now - self._of_policy[1]]
        for policy in idle:
            del self._windows[policy]
        self.save(SAVED)

    def close(self) -> None:
        """Write the rest."""
        while self.save(SAVED):
            pass

    def save(self, limit: int | None = None) -> bool:
        """Queue up to so many for the disk, None: all. False: there was nothing."""
        if not self._changed and not self._gone:
            return False
        rows = list(self._changed.values())[:limit]
        gone, self._gone = list(self._gone), {}
        new = [(row.counts, row.subject or Subject(), row.told) for row in rows if row.told is not None]
        old = [(row.counts, row.subject) for row in rows if row.told is None]
        told = {row.key: row.told for row in rows}
        for row in rows:
            del self._changed[row.key]
            row.told = row.subject = None

        def write(connection: sqlite3.Connection) -> None:
            stored.delete(connection, gone)
            for counts, subject, body in new:
                stored.add(connection, counts, subject, body)
            stored.update(connection, old)

        def done(error: StoreError | None) -> None:
            if error is None:
                return
            _log.error("deviations could not be counted on disk yet", error=str(error))
            self._gone |= dict.fromkeys(key for key in gone if key not in self._all)
            for row in rows:
                if self._all.get(row.key) is row:
                    row.told = told[row.key]
                    self._changed[row.key] = row

        self._store.write(write, done)
        return True

    async def saved(self) -> None:
        """All that was counted so far is on disk. StoreError."""
        self.close()
        # Whoever waits may be cancelled, and the write goes on.
        await asyncio.shield(asyncio.wrap_future(self._store.submit(lambda _connection: None)))

    # ---- asked and changed

    def totals(self) -> Mapping[str, tuple[int, int]]:
        """Policy -> how many different ones are open, and how often they came."""
        found: dict[str, tuple[int, int]] = {}
        for policy, rows in self._rows.items():
            waiting = [row for row in rows.values() if row.status is Standing.OPEN]
            found[policy] = len(waiting), sum(row.count for row in waiting)
        return found

    def has(self, policy: str) -> bool:
        """Whether anything deviated from it."""
        return policy in self._rows

    def set_status(self, keys: Iterable[stored.Key], status: Standing) -> None:
        """What was merged stays so, unless it deviates again."""
        for key in keys:
            row = self._all.get(key)
            if row is None or row.status is status:
                continue
            if row.status is not Standing.MERGED or status is Standing.OPEN:
                row.status = status
                self._changed[key] = row

    def forget(self, keys: Iterable[stored.Key]) -> int:
        """How many there were."""
        rows = [row for key in keys if (row := self._all.get(key)) is not None]
        for row in rows:
            self._drop(row)
        return len(rows)


def _is_full(times: deque[float], bound: tuple[int, float], now: float) -> bool:
    most, window = bound
    while times and times[0] <= now - window:
        times.popleft()
    return len(times) >= most


def _digest(policy: str, checksum: str, instance: str) -> str:
    return hashlib.blake2b(f"{policy}\0{checksum}\0{instance}".encode(), digest_size=16).hexdigest()
