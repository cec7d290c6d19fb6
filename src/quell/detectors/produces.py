"""Which detector makes events of which catalogue name, for docs/event-names.md.

Two places say it and this one only joins them: the mappings of a detector's own rules (quell.catalogue.mappings), and
for what a detector names by itself one line in it, such as `produces = ("Container.Scan.Report",)`.
"""

from __future__ import annotations

from collections.abc import Mapping

from quell.catalogue.mappings import names
from quell.catalogue.names import NAMES
from quell.detectors import DETECTORS

#: Of Quell itself; the catalogue says what they make. Anybody can post the native form with any name.
_OWN = frozenset(("native", "quell", "sensor"))


def produced_by(detector: str) -> frozenset[str]:
    """Catalogue names of a detector's events."""
    return (names(detector) | frozenset(getattr(DETECTORS[detector], "produces", ()))) & NAMES.keys()


def producers() -> Mapping[str, tuple[str, ...]]:
    """Catalogue name -> who makes such events: quell first, then detectors by name; nobody: none yet."""
    made = {detector: produced_by(detector) for detector in sorted(DETECTORS) if detector not in _OWN}
    return {
        name: (*entry.producers, *(detector for detector, theirs in made.items() if name in theirs))
        for name, entry in NAMES.items()
    }
