"""The addresses that the tests and the screenshots look at: each page of the registry, and examples of what lies below."""

from __future__ import annotations

from tests.console.example_policies import NIGHT

from quell.console.registry import PAGES

#: A container of the example data.
CHECKOUT = f"{b'checkout'.hex():0<64}"
#: Of a page, what is shown beside its own address. A page of its own module adds a line here.
BELOW: dict[str, tuple[str, ...]] = {
    "deviations": ("/console/deviations?status=any&policy=shop-web",),
    "flags": (
        "/console/flags/night-0/0",
        "/console/flags/acknowledge?id=night-0/0&id=night-1/0",
        "/console/flags?text=nothing-has-this",
    ),
    "traces": (
        "/console/traces?status=any&suppressed=1&order=newest",
        f"/console/traces/{NIGHT}",
        f"/console/traces/{NIGHT}/suppress",
        f"/console/traces/{NIGHT}/close",
    ),
    "policies": (
        "/console/policies/policy/shop-web",
        "/console/policies/new",
        "/console/policies/edit/shop-web",
        "/console/policies/text/shop-web",
        "/console/policies/switch/shop-web?mode=enforce",
        "/console/policies/disable/shop-web",
        "/console/policies/delete/shop-web",
        "/console/policies/observed",
    ),
    "rulesets": (
        "/console/rulesets/ruleset/prod-images",
        "/console/rulesets/text/prod-images",
        "/console/rulesets/delete/prod-images",
    ),
    "agents": ("/console/agents/join",),
    "approvals": (
        "/console/approvals/decided",
        "/console/approvals/breakers",
        "/console/approvals/decide/incident-2/0?verdict=approve",
        "/console/approvals/decide/incident-2/0?verdict=deny",
    ),
    "groups": (
        "/console/groups?kind=defined&text=nothing-has-this",
        "/console/groups/of/containers",
        "/console/groups/of/shop",
        "/console/groups/new",
        "/console/groups/edit/shop",
        "/console/groups/delete/shop",
    ),
    "rules": (
        "/console/rules?text=nothing-has-this",
        "/console/rules/8",
        "/console/rules/8/edit",
        "/console/rules/8/delete",
        "/console/rules/8/move",
        "/console/rules/new?from=incident-0",
        "/console/rules/restore",
    ),
    "notifications": (
        "/console/notifications/events",
        "/console/notifications/risk-reports",
        "/console/notifications/event/incident-0?near=1",
        "/console/notifications/security-events?text=nothing-has-this&level=%3E%3DError",
    ),
    "quarantine": (
        "/console/quarantine/history",
        "/console/quarantine/new",
        "/console/quarantine/new?pod=uid-checkout&node=edge-1",
        "/console/quarantine/of/uid-checkout",
        "/console/quarantine/release/uid-checkout",
        "/console/quarantine/release?all=true",
    ),
    "audit": (
        "/console/audit?verb=nothing-is-called-so",
        "/console/audit/entry/20",
        "/console/audit/verification",
    ),
    "settings": (
        "/console/settings/edit/safety.breaker",
        "/console/settings/edit/journal.max_age",
        "/console/settings/pause",
    ),
    "tokens": (
        "/console/tokens/new",
        "/console/tokens/rotate/first-ingest",
        "/console/tokens/withdraw/first-ingest",
    ),
    "users": (
        "/console/users/new",
        "/console/users/of/admin",
        "/console/users/delete/admin",
        "/console/users/disable/admin",
    ),
    "webhooks": (
        "/console/webhooks/new",
        "/console/webhooks/of/chat",
        "/console/webhooks/of/archive",
        "/console/webhooks/edit/archive",
        "/console/webhooks/switch/chat",
        "/console/webhooks/delete/chat",
        "/console/webhooks/deliveries",
        "/console/webhooks/dead-letters",
        "/console/webhooks/discard-all/archive",
    ),
    "workloads": (
        "/console/workloads/nodes",
        f"/console/workloads/of/{CHECKOUT}",
        f"/console/quarantine/new?workload={CHECKOUT}&node=edge-1",
        "/console/workloads?namespace=nothing-is-there&running=true",
    ),
}


def addresses() -> list[str]:
    return [address for page in PAGES for address in (page.address, *BELOW.get(page.name, ()))]
