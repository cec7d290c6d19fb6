"""Where events that follow from Quell's own events end: after MAX_CHAIN of them, with an ops flag. SEMANTICS section 4.

A webhook may lead back to Quell's own API, and what its request changes is an event that the same rule answers. Such a
request carries the delivery's id; while that delivery is on its way, what it changes is told under an id made of it.
"""

from __future__ import annotations

from quell.clock import Clock
from quell.controller.own_events import MAX_CHAIN, ends_chain, following
from quell.model.action import Severity
from quell.model.decision import Flag, FlagClass
from quell.model.event import Event
from quell.storage import outbox
from quell.storage.store import Store

#: Seconds in which one flag is raised for the events of one name.
_FLAG_SECONDS = 3600.0


class Chains:
    """On the event loop's thread only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._flagged: dict[str, float] = {}

    def identifier(self, delivery: str) -> str:
        """For the event of what a delivery's request did; "": there is no such delivery on its way."""
        found = self._store.read(lambda connection: outbox.get(connection, delivery)) if delivery else None
        return "" if found is None else following(found.id)

    def is_over(self, identifier: str) -> bool:
        """Whether no rule may answer the event of this id."""
        return ends_chain(identifier.removesuffix(following("")))

    def flag(self, event: Event) -> Flag | None:
        """That a chain ended with this event; None: that was said of one with its name within the hour."""
        now = self._clock()
        if now - self._flagged.get(event.name, 0.0) < _FLAG_SECONDS:
            return None
        self._flagged[event.name] = now
        return Flag(
            id=f"{event.id}/chain",
            flag_class=FlagClass.OPS,
            severity=Severity.MEDIUM,
            name=f"Rules go round in circles: {event.name}",
            description=(
                f"{event.name} followed from an answer to an event that followed from an answer, {MAX_CHAIN} times over:"
                " this one is journaled and not answered"
            ),
            impact="A rule's answer causes the event that it answers: a webhook that leads back to Quell, for instance.",
            subject=event.subject,
            event_id=event.id,
            time=now,
        )
