"""`evidence` in documents: on rules and on the entries of policies, where there is a kill that it can come before."""

from __future__ import annotations

import pytest

from quell.documents.load import load_text
from quell.documents.policy_options import policy_options
from quell.errors import DocumentError
from quell.model.policy import PolicyType

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: r}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions: ACTIONS
  evidence: EVIDENCE
"""
POLICY = """
apiVersion: API
kind: KIND
metadata: {name: p, type: container}
spec:
  mode: enforce
  containerSelector: {matchFields: {image: x}}
  processPolicy: []
  networkPolicy: {ingress: [], egress: []}
  response: {default: [ENTRY], actions: []}
"""


def policy(entry: str, *, api: str = "quell.dev/v1", kind: str = "Policy") -> str:
    return POLICY.replace("API", api).replace("KIND", kind).replace("ENTRY", entry)


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_text(text, "f.yaml")
    return [f"{each.line}: {each.message}" for each in caught.value.problems]


@pytest.mark.parametrize("word", ["agentKillProcess", "agentKillProcessGroup", "agentKillProcessTree", "agentKillPod"])
def test_a_rule_or_an_entry_that_kills_may_ask_for_it(word: str) -> None:
    loaded = load_text(RULE.replace("ACTIONS", f"[webhook, {word}]").replace("EVIDENCE", "true"), "f.yaml")
    assert loaded.rules[0].evidence
    loaded = load_text(policy(f"{{{word}: {{evidence: true}}}}"), "f.yaml")
    assert loaded.policies[0].default[0].evidence
    assert not load_text(policy(f"{{{word}: {{}}}}"), "f.yaml").policies[0].default[0].evidence


def test_where_nothing_is_killed_it_is_refused_where_it_stands() -> None:
    (told,) = problems(RULE.replace("ACTIONS", "[quarantine]").replace("EVIDENCE", "true"))
    assert told == "9: evidence is gathered before a kill, and the rule has none"
    (told,) = problems(policy("{makeRedFlag: {severity: high, evidence: true}}"))
    assert told == "10: evidence is gathered before a kill, and makeRedFlag is none"
    assert problems(RULE.replace("ACTIONS", "[agentKillProcess]").replace("EVIDENCE", "sure"))


def test_false_says_nothing() -> None:
    loaded = load_text(RULE.replace("ACTIONS", "[quarantine]").replace("EVIDENCE", "false"), "f.yaml")
    assert not loaded.rules[0].evidence


def test_documents_of_other_systems_do_not_have_it() -> None:
    (told,) = problems(policy("{agentKillProcess: {evidence: true}}", api="spyderbat/v1", kind="SpyderbatPolicy"))
    assert "evidence" in told


def test_the_options_say_which_actions_take_it() -> None:
    (container,) = policy_options(types=[PolicyType.CONTAINER]).types
    taking = {action.word for action in container.actions if "evidence" in {each.name for each in action.parameters}}
    assert taking == {"agentKillProcess", "agentKillProcessGroup", "agentKillProcessTree", "agentKillPod"}
