"""The Kubernetes watch as the controller has it: started and stopped with it, and asked how it goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from quell.controller.kubernetes.credentials import NOWHERE, SERVICE_ACCOUNT, Credentials, Place, find
from quell.controller.kubernetes.reflector import KINDS, PAGE, KindStatus, Pace, Reflector, Told
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.model.sighting import Sightings

#: In the source's name where the cluster has none.
_UNNAMED = "in-cluster"

_log = structlog.get_logger(__name__)


class State(StrEnum):
    #: By the settings, or not started.
    OFF = "off"
    #: There is no cluster here, and none was asked for.
    ABSENT = "absent"
    #: No kind is known.
    DISCONNECTED = "disconnected"
    #: Some kinds are watched, others are not.
    PARTIAL = "partial"
    CONNECTED = "connected"


class KubernetesStatus(Struct, frozen=True, kw_only=True):
    """For health, metrics and doctor."""

    state: State
    #: The API's address, and the source that the sightings name; "" before the credentials were read.
    server: str = ""
    source: str = ""
    #: Epoch seconds of the last answer of use.
    last_contact: float | None = None
    #: What is missing for the whole picture, a sentence each.
    missing: tuple[str, ...] = ()
    kinds: tuple[KindStatus, ...] = ()

    @property
    def connected(self) -> bool:
        return self.state is State.CONNECTED


class KubernetesWatch:
    def __init__(
        self,
        settings: KubernetesSettings,
        take: Callable[[Sightings], None],
        *,
        environment: Mapping[str, str] | None = None,
        service_account: Path = SERVICE_ACCOUNT,
        pace: Pace | None = None,
        page: int = PAGE,
        clock: Callable[[], float] = time.time,
        credentials: Credentials | None = None,
    ) -> None:
        """take: called on the event loop with each list, complete of its kind, and with each change after it.

        environment: in place of this process's. service_account: folder that Kubernetes mounts. page: objects of one
        request. clock: epoch seconds. credentials: those that others use as well, in place of its own.
        """
        self._settings = settings
        self._take = take
        self._environment = os.environ if environment is None else environment
        self._service_account = service_account
        self._pace = pace or Pace()
        self._page = page
        self._clock = clock
        self._state = State.OFF
        self._problem = ""
        self._source = ""
        self._shared = credentials
        self._credentials: Credentials | None = None
        self._reflectors: list[Reflector[Any]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Called on the running event loop; nothing of the cluster is waited for."""
        if self._settings.enabled == "off":
            return
        place = find(self._settings, self._environment, self._service_account)
        if place is None and self._settings.enabled == "on":
            self._state = State.DISCONNECTED
            self._problem = NOWHERE
            _log.error("the Kubernetes watch cannot start", missing=self._problem)
        elif place is None:
            self._state = State.ABSENT
            _log.info("no Kubernetes here: its pods and labels are not known, all else goes on")
        else:
            self._state = State.DISCONNECTED
            self._task = asyncio.create_task(self._run(place))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._task = None
        self._state = State.OFF

    def status(self) -> KubernetesStatus:
        kinds = tuple(reflector.status for reflector in self._reflectors) if self._state is not State.OFF else ()
        missing = [kind.problem for kind in kinds if kind.problem]
        state = self._state
        if kinds and not self._problem and any(kind.connected for kind in kinds):
            state = State.CONNECTED if all(kind.connected for kind in kinds) else State.PARTIAL
        return KubernetesStatus(
            state=state,
            server=self._credentials.server if self._credentials else "",
            source=self._source,
            last_contact=max((kind.last_contact for kind in kinds if kind.last_contact is not None), default=None),
            # Where the API as a whole is away, every kind says the same.
            missing=tuple(dict.fromkeys([self._problem, *missing] if self._problem else missing)),
            kinds=kinds,
        )

    async def _run(self, place: Place) -> None:
        credentials = self._shared or Credentials(place, self._settings, self._service_account)
        self._credentials = credentials
        self._reflectors = [
            Reflector(kind, credentials, self._told, pace=self._pace, page=self._page, clock=self._clock)
            for kind in KINDS
        ]
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())

    def _told(self, told: Told) -> None:
        cluster = told.access.cluster
        self._source = f"kubernetes/{cluster or _UNNAMED}"
        self._take(
            Sightings(
                source=self._source,
                cluster=cluster,
                seen=told.seen,
                gone=told.gone,
                complete=told.complete,
                kinds=(told.kind.tag,) if told.complete else (),
            )
        )
