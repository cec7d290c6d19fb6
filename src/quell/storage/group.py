"""How events lie in a row of the journal: some neighbours in one body, by columns, which encode fast and compress well.

A Chunk is encoded by whoever appends it, while the events are in that processor's cache; reading them from another
thread later costs more of the interpreter lock than all the rest. The writer only joins chunks to rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from operator import attrgetter, lt
from typing import NamedTuple

import msgspec
import zstandard
from msgspec import Struct

from quell.model.answer import NOTHING, Answer
from quell.model.decision import Decision, Flag, Repetition
from quell.model.event import Event
from quell.model.subject import Subject
from quell.storage import summary
from quell.storage.records import Batch, Entry, OutboxItem, Stored
from quell.storage.summary import Summary

#: At most so many events and bytes a row, so that looking up one event unpacks little.
MAX_EVENTS = 256
MAX_BYTES = 512 << 10
#: Smaller bodies are not worth compressing one by one.
COMPRESS_BYTES = 4 << 10

PLAIN = 0
ZSTD = 1

#: Answers that are kept packed; all are forgotten when there are more.
MAX_ANSWERS = 8192
#: Answers that are in no chunk: none at all, and that of an event with a decision of its own.
_UNNUMBERED = frozenset((None, NOTHING))

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
    #: By place: decisions that are neither empty nor among `answers`.
    decisions: dict[int, Decision]
    #: What the inventory added to events (Decision.added), each once, and by place of a decision that is not among
    #: `decisions`: which of them.
    subjects: list[Subject] = []
    added: dict[int, int] = {}
    #: By place of a decision that is not among `decisions` (Decision.conflicts).
    conflicts: dict[int, tuple[str, ...]] = {}
    #: Answers to events that are alike, each once, and by place: which of them.
    answers: list[Answer] = []
    answered: dict[int, int] = {}

    def said(self, n: int) -> Decision | Answer | None:
        """What the row says of a decision in one piece; None: it is empty."""
        answer = self.answered.get(n)
        return self.decisions.get(n) if answer is None else self.answers[answer]


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
    flags: list[tuple[int, Flag | Repetition]]
    changes: list[tuple[int, Decision]]
    summary: Summary


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Columns]).decode
_decode_columns = msgspec.msgpack.Decoder(Columns).decode
_encode_ids = msgspec.msgpack.Encoder().encode
_decode_ids = msgspec.msgpack.Decoder(dict[int, str]).decode

_given = attrgetter("id_given")
_id = attrgetter("id")
_received = attrgetter("received")
_source = attrgetter("source")
_raw = attrgetter("raw")
_suppressed = attrgetter("suppressed")


class Packed(NamedTuple):
    """An answer as it goes into a chunk. rules: as in Summary."""

    encoded: msgspec.Raw
    rules: frozenset[str]


class Packer:
    """Makes chunks. It keeps answers as they were packed before: the index gives the same to all events that are alike."""

    def __init__(self) -> None:
        self._packed: dict[Answer, Packed] = {}

    def chunks(self, batch: Batch) -> list[Chunk]:
        sizes = list(map(len, map(_raw, batch.events)))
        if len(sizes) <= MAX_EVENTS and sum(sizes) <= MAX_BYTES:
            return [self._chunk(batch)] if sizes else []
        return [self._chunk(batch.part(start, stop)) for start, stop in _ranges(sizes)]

    def _chunk(self, batch: Batch) -> Chunk:
        # map over attrgetter runs in C: this is the one piece of work a stored event costs under the interpreter lock.
        events, entries, answers = batch.events, batch.entries, batch.answers
        received = list(map(_received, events))
        decisions, times, revisions = _decisions(batch)
        distinct: list[Answer] = list(set(answers) - _UNNUMBERED)  # type: ignore[arg-type] # without None
        packed = [self._packed.get(answer) or self._pack(answer) for answer in distinct]
        subjects, added = _added(batch, decisions)
        columns = Columns(
            received,
            list(map(_source, events)),
            list(map(_raw, events)),
            times,
            revisions,
            decisions,
            subjects,
            added,
            _conflicts(batch, decisions),
            [each.encoded for each in packed],  # type: ignore[misc] # answers, when they are read
            _answered(answers, distinct),
        )
        generated, supplied = _ids(events, entries)
        return Chunk(
            len(events),
            _encode(columns),
            generated,
            supplied,
            len(decisions) + len(columns.answered),
            min(received),
            max(received),
            [(n, item) for n, entry in entries.items() for item in entry.outbox],
            [(n, flag) for n, entry in entries.items() for flag in entry.flags],
            [(n, d) for n, d in decisions.items() if d.changes],
            summary.of_chunk(
                events,
                _hidden(answers, entries),
                [each.rules for each in packed] + [summary.rules(d.matches) for d in decisions.values()],
            ),
        )

    def _pack(self, answer: Answer) -> Packed:
        if len(self._packed) >= MAX_ANSWERS:
            self._packed.clear()
        packed = self._packed[answer] = Packed(msgspec.Raw(_encode(answer)), summary.rules(answer.matches))
        return packed


def _decisions(batch: Batch) -> tuple[dict[int, Decision], list[float], list[int]]:
    """Columns.decisions, times and revisions."""
    times, revisions = list(batch.times), list(batch.revisions)
    decisions: dict[int, Decision] = {}
    for n, entry in batch.entries.items():
        d = entry.decision
        times[n], revisions[n] = d.time, d.revision
        # Time and revision are columns; without any of these they are the whole record.
        if d.matches or d.actions or d.changes or d.suppressed or d.near_misses or d.default_skipped:
            decisions[n] = d
    return decisions, times, revisions


def _answered(answers: Sequence[Answer | None], distinct: Sequence[Answer]) -> dict[int, int]:
    """Columns.answered."""
    if not distinct:
        return {}
    numbers: dict[Answer | None, int] = {answer: number for number, answer in enumerate(distinct)}
    found = map(numbers.get, answers)
    return {n: number for n, number in enumerate(found) if number is not None}


def _hidden(answers: Sequence[Answer | None], entries: Mapping[int, Entry]) -> list[bool]:
    """Of each event: whether it is suppressed."""
    if not entries:
        return list(map(_suppressed, answers))
    return [entries[n].decision.suppressed if each is None else each.suppressed for n, each in enumerate(answers)]


def _added(batch: Batch, stored: Collection[int]) -> tuple[list[Subject], dict[int, int]]:
    """Columns.subjects and Columns.added: what was added to a workload's events is one object for many of them."""
    every = dict(batch.added)
    every |= {n: e.decision.added for n, e in batch.entries.items() if e.decision.added is not None and n not in stored}
    subjects = {id(subject): subject for subject in every.values()}
    numbers = {identity: number for number, identity in enumerate(subjects)}
    return list(subjects.values()), {n: numbers[id(subject)] for n, subject in every.items()}


