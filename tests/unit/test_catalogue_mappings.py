"""Detectors' rule names and the catalogue names they have besides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quell.catalogue import mappings
from quell.catalogue.mappings import Mapping, catalogue_name, load, rule_names
from quell.catalogue.names import NAMES
from quell.errors import SettingError
from quell.model.event import Category, Kind

SAMPLES = Path(__file__).resolve().parents[2] / "../shared/samples"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy, so that what a test loads is gone after it."""
    monkeypatch.setattr(mappings, "_TABLE", dict(mappings._TABLE))


def test_by_where_it_happened() -> None:
    assert catalogue_name("falco", "Run shell untrusted", container=True) == Mapping(
        "Container.Suspicious.Process", Kind.INCIDENT
    )
    assert catalogue_name("falco", "Run shell untrusted", container=False) == Mapping(
        "Host.Suspicious.Process", Kind.INCIDENT
    )
    assert catalogue_name("falco", "Unexpected UDP Traffic", container=True) == Mapping(
        "Network.Violation", Kind.VIOLATION
    )


def test_unknown_rules_and_detectors_have_none() -> None:
    assert catalogue_name("falco", "My own rule", container=True) is None
    assert catalogue_name("native", "Run shell untrusted", container=True) is None


def test_every_stock_rule_is_mapped_to_a_security_event() -> None:
    assert len(rule_names("falco")) > 90
    for rule in rule_names("falco"):
        for container in (True, False):
            mapping = catalogue_name("falco", rule, container)
            assert mapping is not None
            entry = NAMES[mapping.name]
            assert entry.category is Category.SECURITY_EVENT
            assert entry.kind is mapping.kind
            assert not entry.name.startswith("Host." if container else "Container."), rule


def test_no_stock_rule_is_left_out() -> None:
    sample = SAMPLES / "falco_stock_rules.json"
    if not sample.exists():
        pytest.skip("the shared samples are not beside this checkout")
    stock = {entry["rule"] for entry in json.loads(sample.read_text())["rules"]}
    assert stock == set(rule_names("falco"))


@pytest.mark.usefixtures("table")
def test_an_operators_file_adds_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('falco:\n  My own rule: "*.Tunnel.Detected"\n  Run shell untrusted: SQL.Injection\n')
    load(file)
    assert catalogue_name("falco", "My own rule", container=False) == Mapping("Host.Tunnel.Detected", Kind.INCIDENT)
    assert catalogue_name("falco", "Run shell untrusted", container=True) == Mapping("SQL.Injection", Kind.THREAT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("falco: [1]\n", "detector falco: expected a mapping, got list"),
        (
            "falco:\n  Good: SQL.Injection\n  R: Container.Suspicous.Process\n",
            "did you mean Container.Suspicious.Process?",
        ),
        ("falco:\n  Good: SQL.Injection\n  R: Container.Start\n", "expected the catalogue name of a security event"),
        (
            "falco:\n  Good: SQL.Injection\n  R: {container: SQL.Injection}\n",
            "expected a catalogue name or both of container and host",
        ),
        ("falco: {\n", "not YAML"),
    ],
)
@pytest.mark.usefixtures("table")
def test_a_wrong_file_changes_nothing(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(SettingError, match=r"wrong\.yaml") as caught:
        load(file)
    assert message in str(caught.value)
    assert catalogue_name("falco", "Good", container=True) is None


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        load(tmp_path / "none.yaml")
