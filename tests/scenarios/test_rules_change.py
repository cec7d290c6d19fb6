"""Rules are applied, changed and deleted while events flow: each event is decided by one revision, whole."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from quell.controller.controller import Controller
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.settings import Settings

EVENTS = 300


def rule(severity: str) -> str:
    return f"""
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: changing}}
spec: {{event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [{{makeRedFlag: {{severity: {severity}}}}}]}}
"""


async def flow(controller: Controller) -> None:
    for serial in range(EVENTS):
        line = json.dumps(
            {"id": f"flow-{serial}", "name": "Host.Suspicious.Process", "subject": {"node": "n"}}
        ).encode()
        await controller.ingest([DETECTORS["native"].decode(line, id=None, received=time.time())])


async def change(controller: Controller, stop: asyncio.Event) -> dict[int, str | None]:
    """What each revision asks for; None: no rule is in force."""
    asked: dict[int, str | None] = {controller.pipeline.index.revision: None}
    while not stop.is_set():
        for severity in ("low", "high"):
            await controller.apply(load_text(rule(severity)))
            asked[controller.pipeline.index.revision] = severity
            await asyncio.sleep(0.002)
        await controller.delete("ResponseRule", "changing")
        asked[controller.pipeline.index.revision] = None
        await asyncio.sleep(0.002)
    return asked


def test_rules_change_while_events_flow(tmp_path: Path) -> None:
    async def scenario() -> None:
        controller = Controller.open(tmp_path, Settings())
        controller.start()
        try:
            stop = asyncio.Event()
            changing = asyncio.create_task(change(controller, stop))
            await flow(controller)
            stop.set()
            asked = await changing
            seen = set()
            for serial in range(EVENTS):
                told = controller.explain(f"flow-{serial}")
                assert told is not None
                severity = asked[told.decision.revision]
                assert [flag.severity.value for flag in told.flags] == ([] if severity is None else [severity])
                seen.add(severity)
            assert seen == {None, "low", "high"}
        finally:
            await controller.stop()

    asyncio.run(scenario())
