"""Who changed what: an entry of the audit log, and what checking the log found. DESIGN, trust."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta, Struct

#: SHA-256 in hexadecimal.
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Actor(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Whoever asked for a change."""

    #: user, token, agent or system.
    kind: str
    name: str = ""
    #: Where the request came from; "": from this process.
    address: str = ""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind


#: Quell itself.
QUELL = Actor(kind="system", name="quell")


class AuditEntry(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One change or one action. before and after are JSON-able and hold no secret."""

    actor: Actor
    #: create, change, delete, login, kill ...: one word.
    verb: str
    #: What it was done to: a kind of document, token, user, setting, action ...
    kind: str
    name: str
    #: None: there was none.
    before: Any = None
    #: None: there is none now.
    after: Any = None
    note: str = ""


class AuditRecord(Struct, frozen=True, kw_only=True):
    """An entry with its place in the log."""

    #: From 1, without gaps.
    n: int
    #: Epoch seconds.
    time: float
    #: SHA-256 in hexadecimal, of this entry and all before it.
    hash: str
    entry: AuditEntry


class Head(Struct, frozen=True, kw_only=True):
    """Where the log ends, signed by the controller."""

    n: int
    hash: Hash
    #: Ed25519, hexadecimal; "": not signed.
    signature: Annotated[str, Meta(pattern="^([0-9a-f]{128})?$")] = ""


class Base(Struct, frozen=True, kw_only=True):
    """What the first entry follows: the last one that retention cut off, or nothing (n 0)."""

    n: int = 0
    hash: Hash = "00" * 32


class Fault(StrEnum):
    """What can be wrong with the log."""

    ALTERED = "altered"
    MISSING = "missing"
    REORDERED = "reordered"
    #: Entries at the end are gone.
    CUT_OFF = "cut off"
    #: The chain holds in itself, but is not the one that was signed.
    REWRITTEN = "rewritten"
    #: Entries that no signature covers.
    UNSIGNED = "unsigned"
    #: The head is signed with another key, or was altered.
    SIGNATURE = "signature"
    #: The controller itself found the log to end otherwise than it had left it, and said so in this entry.
    BROKEN_BEFORE = "broken before"
    #: A hash that was written down elsewhere is not in the chain.
    NOT_PASSED = "not passed"


class Finding(Struct, frozen=True, kw_only=True):
    fault: Fault
    #: The first entry that is not as it should be.
    n: int
    detail: str


class Verification(Struct, frozen=True, kw_only=True):
    """What checking the log, or a part of it, came to."""

    #: Entries that were checked and hold.
    entries: int
    #: The last of them, and its hash: where to go on.
    last: int
    hash: str
    #: True: the end was reached, or a fault beyond which nothing can be said.
    complete: bool
    head: Head | None
    #: Nothing: the log is as it was written.
    findings: list[Finding] = []
