"""How events lie in a row of the journal: some neighbours in one body, by columns, which encode fast and compress well.

A Chunk is encoded by whoever appends it, while the events are in that processor's cache; reading them from another
thread later costs more of the interpreter lock than all the rest. The writer only joins chunks to rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from operator import attrgetter, lt

import msgspec
import zstandard
from msgspec import Struct

from quell.model.decision import Decision, Flag
from quell.model.subject import Subject
from quell.storage import summary
from quell.storage.records import Entry, OutboxItem, Stored
from quell.storage.summary import Summary

#: At most so many events and bytes a row, so that looking up one event unpacks little.
MAX_EVENTS = 256
MAX_BYTES = 512 << 10
#: Smaller bodies are not worth compressing one by one.
COMPRESS_BYTES = 4 << 10

PLAIN = 0
ZSTD = 1

#: Bytes of a generated id: a UUID.
ID_BYTES = 16


class Columns(Struct, frozen=True, array_like=True):
    """What the body says of each event of a chunk; ids lie beside it."""

    received: list[float]
    sources: list[str]
    raws: list[bytes]
    #: Of each decision: when, and by which revision of the documents.
    times: list[float]
    revisions: list[int]
    #: By place: decisions that are not empty.
    decisions: dict[int, Decision]
    #: What the inventory added to events (Decision.added), each once, and by place of an empty decision: which of them.
    subjects: list[Subject] = []
    added: dict[int, int] = {}
    #: By place of an empty decision (Decision.conflicts).
    conflicts: dict[int, tuple[str, ...]] = {}


class Chunk(Struct, frozen=True):
    """Entries that were appended together, at most a row, with what of them goes where.

    It does not hold the entries themselves: the writer would be the last to, and destroying them costs it more than
    writing them.
    """

    events: int
    #: Columns, encoded.
    body: bytes
    #: Generated ids, 16 bytes each, rising.
    own: bytes
    #: Ids that came with the event, by place.
    supplied: dict[int, str]
    decided: int
    received_min: float
    received_max: float
    #: By place: what is to be sent, flags, and the decision if it changes the state.
    outbox: list[tuple[int, OutboxItem]]
    flags: list[tuple[int, Flag]]
    changes: list[tuple[int, Decision]]
    summary: Summary


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Columns]).decode
_decode_columns = msgspec.msgpack.Decoder(Columns).decode
_encode_ids = msgspec.msgpack.Encoder().encode
_decode_ids = msgspec.msgpack.Decoder(dict[int, str]).decode

_event = attrgetter("event")
_decision = attrgetter("decision")
_received = attrgetter("received")
_source = attrgetter("source")
_raw = attrgetter("raw")
_time = attrgetter("time")
_revision = attrgetter("revision")


def chunks(entries: Sequence[Entry]) -> list[Chunk]:
    return [_chunk(part) for part in _split(entries)]


def _chunk(entries: Sequence[Entry]) -> Chunk:
    # map over attrgetter runs in C: this is the one piece of work a stored event costs under the interpreter lock.
    events = list(map(_event, entries))
    decided = list(map(_decision, entries))
    received = list(map(_received, events))
    decisions = {
        n: d
        for n, d in enumerate(decided)
        # Time and revision are columns; without any of these they are the whole record.
        if d.matches or d.actions or d.changes or d.suppressed or d.near_misses or d.default_skipped
    }
    subjects, added = _added(decided, decisions)
    columns = Columns(
        received,
        list(map(_source, events)),
        list(map(_raw, events)),
        list(map(_time, decided)),
        list(map(_revision, decided)),
        decisions,
        subjects,
        added,
        {n: d.conflicts for n, d in enumerate(decided) if d.conflicts and n not in decisions},
    )
    generated, supplied = _ids(entries)
    return Chunk(
        len(entries),
        _encode(columns),
        generated,
        supplied,
        len(decisions),
        min(received),
        max(received),
        [(n, item) for n, entry in enumerate(entries) if entry.outbox for item in entry.outbox],
        [(n, flag) for n, entry in enumerate(entries) if entry.flags for flag in entry.flags],
        [(n, d) for n, d in decisions.items() if d.changes],
        summary.of_chunk(events, decisions),
    )


def _added(decided: Sequence[Decision], stored: Collection[int]) -> tuple[list[Subject], dict[int, int]]:
    """Columns.subjects and Columns.added: what was added to a workload's events is one object for many of them."""
    places: dict[int, int] = {}
    subjects: list[Subject] = []
    added: dict[int, int] = {}
    for n, decision in enumerate(decided):
        subject = decision.added
        if subject is not None and n not in stored:
            if id(subject) not in places:
                places[id(subject)] = len(subjects)
                subjects.append(subject)
            added[n] = places[id(subject)]
    return subjects, added


def all_supplied(chunk: Chunk) -> Chunk:
    """The same with no generated ids: each is kept as if it had come with its event."""
    return msgspec.structs.replace(
        chunk, own=b"", supplied=dict(enumerate(_ids_text(chunk.events, chunk.own, chunk.supplied)))
    )


def select(chunk: Chunk, places: Sequence[int]) -> Chunk:
    """Only the events at these places, which rise."""
    old = _decode_columns(chunk.body)
    ids = _ids_text(chunk.events, chunk.own, chunk.supplied)
    new = {place: n for n, place in enumerate(places)}
    decisions = {new[n]: decision for n, decision in old.decisions.items() if n in new}
    received = [old.received[n] for n in places]
    columns = Columns(
        received,
        [old.sources[n] for n in places],
        [old.raws[n] for n in places],
        [old.times[n] for n in places],
        [old.revisions[n] for n in places],
        decisions,
        old.subjects,
        {new[n]: place for n, place in old.added.items() if n in new},
        {new[n]: told for n, told in old.conflicts.items() if n in new},
    )
    return Chunk(
        len(places),
        _encode(columns),
        b"".join([id_bytes(ids[n]) for n in places if n not in chunk.supplied]),
        {new[n]: event_id for n, event_id in chunk.supplied.items() if n in new},
        len(decisions),
        min(received, default=0.0),
        max(received, default=0.0),
        [(new[n], item) for n, item in chunk.outbox if n in new],
        [(new[n], flag) for n, flag in chunk.flags if n in new],
        [(new[n], decision) for n, decision in chunk.changes if n in new],
        chunk.summary,
    )


