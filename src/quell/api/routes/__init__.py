"""The REST routes, a module a noun. A new one is a line here."""

from __future__ import annotations

from quell.api.routes import accounts, agents, backups, documents, events, quarantines, system, webhooks

NOUNS = (
    accounts,
    agents,
    backups,
    documents,
    events,
    quarantines,
    system,
    webhooks,
)
