"""Cuts what is older than the audit log is kept, and says in the log file where the log ends.

That line goes wherever logs are shipped to: the signed head alone cannot tell a log that was put back, whole, to an
older state from one that grew no further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from quell.errors import StoreError
from quell.storage import audit
from quell.storage.store import Store

#: Seconds between two looks.
PERIOD = 3600.0
#: Seconds that entries may be older than the age before they are cut: a cut a day, not one an entry.
SLACK = 86_400.0
#: Entries a transaction.
_STEP = 10_000

_log = structlog.get_logger(__name__)


class AuditKeeper:
    def __init__(
        self, store: Store, age: Callable[[], float | None], *, clock: Callable[[], float] = time.time
    ) -> None:
        """age: seconds that entries are kept; None: for ever."""
        self._store = store
        self._age = age
        self._clock = clock
        self._told = ""

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreError as error:
                _log.error("the audit log could not be looked after", error=str(error))
            await asyncio.sleep(PERIOD)

    async def look(self) -> int:
        """How many entries were cut."""
        age, now, removed = self._age(), self._clock(), 0
        if age is not None and await asyncio.to_thread(self._oldest_is_before, now - age - SLACK):
            while step := await asyncio.wrap_future(
                self._store.submit(lambda connection: audit.cut(connection, now - age, _STEP, now))
            ):
                removed += step
            _log.info("entries of the audit log were cut off", entries=removed)
        await asyncio.to_thread(self.tell)
        return removed

    def tell(self) -> None:
        """Log where the audit log ends, if it grew."""
        try:
            head = self._store.read(audit.ends).head
        except StoreError as error:
            _log.error("where the audit log ends cannot be read", error=str(error))
            return
        if head is not None and head.hash != self._told:
            self._told = head.hash
            _log.info("the audit log ends here", entry=head.n, hash=head.hash)

    def _oldest_is_before(self, moment: float) -> bool:
        first = self._store.read(lambda connection: connection.execute("SELECT min(time) FROM audit").fetchone())
        return first[0] is not None and first[0] / 1e6 < moment
