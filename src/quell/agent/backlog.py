"""Observations that wait to be told, packed as they will be sent. What does not fit is given up and counted.

The link asks for the next frame when it has nothing else to send, so that they never stand before an outcome, and a
slow controller holds up no more memory than stands here.
"""

from __future__ import annotations

from collections import deque

from quell.channel.messages import MAX_FRAME, pack, pack_frame
from quell.model.observation import Observation

#: So many observations and bytes wait at most; the oldest are given up.
_MOST, _MOST_BYTES = 8192, 4 << 20
#: Bytes of a frame, unless one observation is larger than that.
_FRAME_BYTES = 128 << 10
#: Bytes of a frame beside its observations.
_ROOM = 64


class Backlog:
    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        #: Not told yet, as never told in any other way.
        self._lost = 0

    def put(self, observation: Observation) -> int:
        """How many were given up for it, itself perhaps: nobody could be told of one that fills more than a frame."""
        packed = pack(observation)
        if len(packed) > MAX_FRAME - _ROOM:
            self._lost += 1
            return 1
        self._waiting.append(packed)
        self._bytes += len(packed)
        lost = 0
        while len(self._waiting) > self._most or self._bytes > self._most_bytes:
            self._bytes -= len(self._waiting.popleft())
            lost += 1
        self._lost += lost
        return lost

    def lose(self, count: int) -> None:
        """So many passed unseen."""
        self._lost += count

    def frame(self) -> bytes | None:
        """The next to be sent; None: there is nothing to tell."""
        if not self._waiting and not self._lost:
            return None
        packed: list[bytes] = []
        size = 0
        while self._waiting and (not packed or size + len(self._waiting[0]) <= _FRAME_BYTES):
            packed.append(self._waiting.popleft())
            size += len(packed[-1])
        self._bytes -= size
        lost, self._lost = self._lost, 0
        return pack_frame(packed, lost)

    def clear(self) -> None:
        self._waiting.clear()
        self._bytes = self._lost = 0

    def __len__(self) -> int:
        return len(self._waiting)
