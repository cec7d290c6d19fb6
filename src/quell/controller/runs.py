"""When this controller started and stopped, and whether the last stop was clean: Controller.Start and Controller.Stop.

While a controller runs the store says so. A start that finds it said has come after a crash, or after a restore.
"""

from __future__ import annotations

import asyncio
import sqlite3

import msgspec
from msgspec import Struct

from quell import __version__
from quell.clock import Clock
from quell.controller.configuring import Configuring
from quell.controller.telling import Teller
from quell.errors import StoreError
from quell.ids import uuid7
from quell.model.subject import Subject
from quell.storage import key_values
from quell.storage.restore import RESTORED, RestoredFrom
from quell.storage.store import Store

_RUN = "controller.run"
#: Seconds that a stop waits for its events to be on disk.
_STOP_SECONDS = 5.0


class _Run(Struct, frozen=True):
    id: str
    version: str
    #: When it stopped cleanly, epoch seconds; None: it runs, or was cut off.
    stopped: float | None = None


class Runs:
    """node: the name of this machine, by which its agent may be known as well."""

    def __init__(self, store: Store, teller: Teller, configuring: Configuring, clock: Clock, node: str) -> None:
        self._store = store
        self._teller = teller
        self._configuring = configuring
        self._clock = clock
        self._subject = Subject(node=node)
        self._run = _Run(uuid7(), __version__)
        raw, restored = store.read(
            lambda connection: (key_values.get(connection, _RUN), key_values.get(connection, RESTORED))
        )
        self._last = None if raw is None else msgspec.json.decode(raw, type=_Run)
        self._restored = None if restored is None else msgspec.json.decode(restored, type=RestoredFrom)

    def start(self) -> None:
        last, restored = self._last, self._restored
        if restored is not None:
            how, stop = f"from a restored backup ({restored.note})", "restored"
            self._configuring.restored(restored.id, restored.note)
        elif last is None:
            how, stop = "for the first time", "first"
        elif last.stopped is None:
            how, stop = "after a stop that was not clean: it was killed, crashed or lost power", "unclean"
        else:
            how, stop = "after a clean stop", "clean"
        updated = f", before that {last.version}" if last is not None and last.version != __version__ else ""
        run = msgspec.json.encode(self._run)

        def write(connection: sqlite3.Connection) -> None:
            key_values.put(connection, _RUN, run)
            key_values.delete(connection, RESTORED)

        self._teller.tell(
            "Controller.Start",
            self._subject,
            f"the controller started {how}, version {__version__}{updated}",
            identifier=f"{self._run.id}/start",
            facts={"version": __version__, "last_stop": stop},
            done=lambda: self._store.write(write, lambda _error: None),
        )

    async def stop(self, reason: str = "") -> None:
        """On disk when this returns, if the disk takes it within seconds; the last thing that is told."""
        self._teller.tell(
            "Controller.Stop",
            self._subject,
            f"the controller stopped{f': {reason}' if reason else ''}, version {__version__}",
            identifier=f"{self._run.id}/stop",
            facts={"version": __version__},
        )
        if await self._teller.settled(_STOP_SECONDS):
            stopped = msgspec.json.encode(msgspec.structs.replace(self._run, stopped=self._clock()))
            try:
                await asyncio.wrap_future(
                    self._store.submit(lambda connection: key_values.put(connection, _RUN, stopped))
                )
            except StoreError:
                return  # then the next start says that the stop was not clean, and it was not
