"""The chain of the audit log, and how it is checked: pure, over entries in the order they are given.

Each entry's hash is of the hash before it and of its own number, time and body, so that an entry that is altered,
removed or moved shows at its place. The end is signed (Head), so that removing the newest shows as well.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Collection, Iterator

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from quell.model.audit import AuditEntry, Base, Fault, Finding, Head, Verification

#: What the first entry follows.
GENESIS = bytes(32)
#: The kind of the entries about the log itself.
OWN = "audit"
#: Of OWN: retention has cut entries off; after has the number and hash of the last of them.
CUT = "cut"
#: Of OWN: the log was found to end otherwise than it was left.
BROKEN = "broken"

_HEAD_DOMAIN = b"quell.audit-head.v1\0"
_OWN_MARK = b'"kind":"audit"'
#: Entries between two tellings of progress.
_STEP = 1000

#: Number, microseconds since the epoch, body, hash.
Row = tuple[int, int, bytes, bytes]

_decode = msgspec.json.Decoder(AuditEntry).decode


def link(before: bytes, n: int, time: int, body: bytes) -> bytes:
    """The hash of an entry that follows the one whose hash is `before`. time: microseconds since the epoch."""
    return hashlib.sha256(before + struct.pack(">Qq", n, time) + body).digest()


def sign(n: int, end: bytes, key: Ed25519PrivateKey) -> bytes:
    """The signature of a chain that ends with entry n, whose hash is `end`."""
    return key.sign(_head_text(n, end))


def is_signed(head: Head, key: Ed25519PublicKey) -> bool:
    try:
        key.verify(bytes.fromhex(head.signature), _head_text(head.n, bytes.fromhex(head.hash)))
    except (InvalidSignature, ValueError):
        return False
    return True


def _head_text(n: int, end: bytes) -> bytes:
    return _HEAD_DOMAIN + struct.pack(">Q", n) + end


class Chain:
    """Follows the chain from `base` on. noted: hashes, in hexadecimal, that it has to pass through."""

    def __init__(self, base: Base, *, noted: Collection[str] = ()) -> None:
        self.n = base.n
        self.hash = bytes.fromhex(base.hash)
        self.entries = 0
        self.findings: list[Finding] = []
        self.broken = False
        #: What the last entry about a cut says was cut off.
        self.cut = Base()
        self._noted = {bytes.fromhex(one) for one in noted}
        self._passed: set[bytes] = set()

    def follow(
        self,
        rows: Iterator[Row],
        head: Head | None,
        *,
        limit: int | None = None,
        progress: Callable[[int], object] = lambda _entries: None,
    ) -> bool:
        """Check entries until the first that does not hold, or so many; True: there was nothing after them.

        progress is called with the number of entries checked so far.
        """
        while limit is None or self.entries < limit:
            row = next(rows, None)
            if row is None:
                return True
            n, time, body, kept = row
            if n != self.n + 1 or link(self.hash, n, time, body) != kept:
                self.findings.append(self._explained(row, rows, head))
                self.broken = True
                return True
            self.n, self.hash = n, kept
            self.entries += 1
            if self._noted and kept in self._noted:
                self._passed.add(kept)
            if _OWN_MARK in body:
                self._read_own(n, body)
            if self.entries % _STEP == 0:
                progress(self.entries)
        return False

    def finish(self, base: Base, head: Head | None, last: int, key: Ed25519PublicKey | None) -> None:
        """Once all has been followed: the beginning, the end, and what was noted. last: the last entry there is.

        key: who must have signed the head; None: that cannot be checked.
        """
        if base.n and not self.broken and self.cut != base:
            detail = f"no entry says that those up to {base.n} were cut off"
            self.findings.insert(0, Finding(fault=Fault.MISSING, n=1, detail=detail))
        self.findings += self._at_the_end(head, last, key)
        if base.n:
            self._passed.add(bytes.fromhex(base.hash))
        for missed in sorted(self._noted - self._passed):
            detail = f"the chain does not pass through {missed.hex()}"
            self.findings.append(Finding(fault=Fault.NOT_PASSED, n=self.n, detail=detail))

    def verification(self, head: Head | None, *, complete: bool) -> Verification:
        return Verification(
            entries=self.entries,
            last=self.n,
            hash=self.hash.hex(),
            complete=complete,
            head=head,
            findings=self.findings,
        )

    def _read_own(self, n: int, body: bytes) -> None:
        try:
            entry = _decode(body)
            if (entry.kind, entry.verb) == (OWN, CUT):
                self.cut = msgspec.convert(entry.after, Base)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.findings.append(Finding(fault=Fault.ALTERED, n=n, detail=f"entry {n} is not as this log has them"))
            return
        if (entry.kind, entry.verb) == (OWN, BROKEN):
            self.findings.append(Finding(fault=Fault.BROKEN_BEFORE, n=n, detail=entry.note))

    def _explained(self, row: Row, rest: Iterator[Row], head: Head | None) -> Finding:
        """What is wrong with the first entry that does not follow; what comes after it tells."""
        n, _, _, kept = row
        expected = self.n + 1
        if n < expected:
            return Finding(fault=Fault.REORDERED, n=n, detail=f"entry {n} comes after entry {self.n}")
        if n > expected:
            if any(later == expected for later, _, _, _ in rest):
                return Finding(fault=Fault.REORDERED, n=expected, detail=f"entry {n} stands in the place of {expected}")
            which = f"entry {expected} is" if n == expected + 1 else f"entries {expected} to {n - 1} are"
            return Finding(fault=Fault.MISSING, n=expected, detail=f"{which} missing")
        place = next((m - 1 for m, time, body, after in rest if link(kept, m, time, body) == after), None)
        if place is None and head is not None and head.hash == kept.hex():
            place = head.n
        if place is None or place == n:
            return Finding(fault=Fault.ALTERED, n=n, detail=f"entry {n} is not as it was written")
        return Finding(fault=Fault.REORDERED, n=n, detail=f"entry {n} holds what entry {place} held")

    def _at_the_end(self, head: Head | None, last: int, key: Ed25519PublicKey | None) -> Iterator[Finding]:
        if head is None:
            if last:
                yield Finding(fault=Fault.UNSIGNED, n=last, detail="the signed head of the log is missing")
            return
        if key is not None and not is_signed(head, key):
            detail = "the head is not signed with the controller's key, or was altered"
            yield Finding(fault=Fault.SIGNATURE, n=head.n, detail=detail)
        if last < head.n:
            which = f"entry {head.n} is" if head.n == last + 1 else f"entries {last + 1} to {head.n} are"
            yield Finding(fault=Fault.CUT_OFF, n=last + 1, detail=f"{which} missing at the end")
        elif last > head.n:
            detail = f"entries after {head.n} are not covered by the signed head"
            yield Finding(fault=Fault.UNSIGNED, n=head.n + 1, detail=detail)
        elif not self.broken and self.hash.hex() != head.hash:
            detail = f"entry {head.n} has another hash than the signed head: entries before it were written anew"
            yield Finding(fault=Fault.REWRITTEN, n=head.n, detail=detail)
