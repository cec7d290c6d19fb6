"""Names that events carried and that no catalogue has: DLP.<sensor>.<rule>, WAF.<sensor>.<rule>, detectors' own rules,
numbers and custom checks of compliance reports. SEMANTICS section 1: "completion offers those defined or seen".

On the event loop's thread, beside what is decided: a batch costs one set of its names. What is new is taken up to so
many a second, so that a flood of made-up names costs nothing, and is written by and by.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import structlog

from quell.catalogue.names import NAMES, resolve
from quell.clock import Clock
from quell.errors import StoreError
from quell.model.details import ComplianceReport
from quell.model.event import Category, Event
from quell.storage import names_seen as stored
from quell.storage.names_seen import NameSeen
from quell.storage.store import Store

#: Of one category, the newest ones.
KEPT = 1000
#: Taken up in a second.
NEW_A_SECOND = 200
#: Compliance reports that are looked into in a second.
REPORTS_A_SECOND = 50
LONGEST = 256
_KNOWN = 50_000
_TICK = 1.0

_REPORTED = frozenset(entry.name for entry in NAMES.values() if entry.category is Category.COMPLIANCE)

_name = attrgetter("name")
_log = structlog.get_logger(__name__)


class NamesSeen:
    def __init__(self, store: Store, clock: Clock) -> None:
        """StoreError."""
        self._store = store
        self._clock = clock
        self._seen: dict[str, OrderedDict[str, NameSeen]] = {category.value: OrderedDict() for category in Category}
        #: Names that need no look: those of the catalogue, and those taken up.
        self._known: set[str] = set()
        #: Those under which compliance reports come.
        self._reported = set(_REPORTED)
        self._reports: deque[Event] = deque(maxlen=REPORTS_A_SECOND)
        self._room = NEW_A_SECOND
        self._put: list[NameSeen] = []
        self._gone: list[tuple[str, str]] = []
        for each in store.read(stored.all_of):
            if each.category in self._seen:
                self._seen[each.category][each.name] = each
        self._learn_known()

    def note(self, events: Sequence[Event]) -> None:
        """What these events are called, where it is news."""
        names = set(map(_name, events))
        if not names <= self._known and self._room > 0:
            self._take(names - self._known, events)
        if not names.isdisjoint(self._reported):
            self._reports.extend([event for event in events if event.category is Category.COMPLIANCE])

    def of(self, category: Category) -> list[NameSeen]:
        """Newest first."""
        return list(reversed(self._seen[category.value].values()))

    @property
    def words(self) -> Mapping[str, str]:
        """Without case -> as sent: what quell.documents.load takes for known."""
        return {name.casefold(): name for seen in self._seen.values() for name in seen}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            await self.round()

    async def round(self) -> None:
        """What is to be done once a second."""
        reports = list(self._reports)
        self._reports.clear()
        if reports:
            self._add(await asyncio.to_thread(_numbers, reports), Category.COMPLIANCE)
        self.save()
        self._room = NEW_A_SECOND

    def save(self) -> None:
        """Queue what is new for the disk. After a failure it is news again when it is next seen."""
        if not self._put and not self._gone:
            return
        seen = self._seen
        put = [each for each in self._put if seen[each.category].get(each.name) is each]
        gone = [(category, name) for category, name in self._gone if name not in seen[category]]
        self._put, self._gone = [], []

        def done(error: StoreError | None) -> None:
            if error is not None:
                _log.error("names of events could not be saved", error=str(error))

        def write(connection: sqlite3.Connection) -> None:
            stored.put(connection, put)
            stored.delete(connection, gone)

        self._store.write(write, done)

    def _take(self, new: set[str], events: Sequence[Event]) -> None:
        for event in events:
            if event.name not in new:
                continue
            new.discard(event.name)
            self._known.add(event.name)
            if event.category is Category.COMPLIANCE:
                self._reported.add(event.name)
            if resolve(event.name) is None:
                self._add([(event.name, event.source, event.kind or "")], event.category)
            self._room -= 1
            if self._room <= 0 or not new:
                break
        if len(self._known) > _KNOWN:
            self._learn_known()

    def _add(self, names: Iterable[tuple[str, str, str]], category: Category) -> None:
        """names: with their source and kind."""
        seen = self._seen[category.value]
        for name, source, kind in names:
            if name in seen or not 0 < len(name) <= LONGEST or not name.isprintable():
                continue
            each = NameSeen(category=category.value, name=name, kind=kind, source=source, seen=self._clock())
            seen[name] = each
            self._put.append(each)
            while len(seen) > KEPT:
                oldest, _ = seen.popitem(last=False)
                # It is news again when it next comes.
                self._known.discard(oldest)
                self._gone.append((category.value, oldest))

    def _learn_known(self) -> None:
        reported = self._seen[Category.COMPLIANCE.value]
        self._reported &= {*_REPORTED, *reported}
        # A report's own name is to be looked at once more, to be told from the numbers in it.
        self._known = {*NAMES, *(name for seen in self._seen.values() if seen is not reported for name in seen)}
        self._known |= self._reported


def _numbers(reports: Iterable[Event]) -> list[tuple[str, str, str]]:
    """Numbers and custom checks of compliance reports, with their sources."""
    found: dict[str, tuple[str, str, str]] = {}
    for event in reports:
        details = event.details()
        if isinstance(details, ComplianceReport):
            for item in details.items:
                found.setdefault(item.number, (item.number, event.source, ""))
    return list(found.values())
