"""Packed bodies: whatever is sent, never more than the limit is held, and never less than all of it is taken."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard

from quell.api.problem import Refusal
from quell.api.unpack import unpack

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress}
LIMIT = 1 << 20


def unpacked(body: bytes, encoding: str, limit: int = LIMIT) -> bytes:
    return asyncio.run(unpack(body, encoding.encode(), limit))


def refused(body: bytes, encoding: str) -> int:
    with pytest.raises(Refusal) as error:
        unpacked(body, encoding)
    return error.value.status


@pytest.fixture(params=PACKERS)
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_one_part_or_several_come_back_whole(encoding: str) -> None:
    pack = PACKERS[encoding]
    assert unpacked(pack(b"x" * LIMIT), encoding) == b"x" * LIMIT
    assert unpacked(pack(b"one") + pack(b"") + pack(b"two"), encoding) == b"onetwo"


def test_a_cut_body_is_never_taken_for_a_whole_one(encoding: str) -> None:
    packed = PACKERS[encoding](b"".join(b"%d," % number for number in range(2_000)))
    assert {refused(packed[:length], encoding) for length in range(1, len(packed), 7)} == {400}
    assert refused(packed + b"more", encoding) == 400


def test_a_bomb_is_stopped_before_it_fills_the_memory(encoding: str) -> None:
    bomb = PACKERS[encoding](bytes(300_000_000))
    tracemalloc.start()
    try:
        assert refused(bomb, encoding) == 413
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_one_byte_above_the_limit_is_too_much(encoding: str) -> None:
    assert refused(PACKERS[encoding](bytes(LIMIT + 1)), encoding) == 413


def test_identity_is_no_encoding_and_an_unknown_one_is_415() -> None:
    assert unpacked(b"x", "identity") == b"x"
    assert refused(b"x", "br") == 415
    assert refused(b"x", "gzip, gzip") == 415
