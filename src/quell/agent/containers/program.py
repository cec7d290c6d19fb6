"""Runs a program for its answer, without blocking the loop and without leaving it behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Sequence

_PIECE = 64 << 10


async def answer(words: Sequence[str], *, most: int, seconds: float) -> bytes:
    """What it writes until it ends, cut at some bytes past most, when it is killed as after seconds or on cancelling.

    Raises OSError if it cannot be run, TimeoutError.
    """
    running = _Running(words, most)
    try:
        async with asyncio.timeout(seconds):
            await running.ended
    finally:
        running.close()
    return bytes(running.written)


class _Running:
    def __init__(self, words: Sequence[str], most: int) -> None:
        self.written = bytearray()
        self._most = most
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self._reap()
            raise
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._pipe = self._process.stdout.fileno() if self._process.stdout else -1
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._readable)
        self._loop.add_reader(self._pidfd, self._end)

    def close(self) -> None:
        for file in (self._pipe, self._pidfd):
            self._loop.remove_reader(file)
        os.close(self._pidfd)
        self._reap()

    def _reap(self) -> None:
        self._process.kill()  # nothing happens to one that has ended
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _readable(self) -> None:
        piece = b""
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self._pipe, _PIECE)
            if not piece:
                self._loop.remove_reader(self._pipe)
        self.written += piece
        if len(self.written) > self._most:
            self._finish()

    def _end(self) -> None:
        """What is still in the pipe belongs to the answer."""
        with contextlib.suppress(BlockingIOError):
            while len(self.written) <= self._most and (piece := os.read(self._pipe, _PIECE)):
                self.written += piece
        self._finish()

    def _finish(self) -> None:
        for file in (self._pipe, self._pidfd):
            self._loop.remove_reader(file)
        if not self.ended.done():
            self.ended.set_result(None)
