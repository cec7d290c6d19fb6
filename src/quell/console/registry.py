"""The pages, in the order of the navigation within their section. A page is a module, a template and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quell.api.services import Services
from quell.console.page import Page, Parts
from quell.console.pages import (
    account,
    agents,
    approvals,
    audit,
    deviations,
    flags,
    groups,
    notifications,
    overview,
    policies,
    quarantine,
    rules,
    rulesets,
    settings,
    tokens,
    traces,
    users,
    webhooks,
    workloads,
)

#: The first is where one comes to after the login.
PAGES: tuple[Page, ...] = (
    overview.PAGE,
    notifications.PAGE,
    flags.PAGE,
    traces.PAGE,
    rules.PAGE,
    groups.PAGE,
    deviations.PAGE,
    policies.PAGE,
    rulesets.PAGE,
    quarantine.PAGE,
    approvals.PAGE,
    webhooks.PAGE,
    workloads.PAGE,
    agents.PAGE,
    audit.PAGE,
    users.PAGE,
    tokens.PAGE,
    settings.PAGE,
    account.PAGE,
)

#: Pages that stay current, by name: what makes the HTML of their parts, once a second for all who look.
LIVE: Mapping[str, Callable[[Services], Parts]] = {
    "overview": overview.live,
    "notifications": notifications.live,
    "quarantine": quarantine.live,
    "approvals": approvals.live,
}
