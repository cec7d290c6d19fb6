"""Documents with something wrong or doubtful, and every message about them, to the column.

A case is a pair of files in tests/cases/documents: X.yaml, and X.txt with a line for each error or warning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quell.documents.load import load_text, load_values
from quell.errors import DocumentError, Problem

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted((ROOT / "tests/cases/documents").glob("*.yaml"))
SHARED = ROOT / "../shared"


def told(text: bytes, file: str) -> list[str]:
    try:
        documents = load_text(text, file)
    except DocumentError as error:
        return [f"error: {problem}" for problem in error.problems]
    return [f"warning: {warning}" for warning in documents.warnings]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.stem))
def test_messages(case: Path) -> None:
    assert told(case.read_bytes(), case.name) == [
        line for line in case.with_suffix(".txt").read_text().split("\n") if line
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.stem))
def test_every_problem_has_its_place_and_says_what_was_expected(case: Path) -> None:
    try:
        load_text(case.read_bytes(), case.name)
    except DocumentError as error:
        lines = case.read_text().split("\n")
        for problem in error.problems:
            assert 1 <= problem.line <= len(lines), problem
            assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
            if problem.got:
                assert problem.expected or "is taken by" in problem.message or "twice" in problem.message, problem


def shared_cases(name: str) -> list[Any]:
    file = SHARED / "cases" / f"{name}.json"
    if not file.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the shared cases are not beside this checkout"))]
    cases = json.loads(file.read_text())["cases"]
    # Cases without a rule or policy are not about documents.
    return [pytest.param(case, id=case["id"]) for case in cases if case.get("rules") or case.get("policy")]


@pytest.mark.parametrize("as_text", [True, False], ids=["text", "values"])
@pytest.mark.parametrize("case", shared_cases("response_rules"))
def test_shared_rules_load_or_are_refused_as_they_say(case: dict[str, Any], as_text: bool) -> None:
    values = [
        {"apiVersion": "quell.dev/v1", "kind": "ResponseRule", "metadata": {"name": f"rule {rule['id']}"}, "spec": rule}
        for rule in case["rules"]
    ]
    text = "---\n".join(json.dumps(value, indent=1) + "\n" for value in values)
    if "invalid" in case["expect"]:
        with pytest.raises(DocumentError):
            load_text(text) if as_text else load_values(values)
    else:
        documents = load_text(text) if as_text else load_values(values)
        assert [rule.id for rule in documents.rules] == [rule["id"] for rule in case["rules"]]


@pytest.mark.parametrize("case", shared_cases("policies"))
def test_shared_policies_load_or_are_refused_as_they_say(case: dict[str, Any]) -> None:
    if not case["expect"]["valid"]:
        with pytest.raises(DocumentError):
            load_values([case["policy"]])
        return
    documents = load_values([case["policy"]])
    assert len(documents.policies) + len(documents.rulesets) == 1
    if "warning" in case["expect"]:
        assert any("unusual" in warning.message for warning in documents.warnings)


def test_a_problem_says_all_of_it_in_one_line() -> None:
    problem = Problem(file="a.yaml", line=3, column=5, path="spec", message='unknown "x"', expected="y", nearest="y")
    assert str(problem) == 'a.yaml:3:5: spec: unknown "x": expected y (did you mean y?)'
