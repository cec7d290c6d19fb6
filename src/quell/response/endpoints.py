"""Which endpoints a webhook action reaches for an event, and which it skips and why. SEMANTICS sections 3 and 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from quell.model.action import Severity
from quell.model.decision import Ask, Flag
from quell.model.event import Event, Level
from quell.model.rule import Webhook

#: What a flag's severity is among the levels of events (SEMANTICS section 1, threat severities).
LEVELS: Mapping[Severity, Level] = {
    Severity.CRITICAL: Level.CRITICAL,
    Severity.HIGH: Level.ERROR,
    Severity.MEDIUM: Level.WARNING,
    Severity.LOW: Level.NOTICE,
    Severity.INFO: Level.INFO,
}


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


def subscribers(flag: Flag, webhooks: Mapping[str, Webhook]) -> list[str]:
    """The endpoints that a flag goes to: those that its action names, and those that subscribe to flags."""
    if flag.silent:
        return []
    subscribed = [name for name, webhook in webhooks.items() if webhook.filter.flags]
    named = dict.fromkeys((*flag.webhooks, *subscribed))
    return [name for name in named if not unheard(name, flag.severity, webhooks)]


def unheard(name: str, severity: Severity, webhooks: Mapping[str, Webhook]) -> str:
    """Why an endpoint does not get a flag of this severity, in one sentence; "": it does.

    Its filter's categories are those of events: they say nothing of flags.
    """
    webhook = webhooks.get(name)
    if webhook is None:
        return f"there is no endpoint {name}"
    if not webhook.enable:
        return f"endpoint {name} is disabled"
    least = webhook.filter.level
    if least is not None and LEVELS[severity].rank < least.rank:
        return f"endpoint {name} takes flags from level {least} on"
    return ""
