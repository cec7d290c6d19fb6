"""What a real controller with a real agent counts while it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from running import Quell, Receiver, Victim, rules, wait_for


@pytest.fixture
def quell(tmp_path: Path) -> Iterator[Quell]:
    running = Quell(tmp_path)
    try:
        running.start_controller()
        running.enrol()
        yield running
    finally:
        running.close()


def counted(quell: Quell) -> dict[tuple[str, ...], float]:
    """Name and label values of each sample of Quell's own."""
    token = (quell.folder / "controller" / "admin.token").read_text().strip()
    answer = httpx.get(f"{quell.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(answer.raise_for_status().text)
        for sample in family.samples
        if sample.name.startswith("quell_")
    }


def test_an_event_that_is_answered_is_counted_at_each_step(quell: Quell) -> None:
    receiver, victim = Receiver(), Victim("counted:1")
    try:
        quell.ask("POST", "/v1/documents", content=rules(receiver.url))
        quell.ask("POST", "/v1/events", content=victim.event())
        wait_for(lambda: victim.gone, what=f"the kill\n{quell.log()}")
        done = ("quell_commands_total", "agentKillProcess", "", "done")
        wait_for(lambda: done in counted(quell), what="the outcome")
        wait_for(lambda: ("quell_webhook_deliveries_total", "hook", "done") in counted(quell), what="the delivery")
        found = counted(quell)
    finally:
        victim.close()
        receiver.close()
    # Label values in the order of the labels' names.
    for name, *labels in (
        ("quell_decisions_total", "security-event", "native"),
        ("quell_actions_total", "agentKillProcess", "", "granted"),
        ("quell_actions_total", "webhook", "", "granted"),
        ("quell_flags_total", "red", "high"),
        ("quell_commands_total", "agentKillProcess", "", "done"),
        ("quell_command_duration_seconds_count", "agentKillProcess"),
        ("quell_webhook_deliveries_total", "hook", "done"),
        ("quell_webhook_attempt_duration_seconds_count", "hook", "delivered"),
    ):
        assert found.get((name, *labels)) == 1, (name, labels, quell.log())
    assert 0 < found["quell_command_duration_seconds_sum", "agentKillProcess"] < 60
    assert found["quell_store_commit_duration_seconds_count",] >= found["quell_store_commits_total",] * 0.5
    assert found["quell_agents_connected",] == 1
