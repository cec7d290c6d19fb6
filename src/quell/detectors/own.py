"""What Quell itself says happened, such as Container.Quarantined: native events of source `quell`.

Nobody can post these: the controller makes them, with ids derived from the command (SEMANTICS section 4).
"""

from __future__ import annotations

from quell.detectors.native import decode
from quell.model.event import Event


class Own:
    name = "quell"

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        return decode(line, id=id, received=received, source=self.name, id_given=True)
