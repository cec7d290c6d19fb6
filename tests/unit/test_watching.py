"""What a set of documents makes the guardian do: what is looked at, and where each deviation is an event."""

from __future__ import annotations

import pytest

from quell.controller.watching import EVENTS, acted_on, acts
from quell.detectors.guardian import Guardian
from quell.documents.load import load_text

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: r}}
spec: {{{0}}}
"""
POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: p, type: container}}
spec:
  mode: {mode}
  enabled: {enabled}
  containerSelector: {{matchFields: {{image: "*"}}}}
  processPolicy: []
  response: {{default: [{default}], actions: [{actions}]}}
"""
KILL = "actions: [agentKillProcess]"
FLAG = "{makeRedFlag: {severity: high}}"
PROCESSES = {"Process.Profile.Violation", "Host.Process.Violation"}


def test_the_detector_names_what_the_guardian_finds() -> None:
    assert set(Guardian.produces) == set(EVENTS)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (f"event: deviation, {KILL}, allow_broad: true", set(EVENTS)),
        (f"event: deviation, {KILL}", set()),
        (f'event: deviation, criteria: ["name:Network.Violation"], {KILL}', {"Network.Violation"}),
        (f'event: deviation, criteria: ["process:nc"], {KILL}', set(EVENTS)),
        (f'event: security-event, criteria: ["level:>=Warning"], {KILL}', set(EVENTS) - {"Container.Image.Deviation"}),
        (f'event: security-event, criteria: ["level:Critical"], {KILL}', set()),
        (f'event: incident, criteria: ["process:nc"], {KILL}', PROCESSES),
        (f'event: violation, criteria: ["process:nc"], {KILL}', {"Network.Violation"}),
        (f'event: security-event, criteria: ["name:*.Violation"], {KILL}', PROCESSES | {"Network.Violation"}),
        (f'event: security-event, criteria: ["name:Host.Suspicious.Process"], {KILL}', set()),
        (f'event: deviation, criteria: ["process:nc"], {KILL}, mode: audit', set()),
        (f'event: deviation, criteria: ["process:nc"], {KILL}, disable: true', set()),
        ('event: deviation, criteria: ["process:nc"], actions: [webhook]', set()),
        ('event: cve-report, criteria: ["cve-high:5"], actions: [quarantine]', set()),
    ],
)
def test_on_which_deviations_a_rule_acts(spec: str, expected: set[str]) -> None:
    assert acted_on(load_text(RULE.format(spec)).rules) == expected


@pytest.mark.parametrize(
    ("mode", "enabled", "default", "actions", "expected"),
    [
        ("enforce", "true", "{agentKillProcess: {}}", "", True),
        ("audit", "true", "{agentKillProcess: {}}", "", False),
        ("enforce", "false", "{agentKillProcess: {}}", "", False),
        ("enforce", "true", FLAG, "", False),
        ("enforce", "true", FLAG, "{agentKillProcess: {processSelector: {matchFields: {name: nc}}}}", True),
        ("enforce", "true", "{agentKillProcess: {enabled: false}}", "", False),
    ],
)
def test_where_a_policy_acts(mode: str, enabled: str, default: str, actions: str, expected: bool) -> None:
    text = POLICY.format(mode=mode, enabled=enabled, default=default, actions=actions)
    assert acts(load_text(text).policies[0]) is expected
