"""Databases as earlier versions of Quell left them: each migration followed by what its version would have written.

tests/data/migrations/NNNN.sql holds rows of the tables and columns that migration NNNN brought, and nothing else.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from quell.storage import schema

DATA = Path(__file__).resolve().parents[1] / "data" / "migrations"
NUMBERS = [number for number, _, _ in schema.migrations()]
NEWEST = NUMBERS[-1]


def build(path: Path, version: int) -> None:
    """A new database of that version, with data of it and of each one before."""
    schema.create(path)
    with closing(schema.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
        for number, _, script in schema.migrations():
            if number <= version:
                rows = (DATA / f"{number:04}.sql").read_text()
                connection.executescript(f"BEGIN;\n{script}\n{rows}\nPRAGMA user_version={number};\nCOMMIT;")
