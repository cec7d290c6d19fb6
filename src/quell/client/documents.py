from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import YAML, Session, if_match


class Holding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A quarantine of a rule that does not act any more: it is released, or `holders` go on holding it."""

    key: str
    released: bool
    holders: list[str] = []


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What applying or deleting did to one document, or would do."""

    kind: str
    name: str
    #: created, configured, moved, unchanged or deleted.
    verb: str
    id: int | None = None
    #: The document's version; 0 once it is deleted.
    revision: int = 0
    #: The source that it belongs to; "": none.
    source: str = ""
    #: Unified, without secrets; of a dry run only.
    diff: str = ""
    warnings: list[str] = []
    #: Of a rule: where it stands among all of them, from 1 on.
    place: int | None = None
    quarantines: list[Holding] = []


class Documents:
    """The documents in force. version: a revision that was read; ApiError 412 if it is not the one in force any more."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def apply(
        self,
        text: bytes,
        *,
        dry_run: bool = False,
        source: str = "",
        prune: bool = False,
        take_over: bool = False,
        unquarantine: bool = False,
        version: int | None = None,
    ) -> list[Change]:
        """Apply YAML documents, all or none; ApiError.problems lists everything wrong with them.

        source: by what name; what is applied by it belongs to it. prune: delete what the same source applied and is not
        here. take_over: also change what belongs to another source. unquarantine: end what is isolated by rules that go
        or are disabled.
        """
        params = {
            "dry_run": dry_run or None,
            "source": source or None,
            "prune": prune or None,
            "take_over": take_over or None,
            "unquarantine": unquarantine or None,
        }
        return self._session.ask(
            list[Change], "POST", "/v1/documents", content=text, headers=YAML | if_match(version), params=params
        )

    def all(self, kind: str | None = None, name: str | None = None, source: str | None = None) -> list[dict[str, Any]]:
        """With `status`: revision, source, created, changed, changed_by."""
        return self._session.items(dict[str, Any], "/v1/documents", kind=kind, name=name, source=source)

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """As `all` gives them."""
        return self._session.ask(dict[str, Any], "GET", _path(kind, name))

    def put(self, kind: str, name: str, text: bytes, *, version: int | None = None, source: str = "") -> Change:
        """Create or change one document, in YAML or JSON."""
        return self._session.ask(
            Change,
            "PUT",
            _path(kind, name),
            content=text,
            headers=YAML | if_match(version),
            params={"source": source or None},
        )

    def export(self, kind: str | None = None, source: str | None = None, *, secrets: bool = False) -> str:
        """YAML that applied elsewhere gives the same; secrets (of webhooks) are for admins."""
        params = {"kind": kind, "source": source, "secrets": secrets or None}
        return self._session.do("GET", "/v1/documents/export", params=params).text

    def delete(
        self, kind: str, name: str, *, unquarantine: bool = False, force: bool = False, version: int | None = None
    ) -> list[Change]:
        """unquarantine: end what its quarantines hold as well. force: delete the rules that refer to it too."""
        return self._session.ask(
            list[Change],
            "DELETE",
            _path(kind, name),
            headers=if_match(version),
            params={"unquarantine": unquarantine or None, "force": force or None},
        )


def _path(kind: str, name: str) -> str:
    return f"/v1/documents/{quote(kind, safe='')}/{quote(name, safe='')}"
