"""A controller with its API on a free port of loopback, in a thread of its own, for tests that speak HTTP to it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvloop
from msgspec import Struct

from quell.configuration import Configuration
from quell.controller.controller import Controller
from quell.serve import serving
from quell.settings import Ingest, Settings

#: It trusts nobody, and so reads no list of authorities: with it a client is made in no time.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Live(Struct):
    url: str
    folder: Path
    controller: Controller

    def client(self, role: str = "admin") -> httpx.Client:
        """role "": without a token."""
        headers = {"Authorization": f"Bearer {self.token(role)}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, verify=NO_TLS)

    def token(self, role: str) -> str:
        return (self.folder / f"{role}.token").read_text().strip()


@contextlib.contextmanager
def live(
    folder: Path,
    ingest: Ingest | None = None,
    *,
    configuration: Configuration | None = None,
) -> Iterator[Live]:
    """The controller is stopped at the end of the block; an error of its start is raised here.

    configuration: what it is started with beside the port, in place of ingest.
    """
    given = configuration or Configuration(settings=Settings(ingest=ingest or Ingest()))
    settings = given.settings.with_values({"server.port": 0})
    started = threading.Event()
    running: list[Live] = []
    failed: list[BaseException] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with serving(folder, settings, given.origins) as server:
            ended = asyncio.Event()
            stop.append((asyncio.get_running_loop(), ended))
            running.append(Live(url=server.url, folder=folder, controller=server.controller))
            started.set()
            await ended.wait()

    def run() -> None:
        try:
            uvloop.run(serve())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(30)
    try:
        if failed:
            raise failed[0]
        yield running[0]
    finally:
        for loop, ended in stop:
            loop.call_soon_threadsafe(ended.set)
        thread.join(30)
    if failed:
        raise failed[0]
