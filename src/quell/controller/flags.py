"""Flags as people see and acknowledge them. SEMANTICS section 6, docs/flags.md."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence

from quell.clock import Clock
from quell.controller.markdown import safe_html
from quell.model.audit import Actor, AuditEntry
from quell.model.flag import Acknowledgement, FlagShown, KeptFlag
from quell.storage import audit, flags
from quell.storage.store import Store


class Flags:
    """What people do with the flags of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def acknowledge(self, identifiers: Sequence[str], by: Actor, note: str) -> list[str]:
        """Those that are acknowledged now and were not; what somebody else has acknowledged stays theirs. StoreError."""
        now = self._clock()
        given = Acknowledgement(by=str(by), time=now, note=note)

        def change(connection: sqlite3.Connection) -> list[str]:
            changed = flags.acknowledge(connection, identifiers, given)
            for identifier in changed:
                audit.append(
                    connection, AuditEntry(actor=by, verb="acknowledge", kind="flag", name=identifier, note=note), now
                )
            return changed

        return await asyncio.wrap_future(self._store.submit(change))

    async def take_back(self, identifiers: Sequence[str], by: Actor, note: str) -> list[str]:
        """Those that were acknowledged and are no more. StoreError."""
        now = self._clock()

        def change(connection: sqlite3.Connection) -> list[str]:
            before = {one: flags.get(connection, one) for one in identifiers}
            changed = flags.acknowledge(connection, identifiers, None)
            for identifier in changed:
                kept = before[identifier]
                was = None if kept is None or kept.acknowledged is None else {"acknowledged_by": kept.acknowledged.by}
                entry = AuditEntry(actor=by, verb="unacknowledge", kind="flag", name=identifier, before=was, note=note)
                audit.append(connection, entry, now)
            return changed

        return await asyncio.wrap_future(self._store.submit(change))


def shown(kept: KeptFlag) -> FlagShown:
    flag = kept.flag
    return FlagShown(
        id=flag.id,
        flag_class=flag.flag_class.value,
        class_path=flag.class_path,
        severity=flag.severity.value,
        name=flag.name,
        description=flag.description,
        impact=flag.impact,
        content=flag.content,
        content_html=safe_html(flag.content) if flag.content else "",
        subject=flag.subject,
        asked_by=flag.asked_by,
        event_id=flag.event_id,
        time=flag.time,
        count=flag.count,
        repeats=flag.repeats,
        last=flag.last,
        webhooks=flag.webhooks,
        silent=flag.silent,
        acknowledged=kept.acknowledged,
        trace=kept.trace or None,
    )
