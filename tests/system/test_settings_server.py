"""Settings and the pause through the API and the command line of a live controller."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command
import httpx
import pytest
from command import Ran
from live import Live, live
from scripted_agent import NODE, ScriptedAgent

from quell.channel.messages import Pause
from quell.configuration import Configuration, load_configuration

RULE = b"""\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill-it}
spec: {event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [agentKillProcess]}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    file = tmp_path / "quell.toml"
    file.write_text('[safety]\nmax_age_kill = "2m"\n')
    given = load_configuration(file, {"QUELL_SAFETY_BUDGET_RULE": "5/1m", "QUELL_WEBHOOKS_PROXY": "http://u:hunter2@p"})
    with live(tmp_path / "s", configuration=given) as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def quell(server: Live, *words: str) -> Ran:
    return command.quell(*words, url=server.url, state=server.folder)


def role(admin: httpx.Client, name: str) -> httpx.Client:
    token = admin.post("/v1/tokens", json={"role": name, "name": name}).raise_for_status().json()["token"]
    return httpx.Client(base_url=admin.base_url, headers={"Authorization": f"Bearer {token}"}, timeout=20)


def ask(admin: httpx.Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = admin.get(f"/v1/settings/{name}").raise_for_status().json()
    return found


def test_each_value_and_where_it_comes_from(admin: httpx.Client) -> None:
    found = {one["name"]: one for one in admin.get("/v1/settings").raise_for_status().json()["items"]}
    assert {name: (one["value"], one["origin"], one["pinned"]) for name, one in found.items() if one["origin"] != "default"} == {
        "safety.max_age_kill": ("2m", "file", True),
        "safety.budget_rule": ("5/1m", "environment", True),
        "webhooks.proxy": ("(secret)", "environment", True),
    }  # fmt: skip
    assert found["safety.max_age_kill"]["where"].endswith("quell.toml:safety.max_age_kill")
    assert found["safety.paused"]["risk"]
    assert "hunter2" not in admin.get("/v1/settings").text
    told = admin.get("/v1/settings/safety.pausd")
    assert (told.status_code, "did you mean safety.paused?" in told.json()["detail"]) == (404, True)


def test_a_change_and_one_that_came_too_late(admin: httpx.Client) -> None:
    first = admin.get("/v1/settings/safety.budget_engine").headers["etag"]
    body = {"set": {"safety.budget_engine": "40/1m"}, "reason": "busy"}
    changed = admin.patch("/v1/settings", json=body, headers={"If-Match": first})
    assert [(one["name"], one["value"], one["origin"]) for one in changed.json()] == [
        ("safety.budget_engine", "40/1m", "run time")
    ]
    assert changed.headers["etag"] != first
    late = admin.patch("/v1/settings", json={"set": {"safety.budget_engine": "1/1m"}}, headers={"If-Match": first})
    assert late.status_code == 412
    assert ask(admin, "safety.budget_engine")["value"] == "40/1m"
    back = admin.patch("/v1/settings", json={"unset": ["safety.budget_engine"]})
    assert (back.json()[0]["value"], back.json()[0]["origin"]) == ("30/1m", "default")
    log = admin.get("/v1/audit", params={"kind": "setting", "name": "safety.budget_engine"}).json()["items"]
    assert [(one["entry"]["before"], one["entry"]["after"]) for one in log] == [("40/1m", "30/1m"), ("30/1m", "40/1m")]
    assert (log[1]["entry"]["note"], log[1]["entry"]["actor"]["kind"]) == ("busy", "token")


@pytest.mark.parametrize(
    ("body", "status", "pointer", "words"),
    [
        ({"set": {"safety.budget_engin": "1/1m"}}, 422, "/set/safety.budget_engin", "did you mean safety.budget_engine?"),
        ({"set": {"safety.clock_skew": [1]}}, 422, "/set/safety.clock_skew", "expected a duration"),
        ({"set": {"safety.protected_namespaces": []}}, 422, "/set/safety.protected_namespaces", "protects no namespace"),
        ({"set": {"safety.budget_rule": "9/1m"}}, 409, "", "QUELL_SAFETY_BUDGET_RULE"),
        ({"set": {"server.port": 1}}, 409, "", "QUELL_SERVER_PORT"),
        ({"sett": {}}, 400, "", ""),
    ],
)  # fmt: skip
def test_what_is_refused(admin: httpx.Client, body: dict[str, Any], status: int, pointer: str, words: str) -> None:
    answer = admin.patch("/v1/settings", json=body)
    told = answer.json()
    assert answer.status_code == status, told
    if pointer:
        [problem] = told["problems"]
        assert problem["pointer"] == pointer
        assert words in problem["message"]
    assert words in told["detail"]


def test_who_may_change_and_who_may_pause(admin: httpx.Client) -> None:
    change = {"set": {"safety.clock_skew": "1s"}}
    for name, may_pause in (("viewer", False), ("author", False), ("operator", True)):
        with role(admin, name) as client:
            assert client.get("/v1/settings").status_code == 200
            assert client.get("/v1/pause").status_code == 200
            assert client.patch("/v1/settings", json=change).status_code == 403
            answer = client.put("/v1/pause", json={"paused": True, "reason": name})
            assert answer.status_code == (200 if may_pause else 403)
    assert admin.get("/v1/pause").json()["by"] == "token/operator"
    assert ask(admin, "safety.clock_skew")["value"] == "5s"


def test_a_pause_stops_decisions_and_reaches_the_agents(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULE).raise_for_status()
    agent = ScriptedAgent(admin)

    def decided(number: int) -> str:
        process = {"pid": 4711, "start_ticks": number, "boot_id": "boot", "name": "nc"}
        event = {"time": time.time(), "name": "Host.Suspicious.Process", "subject": {"node": NODE, "process": process}}
        identifier = admin.post("/v1/events", json=event).raise_for_status().json()["ids"][0]
        [action] = admin.get(f"/v1/events/{identifier}").json()["decision"]["actions"]
        return str(action.get("reason") or action["status"])

    with agent.linked():
        assert not agent.welcome.paused
        assert decided(1) == "granted"
        admin.put("/v1/pause", json={"paused": True, "reason": "drill"}).raise_for_status()
        assert agent.hear(Pause) == Pause(paused=True)
        assert decided(2) == "paused"
        with agent.linked():
            assert agent.welcome.paused
            admin.put("/v1/pause", json={"paused": False}).raise_for_status()
            assert agent.hear(Pause) == Pause(paused=False)
            assert decided(3) == "granted"


def test_a_pause_survives_a_restart(tmp_path: Path) -> None:
    with live(tmp_path / "s") as server, server.client() as admin:
        admin.put("/v1/pause", json={"paused": True, "reason": "night"}).raise_for_status()
    with live(tmp_path / "s") as server, server.client() as admin:
        told = admin.get("/v1/pause").json()
        assert (told["paused"], told["reason"], told["by"]) == (True, "night", "token/first-admin")
        assert server.controller.state.safety.paused
        entries = admin.get("/v1/audit", params={"name": "safety.paused"}).json()["items"]
        assert [one["entry"]["verb"] for one in entries] == ["pause"]


def test_a_file_edited_between_two_starts_is_audited(tmp_path: Path) -> None:
    with live(tmp_path / "s"):
        pass
    given: Configuration = load_configuration(None, {"QUELL_SAFETY_PROTECTED_NAMESPACES": "quell"})
    with live(tmp_path / "s", configuration=given) as server, server.client() as admin:
        [entry] = admin.get("/v1/audit", params={"name": "safety.protected_namespaces"}).json()["items"]
    assert entry["entry"]["actor"] == {"kind": "system", "name": "quell"}
    assert (entry["entry"]["before"], entry["entry"]["after"]) == (["kube-system", "quell"], ["quell"])
    assert "QUELL_SAFETY_PROTECTED_NAMESPACES" in entry["entry"]["note"]


def test_the_command_line(server: Live) -> None:
    listed = quell(server, "settings", "list", "--changed")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [
        "safety.budget_rule",
        "safety.max_age_kill",
        "webhooks.proxy",
    ]
    done = quell(server, "settings", "set", "safety.budget_engine=40/1m", "safety.clock_skew=1s", "--reason", "why not")
    assert done.stdout == "safety.budget_engine = 40/1m\nsafety.clock_skew = 1s\n"
    assert quell(server, "settings", "get", "safety.budget_engine").stdout == "40/1m\n"
    assert quell(server, "settings", "unset", "safety.budget_engine").stdout == "safety.budget_engine = 30/1m\n"
    wrong = quell(server, "settings", "set", "safety.budget_engin=1/1m")
    assert (wrong.returncode, "did you mean safety.budget_engine?" in wrong.stderr) == (3, True)
    assert quell(server, "settings", "set", "safety.budget_engine").returncode == 2
    pinned = quell(server, "settings", "set", "safety.budget_rule=1/1m")
    assert (pinned.returncode, "QUELL_SAFETY_BUDGET_RULE" in pinned.stderr) == (1, True)
    empty = ("settings", "set", "safety.protected_namespaces=")
    assert quell(server, *empty).returncode == 3
    assert quell(server, *empty, "--allow-empty").returncode == 0
    assert quell(server, "pause", "--reason", "drill").stdout.endswith("by token/first-admin: drill\n")
    assert json.loads(quell(server, "status", "-o", "json").stdout)["paused"]["reason"] == "drill"
    assert quell(server, "resume").stdout == "destructive actions are carried out\n"
    assert "carried out" in quell(server, "status").stdout


def test_describe_needs_no_controller(server: Live) -> None:
    told = quell(server, "--url", "http://127.0.0.1:9", "settings", "describe", "safety.paused").stdout
    assert "QUELL_SAFETY_PAUSED" in told
    assert "while running" in told
    wrong = quell(server, "settings", "describe", "safety.pausd")
    assert (wrong.returncode, "did you mean safety.paused?" in wrong.stderr) == (1, True)
