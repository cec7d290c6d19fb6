"""How events lie in a row of the journal: some neighbours in one body, by columns, which encode fast and compress well.

A Chunk is encoded by whoever appends it, while the events are in that processor's cache; reading them from another
thread later costs more of the interpreter lock than all the rest. The writer only puts chunks together to rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
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
from quell.storage.answers import NONE, Numbered
from quell.storage.records import Batch, Entry, OutboxItem, Stored
from quell.storage.summary import Summary

#: At most so many events and bytes a row, so that looking up one event unpacks little.
MAX_EVENTS = 256
MAX_BYTES = 512 << 10
#: Smaller bodies are not worth compressing one by one.
COMPRESS_BYTES = 4 << 10

#: How a body lies in its row: _HEAD and then all of it, in frames or as it is. Rows of an older Quell have neither head
#: nor texts, and are one frame or as they are.
OLD_PLAIN = 0
OLD_ZSTD = 1
ZSTD = 2
PLAIN = 3
#: How many chunks, and the bytes of their columns, behind which their texts are.
_HEAD = struct.Struct(">II")

#: Neighbours that are smaller than this are compressed together.
PIECE_BYTES = 32 << 10

_SEPARATOR = b"\n"
#: Bytes of a generated id: a UUID.
ID_BYTES = 16


class Columns(Struct, frozen=True, array_like=True):
    """What the body says of each event of a chunk; ids lie beside it."""

    received: list[float]
    sources: list[str]
    #: Of rows of an older Quell; the others have texts.
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
    #: Of rows that an older Quell wrote: answers to events that are alike, each once, and by place: which of them.
    answers: list[Answer] = []
    answered: dict[int, int] = {}
    #: Of each event: the number of its answer (quell.storage.answers); []: no event has one.
    numbers: list[int] = []
    #: Of each event: the length of its raw bytes. One byte lies between two of them in the chunk's text, which has `size`.
    lengths: list[int] = []
    size: int = 0


class Chunk(Struct, frozen=True):
    """Entries that were appended together, at most a row, with what of them goes where.

    It does not hold the entries themselves: the writer would be the last to, and destroying them costs it more than
    writing them.
    """

    events: int
    #: Columns, encoded, and the raw bytes, with a line break between each two.
    columns: bytes
    text: bytes
    #: As in Columns; in `answers` is what they mean.
    numbers: Sequence[int]
    answers: Numbered
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
    #: Without the answers' rules.
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


class Packer:
    """Makes chunks, and numbers the answers in them from `first` on."""

    def __init__(self, first: int = 1) -> None:
        self._answers = Numbered(first)

    def chunks(self, batch: Batch) -> list[Chunk]:
        sizes = batch.sizes
        if len(sizes) <= MAX_EVENTS and sum(sizes) <= MAX_BYTES:
            return [self._chunk(batch)] if sizes else []
        return [self._chunk(batch.part(start, stop)) for start, stop in _ranges(sizes)]

    def _chunk(self, batch: Batch) -> Chunk:
        # map over attrgetter runs in C: this is the one piece of work a stored event costs under the interpreter lock.
        events, entries, answers = batch.events, batch.entries, batch.answers
        received = list(map(_received, events))
        decisions, times, revisions = _decisions(batch)
        if self._answers.is_full:
            self._answers = self._answers.following()
        numbers = self._answers.of(answers)
        answered = len(numbers) - numbers.count(NONE)
        subjects, added = _added(batch, decisions)
        text, sizes = batch.text, list(batch.sizes)
        if text is None or not _is_text_of(text, sizes):
            text = _SEPARATOR.join(map(_raw, events))
        columns = Columns(
            received,
            list(map(_source, events)),
            [],
            times,
            revisions,
            decisions,
            subjects,
            added,
            _conflicts(batch, decisions),
            [],
            {},
            numbers if answered else [],
            sizes,
            len(text),
        )
        generated, supplied = _ids(events, entries)
        return Chunk(
            len(events),
            _encode(columns),
            text,
            columns.numbers,
            self._answers,
            generated,
            supplied,
            len(decisions) + answered,
            min(received),
            max(received),
            [(n, item) for n, entry in entries.items() for item in entry.outbox],
            [(n, flag) for n, entry in entries.items() for flag in entry.flags],
            [(n, d) for n, d in decisions.items() if d.changes],
            summary.of_chunk(events, _hidden(answers, entries), [summary.rules(d.matches) for d in decisions.values()]),
        )


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


def _is_text_of(text: bytes, sizes: Sequence[int]) -> bool:
    """Whether nothing else is in it than these events, one after the other, with a byte between each two, and perhaps an
    end of the last line. Each of them is a part of it, in this order.
    """
    more = len(text) - sum(sizes) - len(_SEPARATOR) * (len(sizes) - 1)
    return more == 0 or (more == len(_SEPARATOR) and text.endswith(_SEPARATOR))


def _starts(*chunks: Columns) -> list[int]:
    """Of each event of these chunks, one after the other: where its raw bytes begin in their texts."""
    starts: list[int] = []
    at = 0
    for columns in chunks:
        starts += accumulate([length + len(_SEPARATOR) for length in columns.lengths[:-1]], initial=at)
        at += columns.size
    return starts


def all_supplied(chunk: Chunk) -> Chunk:
    """The same with no generated ids: each is kept as if it had come with its event."""
    return msgspec.structs.replace(
        chunk, own=b"", supplied=dict(enumerate(_ids_text(chunk.events, chunk.own, chunk.supplied)))
    )


def select(chunk: Chunk, places: Sequence[int]) -> Chunk:
    """Only the events at these places, which rise."""
    old = _decode_columns(chunk.columns)
    starts = _starts(old)
    raws = [chunk.text[starts[n] : starts[n] + old.lengths[n]] for n in places]
    text = _SEPARATOR.join(raws)
    ids = _ids_text(chunk.events, chunk.own, chunk.supplied)
    new = {place: n for n, place in enumerate(places)}
    decisions = {new[n]: decision for n, decision in old.decisions.items() if n in new}
    received = [old.received[n] for n in places]
    columns = Columns(
        received,
        [old.sources[n] for n in places],
        [],
        [old.times[n] for n in places],
        [old.revisions[n] for n in places],
        decisions,
        old.subjects,
        {new[n]: place for n, place in old.added.items() if n in new},
        {new[n]: told for n, told in old.conflicts.items() if n in new},
        [],
        {},
        [old.numbers[n] for n in places] if old.numbers else [],
        [old.lengths[n] for n in places],
        len(text),
    )
    return Chunk(
        len(places),
        _encode(columns),
        text,
        columns.numbers,
        chunk.answers,
        b"".join([id_bytes(ids[n]) for n in places if n not in chunk.supplied]),
        {new[n]: event_id for n, event_id in chunk.supplied.items() if n in new},
        len(decisions) + len(columns.numbers) - columns.numbers.count(NONE),
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
        length = len(part.columns) + len(part.text)
        size += length
        if not found or count > MAX_EVENTS or size > MAX_BYTES:
            found.append([])
            count, size = part.events, length
        found[-1].append(part)
    return found


def rules(parts: Sequence[Chunk]) -> frozenset[str] | None:
    """The rules in the answers of a row; None: too many to say them."""
    found: set[str] = set()
    numbers: dict[Numbered, set[int]] = {}
    for part in parts:
        numbers.setdefault(part.answers, set()).update(part.numbers)
    for answers, named in numbers.items():
        rules = answers.rules(named)
        if rules is None:
            return None
        found |= rules
    return frozenset(found)


class Compressor:
    """Makes bodies of rows, compressed all of a commit in one call. Not for several threads at once."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=1, write_checksum=True, write_content_size=True)

    def pack(self, rows: Sequence[Sequence[Chunk]]) -> list[tuple[int, bytes]]:
        """(codec, bytes) of each row's body."""
        pieces = [_pieces([*[chunk.columns for chunk in row], *[chunk.text for chunk in row]]) for row in rows]
        large = [sum(map(len, found)) >= COMPRESS_BYTES for found in pieces]
        frames = iter(
            self._compressed(
                [piece for found, is_large in zip(pieces, large, strict=True) if is_large for piece in found]
            )
        )
        packed: list[tuple[int, bytes]] = []
        for row, found, is_large in zip(rows, pieces, large, strict=True):
            head = _HEAD.pack(len(row), sum([len(chunk.columns) for chunk in row]))
            parts = [next(frames) for _ in found] if is_large else found
            packed.append((ZSTD if is_large else PLAIN, b"".join([head, *parts])))
        return packed

    def _compressed(self, pieces: Sequence[bytes]) -> list[bytes]:
        if len(pieces) <= 1:
            return [self._zstd.compress(piece) for piece in pieces]
        # One call for all: it lets go of the interpreter lock once, not once a piece.
        segments = self._zstd.multi_compress_to_buffer(list(pieces))
        return [segments[n].tobytes() for n in range(len(segments))]


