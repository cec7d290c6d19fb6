"""What the inventory's sources said, so that a restart knows it. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from quell.model.sighting import Sighting
from quell.storage import packed

_encode = msgspec.msgpack.Encoder().encode
_decode: msgspec.msgpack.Decoder[Sighting] = msgspec.msgpack.Decoder(Sighting)
_INSERT = packed.statement("INSERT OR REPLACE INTO sightings (source, kind, key, body)", plain=3)
_DELETE = """
DELETE FROM sightings WHERE (source, kind, key) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?))
"""


#: source as in quell.model.sighting.Sightings; kind and key as in its Gone.
Key = tuple[str, str, str]


def put(connection: sqlite3.Connection, said: Iterable[tuple[Key, Sighting]]) -> None:
    """Adds these, or replaces what the same source said of the same thing."""
    rows = packed.pack((key, _encode(sighting)) for key, sighting in said)
    if rows[0] is not None:
        packed.run(connection, _INSERT, rows)


def delete(connection: sqlite3.Connection, keys: Iterable[Key]) -> None:
    connection.execute(_DELETE, (packed.rows_text([list(key) for key in keys]),))


def all_of(connection: sqlite3.Connection) -> list[tuple[Key, Sighting]]:
    rows = connection.execute("SELECT source, kind, key, body FROM sightings")
    return [((source, kind, key), _decode.decode(body)) for source, kind, key, body in rows]


def put_learned(connection: sqlite3.Connection, since: Mapping[str, float]) -> None:
    """The learned groups without a member, instead of all before, and when each lost its last (epoch seconds)."""
    connection.execute("DELETE FROM learned_groups")
    connection.executemany("INSERT INTO learned_groups (name, since) VALUES (?, ?)", since.items())


def learned(connection: sqlite3.Connection) -> dict[str, float]:
    return dict(connection.execute("SELECT name, since FROM learned_groups").fetchall())
