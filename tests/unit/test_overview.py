"""What the overview counts, over a real journal, on a clock that the test turns."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.system.running import wait_for

from quell.controller.controller import Controller
from quell.controller.overview import Bar, Overview, Overviews, Span
from quell.detectors import DETECTORS
from quell.documents.load import load_text
from quell.ids import uuid7
from quell.model.decision import Outcome, OutcomeStatus
from quell.model.event import Event
from quell.settings import Settings

RULE = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: answered}
spec: {event: event, criteria: ["name:Answered"], actions: [{makeOpsFlag: {severity: low}}]}
"""


def event(name: str, received: float) -> Event:
    raw = b'{"name":"%s","category":"event"}' % name.encode()
    return DETECTORS["native"].decode(raw, id=uuid7(received), received=received)


def at(overview: Overview, moment: float) -> Bar:
    [found] = [bar for bar in overview.bars if bar.start <= moment < bar.start + overview.step]
    return found


def test_each_row_is_counted_once_and_what_is_a_day_old_goes(tmp_path: Path) -> None:
    async def play() -> None:
        controller = Controller.open(tmp_path / "s", Settings())
        now = float(int(time.time()))
        overviews = Overviews(controller, lambda: now)
        await controller.apply(load_text(RULE))
        # What is written together is counted together, so what Quell tells of its documents has to be on disk before.
        await asyncio.to_thread(wait_for, lambda: bool(controller.store.recent(1)), what="Quell's own event")
        assert len(overviews.overview(Span.HOUR).bars) == 60
        await controller.ingest([event("Answered", now - 120), event("Kept", now - 120)])
        await controller.ingest([event("Kept", now - 5 * 3600)])
        done = Outcome(id="e/0", status=OutcomeStatus.DONE, time=now - 60)
        written = asyncio.get_running_loop().create_future()
        controller.store.record_outcomes([done], written.set_result)
        await written
        for _ in range(3):
            hour, quarter = overviews.overview(Span.HOUR), overviews.overview(Span.QUARTER)
            # Quell's own events, of now, are counted too.
            assert (at(hour, now - 120).events, at(hour, now - 120).answered) == (2, 1)
            assert [bar.outcomes for bar in hour.bars if bar.outcomes] == [{"done": 1}]
            assert at(quarter, now - 5 * 3600).events == 1
        assert quarter.step == 360
        assert quarter.bars[-1].start <= now < quarter.bars[-1].start + quarter.step
        now += 86_400.0
        assert sum(bar.events for bar in overviews.overview(Span.DAY).bars) == 0
        [busy] = overviews.overview(Span.HOUR).rules
        assert (busy.name, busy.matched) == ("answered", 1)
        controller.guardian.close()
        controller.inventory.close()
        controller.store.close()

    asyncio.run(play())