def _conflicts(batch: Batch, stored: Collection[int]) -> dict[int, tuple[str, ...]]:
    """Columns.conflicts."""
    own = {n: entry.decision.conflicts for n, entry in batch.entries.items() if n not in stored}
    return {n: told for n, told in (*batch.conflicts.items(), *own.items()) if told}


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
        old.answers,
        {new[n]: answer for n, answer in old.answered.items() if n in new},
    )
    return Chunk(
        len(places),
        _encode(columns),
        b"".join([id_bytes(ids[n]) for n in places if n not in chunk.supplied]),
        {new[n]: event_id for n, event_id in chunk.supplied.items() if n in new},
        len(decisions) + len(columns.answered),
        min(received, default=0.0),
        max(received, default=0.0),
        [(new[n], item) for n, item in chunk.outbox if n in new],
        [(new[n], flag) for n, flag in chunk.flags if n in new],
        [(new[n], decision) for n, decision in chunk.changes if n in new],
        chunk.summary,
    )


def _ids(events: Sequence[Event], entries: Mapping[int, Entry]) -> tuple[bytes, dict[int, str]]:
    """Generated ids as bytes, and the others by place; all by place unless the generated ones rise."""
    ids, given = list(map(_id, events)), list(map(_given, events))
    for n, entry in entries.items():
        given[n] = not entry.own_id
    supplied = {n: ids[n] for n, is_given in enumerate(given) if is_given} if any(given) else {}
    own = [event_id for n, event_id in enumerate(ids) if n not in supplied] if supplied else ids
    if not own:
        return b"", supplied
    try:
        raw = bytes.fromhex("".join(own).replace("-", ""))
    except ValueError:
        raw = b""
    if len(raw) == ID_BYTES * len(own) and all(map(lt, own, own[1:])):
        return raw, supplied
    return b"", dict(enumerate(ids))


def _ranges(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Places, from and up to, of events that go into a chunk each. sizes: the bytes of each event."""
    ranges: list[tuple[int, int]] = []
    start = size = 0
    for n, length in enumerate(sizes):
        if n > start and (n - start == MAX_EVENTS or size + length > MAX_BYTES):
            ranges.append((start, n))
            start, size = n, 0
        size += length
    return [*ranges, (start, len(sizes))]


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
            at, number = columns.added.get(n), columns.answered.get(n)
            answer = NOTHING if number is None else columns.answers[number]
            decision = answer.decision(
                event_id,
                columns.times[n],
                columns.revisions[n],
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
        return columns.said(n) is not None
