"""Events and their decisions, in the order they were taken in. SEMANTICS section 9."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from operator import lt

import msgspec

from quell.storage import group, packed
from quell.storage.group import ID_BYTES, Group
from quell.storage.records import Entry, Stored

_INSERT = """
    INSERT INTO journal (seq, received_min, received_max, events, supplied, decided, codec, first_id, own, body)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           iif((value ->> 8) > 0, substr(?2, (value ->> 7) + 1, 16), NULL),
           substr(?2, (value ->> 7) + 1, value ->> 8), substr(?2, (value ->> 9) + 1, value ->> 10)
    FROM json_each(?1)
"""
_INSERT_IDS = packed.statement("INSERT INTO event_ids (id, seq, n)", plain=3, blobs=0)

_KNOWN = "SELECT json_group_array(value) FROM json_each(?1) WHERE EXISTS (SELECT 1 FROM event_ids WHERE id = value)"
# A generated id has no row of its own: it is in the last group that begins at or before it, or nowhere.
_KNOWN_OWN = """
    SELECT json_group_array(e.value) FROM json_each(?1) AS e
    WHERE (SELECT instr(own, substr(?2, 16 * e.key + 1, 16)) FROM journal
           WHERE first_id <= substr(?2, 16 * e.key + 1, 16) ORDER BY first_id DESC LIMIT 1) > 0
"""
_FIND = "SELECT seq, codec, own, body FROM journal JOIN event_ids USING (seq) WHERE id = ?"
_FIND_OWN = """
    SELECT seq, codec, own, body FROM
        (SELECT * FROM journal WHERE first_id <= ?1 ORDER BY first_id DESC LIMIT 1)
    WHERE instr(own, ?1) > 0
