"""The agent's own sensor: native events, sent over the agent's link."""

from __future__ import annotations

from quell.detectors.native import decode
from quell.model.event import Event


class Sensor:
    name = "sensor"

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        return decode(line, id=id, received=received, source=self.name, id_given=True)
