"""Names of groups and webhooks that rules and policies refer to."""

from __future__ import annotations

import pytest

from quell.documents.load import Documents, load_text
from quell.documents.references import check
from quell.errors import DocumentError


def documents(*specs: str) -> Documents:
    kinds = {"ResponseRule": 0, "Group": 0, "Webhook": 0, "Policy": 0}
    texts = []
    for spec in specs:
        kind, _, rest = spec.partition(" ")
        kinds[kind] += 1
        head, _, body = rest.partition(" ")
        type_ = ", type: linux-service" if kind == "Policy" else ""
        texts.append(f"{{apiVersion: quell.dev/v1, kind: {kind}, metadata: {{name: {head}{type_}}}, spec: {body}}}\n")
    return load_text("---\n".join(texts), "f.yaml")


def refused(loaded: Documents) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        check(loaded)
    return [str(problem) for problem in caught.value.problems]


RULE = "ResponseRule r {event: incident, group: %s, actions: [webhook]}"


@pytest.mark.parametrize("group", ["containers", "nodes", "external", "all", "nv.web.demo", '""'])
def test_groups_that_are_always_there(group: str) -> None:
    check(documents(RULE % group))


def test_groups_among_the_documents_or_known_already() -> None:
    check(documents(RULE % "web", "Group web {criteria: [{key: image, op: prefix, value: reg/}]}"))
    check(documents(RULE % "web"), known_groups=["web"])


def test_an_unknown_group_is_refused_with_the_nearest() -> None:
    [message] = refused(documents(RULE % "webb", "Group web {criteria: [{key: image, op: prefix, value: reg/}]}"))
    assert message == (
        'f.yaml:1:1: spec.group: r names the group "webb", which does not exist: '
        "expected one of all, containers, external, nodes, web (did you mean web?)"
    )


def test_a_group_with_an_address_carries_no_rule() -> None:
    address = '{key: address, op: "=", value: 10.0.0.1}'
    for criteria in (address, f"{address}, {{key: image, op: contains, value: nginx}}"):
        [message] = refused(documents(RULE % "dmz", f"Group dmz {{criteria: [{criteria}]}}"))
        assert "group dmz has an address, which no workload meets: rule r could never match" in message


def test_webhooks_wherever_they_are_named() -> None:
    rule = (
        "ResponseRule r {event: incident, group: all, webhooks: [a, z], actions: "
        "[webhook: {endpoints: [b]}, makeRedFlag: {severity: low, webhooks: [c]}, quarantine]}"
    )
    policy = (
        "Policy p {mode: audit, serviceSelector: {matchFields: {name: n}}, "
        "response: {default: [makeOpsFlag: {severity: low, webhooks: [d]}]}}"
    )
    endpoint = "Webhook z {url: https://example.org}"
    messages = refused(documents(rule, policy, endpoint))
    assert [message.split('"')[1] for message in messages] == ["a", "b", "c", "d"]
    assert messages[3].startswith("f.yaml:3:1: spec.response: p names the webhook")
    check(documents(rule, policy, endpoint), known_webhooks=["a", "b", "c", "d"])


def test_what_to_do_where_there_is_no_webhook_at_all() -> None:
    [message] = refused(documents("ResponseRule r {event: incident, group: all, webhooks: [a], actions: [webhook]}"))
    assert message.endswith("which does not exist: expected a webhook defined in a document of kind Webhook")
