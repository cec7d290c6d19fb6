"""The real watch on a loop of its own thread, with what it tells kept in a list and put together as an inventory would."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop
from msgspec import Struct
from tests.system.running import wait_for

from quell.controller.kubernetes.reflector import Pace
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.controller.kubernetes.watch import KubernetesStatus, KubernetesWatch
from quell.model.sighting import NamespaceSeen, NodeSeen, PodSeen, ServiceSeen, Sighting, Sightings

#: Retries soon, so that no test has to wait for them.
QUICK = Pace(first=0.05, longest=0.3, denied=0.2, watch=30.0)


def key_of(seen: Sighting) -> str:
    match seen:
        case PodSeen():
            return seen.uid
        case ServiceSeen():
            return f"{seen.namespace}/{seen.name}"
        case NodeSeen() | NamespaceSeen():
            return seen.name
    raise AssertionError(f"the watch told of {seen}")


def tag_of(seen: Sighting) -> str:
    return str(type(seen).__struct_config__.tag)


class Watched(Struct):
    watch: KubernetesWatch
    #: In the order in which they came; only ever appended to.
    told: list[Sightings]

    def known(self, kind: str) -> dict[str, Any]:
        """By key, what is there after all that was told."""
        known: dict[str, Any] = {}
        for one in list(self.told):
            if one.complete and kind in one.kinds:
                known.clear()
            known |= {key_of(seen): seen for seen in one.seen if tag_of(seen) == kind}
            for gone in one.gone:
                if gone.kind == kind:
                    known.pop(gone.key, None)
        return known

    def pods(self) -> dict[str, PodSeen]:
        """By name."""
        return {pod.name: pod for pod in self.known("pod").values()}

    def lists(self, kind: str) -> int:
        return sum(one.complete and kind in one.kinds for one in list(self.told))

    def status(self) -> KubernetesStatus:
        return self.watch.status()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_for(condition, 30, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; status: {self.status()}") from None


@contextlib.contextmanager
def watching(
    settings: KubernetesSettings,
    *,
    environment: dict[str, str] | None = None,
    service_account: Path = Path("/nonexistent"),
    pace: Pace = QUICK,
    page: int = 250,
    taker: Callable[[Sightings], None] = lambda _told: None,
) -> Iterator[Watched]:
    """For as long as the block lasts. environment: nothing of this process's own unless it is given.

    taker: is told as well, before what it was told is kept.
    """
    told: list[Sightings] = []

    def take(one: Sightings) -> None:
        both = {(tag_of(seen), key_of(seen)) for seen in one.seen} & {(gone.kind, gone.key) for gone in one.gone}
        assert not both, "a message says one thing of an object"
        taker(one)
        told.append(one)

    watch = KubernetesWatch(
        settings,
        take,
        environment=environment or {},
        service_account=service_account,
        pace=pace,
        page=page,
    )
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    failed: list[BaseException] = []
    started = threading.Event()

    async def run() -> None:
        end = asyncio.Event()
        watch.start()
        loops.append((asyncio.get_running_loop(), end))
        started.set()
        await end.wait()
        await watch.stop()

    def in_thread() -> None:
        try:
            uvloop.run(run())
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=in_thread)
    thread.start()
    started.wait(30)
    try:
        yield Watched(watch, told)
    finally:
        for loop, end in loops:
            loop.call_soon_threadsafe(end.set)
        thread.join(30)
    assert not thread.is_alive(), "the watch does not stop"
    if failed:
        raise failed[0]
