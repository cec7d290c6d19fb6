"""Attributes of netlink messages (linux/netlink.h), as nftables has them: numbers in network order."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

_NESTED = 0x8000
_TYPE = 0x3FFF


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def string(kind: int, text: str) -> bytes:
    return attribute(kind, os.fsencode(text) + b"\0")


def number(kind: int, value: int) -> bytes:
    return attribute(kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & _TYPE, data[at + 4 : at + length]
        at += max(4, (length + 3) & ~3)
