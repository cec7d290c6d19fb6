"""The one function that decides: ingest, explain, dry run, rule tests and backtest all call it. SEMANTICS section 9."""

from __future__ import annotations

from quell.matching.index import Index
from quell.model.decision import Decision
from quell.model.event import Event
from quell.response.decide import decide
from quell.response.state import State


def evaluate(event: Event, index: Index, state: State, now: float, near_misses: bool = False) -> Decision:
    """What is to be done about one event at `now` (epoch seconds). Pure: the decision lists the changes it makes.

    near_misses: also say, for each rule of the event's category that does not match, which criterion is not met.
    EventError: details that a rule asks for cannot be read from the event's bytes.
    """
    matched = index.match(event, state, now)
    misses = index.near_misses(event, state, now) if near_misses else ()
    if matched is None:
        return Decision(event_id=event.id, time=now, revision=index.revision, near_misses=misses)
    return decide(
        event,
        matched.details,
        matched.matches,
        matched.asks,
        webhooks=index.webhooks,
        state=state,
        now=now,
        revision=index.revision,
        default_skipped=matched.default_skipped,
        near_misses=misses,
    )
