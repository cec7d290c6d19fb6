"""The REST routes, a module a noun. A new one is a line here."""

from __future__ import annotations

from quell.api.routes import (
    accounts,
    agents,
    approvals,
    audit,
    backups,
    deviations,
    documents,
    events,
    inventory,
    notifications,
    policies,
    quarantines,
    rules,
    rulesets,
    sessions,
    settings,
    syslog,
    system,
    users,
    webhooks,
)

NOUNS = (
    accounts,
    agents,
    approvals,
    audit,
    backups,
    deviations,
    documents,
    events,
    inventory,
    notifications,
    policies,
    quarantines,
    rules,
    rulesets,
    sessions,
    settings,
    syslog,
    system,
    users,
    webhooks,
)
