"""What is still to be sent: written with the event, removed with the outcome. SEMANTICS section 9."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from quell.storage import packed
from quell.storage.records import OutboxItem

# The id is derived from the event's, so a second one is the same thing again.
INSERT = packed.statement("INSERT OR IGNORE INTO outbox (id, channel, body)", plain=2)
DELETE = "DELETE FROM outbox WHERE id IN (SELECT value FROM json_each({ids}))"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OutboxItem).decode


def rows(items: Iterable[OutboxItem]) -> tuple[str, bytes] | tuple[None, None]:
    """For INSERT."""
    return packed.pack(((item.id, item.channel), _encode(item)) for item in items)


def insert(connection: sqlite3.Connection, items: Iterable[OutboxItem]) -> None:
    packed.run(connection, INSERT, rows(items))


def delete(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    connection.execute(DELETE.format(ids="?"), (packed.texts(ids),))


def waiting(connection: sqlite3.Connection, channel: str | None = None, limit: int = -1) -> list[OutboxItem]:
    """All items, or those of a channel, in the order they were written; the first `limit`, if it is not negative."""
    if channel is None:
        rows = connection.execute("SELECT body FROM outbox ORDER BY n LIMIT ?", (limit,))
    else:
        rows = connection.execute("SELECT body FROM outbox WHERE channel = ? ORDER BY n LIMIT ?", (channel, limit))
    return [_decode(body) for (body,) in rows]


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """How many items wait, by channel."""
    return dict(connection.execute("SELECT channel, count(*) FROM outbox GROUP BY channel").fetchall())


def get(connection: sqlite3.Connection, item_id: str) -> OutboxItem | None:
    row = connection.execute("SELECT body FROM outbox WHERE id = ?", (item_id,)).fetchone()
    return None if row is None else _decode(row[0])


def replace(connection: sqlite3.Connection, item: OutboxItem) -> None:
    """The item as it is from now on; one already settled stays away."""
    connection.execute("UPDATE outbox SET body = ? WHERE id = ?", (_encode(item), item.id))


def postpone(connection: sqlite3.Connection, item_id: str, attempts: int, due: float) -> None:
    """Notes that so many attempts were made and when the next may be; an item already settled stays away."""
    item = get(connection, item_id)
    if item is not None:
        replace(connection, msgspec.structs.replace(item, attempts=attempts, due=due))
