"""What the guardian finds: native events of category deviation, source `guardian`.

Nobody can post these: the controller makes them, with ids derived from policy, checksum and process (quell.controller.deviations).
"""

from __future__ import annotations

from quell.detectors.native import decode
from quell.model.event import Event


class Guardian:
    name = "guardian"
    #: As quell.guardian.guard.event_name calls them.
    produces = (
        "Process.Profile.Violation",
        "Host.Process.Violation",
        "Network.Violation",
        "Container.Image.Deviation",
    )

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        return decode(line, id=id, received=received, source=self.name, id_given=True)
