"""What Quell says of itself, put together for a controller: docs/own-events.md.

Each part knows one subject: agents (attendance), documents (configuring), this process (runs, memory). Containers and
learned groups are told of by the inventory (workload_events), users and requests by quell.api.accounts.told.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from quell import memory
from quell.clock import Clock
from quell.controller.attendance import Attendance
from quell.controller.configuring import Configuring
from quell.controller.own_settings import OwnEventSettings
from quell.controller.runs import Runs
from quell.controller.telling import Teller
from quell.durations import parse_duration
from quell.model.subject import Subject
from quell.storage.store import Store

#: Ticks between two looks at memory.
_MEMORY_TICKS = 10


class Happenings:
    """On the event loop's thread only."""

    def __init__(
        self,
        store: Store,
        teller: Teller,
        settings: OwnEventSettings,
        clock: Clock,
        *,
        lost: Callable[[str], None],
        measure: Callable[[], memory.Measure | None] = memory.measure,
    ) -> None:
        """lost: see Attendance. measure: of this process's memory."""
        self._teller = teller
        self._clock = clock
        self._measure = measure
        self._pressure = memory.Pressure(settings.memory_threshold, parse_duration(settings.memory_pause))
        self._ticks = 0
        self._started = False
        self._node = os.uname().nodename
        self.attendance = Attendance(
            store,
            teller,
            clock,
            grace=parse_duration(settings.reconnect_grace),
            lost_after=parse_duration(settings.lost_after),
            lost=lost,
        )
        self.configuring = Configuring(teller, clock)
        self._runs = Runs(store, teller, self.configuring, clock, self._node)

    def start(self) -> None:
        self._started = True
        self._runs.start()
        self.attendance.start()

    async def stop(self) -> None:
        """What was told is on disk when this returns. Links that end meanwhile are ended by the controller."""
        self.attendance.close()
        if self._started:
            await self._runs.stop()

    def tick(self) -> None:
        """About once a second."""
        self.attendance.tick()
        self.configuring.tick()
        self._ticks += 1
        if self._ticks % _MEMORY_TICKS == 0 and (measure := self._measure()) is not None:
            told = self._pressure.look(measure, self._clock())
            if told:
                facts = {"used": str(measure.used), "limit": str(measure.limit), "of": measure.of}
                self._teller.tell(
                    "Controller.Memory.Pressure", Subject(node=self._node), f"the controller: {told}", facts=facts
                )
