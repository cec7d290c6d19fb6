"""Names of groups and webhooks that rules and policies refer to."""

from __future__ import annotations

import msgspec
import pytest

from quell.documents.load import Documents, load_text
from quell.documents.references import check
from quell.errors import DocumentError


def text(*specs: str) -> str:
    texts = []
    for spec in specs:
        kind, _, rest = spec.partition(" ")
        head, _, body = rest.partition(" ")
        type_ = ", type: container" if kind in ("Policy", "Ruleset") else ""
        texts.append(f"{{apiVersion: quell.dev/v1, kind: {kind}, metadata: {{name: {head}{type_}}}, spec: {body}}}\n")
    return "---\n".join(texts)


def documents(*specs: str) -> Documents:
    return load_text(text(*specs), "f.yaml")


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
        'f.yaml:1:100: spec.group: ResponseRule r names the group "webb", which does not exist: '
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
        "Policy p {mode: audit, containerSelector: {matchFields: {image: n}}, "
        "response: {default: [makeOpsFlag: {severity: low, webhooks: [d]}]}}"
    )
    endpoint = "Webhook z {url: https://example.org}"
    messages = refused(documents(rule, policy, endpoint))
    assert [message.split('"')[1] for message in messages] == ["a", "b", "c", "d"]
    assert [message.split(": ")[1] for message in messages] == [
        "spec.webhooks[0]",
        "spec.actions[0].webhook.endpoints[0]",
        "spec.actions[1].makeRedFlag.webhooks[0]",
        "spec.response.default[0].makeOpsFlag.webhooks[0]",
    ]
    lines = text(rule, policy, endpoint).splitlines()
    for message in messages:
        line, column = (int(part) for part in message.split(":")[1:3])
        assert lines[line - 1][column - 1 :].startswith(message.split('"')[1])
    check(documents(rule, policy, endpoint), known_webhooks=["a", "b", "c", "d"])


def test_what_to_do_where_there_is_no_webhook_at_all() -> None:
    [message] = refused(documents("ResponseRule r {event: incident, group: all, webhooks: [a], actions: [webhook]}"))
    assert message.endswith("which does not exist: expected a webhook defined in a document of kind Webhook")


def test_a_ruleset_that_is_not_there_is_a_warning() -> None:
    policy = (
        "{apiVersion: quell.dev/v1, kind: Policy, metadata: {name: p, type: cluster}, spec: {mode: audit, "
        "clusterSelector: {matchFields: {name: c}}, rulesets: [here, ther], response: {}}}\n"
    )
    both = load_text(f"{policy}---\n{text('Ruleset here {rules: []}', 'Ruleset there {rules: []}')}", "f.yaml")
    [(owner, problem)] = check(both)
    assert owner.name == "p"
    assert (problem.path, problem.got, problem.nearest) == ("spec.rulesets[1]", "ther", "there")
    assert problem.column == policy.index("ther]") + 1


def test_the_place_in_a_resource_that_nests_its_rule() -> None:
    nested = """\
apiVersion: neuvector.com/v1
kind: NvResponseRuleSecurityRule
metadata: {name: r}
spec:
  rule:
    policy_name: default
    event: security-event
    group: nowhere
    actions: [suppress-log]
"""
    with pytest.raises(DocumentError) as caught:
        check(load_text(nested, "f.yaml"))
    [problem] = caught.value.problems
    assert (problem.path, problem.line, problem.column) == ("spec.rule.group", 8, 12)


def test_what_is_no_text_any_more_has_paths_all_the_same() -> None:
    rule = "ResponseRule r {event: incident, group: g, webhooks: [a], actions: [webhook: {endpoints: [b, b]}]}"
    with pytest.raises(DocumentError) as caught:
        check(msgspec.structs.replace(documents(rule), places={}))
    assert [problem.path for problem in caught.value.problems] == [
        "spec.group",
        "spec.webhooks[0]",
        "spec.actions[0].webhook.endpoints[0]",
    ]
