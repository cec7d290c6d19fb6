"""The history of attempts to deliver; retention keeps the newest. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec
from msgspec import Struct


class Delivery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt."""

    #: The outbox item's.
    id: str
    endpoint: str
    time: float
    #: From 1.
    attempt: int
    #: HTTP status; None: no answer.
    status: int | None = None
    delivered: bool = False
    explanation: str = ""
    #: Seconds.
    duration: float = 0.0
    event_id: str = ""


class Standing(Struct, frozen=True, kw_only=True):
    """How it goes with an endpoint, by the attempts that were made. Times in epoch seconds."""

    last_delivered: float | None = None
    #: Attempts that failed since then.
    failures: int = 0
    #: When the first of them did; None: none has.
    failing_since: float | None = None
    last_error: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Delivery).decode


def insert(connection: sqlite3.Connection, delivery: Delivery) -> None:
    connection.execute(
        "INSERT INTO deliveries (id, time, endpoint, delivered, body) VALUES (?, ?, ?, ?, ?)",
        (delivery.id, delivery.time, delivery.endpoint, delivery.delivered, _encode(delivery)),
    )


def recent(connection: sqlite3.Connection, limit: int) -> list[Delivery]:
    """Newest first."""
    return [each for _, each in paged(connection, limit, None)]


def paged(
    connection: sqlite3.Connection,
    limit: int,
    before: int | None,
    *,
    endpoint: str | None = None,
    event_id: str | None = None,
    delivered: bool | None = None,
) -> list[tuple[int, Delivery]]:
    """Newest first, each with its number; only those with a lower number than `before`, and those that are asked for."""
    where = ["(?1 IS NULL OR n < ?1)"]
    values: list[str | int | None] = [before, limit]
    for column, value in (("endpoint", endpoint), ("delivered", delivered)):
        if value is not None:
            values.append(value)
            where.append(f"{column} = ?{len(values)}")
    if event_id is not None:
        # Every id begins with its event's; "0" is the character after "/". Another event's may begin with this one's.
        values.append(event_id)
        where.append(f"id > ?{len(values)} || '/' AND id < ?{len(values)} || '0'")
    rows = connection.execute(
        f"SELECT n, body FROM deliveries WHERE {' AND '.join(where)} ORDER BY n DESC"  # noqa: S608 - made of literals
        + ("" if event_id is not None else " LIMIT ?2"),
        values,
    )
    found: list[tuple[int, Delivery]] = []
    for n, body in rows:
        delivery = _decode(body)
        if event_id in (None, delivery.event_id):
            found.append((n, delivery))
            if len(found) == limit:
                break
    return found


def of(connection: sqlite3.Connection, item_id: str) -> list[Delivery]:
    """The attempts for one outbox item, in order."""
    rows = connection.execute("SELECT body FROM deliveries WHERE id = ? ORDER BY n", (item_id,))
    return [_decode(body) for (body,) in rows]


def standings(connection: sqlite3.Connection, endpoints: Iterable[str]) -> dict[str, Standing]:
    """Of each of these endpoints, as the history has it."""
    return {endpoint: _standing(connection, endpoint) for endpoint in endpoints}


def _standing(connection: sqlite3.Connection, endpoint: str) -> Standing:
    delivered = connection.execute(
        "SELECT n, time FROM deliveries WHERE endpoint = ? AND delivered = 1 ORDER BY n DESC LIMIT 1", (endpoint,)
    ).fetchone()
    n, last_delivered = (0, None) if delivered is None else delivered
    failures, first, last = connection.execute(
        "SELECT count(*), min(n), max(n) FROM deliveries WHERE endpoint = ? AND delivered = 0 AND n > ?", (endpoint, n)
    ).fetchone()
    if not failures:
        return Standing(last_delivered=last_delivered)
    times = dict(connection.execute("SELECT n, body FROM deliveries WHERE n IN (?, ?)", (first, last)))
    return Standing(
        last_delivered=last_delivered,
        failures=failures,
        failing_since=_decode(times[first]).time,
        last_error=_decode(times[last]).explanation,
    )
