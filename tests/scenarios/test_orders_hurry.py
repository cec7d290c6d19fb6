"""From its announcement until it has gone an order's thread goes before others, and no longer."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from tests.unit.test_urgency import HURRIED, may_hurry

from quell.channel.messages import FromController, Hello
from quell.controller.controller import Controller
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.model.event import Event
from quell.settings import Settings

pytestmark = pytest.mark.skipif(not may_hurry(), reason="this process may not be in a hurry")
RULES = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: kill}
spec: {event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [agentKillProcess]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: flag}
spec: {event: security-event, criteria: ["name:Host.Tunnel.Detected"], actions: [{makeRedFlag: {severity: low}}]}
"""


class Watched:
    """The wire's end of an agent's link: how its thread was scheduled as each message was sent."""

    def __init__(self, failing: bool = False) -> None:
        self.sent: list[tuple[str, int]] = []
        self.failing = failing

    def send(self, message: FromController) -> None:
        self.sent.append((type(message).__name__, os.sched_getscheduler(0)))
        if self.failing:
            raise OSError("the wire is cut")


def event(name: str = "Host.Suspicious.Process", pid: int = 4_000_000) -> Event:
    process = {"pid": pid, "start_ticks": 7, "boot_id": "b", "name": "nc"}
    line = json.dumps({"time": time.time(), "name": name, "subject": {"node": "n", "process": process}}).encode()
    return DETECTORS["native"].decode(line, id=None, received=time.time())


def linked(controller: Controller, link: Watched) -> None:
    hello = Hello(
        agent="a", version="0", node="n", machine_id="m", boot_id="b", boot_time=0.0, capabilities=("agentKillProcess",)
    )
    controller.agent_connected(hello)
    controller.dispatcher.connected("a", link)
    link.sent.clear()


async def started(folder: Path) -> Controller:
    controller = Controller.open(folder, Settings())
    controller.start()
    await controller.apply(load_text(RULES))
    return controller


def test_an_order_is_hurried_until_it_has_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        controller, link = await started(tmp_path), Watched()
        try:
            linked(controller, link)
            before = os.sched_getscheduler(0)
            written = controller.ingest([event()])
            assert link.sent == [("Announced", HURRIED), ("Ordered", HURRIED)]
            assert os.sched_getscheduler(0) == before
            await written
            link.sent.clear()
            written = controller.ingest([event("Host.Tunnel.Detected") for _ in range(40)] + [event(pid=4_000_001)])
            assert link.sent == [("Announced", before), ("Ordered", before)], "it would keep others waiting for long"
            await written
        finally:
            await controller.stop()

    asyncio.run(scenario())


def test_a_hurry_ends_though_its_order_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        controller, link = await started(tmp_path), Watched(failing=True)
        try:
            linked(controller, link)
            before = os.sched_getscheduler(0)
            with pytest.raises(OSError, match="cut"):
                controller.ingest([event()])
            assert link.sent == [("Announced", HURRIED)]
            assert os.sched_getscheduler(0) == before
        finally:
            await controller.stop()

    asyncio.run(scenario())
