"""A row of the journal: some neighbouring events in one body, by columns. Columns encode fast and compress well."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec
import zstandard
from msgspec import Struct

from quell.model.decision import Decision
from quell.storage.records import Entry, Stored

#: At most so many events and bytes a row, so that looking up one event unpacks little.
MAX_EVENTS = 256
MAX_BYTES = 512 << 10
#: Smaller bodies are not worth compressing one by one.
COMPRESS_BYTES = 4 << 10

PLAIN = 0
ZSTD = 1

#: Bytes of a generated id: a UUID.
ID_BYTES = 16


class Body(Struct, frozen=True, array_like=True):
    received: list[float]
    sources: list[str]
    raws: list[bytes]
    #: Of each decision: when, and by which revision of the documents.
    times: list[float]
    revisions: list[int]
    #: By place in the group: ids that came with the event, and decisions that are not empty.
    supplied: dict[int, str]
    decisions: dict[int, Decision]


class _Supplied(Struct, frozen=True, array_like=True):
    """A Body of which only the supplied ids are wanted."""

    received: msgspec.Raw
    sources: msgspec.Raw
    raws: msgspec.Raw
    times: msgspec.Raw
    revisions: msgspec.Raw
    supplied: dict[int, str]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Body)
_supplied_decoder = msgspec.msgpack.Decoder(_Supplied)

_of_event = attrgetter("event")
_of_decision = attrgetter("decision")
_received = attrgetter("received")
_source = attrgetter("source")
_raw = attrgetter("raw")
_time = attrgetter("time")
_revision = attrgetter("revision")


def encode(entries: Sequence[Entry], supplied: dict[int, str]) -> tuple[int, bytes]:
    """How many of the decisions are not empty, and the body, not compressed."""
    # map over attrgetter runs in C: this is the one piece of work a stored event costs under the interpreter lock.
    events = list(map(_of_event, entries))
    decided = list(map(_of_decision, entries))
    decisions = {
        n: d
        for n, d in enumerate(decided)
        # Time and revision are columns; without any of these they are the whole record.
        if d.matches or d.actions or d.changes or d.suppressed or d.near_misses or d.default_skipped
    }
    body = Body(
        list(map(_received, events)),
        list(map(_source, events)),
        list(map(_raw, events)),
        list(map(_time, decided)),
        list(map(_revision, decided)),
        supplied,
        decisions,
    )
    return len(decisions), _encoder.encode(body)


def split(entries: Sequence[Entry]) -> list[Sequence[Entry]]:
    """Stretches that are small enough for a row each."""
    if len(entries) <= MAX_EVENTS and sum([len(entry.event.raw) for entry in entries]) <= MAX_BYTES:
        return [entries]
    stretches: list[Sequence[Entry]] = []
    start = size = 0
    for n, entry in enumerate(entries):
        length = len(entry.event.raw)
        if n > start and (n - start == MAX_EVENTS or size + length > MAX_BYTES):
            stretches.append(entries[start:n])
            start, size = n, 0
        size += length
    stretches.append(entries[start:])
    return stretches


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


def _plain(codec: int, body: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(body) if codec == ZSTD else body


def supplied_ids(codec: int, body: bytes) -> list[str]:
    """The ids of the group that came with their events."""
    return list(_supplied_decoder.decode(_plain(codec, body)).supplied.values())


def id_text(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Group:
    """A row of the journal unpacked."""

    def __init__(self, seq: int, codec: int, own: bytes, body: bytes) -> None:
        self.seq = seq
        self._body = _decoder.decode(_plain(codec, body))
        generated = iter([own[at : at + ID_BYTES] for at in range(0, len(own), ID_BYTES)])
        supplied = self._body.supplied
        self._ids = [
            supplied[n] if n in supplied else id_text(next(generated)) for n in range(len(self._body.received))
        ]

    def __len__(self) -> int:
        return len(self._ids)

    def place(self, event_id: str) -> int:
        return self._ids.index(event_id)

    def at(self, place: int) -> Stored:
        body = self._body
        event_id = self._ids[place]
        decision = body.decisions.get(place)
        if decision is None:
            decision = Decision(event_id=event_id, time=body.times[place], revision=body.revisions[place])
        return Stored(
            id=event_id,
            received=body.received[place],
            source=body.sources[place],
            raw=body.raws[place],
            decision=decision,
        )

    def is_decided(self, place: int) -> bool:
        return place in self._body.decisions
