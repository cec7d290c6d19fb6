"""The examples of policies ask for what their first lines say, for every process that deviates or only for some."""

from __future__ import annotations

from pathlib import Path

import pytest

from quell.documents.load import load_paths
from quell.evaluate import evaluate
from quell.matching.index import compile as compile_index
from quell.model.action import word
from quell.model.details import Deviation
from quell.model.event import Category, Event, Level
from quell.model.subject import Container, Pod, Process, ProcessTarget, Subject
from quell.response.state import AgentFacts, State

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/policies"
NOW = 1_790_000_000.0
PROCESSES = {"nc": "/usr/bin/nc.openbsd", "bash": "/usr/bin/bash", "curl": "/usr/bin/curl"}
ALL = tuple(PROCESSES)
#: File -> its action, and the processes for which it is asked.
ASKED = {
    "red-flag": ("makeRedFlag", ALL),
    "ops-flag": ("makeOpsFlag", ALL),
    "kill-pods-running-netcat": ("agentKillPod", ("nc",)),
    "kill-every-deviating-pod": ("agentKillPod", ALL),
    "kill-deviant-bash": ("agentKillProcess", ("bash",)),
    "kill-every-deviant-process": ("agentKillProcess", ALL),
    "kill-the-group-of-deviant-bash": ("agentKillProcessGroup", ("bash",)),
    "kill-the-group-of-every-deviant-process": ("agentKillProcessGroup", ALL),
    "kill-the-tree-of-every-deviant-process": ("agentKillProcessTree", ALL),
    "renice-every-deviant-process": ("agentReniceProcess", ALL),
}


def test_every_example_is_here() -> None:
    assert {file.stem for file in EXAMPLES.iterdir()} == set(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_an_example_asks_for_its_action(name: str) -> None:
    documents = load_paths([EXAMPLES / f"{name}.yaml"])
    assert not documents.warnings
    action, processes = ASKED[name]
    state = State()
    state.set_agents([AgentFacts(id="a", node="n1", capabilities=frozenset((action,)), boot_id="b")])
    for image, applies in (("localhost/shop-web:1", True), ("docker.io/library/redis:7", False)):
        for process, exe in PROCESSES.items():
            subject = Subject(
                node="n1",
                namespace="shop",
                pod=Pod(name="web-1", uid="u"),
                container=Container(id="c1"),
                image=image,
                process=Process(pid=4711, start_ticks=9, boot_id="b", name=process, exe=exe),
            )
            event = Event(
                id="e",
                time=NOW,
                received=NOW,
                source="quell",
                category=Category.DEVIATION,
                name="Process.Profile.Violation",
                level=Level.WARNING,
                subject=subject,
                raw=b"{}",
                decode=lambda _: Deviation(policy=name, what="process"),
            )
            records = evaluate(event, compile_index(documents), state, NOW).actions
            asked = [(word(record.action), record.reason) for record in records]
            assert asked == ([(action, None)] if applies and process in processes else []), (process, image)
            if asked and action not in ("makeRedFlag", "makeOpsFlag", "agentKillPod"):
                assert isinstance(records[0].target, ProcessTarget)
                assert records[0].target.process.pid == 4711
