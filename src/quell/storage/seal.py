"""What the writer adds to a transaction with entries of the audit log: their links, and the signed end of the chain.

The signature is made in the same transaction, so that no entry is ever on disk without one that covers it. What the
log should end with is kept in memory as well: if somebody changes it behind the writer's back, or while no controller
runs, the next transaction notices and says so in an entry, before it signs anything on top.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from quell.clock import Clock
from quell.model.audit import QUELL, AuditEntry
from quell.storage import audit, packed
from quell.storage.chain import BROKEN, GENESIS, OWN, is_signed, link, sign
from quell.storage.records import Noted

#: The last entry's number and hash.
_END = "SELECT (SELECT coalesce(max(n), 0) FROM audit), (SELECT hash FROM audit ORDER BY n DESC LIMIT 1)"
#: The same, and which of these outcomes are known, each as "id status".
_ENDS = (
    f"{_END}, (SELECT json_group_array(id || ' ' || status) FROM outcomes WHERE id IN (SELECT value FROM json_each(?)))"  # noqa: S608 - literals
)

#: For the writer's one statement: {rows} are [n, time, place, length of the body], {bytes} of each its hash and body.
INSERT = (
    "INSERT INTO audit (n, time, hash, body) SELECT value ->> 0, value ->> 1, substr({bytes}, (value ->> 2) + 1, 32),"
    " substr({bytes}, (value ->> 2) + 33, value ->> 3) FROM json_each({rows}) WHERE true"
)
INSERT_HEAD = (
    "INSERT OR REPLACE INTO audit_head (one, n, hash, signature)"
    " SELECT 1, {n}, {hash}, {signature} WHERE {n} IS NOT NULL"
)

_log = structlog.get_logger("quell.storage")

#: Values for INSERT and INSERT_HEAD: rows, bytes, n, hash, signature.
Sealed = tuple[str, bytes, int, bytes, bytes] | tuple[None, None, None, None, None]
NOTHING: Sealed = (None, None, None, None, None)


class Seal:
    """It belongs to the writing thread and its connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        key: Ed25519PrivateKey | None,
        clock: Clock,
        successor_of: Ed25519PublicKey | None = None,
    ) -> None:
        """key: signs where the log ends; None: nobody does. successor_of: who signed so far, if another. Notes in the log if it does not end as it was left."""
        self._connection = connection
        self._key = key
        self._clock = clock
        found = audit.ends(connection)
        row = connection.execute("SELECT hash FROM audit WHERE n = ?", (found.last,)).fetchone()
        end = GENESIS if row is None else row[0]
        self._last: tuple[int, bytes] = (found.last, end)
        self._committed = self._last
        #: Something was written that may hold entries this has not seen.
        self.open = False
        wrong = ""
        if found.head is None:
            wrong = "its signed head is missing" if found.last else ""
        elif (found.head.n, found.head.hash) != (found.last, end.hex()):
            wrong = f"the signed head is of entry {found.head.n}, the log ends with entry {found.last}"
        elif key is not None and not is_signed(found.head, successor_of or key.public_key()):
            wrong = f"the head of entry {found.head.n} is not signed with this controller's key"
        if wrong:
            connection.execute("BEGIN IMMEDIATE")
            audit.append(connection, self._broken(wrong), clock())
            self.close()
            connection.execute("COMMIT")
            self.commit()

    def chained(self, noted: Sequence[Noted]) -> Sealed:
        """These as the next entries of the chain, and its end signed. Those of outcomes that are known are left out."""
        if not noted:
            return NOTHING
        ids = packed.texts([one.outcome[0] for one in noted if one.outcome is not None])
        if self.open:
            self.close()
        n, end, told = self._connection.execute(_ENDS, (ids,)).fetchone()
        known = set(msgspec.json.decode(told, type=list[str]))
        added: list[tuple[int, bytes]] = []
        if (n, end or GENESIS) != self._last:
            added.append((audit.micros(self._clock()), audit.encode(self._broken(self._difference(n)))))
        for one in noted:
            outcome = None if one.outcome is None else " ".join(one.outcome)
            if outcome is None or outcome not in known:
                added.append((audit.micros(one.time), audit.encode(one.entry)))
                known |= {outcome} if outcome is not None else set()
        if not added:
            return NOTHING
        rows: list[tuple[int, int, int, int]] = []
        parts: list[bytes] = []
        before, at = end or GENESIS, 0
        for time, body in added:
            n += 1
            before = link(before, n, time, body)
            rows.append((n, time, at, len(body)))
            parts += (before, body)
            at += len(before) + len(body)
        self._last = (n, before)
        return packed.rows_text(rows), b"".join(parts), n, before, self._signature()

    def begin(self) -> None:
        """At the start of a transaction in which others may append: what they append to must be what is known."""
        self.open = True
        n, end = self._connection.execute(_END).fetchone()
        if (n, end or GENESIS) != self._last:
            audit.append(self._connection, self._broken(self._difference(n)), self._clock())

    def close(self) -> None:
        """Sign what was appended since, in the transaction that is open."""
        self.open = False
        n, end = self._connection.execute(_END).fetchone()
        if (n, end or GENESIS) == self._last:
            return
        self._last = (n, end)
        values = {"n": "?1", "hash": "?2", "signature": "?3"}
        self._connection.execute(INSERT_HEAD.format(**values), (n, end, self._signature()))

    def commit(self) -> None:
        """The transaction is on disk."""
        self._committed = self._last

    def resume(self) -> None:
        """After a transaction was rolled back."""
        self._last = self._committed
        self.open = False

    def _signature(self) -> bytes:
        return b"" if self._key is None else sign(*self._last, self._key)

    def _difference(self, n: int) -> str:
        return f"entry {self._last[0]} was the last that was written, and is not there as it was; entry {n} is the last"

    def _broken(self, why: str) -> AuditEntry:
        note = f"the audit log was changed from outside: {why}"
        _log.error(note)
        return AuditEntry(actor=QUELL, verb=BROKEN, kind=OWN, name="log", note=note)
