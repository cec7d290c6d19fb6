"""What a census tells, joined as a controller joins it: for tests of what runs here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from quell.agent.containers.census import Census
from quell.agent.containers.folders import Folders
from quell.agent.containers.runtime import Runtime
from quell.channel.messages import Seen, decode_from_agent, encode
from quell.model.sighting import ContainerSeen, NodeSeen

T = TypeVar("T")


class Told:
    """All messages pass through the form they have on the link."""

    def __init__(self) -> None:
        self.messages: list[Seen] = []
        self.containers: dict[str, ContainerSeen] = {}
        self.node: NodeSeen | None = None

    def take(self, message: Seen) -> None:
        seen = decode_from_agent(encode(message))
        assert isinstance(seen, Seen)
        self.messages.append(seen)
        if seen.complete:
            assert set(seen.kinds) == {"container", "node"}
            self.containers.clear()
        for each in seen.seen:
            if isinstance(each, ContainerSeen):
                self.containers[each.id] = each
            elif isinstance(each, NodeSeen):
                self.node = each
        for gone in seen.gone:
            assert gone.kind == "container"
            del self.containers[gone.key]

    async def until(self, found: Callable[[], T | None], seconds: float = 20.0) -> T:
        deadline = time.monotonic() + seconds
        while not (result := found()):
            assert time.monotonic() < deadline, f"not in time; told: {self.containers}"
            await asyncio.sleep(0.01)
        return result

    async def of(self, identity: str, holds: Callable[[ContainerSeen], bool] = lambda _: True) -> ContainerSeen:
        """Once it is told and as asked for."""

        def found() -> ContainerSeen | None:
            seen = self.containers.get(identity)
            return seen if seen is not None and holds(seen) else None

        return await self.until(found)


@asynccontextmanager
async def telling(runtimes: Callable[[Folders], Sequence[Runtime]]) -> AsyncIterator[Told]:
    """A census of these runtimes on a link that is up."""
    told = Told()
    folders = Folders()
    census = Census("here", folders, runtimes(folders), told.take)
    census.start()
    census.welcomed()
    try:
        await told.until(lambda: told.messages)
        yield told
    finally:
        census.stop()
