"""What a rule isolated stays isolated when the rule goes, and is released when that is asked for."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import msgspec
import pytest
from tests.plans import document, rule

from quell.channel.messages import Hello
from quell.controller.controller import Controller
from quell.controller.editing import Change
from quell.controller.rulebook import Application, Editor, Key
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.model.audit import AuditEntry
from quell.settings import Settings

ISOLATING = document(
    "ResponseRule", "isolate", 'event: incident, criteria: ["name:Container.Suspicious.Process"], actions: [quarantine]'
)
HELLO = Hello(
    agent="agent-1",
    node="n1",
    machine_id="m1",
    boot_id="b1",
    boot_time=time.time() - 1000,
    capabilities=("quarantine",),
    host_netns=1,
    version="1",
)
EVENT = {
    "id": "e1",
    "name": "Container.Suspicious.Process",
    "category": "incident",
    "subject": {
        "node": "n1",
        "namespace": "shop",
        "pod": {"uid": "uid-1", "name": "web"},
        "container": {"id": "c1", "name": "web"},
        "process": {"pid": 4711, "start_ticks": 8412345, "name": "nc"},
    },
}


async def isolated(controller: Controller) -> None:
    controller.agent_connected(HELLO)
    await controller.apply(load_text(ISOLATING + rule("other")))
    now = time.time()
    line = json.dumps(EVENT | {"time": now}).encode()
    await controller.ingest([DETECTORS["native"].decode(line, id=None, received=now)])
    assert [held.holders for held in controller.isolation.all()] == [{"rule/8": None}], controller.explain("e1")


async def let_go(controller: Controller, way: str, *, unquarantine: bool) -> list[Change]:
    """The rule goes: deleted, disabled, or pruned."""
    if way == "deleted":
        done = await controller.rulebook.delete(Key("ResponseRule", "isolate"), Editor(), unquarantine=unquarantine)
        return done.changes
    if way == "disabled":
        text, prune = ISOLATING.replace("[quarantine]", "[quarantine], disable: true"), False
    else:
        await controller.rulebook.apply(
            Application(documents=load_text(ISOLATING + rule("other")), source="git"), Editor()
        )
        text, prune = rule("other"), True
    wanted = Application(
        documents=load_text(text), source="git" if prune else "", prune=prune, unquarantine=unquarantine
    )
    dry = await controller.rulebook.apply(wanted, Editor(), dry_run=True)
    done = await controller.rulebook.apply(wanted, Editor())
    assert [change.warnings for change in dry.changes] == [change.warnings for change in done.changes]
    return done.changes


def notes(controller: Controller) -> list[str]:
    rows = controller.store.read(lambda connection: connection.execute("SELECT body FROM audit ORDER BY n").fetchall())
    return [msgspec.json.decode(body, type=AuditEntry).note for (body,) in rows]


@pytest.mark.parametrize("unquarantine", [False, True], ids=["stays", "released"])
@pytest.mark.parametrize("way", ["deleted", "disabled", "pruned"])
def test_a_rule_goes(tmp_path: Path, way: str, unquarantine: bool) -> None:
    async def scenario() -> None:
        controller = Controller.open(tmp_path, Settings())
        controller.start()
        try:
            await isolated(controller)
            [key] = [held.key for held in controller.isolation.all()]
            [change] = [
                change for change in await let_go(controller, way, unquarantine=unquarantine) if change.warnings
            ]
            [held] = controller.isolation.all()
            if unquarantine:
                assert change.warnings == (f"{key} is released from quarantine",)
                assert held.holders == {}
                assert any(expected.release for expected in controller.state.pending.values())
                assert any("its quarantines are ended" in note for note in notes(controller))
            else:
                assert change.warnings == (f"{key} stays in quarantine, held by rule/8",)
                assert held.holders == {"rule/8": None}
        finally:
            await controller.stop()

    asyncio.run(scenario())
