"""Who changed what: an entry of the audit log. DESIGN, trust."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


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
    #: What it was done to: a kind of document, token, user, setting, command ...
    kind: str
    name: str
    #: None: there was none.
    before: Any = None
    #: None: there is none now.
    after: Any = None
    note: str = ""
