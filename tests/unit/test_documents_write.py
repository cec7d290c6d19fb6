"""What is written loads back to the same value, whatever the value."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.documents import groups, policies, rules, rulesets, syslogs, webhooks

from quell.catalogue.table import ACTIONS, CRITERIA, allowed
from quell.documents.load import Thing, load_text, load_values
from quell.documents.write import dump_yaml, split, to_document
from quell.model.action import Quarantine, SuppressLog
from quell.model.event import Category, Kind
from quell.model.rule import Criterion, Rule, Source, Webhook, WebhookType
from quell.secrets import HIDDEN


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.one_of(rules(), groups, webhooks, syslogs, policies(), rulesets))
def test_what_is_written_loads_back(thing: Thing) -> None:
    for documents in (load_values([to_document(thing, secrets=True)]), load_text(dump_yaml([thing], secrets=True))):
        [loaded] = (
            *documents.rules,
            *documents.groups,
            *documents.webhooks,
            *documents.syslogs,
            *documents.policies,
            *documents.rulesets,
        )
        assert msgspec.structs.replace(loaded, source=Source()) == thing
        assert dump_yaml([loaded], secrets=True) == dump_yaml([thing], secrets=True)


def test_secrets_are_shown_only_when_asked_for() -> None:
    secret = "whsec_" + base64.b64encode(bytes(24)).decode()
    webhook = Webhook(name="soc", url="https://example.org", secret=secret, headers={"Authorization": "Bearer x"})
    shown = dump_yaml([webhook])
    assert secret not in shown
    assert "Bearer" not in shown
    assert to_document(webhook)["spec"]["headers"] == {"Authorization": HIDDEN}
    assert load_text(shown).webhooks[0].secret == HIDDEN
    assert secret in dump_yaml([webhook], secrets=True)


@pytest.mark.parametrize(
    ("type_", "url", "shown"),
    [
        (WebhookType.SLACK, "https://chat.example.org/hooks/abcdef", "https://chat.example.org/(secret)"),
        (WebhookType.JSON, "https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/(secret)"),
        (WebhookType.JSON, "https://soc.example.org/in?team=a&token=xyz", "https://soc.example.org/in?(secret)"),
        (WebhookType.JSON, "https://soc.example.org/in", "https://soc.example.org/in"),
    ],
)  # fmt: skip
def test_what_is_secret_in_an_address(type_: WebhookType, url: str, shown: str) -> None:
    assert to_document(Webhook(name="w", type=type_, url=url))["spec"]["url"] == shown


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(rules(), groups, policies()), max_size=4))
def test_documents_are_told_apart_again(things: list[Thing]) -> None:
    assert split(dump_yaml(things)) == [dump_yaml([thing]) for thing in things]


def test_a_rule_is_written_as_a_person_would() -> None:
    rule = Rule(
        id=8,
        name="isolate",
        category=Category.SECURITY_EVENT,
        kind=Kind.INCIDENT,
        criteria=(
            Criterion(type="level", values=(">=Error",)),
            Criterion(type="process", values=("nc", "ncat")),
        ),
        actions=(Quarantine(ttl=3600.0), SuppressLog()),
        cooldown=90.0,
    )
    assert dump_yaml([rule, rule]).split("---\n")[1] == (
        "apiVersion: quell.dev/v1\n"
        "kind: ResponseRule\n"
        "metadata:\n"
        "  name: isolate\n"
        "spec:\n"
        "  id: 8\n"
        "  event: incident\n"
        "  criteria:\n"
        "  - level:>=Error\n"
        "  - type: process\n"
        "    value:\n"
        "    - nc\n"
        "    - ncat\n"
        "  actions:\n"
        "  - quarantine:\n"
        "      ttl: 1h\n"
        "  - suppress-log\n"
        "  cooldown: 90s\n"
    )


def test_every_action_and_criterion_of_the_tables_can_be_written() -> None:
    """The examples in the tables are documents themselves."""
    for category in Category:
        criteria_lines = [f'"{spec.example}"' for spec in CRITERIA.values() if category in spec.categories]
        action_lines = [
            spec.example if ":" not in spec.example else f"{{{spec.example}}}"
            for spec in ACTIONS.values()
            if allowed(category, spec.word)
        ]
        documents = load_text(
            f"{{apiVersion: quell.dev/v1, kind: ResponseRule, metadata: {{name: all}}, spec: {{event: {category}, "
            f"criteria: [{', '.join(criteria_lines)}], actions: [{', '.join(action_lines)}]}}}}"
        )
        assert len(documents.rules[0].criteria) == len(criteria_lines)
        assert len(documents.rules[0].actions) == len(action_lines)
