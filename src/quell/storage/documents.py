"""The documents people applied, as JSON. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import Struct

_COLUMNS = "kind, name, id, revision, body, source, created, changed, changed_by, position"


class Document(Struct, frozen=True, kw_only=True):
    #: ResponseRule, Group, Webhook, Syslog, Policy or Ruleset.
    kind: str
    name: str
    #: A rule's number; 0 where the kind has none.
    id: int = 0
    #: Which application of documents last changed it.
    revision: int = 0
    body: bytes
    #: The named source that applied it; "": none.
    source: str = ""
    #: Epoch seconds; 0: from before they were kept.
    created: float = 0.0
    changed: float = 0.0
    #: Who changed it last, as the audit log names them; "": from before it was kept.
    changed_by: str = ""
    #: Where a rule stands among the others; 0 where the kind has no order.
    position: int = 0


def put(connection: sqlite3.Connection, document: Document) -> None:
    """Creates or replaces the document of this kind and name."""
    connection.execute(
        f"INSERT OR REPLACE INTO documents ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a literal
        (
            document.kind,
            document.name,
            document.id,
            document.revision,
            document.body,
            document.source,
            document.created,
            document.changed,
            document.changed_by,
            document.position,
        ),
    )


def reposition(connection: sqlite3.Connection, positions: Iterable[tuple[int, str, str]]) -> None:
    """positions: (position, kind, name) of documents of which nothing else changes."""
    connection.executemany("UPDATE documents SET position = ? WHERE kind = ? AND name = ?", positions)


def delete(connection: sqlite3.Connection, kind: str, name: str) -> bool:
    """False: there was none."""
    return connection.execute("DELETE FROM documents WHERE kind = ? AND name = ?", (kind, name)).rowcount > 0


def get(connection: sqlite3.Connection, kind: str, name: str) -> Document | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM documents WHERE kind = ? AND name = ?",  # noqa: S608 - a literal
        (kind, name),
    ).fetchone()
    return None if row is None else _document(row)


def all_of(connection: sqlite3.Connection, kind: str | None = None) -> list[Document]:
    """By kind, and within it in their order: rules as they stand, others by name."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM documents WHERE ?1 IS NULL OR kind = ?1 ORDER BY kind, position, id, name",  # noqa: S608 - a literal
        (kind,),
    )
    return [_document(row) for row in rows]


def _document(row: tuple[str, str, int, int, bytes, str, float, float, str, int]) -> Document:
    kind, name, number, revision, body, source, created, changed, changed_by, position = row
    return Document(
        kind=kind,
        name=name,
        id=number,
        revision=revision,
        body=body,
        source=source,
        created=created,
        changed=changed,
        changed_by=changed_by,
        position=position,
    )
