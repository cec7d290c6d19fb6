"""Evidence from the agents into the store: only what was asked for, from whom it was asked, within what was allowed.

The facts are one document; of each copy of an executable the controller asks for one piece after the other, each once the
one before is on disk. A copy counts when the whole has its hash. What an agent says is kept as its word: it proves nothing
about other machines.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import msgspec
import structlog

from quell.channel.messages import Evidence, EvidenceAck, EvidencePiece, Hello
from quell.errors import StoreError
from quell.model.decision import ActionRecord, Status
from quell.model.evidence import EvidenceSummary, Gathered, StoredEvidence
from quell.model.subject import NetworkTarget, PodTarget, ProcessTarget, Target
from quell.storage import evidence
from quell.storage.store import Store

#: Bytes of one executable, whatever an agent says; as the setting safety.evidence_executable at most.
_MOST_COPY = 256 << 20

_log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder(Gathered).decode


class _Upload:
    """A copy that is on its way."""

    __slots__ = ("offset", "sha256", "size")

    def __init__(self, sha256: str, size: int) -> None:
        self.sha256 = sha256
        self.size = size
        self.offset = 0


class EvidenceKeeper:
    """On the event loop's thread only."""

    def __init__(self, store: Store, most: Callable[[], int] = lambda: _MOST_COPY) -> None:
        """most: bytes of a copy that is taken, whatever an agent says."""
        self._store = store
        self._most = most
        self._store.write(evidence.drop_parts, _told)  # of agents that were at it when the controller ended
        #: By agent and command: the copies that are still to come, the first of them under way.
        self._uploads: dict[tuple[str, str], list[_Upload]] = {}

    async def take(self, hello: Hello, came: Evidence | EvidencePiece) -> EvidenceAck | None:
        """What the agent is to be answered; None: nothing. StoreError: it could not be written, and will come again."""
        if isinstance(came, EvidencePiece):
            return await self._take_piece(hello.agent, came)
        return await self._take_facts(hello, came.facts)

    def lost(self, agent: str) -> None:
        """Its link has ended: it begins anew with the next one."""
        for key in [key for key in self._uploads if key[0] == agent]:
            self._give_up(key)

    def _give_up(self, key: tuple[str, str]) -> None:
        """What has come of the copy under way is thrown away."""
        uploads = self._uploads.pop(key, [])
        if uploads:
            self._store.write(partial(evidence.end_copy, sha256=uploads[0].sha256, right=False), _told)

    def of_event(self, event_id: str) -> list[StoredEvidence]:
        return self._store.read(lambda connection: evidence.of_event(connection, event_id))

    def recent(self, limit: int, before: str | None = None) -> list[EvidenceSummary]:
        return self._store.read(lambda connection: evidence.recent(connection, limit, before))

    def copy_size(self, sha256: str) -> int | None:
        """Bytes of the copy of an executable; None: there is none."""
        return self._store.read(lambda connection: evidence.size_of(connection, sha256))

    async def copy(self, sha256: str) -> AsyncIterator[bytes]:
        """It, in parts."""
        offset = 0
        while data := await asyncio.to_thread(self._store.read, partial(_piece, sha256=sha256, offset=offset)):
            yield data
            offset += len(data)

    async def _take_facts(self, hello: Hello, facts: bytes) -> EvidenceAck | None:
        try:
            gathered = _decode(facts)
        except msgspec.MsgspecError as error:
            _log.warning("an agent's evidence cannot be read", agent=hello.agent, reason=str(error))
            return None
        event_id = gathered.id.rpartition("/")[0]
        stored = await asyncio.to_thread(self._store.event, event_id)
        record = next((each for each in stored.decision.actions if each.id == gathered.id), None) if stored else None
        if stored is None or record is None or not _was_asked(record, hello):
            _log.warning(
                "an agent sent evidence that nobody asked it for", agent=hello.agent, command=gathered.id[:200]
            )
            return EvidenceAck(id=gathered.id)
        packed = await asyncio.to_thread(evidence.pack, facts)
        keep = partial(
            evidence.keep,
            gathered=gathered,
            packed=packed,
            event=event_id,
            agent=hello.agent,
            received=stored.received,
        )
        if not await asyncio.wrap_future(self._store.submit(keep)):
            _log.warning("an agent sent evidence of another's command", agent=hello.agent, command=gathered.id)
            return EvidenceAck(id=gathered.id)
        _log.info("evidence was gathered", command=gathered.id, agent=hello.agent, missing=sorted(gathered.missing))
        wanted = {sha256: size for sha256, size in evidence.copies(gathered).items() if 0 < size <= self._most()}
        there = await asyncio.to_thread(self._store.read, partial(evidence.whole, hashes=wanted))
        key = (hello.agent, gathered.id)
        self._give_up(key)  # sent a second time, it begins anew
        own = {each.sha256 for (agent, _), each in self._coming() if agent == hello.agent}
        others = {each.sha256 for (agent, _), each in self._coming() if agent != hello.agent}
        if others & (wanted.keys() - there):
            # Until it has come whole another agent's word is no reason to let go of this copy: it is sent again.
            return None
        uploads = [_Upload(*each) for each in wanted.items() if each[0] not in there | own]
        if not uploads:
            return EvidenceAck(id=gathered.id)
        self._uploads[key] = uploads
        return await self._ask(*key)

    def _coming(self) -> Iterator[tuple[tuple[str, str], _Upload]]:
        """By agent and command, all copies that are to come."""
        for key, uploads in self._uploads.items():
            for each in uploads:
                yield key, each

    async def _ask(self, agent: str, command: str) -> EvidenceAck:
        """For the first piece of the next copy, if there is one to come."""
        uploads = self._uploads.get((agent, command))
        if not uploads:
            self._uploads.pop((agent, command), None)
            return EvidenceAck(id=command)
        begin = partial(evidence.begin_copy, sha256=uploads[0].sha256, size=uploads[0].size)
        await asyncio.wrap_future(self._store.submit(begin))
        return EvidenceAck(id=command, wanted=uploads[0].sha256)

    async def _take_piece(self, agent: str, piece: EvidencePiece) -> EvidenceAck | None:
        uploads = self._uploads.get((agent, piece.id))
        if not uploads or (piece.sha256, piece.offset) != (uploads[0].sha256, uploads[0].offset):
            return None  # of before a lost link
        upload = uploads[0]
        if piece.data and upload.offset + len(piece.data) <= upload.size:
            add = partial(evidence.add_piece, sha256=upload.sha256, offset=upload.offset, data=piece.data)
            await asyncio.wrap_future(self._store.submit(add))
            upload.offset += len(piece.data)
            if upload.offset < upload.size:
                return EvidenceAck(id=piece.id, wanted=upload.sha256, offset=upload.offset)
            right = await asyncio.to_thread(self._store.read, partial(evidence.is_right, sha256=upload.sha256))
        else:
            right = False
        if not right:
            _log.warning("a copy of an executable is not what its agent said", agent=agent, command=piece.id)
        await asyncio.wrap_future(self._store.submit(partial(evidence.end_copy, sha256=upload.sha256, right=right)))
        del uploads[0]
        return await self._ask(agent, piece.id)


def _told(error: StoreError | None) -> None:
    if error is not None:
        _log.warning("parts of copies could not be thrown away", error=str(error))


def _piece(connection: sqlite3.Connection, *, sha256: str, offset: int) -> bytes:
    return evidence.piece(connection, sha256, offset)


def _was_asked(record: ActionRecord, hello: Hello) -> bool:
    """Whether evidence was to be gathered for it, by this agent. What was held names its agent only in its command, which
    goes to the one on the target's node.
    """
    if not record.evidence or record.target is None:
        return False
    if record.status is Status.GRANTED:
        return record.agent == hello.agent
    return record.status is Status.HELD and _node(record.target) in (None, hello.node)


def _node(target: Target) -> str | None:
    match target:
        case ProcessTarget(node=node) | NetworkTarget(node=node) | PodTarget(node=node):
            return node
