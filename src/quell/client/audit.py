from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from quell.client.session import Session, problem
from quell.errors import Unreachable
from quell.model.audit import AuditRecord, Head, Verification

#: Entries checked by one request.
_PART = 100_000
_PATIENCE = 120.0


class Audit:
    """Who did what."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def entries(
        self,
        limit: int | None = 50,
        *,
        since: float | None = None,
        until: float | None = None,
        actor: str | None = None,
        verb: str | None = None,
        kind: str | None = None,
        name: str | None = None,
    ) -> list[AuditRecord]:
        """Newest first. actor: such as user/alice. Times in epoch seconds, since included, until not."""
        wanted = {"since": since, "until": until, "actor": actor, "verb": verb, "kind": kind, "name": name}
        return self._session.items(AuditRecord, "/v1/audit", limit, **wanted)

    def head(self) -> Head:
        """Where the log ends now. ApiError 404: it is empty."""
        return self._session.ask(Head, "GET", "/v1/audit/head")

    def verification(self, progress: Callable[[int, int], object] = lambda _entries, _of: None) -> Verification:
        """Let the controller check its log, part by part. progress: called with the entries checked, and how many there are."""
        parts: list[Verification] = []
        where: dict[str, int | str] = {}
        while not parts or not parts[-1].complete:
            part = self._session.ask(
                Verification,
                "GET",
                "/v1/audit/verification",
                params={"limit": _PART, **where},
                timeout=_PATIENCE,
            )
            parts.append(part)
            where = {"after": part.last, "after_hash": part.hash}
            entries = sum(one.entries for one in parts)
            progress(entries, entries + (0 if part.head is None else max(part.head.n - part.last, 0)))
        last = parts[-1]
        return Verification(
            entries=sum(part.entries for part in parts),
            last=last.last,
            hash=last.hash,
            complete=True,
            head=last.head,
            findings=[finding for part in parts for finding in part.findings],
        )

    def export(self) -> Iterator[bytes]:
        """The whole log, in parts, as GET /v1/audit/export answers."""
        http = self._session.http
        try:
            with http.stream("GET", "/v1/audit/export", timeout=httpx.Timeout(30.0, read=_PATIENCE)) as response:
                if response.is_error:
                    response.read()
                    raise problem(response)
                yield from response.iter_raw()
        except httpx.TransportError as error:
            raise Unreachable(f"no whole export came from {http.base_url}: {error}") from error

    def save(self, path: Path) -> None:
        """The whole log as a file of mode 0600, there once it has come whole. FileExistsError."""
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for part in self.export():
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.link(fresh, path)  # unlike rename, it never replaces a file that has come meanwhile
        finally:
            fresh.unlink(missing_ok=True)
