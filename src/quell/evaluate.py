"""The one way to decide: ingest, explain, dry run, rule tests and backtest all go it. SEMANTICS section 9."""

from __future__ import annotations

from quell.matching.index import Index, Matched
from quell.model.answer import Answer, settled
from quell.model.decision import Decision, NearMiss
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
    if isinstance(matched, Answer):
        return matched.decision(event.id, now, index.revision, near_misses=misses)
    return conclude(event, matched, index, state, now, misses)


def conclude(
    event: Event, matched: Matched, index: Index, state: State, now: float, near_misses: tuple[NearMiss, ...] = ()
) -> Decision:
    """As `evaluate`, of an event that the index was asked about already (Index.match_all) and has no answer to."""
    answer = None if matched.default_skipped else settled(event.source, matched.matches, matched.asks)
    if answer is not None:
        return answer.decision(event.id, now, index.revision, near_misses=near_misses)
    return decide(
        event,
        matched.details or event.details,
        matched.matches,
        matched.asks,
        webhooks=index.webhooks,
        state=state,
        now=now,
        revision=index.revision,
        default_skipped=matched.default_skipped,
        near_misses=near_misses,
    )
