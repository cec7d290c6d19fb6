"""Containers of Docker, from its Engine API over the Unix socket: the list once, then the stream of events.

Not contacted unless a dockerd runs: with systemd's socket activation a connection would start it. podman answers
under Docker's name too where podman-docker is installed; its containers are told by quell.agent.containers.storage.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
from pathlib import PurePath
from urllib.parse import quote

import msgspec
import structlog
from msgspec import Struct, field

from quell.agent import proc
from quell.agent.containers import bounds, kubernetes
from quell.agent.containers.folders import Folders
from quell.agent.containers.runtime import Table
from quell.agent.containers.unixhttp import HttpError, get, stream
from quell.model.sighting import ContainerSeen

_SOCKET = "/var/run/docker.sock"
#: Made by dockerd when it starts.
_PIDFILE = "docker.pid"
_EVENTS = ("create", "start", "die", "destroy", "rename")
_LONGEST_LINE = 1 << 20
_LONGEST_CONTAINER = 4 << 20
_LONGEST_LIST = 16 << 20
#: Seconds until the next try, beside what the socket's folder tells.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0

_log = structlog.get_logger(__name__)


class _Component(Struct, frozen=True, rename="pascal"):
    name: str = ""


class _Version(Struct, frozen=True, rename="pascal"):
    components: list[_Component] = []


class _Listed(Struct, frozen=True):
    id: str = field(name="Id")


class _State(Struct, frozen=True, rename="pascal"):
    running: bool = False
    pid: int = 0
    started_at: str = ""


class _Config(Struct, frozen=True, rename="pascal"):
    image: str = ""
    labels: dict[str, str] | None = None


class _HostConfig(Struct, frozen=True, rename="pascal"):
    network_mode: str = ""


class _Inspected(Struct, frozen=True, rename="pascal"):
    id: str
    name: str = ""
    image: str = ""
    state: _State = _State()
    config: _Config = _Config()
    host_config: _HostConfig = _HostConfig()


class _Actor(Struct, frozen=True):
    id: str = field(name="ID", default="")


class _Event(Struct, frozen=True):
    actor: _Actor = field(name="Actor", default=_Actor())


_version: msgspec.json.Decoder[_Version] = msgspec.json.Decoder(_Version)
_listed: msgspec.json.Decoder[list[_Listed]] = msgspec.json.Decoder(list[_Listed])
_inspected: msgspec.json.Decoder[_Inspected] = msgspec.json.Decoder(_Inspected)
_event: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(_Event)


class Docker:
    def __init__(self, folders: Folders, socket: str | None = None) -> None:
        """socket: None for Docker's own, or the one that DOCKER_HOST names, as for Docker's program."""
        given = os.environ.get("DOCKER_HOST", "")
        socket = socket or (given.removeprefix("unix://") if given.startswith("unix://") else None)
        self._socket = socket or _SOCKET
        self._named = socket is not None
        self._folders = folders
        self._known: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._table: Table | None = None
        self._pause = _FIRST_PAUSE

    def limits(self) -> tuple[str, ...]:
        if os.path.exists(self._socket) and not os.access(self._socket, os.R_OK | os.W_OK):  # noqa: PTH110
            return (f"Docker's are not seen: user {os.geteuid()} may not use {self._socket}",)
        return ()

    def start(self, table: Table) -> None:
        self._table = table
        path = PurePath(self._socket)

        def changed(name: str) -> None:
            if name in {"", path.name, _PIDFILE}:
                self._pause = _FIRST_PAUSE
                self._wake.set()

        self._folders.watch(os.path.realpath(path.parent), changed)
        self._task = asyncio.get_running_loop().create_task(self._run(table))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, table: Table) -> None:
        while True:
            self._wake.clear()
            if self._is_there() and (self._named or _runs("dockerd")):
                try:
                    await self._follow(table)
                except (OSError, HttpError, msgspec.MsgspecError, ValueError, RecursionError) as error:
                    _log.warning("Docker is not heard", socket=self._socket, reason=str(error) or "no answer in time")
            table.settled(self)
            # While there is no socket only its folder tells of one.
            wait = self._pause if self._is_there() else None
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    def _is_there(self) -> bool:
        return os.path.exists(self._socket)  # noqa: PTH110 - a path as the environment gives it

    async def _follow(self, table: Table) -> None:
        """Tell everything, then what changes, until the connection ends."""
        if await self._is_podman():
            self._pause = _LONGEST_PAUSE
            return
        filters = quote(json.dumps({"type": ["container"], "event": list(_EVENTS)}))
        async with contextlib.aclosing(stream(self._socket, f"/events?filters={filters}")) as pieces:
            rest = b""
            first = True
            async for status, piece in pieces:
                if status != 200:
                    raise HttpError(f"/events: status {status}")
                if first:
                    # From here on nothing is missed: what changes during the list is an event as well.
                    first = False
                    await self._list(table)
                    self._pause = _FIRST_PAUSE
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LONGEST_LINE:
                    raise HttpError("/events: an event without an end")
                for identity in dict.fromkeys(_actor(line) for line in lines):
                    if identity is not None:
                        await self._look(identity, table)

    async def _is_podman(self) -> bool:
        _, body = await get(self._socket, "/version", most=_LONGEST_LINE)
        return any("podman" in component.name.lower() for component in _version.decode(body).components)

    async def _list(self, table: Table) -> None:
        status, body = await get(self._socket, "/containers/json?all=1", most=_LONGEST_LIST)
        if status != 200:
            raise HttpError(f"/containers/json: status {status}")
        there = {identity for each in _listed.decode(body) if (identity := bounds.identity(each.id))}
        for identity in self._known - there:
            self._known.discard(identity)
            table.drop(identity)
        for identity in there:
            await self._look(identity, table)
        table.settled(self)

    async def _look(self, identity: str, table: Table) -> None:
        status, body = await get(self._socket, f"/containers/{identity}/json", most=_LONGEST_CONTAINER)
        if status == 404:
            if identity in self._known:
                self._known.discard(identity)
                table.drop(identity)
            return
        if status != 200:
            raise HttpError(f"/containers/{identity[:12]}/json: status {status}")
        try:
            found = _inspected.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            _log.warning("a container of Docker's cannot be read", id=identity[:12], error=str(error))
            return
        if found.id == identity:
            self._known.add(identity)
            table.put(read(found), written=_epoch(found.state.started_at))


def read(found: _Inspected) -> ContainerSeen:
    name = found.name.removeprefix("/")
    pod = kubernetes.named(name)
    kind, _, other = found.host_config.network_mode.partition(":")
    return ContainerSeen(
        id=found.id,
        name=bounds.text(pod.container if pod else name),
        image=bounds.text(found.config.image),
        image_id=bounds.image_id(found.image),
        runtime="docker",
        labels=bounds.labels(found.config.labels or {}),
        namespace=bounds.text(pod.namespace if pod else None),
        pod_name=bounds.text(pod.pod if pod else None),
        pod_uid=bounds.text(pod.uid if pod else None),
        pid=found.state.pid or None,
        started=_epoch(found.state.started_at),
        sandbox=bounds.identity(other) if kind == "container" else None,
        host_network=kind == "host",
        running=found.state.running,
    )


def _actor(line: bytes) -> str | None:
    """The container of an event; None for a line that is none."""
    try:
        return bounds.identity(_event.decode(line).actor.id)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _epoch(text: str) -> float | None:
    """Of RFC 3339 with up to nine digits of a second; year 1 is Go's word for never."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.timestamp() if time.year > 1 and time.tzinfo is not None else None


def _runs(program: str) -> bool:
    """Whether some process has this name. A false one costs a connection at most."""
    return any((stat := proc.read_stat(pid)) is not None and stat.name == program for pid in proc.pids())
