"""Evidence on its way to the controller: what waits on the agent's disk, as frames for when nothing else is to be sent.

The facts go first; of each copy of an executable the controller asks for the next piece once it has the one before, so that
no more than a piece waits anywhere. All is kept until the controller says that it has all, and sent again at the next link.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import deque
from pathlib import Path

from quell.agent.gathering import FACTS, spool_name
from quell.channel.messages import Evidence, EvidenceAck, EvidencePiece, encode

#: Bytes of an executable in one frame.
PIECE = 256 << 10
_HASH = re.compile(r"[0-9a-f]{64}")


class Parcels:
    """On the event loop's thread only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: Names of folders whose facts are to be sent, and pieces that were asked for.
        self._waiting: deque[str | EvidenceAck] = deque()

    def add(self, name: str) -> None:
        """A folder of the spool that is whole."""
        if name not in self._waiting:
            self._waiting.append(name)

    def welcomed(self) -> None:
        """The link is up: everything is sent again."""
        self._waiting.clear()
        with contextlib.suppress(OSError):
            self._waiting.extend(sorted(facts.parent.name for facts in self._folder.glob(f"*/{FACTS}")))

    def acknowledged(self, ack: EvidenceAck) -> None:
        if ack.wanted:
            self._waiting.append(ack)
        else:
            shutil.rmtree(self._folder / spool_name(ack.id), ignore_errors=True)

    def frame(self) -> bytes | None:
        """The next one; None: nothing is to be sent."""
        while self._waiting:
            next_ = self._waiting.popleft()
            if isinstance(next_, EvidenceAck):
                return encode(self._piece(next_))
            with contextlib.suppress(OSError):  # given up meanwhile
                return encode(Evidence(facts=(self._folder / next_ / FACTS).read_bytes()))
        return None

    def _piece(self, asked: EvidenceAck) -> EvidencePiece:
        data = b""
        # The name is the controller's word: it must not lead out of the folder.
        if _HASH.fullmatch(asked.wanted):
            with contextlib.suppress(OSError), (self._folder / spool_name(asked.id) / asked.wanted).open("rb") as file:
                file.seek(asked.offset)
                data = file.read(PIECE)
        return EvidencePiece(id=asked.id, sha256=asked.wanted, offset=asked.offset, data=data)
