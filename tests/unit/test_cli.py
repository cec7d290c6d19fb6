"""The command line without a controller: exit codes, formats, problems, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.system.command import Ran
from tests.system.command import quell as run

from quell import __version__
from quell.cli.exits import MEANINGS, Exit, exit_of
from quell.cli.output import clock, milliseconds
from quell.errors import ApiError, DocumentError, EventError, SettingError, StoreFull, Unreachable

RULE = """\
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: no-netcat}
spec:
  event: incident
  criteria: [name:Host.Suspicious.Process, process:nc]
  actions: [agentKillProcess]
"""
EVENT = (
    '{"id": "e1", "time": "2026-11-22T15:40:11Z", "name": "Host.Suspicious.Process", "subject":'
    ' {"node": "n", "process": {"pid": 7, "start_ticks": 9, "name": "%s"}}}'
)


def quell(*words: str, stdin: str = "", **environment: str) -> Ran:
    return run(*words, stdin=stdin, environment=environment)


@pytest.fixture
def rule(tmp_path: Path) -> str:
    path = tmp_path / "rule.yaml"
    path.write_text(RULE)
    return str(path)


def test_version_comes_at_once() -> None:
    used = os.times()
    done = quell("version")
    after = os.times()
    assert done.stdout == f"{__version__}\n"
    spent = after.children_user + after.children_system - used.children_user - used.children_system
    assert spent < 0.9, f"{spent:.2f} s of processor time: something heavy is imported that version does not need"


def test_no_controller_is_told_shortly() -> None:
    done = quell("get", "rules", QUELL_URL="http://127.0.0.1:9")
    assert done.returncode == Exit.UNREACHABLE
    assert done.stdout == ""
    assert "no controller answers at http://127.0.0.1:9" in done.stderr
    assert "quell up" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("get",),
        ("explain",),
        ("explain", "some-id", "-f", "x"),
        ("explain", "-f", "x"),
        ("get", "rules", "-o", "xml"),
        ("agents", "join-token", "--ttl", "soon"),
    ],
)
def test_a_wrong_command_line(words: tuple[str, ...]) -> None:
    done = quell(*words)
    assert done.returncode == Exit.USAGE, done.stderr
    assert "Usage:" in done.stderr


def test_problems_are_drawn_under_the_fault(tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    path.write_text(RULE.replace("agentKillProcess", "agentKilProcess").replace("process:nc", "proces:nc"))
    done = quell("validate", str(path))
    assert done.returncode == Exit.INPUT
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f'{path}:6:44: error: unknown criterion "proces"')
    assert rest[0] == "  6 |   criteria: [name:Host.Suspicious.Process, proces:nc]"
    assert rest[1].index("^") == rest[0].index("proces:nc")
    assert "did you mean: process" in done.stderr
    assert f"{path}:7:13: error:" in done.stderr


def test_a_reference_to_nothing_is_a_problem_too(tmp_path: Path) -> None:
    path = tmp_path / "rule.yaml"
    path.write_text(RULE + "  group: nowhere\n")
    done = quell("validate", str(path))
    assert done.returncode == Exit.INPUT
    assert f"{path}:" in done.stderr
    assert "nowhere" in done.stderr


def test_files_that_are_not_there(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")
    assert f"{missing}: error: no such file or folder" in quell("validate", missing).stderr
    done = quell("events", "send", "-f", missing)
    assert done.returncode == Exit.INPUT
    assert done.stderr == f"quell: {missing}: No such file or directory\n"


def test_validate_counts_and_reads_standard_input(rule: str) -> None:
    assert quell("validate", rule).stdout == "valid: 1 rule\n"
    assert quell("validate", "-", stdin=RULE).stdout == "valid: 1 rule\n"


def test_explain_from_files_as_a_page_and_as_data(rule: str) -> None:
    page = quell("explain", "-f", rule, "--event", "-", stdin=EVENT % "nc")
    assert page.returncode == Exit.OK, page.stderr
    assert "asked by rule/8 → granted\n" in page.stdout
    data = json.loads(quell("explain", "-f", rule, "--event", "-", "-o", "json", stdin=EVENT % "nc").stdout)
    assert data["decision"]["actions"][0]["action"] == {"type": "agentKillProcess"}
    assert data["decision"]["actions"][0]["status"] == "granted"
    same = yaml.safe_load(quell("explain", "-f", rule, "--event", "-", "-o", "yaml", stdin=EVENT % "nc").stdout)
    assert same == data


def test_explain_says_why_a_rule_does_not_match(rule: str) -> None:
    done = quell("explain", "-f", rule, "--event", "-", "--near-misses", stdin=EVENT % "ncat")
    assert "matched      no rule\n" in done.stdout
    assert "process:nc  expected nc, got ncat\n" in done.stdout


def test_explain_refuses_what_is_no_event(rule: str) -> None:
    done = quell("explain", "-f", rule, "--event", "-", stdin='{"nam": "x"}')
    assert done.returncode == Exit.INPUT
    assert "nam" in done.stderr
    assert quell("explain", "-f", rule, "--event", "-", "--detector", "nobody", stdin="{}").returncode == Exit.USAGE


def test_agent_gets_its_own_options() -> None:
    # In a process of its own, which the agent takes the place of.
    command = [sys.executable, "-m", "quell", "agent", "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--no-sensor" in done.stdout


def test_completion_knows_the_commands() -> None:
    done = quell(_QUELL_COMPLETE="complete_bash", COMP_WORDS="quell even", COMP_CWORD="1")
    assert done.stdout.split() == ["events"]


def test_each_error_has_its_exit_code() -> None:
    cases = {
        Exit.INPUT: [DocumentError([]), EventError("x"), SettingError("x"), ApiError(400, "x"), ApiError(413, "x")],
        Exit.UNREACHABLE: [Unreachable("x")],
        Exit.FORBIDDEN: [ApiError(401, "x"), ApiError(403, "x")],
        Exit.FAILED: [ApiError(404, "x"), ApiError(500, "x"), ApiError(409, "x"), StoreFull("x")],
    }
    for code, errors in cases.items():
        assert [exit_of(error) for error in errors] == [code] * len(errors)
    assert set(MEANINGS) == set(Exit)


def test_times_for_people() -> None:
    assert clock(1795362011.204) == "2026-11-22 15:40:11.204Z"
    assert [milliseconds(seconds) for seconds in (0, 0.00042, 0.0019, 0.0184, 3.14)] == [
        "0 ms", "0.42 ms", "1.9 ms", "18 ms", "3.1 s",
    ]  # fmt: skip
