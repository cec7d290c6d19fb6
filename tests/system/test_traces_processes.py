"""Traces of real processes: an agent's watch list sees trees of them, rules flag some, and what is left when they are gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Ran
from command import quell as run
from live import Live, live
from podman import missing, podman
from running import wait_for

from quell.agent.connector import Connector, ConnectorError

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="the process connector needs root"),
]
NODE = "traced-node"
RULES = """\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: shells}
spec: {event: incident, criteria: [{type: process, value: qt-shell}], actions: [{makeRedFlag: {severity: low}}]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: tools}
spec: {event: incident, criteria: [{type: process, value: [qt-listen, qt-fetch, busybox]}], actions: [{makeRedFlag: {severity: high}}]}
"""


class Stage:
    """A controller, an agent that watches for programs of this test only, and these programs."""

    def __init__(self, server: Live, folder: Path, admin: httpx.Client) -> None:
        self.admin = admin
        self.server = server
        self.shell, self.listen, self.fetch = (folder / name for name in ("qt-shell", "qt-listen", "qt-fetch"))

    def quell(self, *words: str) -> Ran:
        return run(*words, url=self.server.url, state=self.server.folder)

    def traces(self, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin.get("/v1/traces", params=params).raise_for_status().json()["items"]
        return found

    def below(self, pid: int) -> list[str]:
        """The traces that show a process as one that is not flagged itself."""
        found = [self.admin.get(f"/v1/traces/{one['id']}").json() for one in self.traces(status="open")]
        return [
            trace["id"]
            for trace in found
            if any(each.get("pid") == pid and not each.get("flags") for each in trace["processes"])
        ]

    def trace_of(self, pid: int, count: int) -> dict[str, Any]:
        """The trace that shows this process, once it has so many flags."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            for one in self.traces():
                trace = self.admin.get(f"/v1/traces/{one['id']}").json()
                if trace["flag_count"] == count and pid in [each.get("pid") for each in trace["processes"]]:
                    found.append(trace)
            return bool(found)

        wait_for(is_there, what=f"a trace of process {pid} with {count} flags")
        return found[0]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("programs")
    bash, sleep = shutil.which("bash"), shutil.which("sleep")
    if bash is None or sleep is None:
        pytest.skip("bash or sleep is not installed")
    try:
        Connector().close()
    except ConnectorError as error:
        pytest.skip(str(error))
    for name, program in (("qt-shell", bash), ("qt-listen", sleep), ("qt-fetch", sleep)):
        shutil.copy(program, folder / name)
    watch_list = folder / "watchlist.toml"
    watch_list.write_text(f'[[watch]]\nname = "of this test"\nexe = ["{folder}/qt-*", "/qt/*"]\n')
    with live(tmp_path_factory.mktemp("traced") / "s") as server, server.client("admin") as admin:
        admin.post("/v1/documents", content=RULES).raise_for_status()
        token = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).json()["token"]
        command = [sys.executable, "-m", "quell.agent", "--url", server.url, "--state", str(folder / "agent")]
        command += ["--node", NODE, "--watch-list", str(watch_list)]
        agent = subprocess.Popen(command, env={**os.environ, "QUELL_JOIN_TOKEN": token})
        try:
            wait_for(lambda: any(one["connected"] for one in admin.get("/v1/agents").json()["items"]), what="the agent")
            yield Stage(server, folder, admin)
        finally:
            agent.terminate()
            agent.wait(20)


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A session of its own, all of which is ended."""
    process = subprocess.Popen([str(word) for word in command], start_new_session=True, stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def named(trace: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {process["name"]: process for process in trace["processes"]}


def test_a_tree_of_real_processes_is_drawn_when_they_are_gone(stage: Stage) -> None:
    script = f"sh -c '{stage.listen} 61 & {stage.fetch} 62 & wait'; true"
    with started(stage.listen, 60) as apart, started(stage.shell, "-c", script) as top:
        trace = stage.trace_of(top.pid, 3)
        other = stage.trace_of(apart.pid, 1)
    assert trace["id"] != other["id"]
    processes = named(trace)
    assert processes["qt-listen"]["parent"] == processes["qt-fetch"]["parent"] == processes["sh"]["id"]
    assert processes["sh"]["parent"] == processes["qt-shell"]["id"] == trace["root"]
    assert [processes[name].get("flags", 0) for name in ("qt-shell", "sh", "qt-listen", "qt-fetch")] == [1, 0, 1, 1]
    assert processes["qt-shell"]["pid"] == top.pid
    assert (trace["depth"], trace["severities"], trace["score"]) == (2, {"high": 2, "low": 1}, 51.6)
    assert trace["trigger_ancestors"].endswith("/qt-shell") or trace["trigger_ancestors"].split("/")[-2:] == [
        "sh",
        "qt-listen",
    ]
    # Everything has ended; the trace holds it all.
    drawn = stage.quell("traces", "show", trace["id"]).stdout
    lines = [line.strip("│├└─ ") for line in drawn.splitlines()]
    places = {
        name: next(n for n, line in enumerate(lines) if line.startswith(f"{name} ("))
        for name in processes
        if name.startswith("qt-")
    }
    assert lines[places["qt-shell"] + 1].startswith("⚑ low")
    assert lines[places["qt-listen"] + 1].startswith("⚑ high")
    assert f"{stage.fetch} 62" in lines[places["qt-fetch"]]
    assert min(places.values()) == places["qt-shell"]


def test_a_parent_that_is_flagged_after_its_children_joins_them(stage: Stage) -> None:
    """It is the same process before and after it executes something else."""
    script = f'{stage.listen} 71 & {stage.fetch} 72 & read go; exec {stage.shell} -c "wait; sleep 70; true"'
    with started("sh", "-c", script) as top:
        wait_for(lambda: len(stage.below(top.pid)) == 2, what="the children's traces")
        assert top.stdin is not None
        top.stdin.write(b"go\n")
        top.stdin.flush()
        trace = stage.trace_of(top.pid, 3)
    assert named(trace)["qt-shell"]["pid"] == top.pid
    assert trace["root"] == named(trace)["qt-shell"]["id"]
    assert trace["depth"] == 1
    assert trace["trigger_ancestors"].split("/")[-2] == "sh"
    merged = [one for one in stage.traces(status="merged") if one["merged_into"] == trace["id"]]
    assert len(merged) == 1


needs_podman = pytest.mark.skipif(bool(missing()), reason=missing())


@needs_podman
@pytest.mark.slow
def test_what_runs_in_a_container_is_found_by_the_container_when_it_is_gone(stage: Stage, tmp_path: Path) -> None:
    with podman(tmp_path) as engine:
        container = engine.run("traced")
        (tmp_path / "qt").mkdir()
        shutil.copy(shutil.which("busybox") or "", tmp_path / "qt/busybox")
        engine("cp", str(tmp_path / "qt"), "traced:/qt")
        engine("exec", "--detach", "traced", "/qt/busybox", "sh", "-c", "/qt/busybox sleep 80 & wait")
        wait_for(
            lambda: any(one["flag_count"] == 2 for one in stage.traces(container=container[:12])), what="the trace"
        )
        engine("rm", "--force", "traced")
    [trace] = stage.traces(container=container[:12])
    assert trace["trigger_name"] == "Container.Suspicious.Process"
    assert trace["depth"] == 1
    drawn = stage.quell("traces", "show", trace["id"]).stdout
    assert "/qt/busybox sleep 80" in drawn
    assert "⚑ high" in drawn
    assert [one["event_id"] for one in stage.admin.get("/v1/flags", params={"trace": trace["id"]}).json()["items"]]
