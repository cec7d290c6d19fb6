"""Flags about Quell's own work, which no event led to: kept and told as any other. SEMANTICS section 6."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from quell.controller.bodies import body
from quell.controller.notices import flag_notice
from quell.model.decision import Flag
from quell.model.rule import Webhook
from quell.response.endpoints import subscribers
from quell.storage import flags, outbox, packed
from quell.storage.records import OutboxItem


def told_to(flag: Flag, webhooks: Mapping[str, Webhook]) -> list[OutboxItem]:
    """A delivery for each endpoint that subscribes to flags."""
    return [
        OutboxItem(
            id=f"{flag.id}/webhook/{name}",
            channel=f"webhook:{name}",
            body=body(webhooks[name].type, flag_notice(flag)),
            created=flag.time,
        )
        for name in subscribers(flag, webhooks)
    ]


def keep(connection: sqlite3.Connection, flag: Flag, items: Sequence[OutboxItem]) -> None:
    """In the caller's transaction. The same id again changes nothing."""
    packed.run(connection, flags.INSERT, flags.rows([flag]))
    if items:
        outbox.insert(connection, items)