def _all_ids(entries: Sequence[Entry]) -> dict[int, str]:
    return {n: entry.event.id for n, entry in enumerate(entries)}


def _ids(entries: Sequence[Entry]) -> tuple[bytes, dict[int, str]]:
    """Generated ids as bytes, and the others by place; all by place unless the generated ones rise."""
    own = [entry.event.id for entry in entries if entry.own_id]
    supplied = {n: e.event.id for n, e in enumerate(entries) if not e.own_id} if len(own) < len(entries) else {}
    if not own:
        return b"", supplied
    try:
        raw = bytes.fromhex("".join(own).replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) == ID_BYTES * len(own) and all(map(lt, own, own[1:])):
        return raw, supplied
    return b"", _all_ids(entries)


def _split(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    if len(entries) <= MAX_EVENTS and sum([len(entry.event.raw) for entry in entries]) <= MAX_BYTES:
        return [entries] if entries else []
    parts: list[Sequence[Entry]] = []
    start = size = 0
    for n, entry in enumerate(entries):
        length = len(entry.event.raw)
        if n > start and (n - start == MAX_EVENTS or size + length > MAX_BYTES):
            parts.append(entries[start:n])
            start, size = n, 0
        size += length
    parts.append(entries[start:])
    return parts


def rows(parts: Sequence[Chunk]) -> list[list[Chunk]]:
    """Neighbours that go into one row each."""
    found: list[list[Chunk]] = []
    count = size = 0
    for part in parts:
        count += part.events
        size += len(part.body)
        if not found or count > MAX_EVENTS or size > MAX_BYTES:
            found.append([])
            count, size = part.events, len(part.body)
        found[-1].append(part)
    return found


def join(parts: Sequence[Chunk]) -> bytes:
    """A row's body, not compressed: the chunks as a msgpack array (array 32)."""
    return b"".join([b"\xdd", len(parts).to_bytes(4, "big"), *[part.body for part in parts]])


class Compressor:
    """Compresses bodies, all of a commit in one call. Not for several threads at once."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)

    def pack(self, bodies: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """(codec, bytes) of each body."""
        large: list[bytes | bytearray | memoryview] = [body for body in bodies if len(body) >= COMPRESS_BYTES]
        if not large:
            return [(PLAIN, body) for body in bodies]
        if len(large) == 1:
            packed = [self._zstd.compress(large[0])]
        else:
            # One call for all: it lets go of the interpreter lock once, not once a body.
            segments = self._zstd.multi_compress_to_buffer(large)
            packed = [segments[n].tobytes() for n in range(len(segments))]
        rest = iter(packed)
        return [(ZSTD, next(rest)) if len(body) >= COMPRESS_BYTES else (PLAIN, body) for body in bodies]


def pack_ids(supplied: dict[int, str]) -> bytes:
    return _encode_ids(supplied) if supplied else b""


def unpack_ids(raw: bytes) -> dict[int, str]:
    return _decode_ids(raw) if raw else {}


def id_bytes(text: str) -> bytes:
    """Of an id in the form of a UUID. ValueError of others."""
    return bytes.fromhex(text.replace("-", ""))


def id_text(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _ids_text(events: int, own: bytes, supplied: dict[int, str]) -> list[str]:
    generated = iter([own[at : at + ID_BYTES] for at in range(0, len(own), ID_BYTES)])
    return [supplied[n] if n in supplied else id_text(next(generated)) for n in range(events)]


def unpack(codec: int, body: bytes) -> bytes:
    """A row's body as `join` made it: what all its events say stands in it, text as UTF-8."""
    return zstandard.ZstdDecompressor().decompress(body) if codec == ZSTD else body


class Group:
    """A row of the journal unpacked."""

    def __init__(self, seq: int, codec: int, own: bytes, ids: bytes, body: bytes) -> None:
        self.seq = seq
        #: Of each event: the columns that have it, and its place in them.
        self.places = [(columns, n) for columns in _decode(unpack(codec, body)) for n in range(len(columns.received))]
        self._given = (own, ids)

    @cached_property
    def _ids(self) -> list[str]:
        own, ids = self._given
        return _ids_text(len(self.places), own, unpack_ids(ids))

    def __len__(self) -> int:
        return len(self.places)

    def place(self, event_id: str) -> int:
        return self._ids.index(event_id)

    def id(self, place: int) -> str:
        own, ids = self._given
        return self._ids[place] if ids else id_text(own[place * ID_BYTES : (place + 1) * ID_BYTES])

    def at(self, place: int) -> Stored:
        event_id = self.id(place)
        columns, n = self.places[place]
        decision = columns.decisions.get(n)
        if decision is None:
            at = columns.added.get(n)
            decision = Decision(
                event_id=event_id,
                time=columns.times[n],
                revision=columns.revisions[n],
                added=None if at is None else columns.subjects[at],
                conflicts=columns.conflicts.get(n, ()),
            )
        return Stored(
            id=event_id,
            received=columns.received[n],
            source=columns.sources[n],
            raw=columns.raws[n],
            decision=decision,
        )

    def is_decided(self, place: int) -> bool:
        columns, n = self.places[place]
        return n in columns.decisions
