"""Who produces which event: everybody is named, and the mappings, the detectors and the catalogue agree."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from quell.catalogue.mappings import catalogue_name, names, rule_names
from quell.catalogue.names import NAMES, family
from quell.cli.reference import names as page
from quell.detectors import DETECTORS, POSTED, Divided
from quell.detectors.context import Context
from quell.detectors.produces import produced_by, producers
from quell.errors import EventError
from quell.model.details import ComplianceReport
from quell.model.event import Event

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
#: Folder of examples -> detector.
SENDERS = {name: name for name in POSTED if (INPUTS / name).is_dir()} | {"kubernetes_audit": "k8s-audit"}


def test_every_name_has_a_producer_or_says_what_is_to_come() -> None:
    made = producers()
    for entry in NAMES.values():
        assert made[entry.name] or entry.later, f"{entry.name}: nobody produces it, and it does not say what will"
        assert not (made[entry.name] and entry.later), f'{entry.name}: {made[entry.name]} produce it: take "later" out'
        assert set(made[entry.name]) <= {"quell", *DETECTORS}
        assert len(entry.later) < 60


def test_every_row_of_the_page_names_who_produces_it() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(NAMES)
    assert [row[0] for row in rows if not row[5].strip()] == []
    assert "| `Enforcer.Disconnect` | `event` |  | Notice |  | Quell |" in page()
    assert "| later: several controllers |" in page()
    assert "| Quell, `falco` | A program of doubtful purpose ran in a container." in page()


def test_what_a_mapping_says_is_in_the_table() -> None:
    made = producers()
    for detector in DETECTORS:
        for rule in rule_names(detector):
            for container in (True, False):
                mapping = catalogue_name(detector, rule, container)
                assert mapping is not None
                assert detector in made[mapping.name], f"{detector}: {rule}"
    assert len(names("falco")) > 5


@pytest.mark.parametrize(("folder", "detector"), SENDERS.items())
def test_what_a_detector_makes_of_its_examples_is_declared(folder: str, detector: str) -> None:
    found: set[str] = set()
    for file in sorted((INPUTS / folder).iterdir()):
        for event in events(detector, file.read_bytes()):
            found |= {event.catalogue_name} if event.catalogue_name in NAMES else set()
            details = event.details()
            if isinstance(details, ComplianceReport):
                families = {entry.name for item in details.items if item.failed and (entry := family(item.number))}
                # A slash in a tool's own number makes it no check of yours.
                found |= families - {"CustomCheckCompliance"}
    assert found, "its examples are no test of this"
    assert found <= produced_by(detector)


def events(detector: str, document: bytes) -> list[Event]:
    """Of a document, or of one that is many, a line each; of what it cannot read, none."""
    found: list[Event] = []
    for part in [document, *document.splitlines()]:
        with contextlib.suppress(EventError):
            found += read(detector, part)
    return found


def read(detector: str, document: bytes) -> list[Event]:
    reader = DETECTORS[detector]
    parts = reader.split(document, Context()) if isinstance(reader, Divided) else [document]
    return [reader.decode(part, id=None, received=0.0) for part in parts if isinstance(part, bytes)]
