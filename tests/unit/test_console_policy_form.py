"""A policy as a form: what is filled in is the document, and what has no field stays."""

from __future__ import annotations

from typing import Any

import pytest

from quell.api.problem import Refusal
from quell.console.page import Query
from quell.console.policy_form import PolicyForm, document_of, form_of, read_form, unfit
from quell.documents.load import load_text, load_values
from quell.documents.write import to_document

POLICIES = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: shop-web, type: container, uid: "pol:1"}
spec:
  mode: enforce
  enabled: false
  containerSelector: {matchFields: {image: "nginx:*"}}
  namespaceSelector: {matchLabels: {team: shop}, matchExpressions: [{key: tier, operator: NotIn, values: [a, b]}, {key: x, operator: Exists}]}
  processPolicy: [{id: nginx, name: nginx, exe: [/usr/sbin/nginx], euser: [root]}]
  disablePublicConnections: egress
  response:
    default: [{makeRedFlag: {severity: high, impact: bad, content: "**a**\\n\\nb"}}, {quarantine: {ttl: 6h, enabled: false}}]
    actions:
      - agentKillPod: {grace_period: 5, processSelector: {matchFields: {exe: "/bin/*sh"}}}
      - agentReniceProcess: {priority: -3, machineSelector: {matchFieldsExpressions: [{key: hostname, operator: In, values: [a, b]}]}}
---
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: prod, type: cluster}
spec:
  mode: audit
  clusterSelector: {matchFields: {name: prod}}
  rulesets: [one, two]
  response: {default: [{makeOpsFlag: {severity: low}}], actions: []}
---
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: backup, type: trace}
spec:
  mode: enforce
  traceSelector: {matchFields: {triggerAncestors: "systemd/*/nc"}}
  allowedFlags: [{class: "redflag/a/*"}, {class: redflag/b}]
"""
DOCUMENTS = [to_document(policy) for policy in load_text(POLICIES).policies]


def sent(form: PolicyForm) -> Query:
    """As a browser sends the form that was drawn."""
    fields: dict[str, list[str]] = {
        "name": [form.name],
        "type": [form.type],
        "mode": [form.mode],
        "rulesets": [form.rulesets],
        "allowed": [form.allowed.replace("\n", "\r\n")],
    }
    if form.enabled:
        fields["enabled"] = ["true"]

    def conditions(place: str, found: Any) -> None:
        for number, one in enumerate(found):
            for name in ("part", "key", "operator", "values"):
                fields[f"{place}-{number}-{name}"] = [getattr(one, name)]

    conditions("scope", form.scope)
    for place in ("default", "actions"):
        for number, entry in enumerate(getattr(form, place)):
            fields[f"{place}-{number}-action"] = [entry.action]
            if entry.enabled:
                fields[f"{place}-{number}-enabled"] = ["true"]
            for name, value in entry.parameters.items():
                fields[f"{place}-{number}-p-{name}"] = [value.replace("\n", "\r\n")]
            conditions(f"{place}-{number}-if", entry.conditions)
    return Query(fields)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["metadata"]["name"])
def test_a_form_that_is_sent_as_it_was_drawn_changes_nothing(document: dict[str, Any]) -> None:
    made = document_of(read_form(sent(form_of(document)), document), document)
    [loaded] = load_values([made]).policies
    assert to_document(loaded) == document


def test_conditions_and_entries_are_added_and_removed() -> None:
    form = form_of(DOCUMENTS[0])
    assert len(form.after("add:scope").scope) == len(form.scope) + 1
    assert form.after("remove:scope-0").scope == form.scope[1:]
    assert len(form.after("add:default").default) == 3
    assert form.after("remove:actions-0").actions == form.actions[1:]
    assert len(form.after("add:actions-1-if").actions[1].conditions) == 2
    assert form.after("remove:actions-1-if-0").actions[1].conditions == ()
    for nothing in ("", "redraw", "add:else", "remove:scope-99", "add:actions-9-if", "remove:actions-x"):
        assert form.after(nothing).scope == form.scope
    assert read_form(Query({"type": ["no such"]}), {}).type == "container"


def test_what_is_left_empty_is_not_written() -> None:
    form = read_form(
        Query(
            {"name": ["n"], "type": ["container"], "mode": ["audit"], "scope-0-part": [""], "default-0-action": [""]}
        ),
        {},
    )
    assert document_of(form, {})["spec"] == {
        "mode": "audit",
        "enabled": False,
        "response": {"default": [], "actions": []},
    }


def altered(**spec: Any) -> dict[str, Any]:
    """The first policy, with these in place of its own."""
    document = {**DOCUMENTS[0], "spec": {**DOCUMENTS[0]["spec"], **spec}}
    [policy] = load_values([document]).policies
    return to_document(policy)


def test_what_a_form_would_not_give_back_is_edited_as_text() -> None:
    for document in DOCUMENTS:
        assert unfit(form_of(document), document) == ""
    comma = altered(containerSelector={"matchFields": {"image": "registry.example/a,b:*"}})
    assert "comma" in unfit(form_of(comma), comma)
    entry = {"makeRedFlag": {"severity": "low", "processSelector": {"matchFields": {"exe": "/bin/*"}}}}
    many = altered(response={"default": [], "actions": [entry] * 101})
    assert "more conditions or entries" in unfit(form_of(many), many)


def test_nothing_that_was_filled_in_is_left_out_without_a_word() -> None:
    fields = {f"actions-{number}-action": ["makeRedFlag"] for number in range(101)}
    with pytest.raises(Refusal, match="at most 100"):
        read_form(Query({"type": ["container"], **fields}), {})