"""
_NEWEST = "SELECT seq, codec, own, body FROM journal WHERE seq <= ? ORDER BY seq DESC LIMIT ?"
_NEWEST_DECIDED = "SELECT seq, codec, own, body FROM journal WHERE seq <= ? AND decided > 0 ORDER BY seq DESC LIMIT ?"

_GENERATED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_names = msgspec.json.Decoder(list[str])

_MAX_SEQ = (1 << 63) - 1


def _id_bytes(ids: Sequence[str]) -> bytes | None:
    """16 bytes an id; None if one is not written as quell.ids.uuid7 writes it."""
    joined = "".join(ids)
    if joined != joined.lower():
        return None
    try:
        raw = bytes.fromhex(joined.replace("-", ""))
    except ValueError:
        return None
    return raw if len(raw) == ID_BYTES * len(ids) else None


def known(connection: sqlite3.Connection, ids: Sequence[str]) -> set[str]:
    """Those of the ids that the journal has."""
    if not ids:
        return set()
    found = set(_names.decode(connection.execute(_KNOWN, (packed.texts(ids),)).fetchone()[0]))
    generated = [event_id for event_id in ids if _GENERATED.fullmatch(event_id) and event_id not in found]
    if generated:
        raw = bytes.fromhex("".join(generated).replace("-", ""))
        found.update(_names.decode(connection.execute(_KNOWN_OWN, (packed.texts(generated), raw)).fetchone()[0]))
    return found


def _find(connection: sqlite3.Connection, event_id: str) -> Group | None:
    row = connection.execute(_FIND, (event_id,)).fetchone()
    if row is None and _GENERATED.fullmatch(event_id):
        row = connection.execute(_FIND_OWN, (bytes.fromhex(event_id.replace("-", "")),)).fetchone()
    return None if row is None else Group(*row)


def event(connection: sqlite3.Connection, event_id: str) -> Stored | None:
    found = _find(connection, event_id)
    return None if found is None else found.at(found.place(event_id))


def recent(connection: sqlite3.Connection, limit: int, before: str | None, *, decided: bool = False) -> list[Stored]:
    """At most `limit` events, newest first, older than the event `before`; decided: only those with a decision.

    An unknown `before` (retention took it) has nothing older.
    """
    result: list[Stored] = []
    seq = _MAX_SEQ
    if before is not None:
        first = _find(connection, before)
        if first is None:
            return []
        _take(result, first, first.place(before), limit, decided=decided)
        seq = first.seq - 1
    query = _NEWEST_DECIDED if decided else _NEWEST
    while len(result) < limit:
        rows = connection.execute(query, (seq, 8)).fetchall()
        if not rows:
            break
        for row in rows:
            if len(result) < limit:
                found = Group(*row)
                _take(result, found, len(found), limit, decided=decided)
        seq = rows[-1][0] - 1
    return result


def _take(result: list[Stored], found: Group, below: int, limit: int, *, decided: bool) -> None:
    for place in range(below - 1, -1, -1):
        if len(result) >= limit:
            return
        if not decided or found.is_decided(place):
            result.append(found.at(place))


class Appender:
    """Writes entries at the end. It belongs to the one writing thread and its connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._compressor = group.Compressor()
        self._bytes = 0
        self.resume()

    def resume(self) -> None:
        """Takes up where the committed journal ends: at the start, and after a transaction was rolled back."""
        (self._seq,) = self._connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()
        row = self._connection.execute(
            "SELECT substr(own, -16) FROM journal WHERE first_id IS NOT NULL ORDER BY first_id DESC LIMIT 1"
        ).fetchone()
        #: The greatest generated id so far.
        self._last = group.id_text(row[0]) if row else ""

    def take_bytes(self) -> int:
        """Bytes written since the last call."""
        taken, self._bytes = self._bytes, 0
        return taken

    def append(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Inserts what is new and returns it: of an id that came before, the first decision stands."""
        entries = self._unknown(entries)
        if not entries:
            return entries
        rows: list[list[object]] = []
        bodies: list[bytes] = []
        owns: list[bytes] = []
        ids: list[tuple[str, int, int]] = []
        for stretch in group.split(entries):
            self._seq += 1
            own, supplied = self._ids(stretch)
            decided, body = group.encode(stretch, supplied)
            received = [entry.event.received for entry in stretch]
            rows.append([self._seq, min(received), max(received), len(stretch), len(supplied), decided])
            owns.append(own)
            bodies.append(body)
            ids += [(event_id, self._seq, n) for n, event_id in supplied.items()]
        parts: list[bytes] = []
        at = 0
        for row, own, (codec, body) in zip(rows, owns, self._compressor.pack(bodies), strict=True):
            row.extend((codec, at, len(own), at + len(own), len(body)))
            parts += (own, body)
            at += len(own) + len(body)
        self._bytes += at
        self._connection.execute(_INSERT, (packed.rows_text(rows), b"".join(parts)))
        if ids:
            self._connection.execute(_INSERT_IDS, (packed.rows_text(ids),))
        return entries

    def _unknown(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        supplied = [entry.event.id for entry in entries if not entry.own_id]
        if not supplied:
            return entries
        found = known(self._connection, supplied)
        if not found and len(set(supplied)) == len(supplied):
            return entries
        fresh: list[Entry] = []
        for entry in entries:
            if not entry.own_id:
                if entry.event.id in found:
                    continue
                found.add(entry.event.id)
            fresh.append(entry)
        return fresh

    def _ids(self, entries: Sequence[Entry]) -> tuple[bytes, dict[int, str]]:
        """The generated ids as bytes, and the others by place.

        Looking a generated id up needs that they rise over the whole journal. One that does not (the clock went back
        over a restart, two batches overtook each other) is kept as if it had come with its event.
        """
        supplied = {n: entry.event.id for n, entry in enumerate(entries) if not entry.own_id}
        own = [entry.event.id for entry in entries if entry.own_id]
        if not own:
            return b"", supplied
        raw = _id_bytes(own)
        if raw is not None and own[0] > self._last and all(map(lt, own, own[1:])):
            self._last = own[-1]
            return raw, supplied
        rising = []
        for n, entry in enumerate(entries):
            if not entry.own_id:
                continue
            if entry.event.id > self._last and _GENERATED.fullmatch(entry.event.id):
                self._last = entry.event.id
                rising.append(entry.event.id)
            else:
                supplied[n] = entry.event.id
        return _id_bytes(rising) or b"", supplied
