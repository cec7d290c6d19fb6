"""Events that the controller has not acknowledged yet: in memory, and in a file for the agent's next start.

The file is only appended to, without waiting for the disk: it outlives the agent, and what a power failure takes from
it are events of processes that it took as well. An event that is sent twice after a crash is decided once, by its id.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from quell.channel.messages import Observed

_MOST_EVENTS = 4096
_MOST_BYTES = 8 << 20
#: The file is rewritten when it is this much longer than what still waits.
_SLACK_BYTES = 4 << 20
_LENGTH_BYTES = 4

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Observed)


class Outbox:
    def __init__(
        self,
        path: Path,
        on_lost: Callable[[int], None],
        *,
        most_events: int = _MOST_EVENTS,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        """Takes up what an earlier run left; a record that a crash cut short is dropped.

        on_lost gets the number of events given up each time a bound is reached. Raises OSError.
        """
        self._on_lost = on_lost
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._waiting: dict[str, Observed] = {}
        self._bytes = 0
        self._size = 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for event in _records(path.read_bytes()):
            self._hold(event)
        self._rewrite()

    def put(self, event: Observed) -> None:
        """Keep until acknowledged. At the bound the oldest go, since the newest can still be acted on, and are counted."""
        record = _record(event)
        self._hold(event)
        self._append(record)
        lost = 0
        while len(self._waiting) > 1 and (len(self._waiting) > self._most_events or self._bytes > self._most_bytes):
            self._drop(next(iter(self._waiting)))
            lost += 1
        if lost:
            self._on_lost(lost)

    def acknowledge(self, ids: Sequence[str]) -> None:
        """Unknown ids are ignored: a repeated event is acknowledged twice."""
        for identity in ids:
            if identity in self._waiting:
                self._drop(identity)
        if not self._waiting and self._size:
            os.ftruncate(self._file, 0)
            self._size = 0
        elif self._size > self._bytes + _SLACK_BYTES:
            self._rewrite()

    def waiting(self) -> list[Observed]:
        """In the order of arrival."""
        return list(self._waiting.values())

    def __len__(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        os.close(self._file)

    def _hold(self, event: Observed) -> None:
        if event.id not in self._waiting:
            self._waiting[event.id] = event
            self._bytes += len(event.raw)

    def _drop(self, identity: str) -> None:
        self._bytes -= len(self._waiting.pop(identity).raw)

    def _append(self, record: bytes) -> None:
        # A full disk does not stop the events: they are in memory and on their way.
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, record)

    def _rewrite(self) -> None:
        os.ftruncate(self._file, 0)
        self._size = 0
        for event in self._waiting.values():
            self._append(_record(event))


def _record(event: Observed) -> bytes:
    body = _encoder.encode(event)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def _records(content: bytes) -> Iterator[Observed]:
    start = 0
    while start + _LENGTH_BYTES <= len(content):
        end = start + _LENGTH_BYTES + int.from_bytes(content[start : start + _LENGTH_BYTES], "big")
        try:
            yield _decoder.decode(content[start + _LENGTH_BYTES : end])
        except msgspec.DecodeError:
            return
        start = end
