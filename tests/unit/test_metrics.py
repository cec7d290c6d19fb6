"""The names of metrics, and that what happens is counted."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from quell import metrics
from quell.api.metrics import declared, page
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.evaluate import evaluate
from quell.ids import uuid7
from quell.matching.index import compile  # noqa: A004 - the word of the design
from quell.model.action import KillProcess
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import Process, ProcessTarget
from quell.response.flags import flags
from quell.response.state import State

ROOT = Path(__file__).resolve().parents[2]
DECLARED = declared()


@pytest.mark.parametrize("told", DECLARED, ids=lambda told: told.name)
def test_a_name_says_what_it_counts_and_in_which_unit(told: metrics.Declared) -> None:
    assert re.fullmatch(r"quell(_[a-z]+)+", told.name)
    assert told.name.endswith("_total") == (told.kind == "counter")
    assert told.kind != "histogram" or told.name.endswith(("_seconds", "_bytes"))
    assert not re.search(r"_(ms|milliseconds|kb|mb|kib|mib|minutes|count|sum|bucket|gauge|counter)(_|$)", told.name)
    # "seconds" and "bytes" stand where a unit stands: last, but for _total.
    for unit in ("seconds", "bytes"):
        assert unit not in told.name or told.name.removesuffix("_total").endswith(unit)
    assert told.text.endswith(".")
    assert len(told.text) >= 10
    # Reserved by Prometheus, or of a thing that has no bound.
    assert not set(told.labels) & {"le", "quantile", "job", "instance", "event", "node", "agent", "pid", "peer", "user"}


def test_no_name_twice() -> None:
    names = [told.name for told in DECLARED]
    assert len(names) == len(set(names))


def test_the_page_is_as_the_code_is() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "docs/metrics.md is stale: run make docs"
    assert all(f"| `{told.name}` |" in page() for told in DECLARED)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_decision_is_counted_with_its_actions_and_flags() -> None:
    documents = load_text(
        """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: answer}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions: [agentKillProcess, {makeRedFlag: {severity: high}}]
""",
        "rules.yaml",
    )
    raw = b'{"name": "Host.Suspicious.Process", "subject": {"node": "n1", "process": {"name": "nc"}}}'
    now = time.time()
    event = DETECTORS["native"].decode(raw, id=uuid7(now), received=now)
    decision = evaluate(event, compile(documents, revision=1), State(), now)
    [killed] = [record for record in decision.actions if isinstance(record.action, KillProcess)]
    assert killed.reason is not None
    reason = killed.reason.value
    series: list[tuple[str, dict[str, str]]] = [
        ("quell_decisions_total", {"source": "native", "category": "security-event"}),
        ("quell_actions_total", {"action": "agentKillProcess", "status": "refused", "reason": reason}),
        ("quell_actions_total", {"action": "makeRedFlag", "status": "granted", "reason": ""}),
        ("quell_flags_total", {"class": "red", "severity": "high"}),
    ]
    before = [value(name, **labels) for name, labels in series]
    metrics.decided(event, decision, flags(decision, event))
    assert [value(name, **labels) for name, labels in series] == [count + 1 for count in before]


def command() -> Command:
    target = ProcessTarget(node="n1", process=Process(pid=1))
    return Command(
        id="e/0", agent="a", action=KillProcess(), target=target, issued=1000.0, expires=1030.0, nonce="n", event_id="e"
    )


@pytest.mark.parametrize(
    ("status", "reason", "timed"),
    [
        (OutcomeStatus.DONE, None, 1),
        (OutcomeStatus.REFUSED, Reason.PROTECTED, 1),
        (OutcomeStatus.EXPIRED, Reason.EXPIRED, 0),
    ],
)
def test_a_command_is_counted_by_its_outcome_and_timed(
    status: OutcomeStatus, reason: Reason | None, timed: int
) -> None:
    labels = {"action": "agentKillProcess", "status": status.value, "reason": reason.value if reason else ""}
    histogram = "quell_command_duration_seconds"

    def read() -> list[float]:
        of = {"action": "agentKillProcess"}
        return [
            value("quell_commands_total", **labels),
            value(f"{histogram}_count", **of),
            value(f"{histogram}_bucket", le="0.025", **of),
            value(f"{histogram}_bucket", le="0.01", **of),
        ]

    before = read()
    metrics.command_ended(command(), Outcome(id="e/0", status=status, reason=reason, time=0.0), 1000.02)
    assert read() == [before[0] + 1, before[1] + timed, before[2] + timed, before[3]]


def test_the_rest_is_counted() -> None:
    counted: list[tuple[Any, tuple[Any, ...], str, dict[str, str]]] = [
        (
            metrics.webhook_attempted,
            ("hook", "again", 0.1),
            "quell_webhook_attempt_duration_seconds_count",
            {"endpoint": "hook", "result": "again"},
        ),
        (
            metrics.webhook_ended,
            ("hook", OutcomeStatus.DONE),
            "quell_webhook_deliveries_total",
            {"endpoint": "hook", "status": "done"},
        ),
        (metrics.login_failed, ("password",), "quell_logins_failed_total", {"method": "password"}),
        (metrics.committed, (0.002,), "quell_store_commit_duration_seconds_count", {}),
    ]
    for count, arguments, name, labels in counted:
        before = value(name, **labels)
        count(*arguments)
        assert value(name, **labels) == before + 1
