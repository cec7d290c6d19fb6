"""Labels, networks and pods of podman's containers, which only podman itself knows (they are in its database).

Each container is asked about once, when it is first seen: they never change after. The program is asked, not the API
socket: a connection would make systemd start podman's service, and a lasting one would keep it running.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from quell.agent.containers import bounds
from quell.agent.containers.program import answer

_FORMAT = (
    '{"id":{{json .ID}},"labels":{{json .Config.Labels}},"network":{{json .HostConfig.NetworkMode}},'
    '"pod":{{json .Pod}}}'
)
_AT_ONCE = 256
_LONGEST_SECONDS = 20.0
#: A container is in the store a moment before podman's database has it.
_FIRST_SECONDS = 0.05
_TRIES, _AGAIN_SECONDS = 6, 0.25
#: Podman is let run for at most this part of the time, however many containers come and go.
_SHARE = 0.2
_LONGEST_ANSWER = 4 << 20

_log = structlog.get_logger(__name__)


class _Answer(Struct, frozen=True):
    id: str
    labels: dict[str, str] | None = None
    network: str | None = None
    pod: str | None = None


class Details(Struct, frozen=True, kw_only=True):
    labels: dict[str, str]
    sandbox: str | None
    host_network: bool
    pod: str | None


_answer: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)


class Podman:
    """Runs on the event loop's thread."""

    def __init__(
        self, heard: Callable[[str, Details], None], rests: Callable[[], None], program: str | None = None
    ) -> None:
        """Rests is called after each question. program: None for the one in PATH."""
        self.program = program or shutil.which("podman")
        self._heard = heard
        self._rests = rests
        self._tries: dict[str, int] = {}
        self._waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._rests_until = 0.0

    @property
    def asked(self) -> bool:
        """Whether it will be asked, or is being asked."""
        return bool(self._waiting)

    def ask(self, identity: str) -> None:
        """An answer comes through heard, or never."""
        if self.program is None or self._tries.get(identity, 0) >= _TRIES:
            return
        self._waiting[identity] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def forget(self, identity: str) -> None:
        self._waiting.pop(identity, None)
        self._tries.pop(identity, None)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        pause = _FIRST_SECONDS
        while self._waiting:
            await asyncio.sleep(max(pause, self._rests_until - time.monotonic()))
            # Those not asked about yet come first.
            batch = sorted(self._waiting, key=lambda identity: self._tries.get(identity, 0))[:_AT_ONCE]
            begun = time.monotonic()
            answers = await self._inspect(batch)
            now = time.monotonic()
            self._rests_until = now + (now - begun) * (1 / _SHARE - 1)
            for identity in batch:
                if identity in answers:
                    self.forget(identity)
                elif identity in self._waiting:
                    self._tries[identity] = self._tries.get(identity, 0) + 1
                    if self._tries[identity] >= _TRIES:
                        del self._waiting[identity]
            for identity, told in answers.items():
                self._heard(identity, told)
            self._rests()
            pause = _AGAIN_SECONDS * min((self._tries.get(each, 0) for each in self._waiting), default=0)

    async def _inspect(self, batch: list[str]) -> dict[str, Details]:
        """What podman says of those it knows; nothing if it cannot be run or takes too long."""
        words = [self.program or "podman", "container", "inspect", "--format", _FORMAT, *batch]
        try:
            text = await answer(words, most=_LONGEST_ANSWER, seconds=_LONGEST_SECONDS)
        except (OSError, TimeoutError) as error:
            _log.warning("podman could not be asked for labels", error=str(error) or "no answer in time")
            return {}
        return details(text, set(batch))


def details(text: bytes, asked: set[str]) -> dict[str, Details]:
    """Read the lines of an answer; those that are malformed or about others are left out."""
    found: dict[str, Details] = {}
    for line in text.splitlines():
        try:
            told = _answer.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if told.id in asked:
            kind, _, other = (told.network or "").partition(":")
            found[told.id] = Details(
                labels=bounds.labels(told.labels or {}) or {},
                sandbox=bounds.identity(other) if kind == "container" else None,
                host_network=kind == "host",
                pod=bounds.identity(told.pod) if told.pod else None,
            )
    return found
