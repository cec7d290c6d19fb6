"""Events and their decisions, in the order they were taken in. SEMANTICS section 9."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from quell.storage import answers, group, packed, summary
from quell.storage.group import ID_BYTES, Chunk, Group
from quell.storage.records import Stored

#: Rows of Appender.rows, which summary.INSERT takes as well; {rows} and {bytes} are the parameters.
INSERT = """
    INSERT INTO journal
        (seq, received_min, received_max, events, supplied, decided, codec, first_id, own, ids, body, answers_from)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
           iif((value ->> 8) > 0, substr({bytes}, (value ->> 7) + 1, 16), NULL),
           substr({bytes}, (value ->> 7) + 1, value ->> 8),
           substr({bytes}, (value ->> 9) + 1, value ->> 10),
           substr({bytes}, (value ->> 11) + 1, value ->> 12),
           value ->> 18
    FROM json_each({rows}) WHERE true
"""
INSERT_IDS = packed.statement("INSERT INTO event_ids (id, seq, n)", plain=3, blobs=0)

_KNOWN = "SELECT json_group_array(value) FROM json_each(?1) WHERE EXISTS (SELECT 1 FROM event_ids WHERE id = value)"
# A generated id has no row of its own: it is in the last group that begins at or before it, or nowhere.
_KNOWN_OWN = """
    SELECT json_group_array(e.value) FROM json_each(?1) AS e
    WHERE (SELECT instr(own, substr(?2, 16 * e.key + 1, 16)) FROM journal
           WHERE first_id <= substr(?2, 16 * e.key + 1, 16) ORDER BY first_id DESC LIMIT 1) > 0
"""
_FIND = "SELECT seq, codec, own, ids, body FROM journal JOIN event_ids USING (seq) WHERE id = ?"
_FIND_OWN = """
    SELECT seq, codec, own, ids, body FROM
        (SELECT * FROM journal WHERE first_id <= ?1 ORDER BY first_id DESC LIMIT 1)
    WHERE instr(own, ?1) > 0
"""
_NEWEST = "SELECT seq, codec, own, ids, body FROM journal WHERE seq <= ? ORDER BY seq DESC LIMIT ?"
_NEWEST_DECIDED = """
    SELECT seq, codec, own, ids, body FROM journal_summary AS s CROSS JOIN journal USING (seq)
    WHERE s.seq <= ? AND s.decided > 0 ORDER BY s.seq DESC LIMIT ?
"""

#: The form of generated ids; others may have it too.
_GENERATED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_names = msgspec.json.Decoder(list[str])

_MAX_SEQ = (1 << 63) - 1


class Packed(Struct, frozen=True):
    """Parameters of INSERT, and of INSERT_IDS if there are any."""

    rows: str
    bytes: bytes
    ids: str | None


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
        row = connection.execute(_FIND_OWN, (group.id_bytes(event_id),)).fetchone()
    return None if row is None else _unpacked(connection, row)


def _unpacked(connection: sqlite3.Connection, row: tuple[int, int, bytes, bytes, bytes]) -> Group:
    seq, codec, own, ids, body = row
    return Group(partial(answers.get, connection), seq, own, ids, group.unpack(codec, body))


def event(connection: sqlite3.Connection, event_id: str) -> Stored | None:
    found = _find(connection, event_id)
    return None if found is None else found.at(found.place(event_id))


def place(connection: sqlite3.Connection, event_id: str) -> tuple[int, int] | None:
    """Row and place in it; None: it is not there."""
    found = _find(connection, event_id)
    return None if found is None else (found.seq, found.place(event_id))


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
                found = _unpacked(connection, row)
                _take(result, found, len(found), limit, decided=decided)
        seq = rows[-1][0] - 1
    return result


def _take(result: list[Stored], found: Group, below: int, limit: int, *, decided: bool) -> None:
    for place in range(below - 1, -1, -1):
        if len(result) >= limit:
            return
        if not decided or found.said(place) is not None:
            result.append(found.at(place))


class Appender:
    """Makes rows of what is appended. It belongs to the writing thread and its connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._compressor = group.Compressor()
        self.resume()

    def resume(self) -> None:
        """Takes up where the committed journal ends: at the start, and after a transaction was rolled back."""
        self._seq = summary.end(self._connection) - 1
        row = self._connection.execute(
            "SELECT substr(own, -16) FROM journal WHERE first_id IS NOT NULL ORDER BY first_id DESC LIMIT 1"
        ).fetchone()
        #: The greatest generated id so far.
        self._last: bytes = row[0] if row else b""

    def fresh(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """The chunks, one for one, without events whose id came before: of those the first decision stands."""
        supplied = [event_id for chunk in chunks for event_id in chunk.supplied.values()]
        if not supplied:
            return chunks
        found = known(self._connection, supplied)
        if not found and len(set(supplied)) == len(supplied):
            return chunks
        result: list[Chunk] = []
        for chunk in chunks:
            left: list[int] = []
            for n in range(chunk.events):
                event_id = chunk.supplied.get(n)
                if event_id is None or event_id not in found:
                    left.append(n)
                if event_id is not None:
                    found.add(event_id)
            result.append(chunk if len(left) == chunk.events else group.select(chunk, left))
        return result

    def rows(self, chunks: Sequence[Chunk]) -> Packed:
        """As rows for INSERT and, if there are any, for INSERT_IDS."""
        seq = self._seq
        rows: list[list[object]] = []
        summaries: list[list[object]] = []
        beside: list[tuple[bytes, bytes]] = []
        ids: list[tuple[str, int, int]] = []
        grouped = group.rows([self._in_order(chunk) for chunk in chunks if chunk.events])
        for row in grouped:
            seq += 1
            events = decided = 0
            supplied: dict[int, str] = {}
            for chunk in row:
                for n, event_id in chunk.supplied.items():
                    supplied[events + n] = event_id
                events += chunk.events
                decided += chunk.decided
            received_min = min([chunk.received_min for chunk in row])
            received_max = max([chunk.received_max for chunk in row])
            rows.append([seq, received_min, received_max, events, len(supplied), decided])
            summaries.append(
                [
                    *summary.columns([chunk.summary for chunk in row], group.rules(row)),
                    min([chunk.answers.first for chunk in row]),
                ]
            )
            beside.append((b"".join([chunk.own for chunk in row]), group.pack_ids(supplied)))
            ids += [(event_id, seq, n) for n, event_id in supplied.items()]
        self._seq = seq
        parts: list[bytes] = []
        at = 0
        bodies = self._compressor.pack(grouped)
        for columns, summed, (own, given), (codec, body) in zip(rows, summaries, beside, bodies, strict=True):
            after = at + len(own) + len(given)
            columns.extend((codec, at, len(own), at + len(own), len(given), after, len(body), *summed))
            parts += (own, given, body)
            at = after + len(body)
        return Packed(packed.rows_text(rows), b"".join(parts), packed.rows_text(ids) if ids else None)

    def _in_order(self, chunk: Chunk) -> Chunk:
        """Looking a generated id up needs that they rise over the whole journal. Those that do not (the clock went back
        over a restart, two batches overtook each other) are kept as if they had come with their events.
        """
        if not chunk.own:
            return chunk
        if chunk.own[:ID_BYTES] <= self._last:
            return group.all_supplied(chunk)
        self._last = chunk.own[-ID_BYTES:]
        return chunk