def _pieces(parts: Sequence[bytes]) -> list[bytes]:
    """The same bytes, small neighbours joined; large ones as they are, because copying them needs the interpreter lock."""
    pieces: list[list[bytes]] = []
    room = 0
    for part in parts:
        if len(part) >= PIECE_BYTES or room <= 0:
            pieces.append([])
            room = PIECE_BYTES
        pieces[-1].append(part)
        room -= len(part)
    return [piece[0] if len(piece) == 1 else b"".join(piece) for piece in pieces]


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


class Plain(NamedTuple):
    """A row's body unpacked."""

    #: A msgpack array of Columns.
    columns: bytes
    #: What the events say themselves, one chunk after the other; b"": it stands in the columns.
    texts: bytes


def unpack(codec: int, body: bytes) -> Plain:
    if codec == OLD_PLAIN:
        return Plain(body, b"")
    if codec == OLD_ZSTD:
        return Plain(zstandard.ZstdDecompressor().decompress(body), b"")
    chunks, size = _HEAD.unpack_from(body)
    rest = body[_HEAD.size :]
    if codec == ZSTD:
        rest = zstandard.ZstdDecompressor().stream_reader(rest, read_across_frames=True).readall()
    # The columns as an array (array 32).
    return Plain(b"\xdd" + chunks.to_bytes(4, "big") + rest[:size], rest[size:])


