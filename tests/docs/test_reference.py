"""The pages that come from the code are as the code is now; settings, examples and changes are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guide import ROOT

from quell.cli.reference import pages, settings
from quell.documents.load import load_paths
from quell.documents.references import check


def test_generated_pages_are_fresh() -> None:
    for name, text in pages().items():
        assert (ROOT / "docs" / name).read_text() == text, f"docs/{name} is stale: run make docs"


def test_every_setting_says_what_it_means() -> None:
    rows = [line.split(" | ") for line in settings().splitlines() if line.startswith("| `")]
    assert {row[3] for row in rows} >= {"`QUELL_SERVER_PORT` |", "`QUELL_SAFETY_BUDGET_ENGINE` |"}
    assert [row[0] for row in rows if len(row[2]) < 10] == []


@pytest.mark.parametrize("example", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.name)
def test_each_example_loads_without_a_warning(example: Path) -> None:
    documents = load_paths([example])
    assert not documents.warnings
    assert documents.rules or documents.groups or documents.webhooks or documents.policies


def test_the_examples_fit_together() -> None:
    documents = load_paths([ROOT / "examples"])
    check(documents)
    assert {rule.category.value for rule in documents.rules} >= {"event", "security-event", "cve-report", "compliance"}


def test_every_target_of_the_makefile_has_help() -> None:
    text = (ROOT / "Makefile").read_text()
    helped = dict(re.findall(r"^([a-z-]+):[^#\n]*## (.+)$", text, flags=re.MULTILINE))
    assert set(helped) >= {
        "help",
        "run",
        "demo",
        "test",
        "check",
        "bench",
        "conformance",
        "docs",
        "screenshots",
        "clean",
    }
    phony = re.search(r"^\.PHONY: (.+)$", text, flags=re.MULTILINE)
    assert phony is not None
    assert set(helped) <= set(phony[1].split())
