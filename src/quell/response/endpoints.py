"""Which endpoints a webhook action reaches for an event, and which it skips and why. SEMANTICS sections 3 and 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from quell.model.decision import Ask
from quell.model.event import Event
from quell.model.rule import Webhook


class Chosen(NamedTuple):
    endpoints: tuple[str, ...]
    #: One sentence for each that was skipped.
    skipped: tuple[str, ...]


def choose(ask: Ask, webhooks: Mapping[str, Webhook], event: Event) -> Chosen:
    """Those that the rule or the action names, or else those marked default; without disabled and filtered ones."""
    named = ask.endpoints or tuple(sorted(name for name, webhook in webhooks.items() if webhook.default))
    endpoints: list[str] = []
    skipped: list[str] = []
    for name in named:
        webhook = webhooks.get(name)
        if webhook is None:
            skipped.append(f"there is no endpoint {name}")
        elif not webhook.enable:
            skipped.append(f"endpoint {name} is disabled")
        elif webhook.filter.categories and event.category not in webhook.filter.categories:
            skipped.append(f"endpoint {name} does not take events of category {event.category}")
        elif webhook.filter.level is not None and event.level.rank < webhook.filter.level.rank:
            skipped.append(f"endpoint {name} takes events from level {webhook.filter.level} on")
        else:
            endpoints.append(name)
    return Chosen(tuple(endpoints), tuple(skipped))