class Group:
    """A row of the journal unpacked."""

    def __init__(self, answer: Callable[[int], Answer], seq: int, own: bytes, ids: bytes, body: Plain) -> None:
        """answer: by its number."""
        self.seq = seq
        chunks = _decode(body.columns)
        #: Of each event: the columns that have it, and its place in them.
        self.places = [(columns, n) for columns in chunks for n in range(len(columns.received))]
        self._texts = body.texts
        self._starts = _starts(*chunks)
        self._numbered = answer
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
            decision = (self._answer(columns, n) or NOTHING).decision(
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
            raw=self.raw(place),
            decision=decision,
        )

    def raw(self, place: int) -> bytes:
        columns, n = self.places[place]
        if columns.raws:
            return columns.raws[n]
        start = self._starts[place]
        return self._texts[start : start + columns.lengths[n]]

    def said(self, place: int) -> Decision | Answer | None:
        """What the row says of a decision in one piece; None: it is empty."""
        columns, n = self.places[place]
        return self._answer(columns, n) or columns.decisions.get(n)

    def _answer(self, columns: Columns, n: int) -> Answer | None:
        if columns.numbers:
            number = columns.numbers[n]
            return None if number == NONE else self._numbered(number)
        old = columns.answered.get(n)
        return None if old is None else columns.answers[old]
