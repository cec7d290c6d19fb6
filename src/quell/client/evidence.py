from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from msgspec import Struct

from quell.client.download import export, quiet
from quell.client.session import Session
from quell.model.evidence import EvidenceSummary, StoredEvidence


class EvidenceOfEvent(Struct, frozen=True, kw_only=True):
    event: str
    items: list[StoredEvidence]


class Evidence:
    """What was gathered before kills."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def recent(self, limit: int = 50) -> list[EvidenceSummary]:
        return self._session.items(EvidenceSummary, "/v1/evidence", limit)

    def of_event(self, event_id: str) -> list[StoredEvidence]:
        """One for each kill of its decision that evidence was gathered before."""
        return self._session.ask(EvidenceOfEvent, "GET", f"/v1/evidence/{quote(event_id, safe='')}").items

    def executable(self, sha256: str) -> Iterator[bytes]:
        """The content of an executable that was killed, in parts. It may be malware."""
        return export(self._session, f"/v1/executables/{quote(sha256, safe='')}", {}, quiet)
