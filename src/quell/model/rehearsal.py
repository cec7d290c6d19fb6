"""What a dry run found: what would be done, or why it would be refused, by whoever would have to do it. SEMANTICS section 8.

Everything that is read before an action is read; nothing is signalled, isolated, moved or written.
"""

from __future__ import annotations

from msgspec import Struct

from quell.model.decision import OutcomeStatus, Reason


class Deed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that would have been done: to a process, or to the network namespace with this inode."""

    action: str
    pid: int | None = None
    start_ticks: int | None = None
    netns: int | None = None
    strict: bool = False
    ports: tuple[int, ...] = ()
    investigators: tuple[str, ...] = ()
    priority: int | None = None
    #: It would have been asked to end (SIGTERM), not made to.
    polite: bool = False


class Rehearsal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What would become of one action of a decision."""

    #: As in the decision's record.
    id: str
    #: Who looked: an agent's id, or "kubernetes:<cluster>".
    by: str
    #: The outcome that the action would have now; expired: nobody could look.
    would: OutcomeStatus
    reason: Reason | None = None
    explanation: str = ""
    #: Seconds that looking took.
    duration: float | None = None
    facts: dict[str, str | int | float | list[int]] = {}
    deeds: tuple[Deed, ...] = ()
