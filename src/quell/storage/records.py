"""What goes into the store and what comes out of it. SEMANTICS section 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from quell.model.answer import Answer
from quell.model.audit import AuditEntry
from quell.model.decision import Decision, Flag, Outcome, Repetition, StateChange
from quell.model.event import Event
from quell.model.subject import Subject


class OutboxItem(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Something to be sent once its event is on disk; it stays until its outcome is recorded."""

    id: str
    #: "agent:<agent id>", "kubernetes:<cluster>" or "webhook:<endpoint name>".
    channel: str
    body: bytes
    created: float
    #: After this moment it is an outcome `expired`; None: never.
    expires: float | None = None
    event_id: str = ""
    attempts: int = 0
    #: Not to be sent before this moment.
    due: float = 0.0


class Entry(Struct, frozen=True, gc=False, kw_only=True):
    """One event with all that was decided about it: written in one transaction or not at all."""

    event: Event
    decision: Decision
    outbox: tuple[OutboxItem, ...] = ()
    flags: tuple[Flag | Repetition, ...] = ()
    #: True: the id is from quell.ids.uuid7 in this process, so it is new and needs no row of its own to be found.
    #: False is always correct.
    own_id: bool = False


class Batch(Struct, frozen=True, kw_only=True):
    """Events that are written together or not at all, most of them decided alike. Places count from 0.

    An id that Quell made (not Event.id_given) is taken to be from quell.ids.uuid7 in this process; where an entry says
    more of an event, its own_id counts.
    """

    events: Sequence[Event]
    #: Of each event; None: see entries.
    answers: Sequence[Answer | None]
    #: Of each answer: when, and by which revision of the documents. Of an entry, its decision says so.
    times: Sequence[float]
    revisions: Sequence[int]
    #: By place of an answer: what the inventory filled in (Decision.added, Decision.conflicts).
    added: Mapping[int, Subject] = {}
    conflicts: Mapping[int, tuple[str, ...]] = {}
    #: By place: events whose decision is their own.
    entries: Mapping[int, Entry] = {}
    #: Of each event: bytes of its raw.
    sizes: Sequence[int]
    #: What the events came in, if each is a part of it and they are in its order: where nothing else is in it than these,
    #: line by line, their raw bytes need not be put together again.
    text: bytes | None = None

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Batch:
        return cls(
            events=[entry.event for entry in entries],
            answers=[None] * len(entries),
            times=[entry.decision.time for entry in entries],
            revisions=[entry.decision.revision for entry in entries],
            entries=dict(enumerate(entries)),
            sizes=[len(entry.event.raw) for entry in entries],
        )

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """All of them as one, in their order."""
        if len(batches) == 1:
            return batches[0]
        events: list[Event] = []
        answers: list[Answer | None] = []
        times: list[float] = []
        revisions: list[int] = []
        added: dict[int, Subject] = {}
        conflicts: dict[int, tuple[str, ...]] = {}
        entries: dict[int, Entry] = {}
        sizes: list[int] = []
        for batch in batches:
            at = len(events)
            events += batch.events
            answers += batch.answers
            times += batch.times
            revisions += batch.revisions
            added |= {at + n: subject for n, subject in batch.added.items()}
            conflicts |= {at + n: told for n, told in batch.conflicts.items()}
            entries |= {at + n: entry for n, entry in batch.entries.items()}
            sizes += batch.sizes
        return cls(
            events=events,
            answers=answers,
            times=times,
            revisions=revisions,
            added=added,
            conflicts=conflicts,
            entries=entries,
            sizes=sizes,
        )

    def part(self, start: int, stop: int) -> Batch:
        """The events from place `start` on, up to `stop`."""
        return Batch(
            events=self.events[start:stop],
            answers=self.answers[start:stop],
            times=self.times[start:stop],
            revisions=self.revisions[start:stop],
            added={n - start: subject for n, subject in self.added.items() if start <= n < stop},
            conflicts={n - start: told for n, told in self.conflicts.items() if start <= n < stop},
            entries={n - start: entry for n, entry in self.entries.items() if start <= n < stop},
            sizes=self.sizes[start:stop],
        )


class Stored(Struct, frozen=True, gc=False, kw_only=True):
    """An event as the journal keeps it: DETECTORS[source].decode(raw, id=id, received=received) is the event."""

    id: str
    received: float
    source: str
    raw: bytes
    decision: Decision


class Settled(Struct, frozen=True, gc=False, kw_only=True, tag="settled"):
    """Outcomes that were recorded together, and the state changes that followed from them."""

    outcomes: tuple[Outcome, ...]
    changes: tuple[StateChange, ...] = ()


class Noted(Struct, frozen=True, gc=False, kw_only=True):
    """An entry of the audit log that is written with what it tells of. time: epoch seconds."""

    entry: AuditEntry
    time: float
    #: (id, status) of the outcome it tells of: it is left out if that outcome is recorded already.
    outcome: tuple[str, str] | None = None


class Reject(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Bytes that were refused at ingest, kept so that a person can look at them."""

    id: str
    time: float
    source: str
    #: Line of the batch, from 1; 0: not from a batch.
    line: int = 0
    reason: str
    #: Byte offset of the fault; None: unknown.
    position: int | None = None
    raw: bytes
    #: Who sent it.
    peer: str = ""


class Retention(Struct, frozen=True, gc=False, kw_only=True):
    """How long things are kept."""

    #: Bytes of the database in use, above which the oldest events go. The write-ahead log comes on top
    #: (checkpoint.RESTART_BYTES in ordinary running), and up to size_step between two checks.
    max_bytes: int = 1 << 30
    #: Seconds that events and their decisions are kept.
    max_age: float = 30 * 86_400.0
    #: Seconds that flags, traces, outcomes, deliveries, dead letters and rejects are kept.
    record_age: float = 365 * 86_400.0
    #: The newest so many of each of those are kept.
    record_count: int = 200_000
    #: Bytes of evidence, which is not counted in max_bytes.
    evidence_bytes: int = 256 << 20
    #: Bytes written between two checks of the size.
    size_step: int = 4 << 20


class Statistics(Struct, frozen=True, gc=False, kw_only=True):
    """What the store is doing, for metrics. Sizes in bytes."""

    queued_entries: int
    queued_bytes: int
    events: int
    commits: int
    failures: int
    #: Seconds the last commit took.
    commit_seconds: float
    #: Bytes a second that the queue drains at when it is busy.
    drain_rate: float
    wal_bytes: int
    file_bytes: int
    #: Bytes of state changes that a restart would replay: take a snapshot when it is large.
    replay_bytes: int
