"""A new key for signing commands, while the controller is stopped. docs/threat-model.md.

The old key signs a statement that the new one follows it. The statements are kept in the database and told to each agent
when it links: an agent that was away while the key changed follows them from the key it knows. The order is: the new key
beside the old, statement and audit entry in one transaction whose head the new key signs, the new key in the old one's
place. A crash between two of these is mended at the next start.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quell.channel.envelope import succeed, successor
from quell.channel.keys import load_key, load_or_create_key, new_key, public_text, save_private
from quell.model.audit import QUELL, AuditEntry
from quell.storage import audit, key_values
from quell.storage.store import Store

KEY = "controller.key"
_NEXT = "controller.key.next"
_STATEMENTS = "key-statements"
#: So many statements are told; an agent that slept through more joins anew.
_MOST = 100


def rotate(folder: Path, now: float) -> tuple[str, str]:
    """The public keys before and after, as texts. StoreError: a controller runs, or the database cannot be written."""
    finish(folder)
    old = load_key(folder / KEY)
    new, pem = new_key()
    # Both open the store, so that only one process does this at a time.
    with contextlib.closing(Store.open(folder / "quell.db", key=new, successor_of=old.public_key())) as store:
        save_private(folder / _NEXT, pem)
        store.submit(lambda connection: _state(connection, old, new, now)).result()
    finish(folder)
    return public_text(old.public_key()), public_text(new.public_key())


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The key that signs commands, made at the first start. LinkError: its file is wrong."""
    finish(folder)
    return load_or_create_key(folder / KEY)


def finish(folder: Path) -> None:
    """End what a crash interrupted: the new key counts if its statement is in the database."""
    waiting = folder / _NEXT
    if not waiting.exists():
        return
    new, old = load_key(waiting).public_key(), load_key(folder / KEY).public_key()
    # Read-write: what the last process left in the log of the database is taken in.
    with contextlib.closing(sqlite3.connect(folder / "quell.db")) as connection:
        known = statements(connection)
    if public_text(successor(known, old)) == public_text(new):
        waiting.replace(folder / KEY)
    else:
        waiting.unlink()


def statements(connection: sqlite3.Connection) -> tuple[bytes, ...]:
    """The oldest first."""
    kept = key_values.get(connection, _STATEMENTS)
    return () if kept is None else msgspec.msgpack.decode(kept, type=tuple[bytes, ...])


def _state(connection: sqlite3.Connection, old: Ed25519PrivateKey, new: Ed25519PrivateKey, now: float) -> None:
    told = (*statements(connection), succeed(old, new.public_key(), now))[-_MOST:]
    key_values.put(connection, _STATEMENTS, msgspec.msgpack.encode(told))
    keys = {"key": public_text(old.public_key())}, {"key": public_text(new.public_key())}
    entry = AuditEntry(actor=QUELL, verb="rotate", kind="key", name=KEY, before=keys[0], after=keys[1])
    audit.append(connection, entry, now)
