"""What is drawn for a live page is drawn once, however many look."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quell.console import live
from quell.console.live import Broadcast

VIEWERS = 50


class Page:
    """Its number of events changes each time it is drawn; another part never does."""

    def __init__(self) -> None:
        self.drawn = 0

    async def __call__(self) -> dict[str, str]:
        self.drawn += 1
        return {"events": f"<b>{self.drawn}</b>", "agents": "<i>2</i>"}


class Viewer:
    def __init__(self, wanted: int) -> None:
        """wanted: leaves after so many messages."""
        self.heard: list[bytes] = []
        self._wanted = wanted
        self._enough = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._enough.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        content = message.get("body", b"")
        if content.startswith(b"data:"):
            self.heard.append(content)
        if len(self.heard) >= self._wanted:
            self._enough.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_TICK", 0.02)


def test_viewers_get_the_same_bytes_of_one_drawing() -> None:
    async def look() -> tuple[Page, list[Viewer]]:
        page = Page()
        broadcast = Broadcast("overview", page)
        viewers = [Viewer(3) for _ in range(VIEWERS)]
        streams = [broadcast.stream(viewer.receive, viewer.send, lambda: True) for viewer in viewers]
        await asyncio.wait_for(asyncio.gather(*streams), 20)
        return page, viewers

    page, viewers = asyncio.run(look())
    assert page.drawn <= 2 * max(len(viewer.heard) for viewer in viewers)
    first = viewers[0].heard
    assert first[0] == b'data: {"events":"<b>1</b>","agents":"<i>2</i>"}\n\n'
    assert first[1] == b'data: {"events":"<b>2</b>"}\n\n', "what did not change is not sent again"
    for viewer in viewers[1:]:
        assert all(mine is theirs for mine, theirs in zip(viewer.heard, first, strict=False)), "a copy of their own"


def test_nobody_looks_and_nothing_is_drawn() -> None:
    async def look() -> tuple[int, int]:
        page = Page()
        broadcast = Broadcast("overview", page)
        viewer = Viewer(1)
        await asyncio.wait_for(broadcast.stream(viewer.receive, viewer.send, lambda: True), 20)
        await asyncio.sleep(0.1)
        before = page.drawn
        await asyncio.sleep(0.2)
        return before, page.drawn

    before, after = asyncio.run(look())
    assert before == after >= 1


def test_one_that_draws_a_fault_goes_on() -> None:
    class Faulty(Page):
        async def __call__(self) -> dict[str, str]:
            parts = await super().__call__()
            if self.drawn == 2:
                raise ZeroDivisionError
            return parts

    async def look() -> list[bytes]:
        viewer = Viewer(2)
        await asyncio.wait_for(Broadcast("overview", Faulty()).stream(viewer.receive, viewer.send, lambda: True), 20)
        return viewer.heard

    assert asyncio.run(look())[1] == b'data: {"events":"<b>3</b>"}\n\n'
