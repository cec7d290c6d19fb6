"""Sightings in messages that fit into frames of the link. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from quell.channel.messages import MAX_FRAME, Seen
from quell.model.sighting import Gone, Sighting

#: What an agent's complete list is complete of.
KINDS = ("container", "node")
_ROOM = MAX_FRAME - 4096  # the message around the sightings
_GONE_AT_ONCE = 4096

_encoder = msgspec.msgpack.Encoder()


def frames(seen: Sequence[Sighting], gone: Sequence[Gone] = (), *, complete: bool = True) -> Iterator[Seen]:
    """complete: seen is everything there is; the first message says so, and those after it add to it."""
    for start in range(0, len(gone), _GONE_AT_ONCE):
        yield Seen(gone=tuple(gone[start : start + _GONE_AT_ONCE]))
    part: list[Sighting] = []
    room = _ROOM
    for each in seen:
        size = len(_encoder.encode(each))
        if size > room and part:
            yield _message(part, complete=complete)
            complete = False
            part, room = [], _ROOM
        part.append(each)
        room -= size
    if part or complete:
        yield _message(part, complete=complete)


def _message(part: list[Sighting], *, complete: bool) -> Seen:
    return Seen(seen=tuple(part), complete=complete, kinds=KINDS if complete else ())
