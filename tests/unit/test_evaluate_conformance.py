"""The conformance cases, ours and the shared ones, each through the public path; and that the runner can fail."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from quell.conformance.__main__ import cases, judged, main

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "cases" / "rules"
SHARED = ROOT / ".." / "shared" / "cases"


def _all(folder: Path) -> list[Any]:
    if not folder.is_dir():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"{folder.name} of ../shared is not there"))]
    return [pytest.param(case, id=f"{file.stem}-{case['id']}") for file, case in cases([folder])]


@pytest.mark.parametrize("case", _all(OWN))
def test_own_case(case: dict[str, Any]) -> None:
    assert judged(case) == []


@pytest.mark.parametrize("case", _all(SHARED))
def test_shared_case(case: dict[str, Any]) -> None:
    assert judged(case) == []


def _own(file: str, identifier: str) -> dict[str, Any]:
    held = json.loads((OWN / file).read_text())
    return copy.deepcopy(next(case for case in held["cases"] if case["id"] == identifier))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("matched", [], "matched: expected [], got [8, 9]"),
        ("quarantined", [], "quarantined: expected []"),
        ("quarantined", [{"workload_id": "web-1", "holders": [8]}], "holders of web-1"),
        ("webhooks", ["w1"], "webhooks"),
        ("logged", False, "logged"),
        ("invalid", "some reason", "expected to be refused"),
        ("surprise", 1, "unknown in expect: surprise"),
    ],
)
def test_a_wrong_expectation_fails_and_says_why(key: str, value: object, said: str) -> None:
    case = _own("responses.json", "quarantine-holders")
    case["expect"][key] = value
    assert said in "; ".join(judged(case))


def test_what_a_case_says_and_the_runner_does_not_know_is_never_ignored() -> None:
    case = _own("responses.json", "quarantine-holders")
    case["event"]["weather"] = "rain"
    assert "unknown in event: weather" in judged(case)[0]
    assert judged({"id": "x", "weather": "rain"}) == ["a form of case that the runner does not know"]


def test_policies_compare_as_multisets() -> None:
    case = _own("policies.json", "two-specific-of-one-type")
    case["expect"]["actions"].pop()
    assert "not expected: makeRedFlag" in "; ".join(judged(case))
    case["expect"]["actions"] = [{"action": "makeRedFlag", "severity": "critical"}]
    assert "expected {'action': 'makeRedFlag', 'severity': 'critical'}" in "; ".join(judged(case))


def test_the_command_prints_failures_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = _own("groups.json", "any"), _own("groups.json", "none")
    bad["expect"]["member"] = True
    (tmp_path / "some.json").write_text(json.dumps({"about": "", "cases": [good, bad]}))
    assert main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("FAIL some/none: member")
    assert said[-1] == "1 passed, 1 failed"
    (tmp_path / "some.json").write_text(json.dumps({"cases": [good]}))
    assert main([str(tmp_path)]) == 0
    (tmp_path / "other.json").write_text("[]")
    assert main([str(tmp_path)]) == 2
