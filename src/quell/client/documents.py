from __future__ import annotations

from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import YAML, Session


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What applying or deleting did to one document."""

    kind: str
    name: str
    #: created, configured, unchanged or deleted.
    verb: str
    id: int | None = None
    warnings: list[str] = []


class Documents:
    """The documents in force."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def apply(self, text: bytes, *, dry_run: bool = False) -> list[Change]:
        """Apply YAML documents, all or none; ApiError.problems lists everything wrong with them."""
        return self._session.ask(
            list[Change], "POST", "/v1/documents", content=text, headers=YAML, params={"dry_run": dry_run or None}
        )

    def all(self, kind: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/documents", kind=kind, name=name)

    def delete(self, kind: str, name: str, *, unquarantine: bool = False, force: bool = False) -> list[Change]:
        """unquarantine: end what its quarantines hold as well. force: delete the rules that refer to it too."""
        return self._session.ask(
            list[Change],
            "DELETE",
            f"/v1/documents/{quote(kind)}/{quote(name, safe='')}",
            params={"unquarantine": unquarantine or None, "force": force or None},
        )
