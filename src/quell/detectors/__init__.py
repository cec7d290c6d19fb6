"""Detectors: bytes to Event, one module a detector, listed in one literal table. SEMANTICS section 1.

The journal keeps a line's bytes, its id and when it was received, and nothing else of an event: decoding these three
again gives an equal Event. A detector therefore uses no clock and no state of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from quell.detectors.falco import Falco
from quell.detectors.native import Native
from quell.detectors.own import Own
from quell.detectors.sensor import Sensor
from quell.model.event import Event


class Detector(Protocol):
    @property
    def name(self) -> str:
        """The key in DETECTORS, and the source of its events."""
        ...

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """One event out of one JSON document. id None: the source's own, else a new one. EventError: it is none."""
        ...


DETECTORS: Mapping[str, Detector] = {
    "falco": Falco(),
    "native": Native(),
    "quell": Own(),
    "sensor": Sensor(),
}
