"""Actions that the controller carries out itself, through a cluster's API: today the kill of a pod. SEMANTICS 9 and 10.

They wait in the outbox under "kubernetes:<cluster>", written with their event, and are repeated until an outcome is
recorded or they expire, over restarts too. Everything here runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import structlog

from quell.controller.kubernetes.budgets import Budgets
from quell.controller.kubernetes.credentials import Credentials
from quell.controller.kubernetes.killing import Again, Ended, Kill, Pace, World
from quell.controller.kubernetes.pod_api import PodApi
from quell.controller.outcomes import Outcomes
from quell.errors import QuellError
from quell.model.action import KillPod, word
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import PodTarget
from quell.response.facts import KUBERNETES, ClusterFacts
from quell.storage import outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store

#: Seconds before what became of an action is written again that could not be.
_STORE_PAUSE = 1.0

_log = structlog.get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)


class ClusterActions:
    def __init__(
        self,
        store: Store,
        credentials: Credentials | None,
        outcomes: Outcomes,
        world: World,
        clock: Callable[[], float],
        *,
        pace: Pace = Pace(),  # noqa: B008 - frozen
    ) -> None:
        """Credentials None: no API is configured."""
        self._store = store
        self._credentials = credentials
        self._api = None if credentials is None else PodApi(credentials)
        self._outcomes = outcomes
        self._world = world
        self._clock = clock
        self._pace = pace
        self._budgets = Budgets()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = False

    def clusters(self) -> tuple[ClusterFacts, ...]:
        """Whose API is configured, whether it answers or not."""
        known = self._credentials
        return () if known is None else (ClusterFacts(id=KUBERNETES + known.name, name=known.cluster),)

    def start(self) -> None:
        """Take up what waits in the outbox. Called on the event loop."""
        self._running = True
        for channel in self._store.read(outbox.counts):
            if channel.startswith(KUBERNETES):
                self._take(self._store.outbox(channel), doubtful=True)

    async def stop(self) -> None:
        """Ask nothing more. What has no outcome stays in the outbox."""
        self._running = False
        self._outcomes.write()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._api is not None:
            await self._api.close()

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Actions whose transaction has been committed; items of other channels are left alone."""
        if self._running:
            self._take([item for item in items if item.channel.startswith(KUBERNETES)], doubtful=False)

    def waiting(self) -> int:
        """How many have no recorded outcome yet."""
        return len(self._tasks)

    async def rehearse(self, command: Command) -> Outcome:
        """What would become of it now; nothing is done, taken or kept."""
        action, target, api = command.action, command.target, self._api
        if api is None or not isinstance(action, KillPod) or not isinstance(target, PodTarget):
            return self._outcome(command, Ended(OutcomeStatus.FAILED, Reason.UNSUPPORTED, "the API cannot do it"))

        async def forget(_found: PodTarget) -> None:
            return

        kill = Kill(
            command,
            target,
            action,
            api,
            self._budgets,
            self._world,
            self._clock,
            self._pace,
            forget,
            doubtful=False,
        )
        result = await kill.rehearse()
        if isinstance(result, Ended):
            return self._outcome(command, result, kill)
        if result.refusal is not None:
            return self._outcome(command, Ended(OutcomeStatus.REFUSED, *result.refusal), kill)
        return self._outcome(command, Ended(OutcomeStatus.EXPIRED, Reason.EXPIRED, result.explanation), kill)

    def _take(self, items: Sequence[OutboxItem], *, doubtful: bool) -> None:
        for item in items:
            if item.id in self._tasks:
                continue
            try:
                command = _decoder.decode(item.body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._outcomes.unreadable(item, error)
                continue
            task = asyncio.get_running_loop().create_task(self._carry_out(item, command, doubtful=doubtful))
            self._tasks[item.id] = task
            task.add_done_callback(partial(self._done, item.id))

    def _done(self, identifier: str, _task: asyncio.Task[None]) -> None:
        self._tasks.pop(identifier, None)

    async def _carry_out(self, item: OutboxItem, command: Command, *, doubtful: bool) -> None:
        action, target, api = command.action, command.target, self._api
        if not isinstance(action, KillPod) or not isinstance(target, PodTarget):
            said = f"{word(action)} is nothing that a cluster's API can do"
            await self._record(command, self._outcome(command, Ended(OutcomeStatus.FAILED, Reason.UNSUPPORTED, said)))
            return
        if api is None or command.agent not in [each.id for each in self.clusters()]:
            # Perhaps only until the next start; another cluster's API or an agent must not do it instead.
            await asyncio.sleep(max(0.0, command.expires - self._clock()))
            said = f"no API is configured any more for {command.agent.removeprefix(KUBERNETES)}"
            await self._record(command, self._outcome(command, Ended(OutcomeStatus.EXPIRED, Reason.EXPIRED, said)))
            return

        async def remember(found: PodTarget) -> None:
            known = msgspec.structs.replace(item, body=_encode(msgspec.structs.replace(command, target=found)))
            await asyncio.wrap_future(self._store.submit(lambda connection: outbox.replace(connection, known)))

        kill = Kill(
            command,
            target,
            action,
            api,
            self._budgets,
            self._world,
            self._clock,
            self._pace,
            remember,
            doubtful=doubtful,
        )
        try:
            ended = await self._ended(command, kill)
        except Exception as error:  # noqa: BLE001 - a fault of ours: the action must come to an end, and others go on
            _log.exception("an action on a cluster failed in an unknown way", command=command.id)
            ended = Ended(OutcomeStatus.FAILED, Reason.FAILED, f"an error of Quell's own: {error!r}")
        command = msgspec.structs.replace(command, target=kill.target)
        await self._record(command, self._outcome(command, ended, kill))

    async def _ended(self, command: Command, kill: Kill) -> Ended:
        """Attempts until one comes to an end, or the command expires."""
        last, wait = Again("its time was over before it could be looked at"), self._pace.first
        while self._clock() < command.expires:
            result = await kill.attempt()
            if isinstance(result, Ended):
                return result
            last = result
            _log.warning("a pod could not be ended yet", command=command.id, reason=last.explanation)
            pause = max(last.wait, wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            wait = min(2 * wait, self._pace.longest)
            await asyncio.sleep(min(pause, max(0.0, command.expires - self._clock())))
        seen = await kill.look() if kill.doubtful else Ended(OutcomeStatus.EXPIRED, Reason.EXPIRED)
        if seen.status is not OutcomeStatus.EXPIRED:
            return seen
        if last.refusal is not None:
            return Ended(OutcomeStatus.REFUSED, *last.refusal)
        return seen._replace(explanation="; ".join(filter(None, (last.explanation, seen.explanation))))

    def _outcome(self, command: Command, ended: Ended, kill: Kill | None = None) -> Outcome:
        return Outcome(
            id=command.id,
            status=ended.status,
            reason=ended.reason,
            explanation=ended.explanation,
            time=self._clock(),
            duration=None if kill is None else kill.seconds,
            facts={} if kill is None else kill.facts,
        )

    async def _record(self, command: Command, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        while True:
            written: asyncio.Future[QuellError | None] = loop.create_future()
            self._outcomes.record(command, outcome, partial(_tell, written))
            error = await written
            if error is None:
                return
            _log.error("an outcome could not be recorded yet", command=command.id, error=str(error))
            await asyncio.sleep(_STORE_PAUSE)


def _tell(written: asyncio.Future[QuellError | None], error: QuellError | None) -> None:
    if not written.done():
        written.set_result(error)
