"""The deliveries to one endpoint: in order, at least once, retried, given up with a reason. SEMANTICS sections 7 and 9."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

import msgspec
import structlog
from msgspec import Struct

from quell import faults, metrics
from quell.controller.addresses import IPNetwork
from quell.controller.connections import Proxy
from quell.controller.receivers import Answer, Receiver, Verdict, shown
from quell.errors import StoreError
from quell.model.decision import Outcome, OutcomeStatus, Reason
from quell.model.rule import Webhook, WebhookType
from quell.storage import dead_letters, deliveries, outbox, outcomes
from quell.storage.dead_letters import DeadLetter
from quell.storage.deliveries import Delivery, Standing
from quell.storage.records import OutboxItem
from quell.storage.store import Store

CHANNEL = "webhook:"
#: Seconds; a receiver that asks for more is asked again after this.
_LONGEST_RETRY_AFTER = 3600.0
#: Seconds between two tries to write what became of a delivery.
_STORE_PAUSE = 1.0

_log = structlog.get_logger(__name__)


class Pace(Struct, frozen=True, kw_only=True):
    """How a delivery is retried. Times in seconds."""

    timeout: float = 5.0
    #: Before the second attempt; doubled each time, less up to half of it at random.
    first_wait: float = 0.5
    longest_wait: float = 30.0
    #: More than fit into the age at which it is given up: that is what ends deliveries.
    attempts: int = 10_000
    #: Age at which it is given up.
    give_up_after: float = 86_400.0
    #: An endpoint that has been failing for so long is flagged.
    flag_after: float = 600.0
    #: Deliveries of an endpoint that wait in memory; the others wait on disk only.
    in_memory: int = 200


class Access(Struct, frozen=True, kw_only=True):
    """Where endpoints may lie, by the operator's settings."""

    networks: tuple[IPNetwork, ...] = ()
    proxy: Proxy | None = None


class State(StrEnum):
    IDLE = "idle"
    DELIVERING = "delivering"
    FAILING = "failing"
    DISABLED = "disabled"
    #: There is no such endpoint any more; something was to go to it, or was given up.
    DELETED = "deleted"


class EndpointStatus(Struct, frozen=True, kw_only=True):
    """How it goes with an endpoint, for people. Times in epoch seconds."""

    name: str
    #: None: deleted.
    type: WebhookType | None
    #: It gets what rules that name no endpoint ask for.
    default: bool
    #: It gets flags that do not name it.
    flags: bool
    #: Scheme, host and port; the rest of a URL may be a secret.
    address: str
    state: State
    #: Deliveries in the outbox.
    waiting: int
    #: Deliveries that were given up and can be sent again.
    dead_letters: int
    #: Attempts that failed since the last delivery.
    failures: int
    #: When the first of them did; None: the last attempt was a delivery, or there was none.
    failing_since: float | None
    last_error: str
    last_delivered: float | None
    #: When the next attempt is due; None: as soon as something waits.
    next_attempt: float | None


def pause(pace: Pace, attempts: int, retry_after: float | None) -> float:
    """Seconds until the next attempt: exponential, with jitter, and at least what the receiver asks for.

    attempts: made so far, from 1.
    """
    longest = min(pace.longest_wait, pace.first_wait * 2.0 ** min(attempts - 1, 60))
    jittered = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
    return max(jittered, min(retry_after or 0.0, _LONGEST_RETRY_AFTER))


class Alarm(Protocol):
    def __call__(self, line: Line, standing: Standing, *, lost: bool) -> None:
        """An attempt failed, and the endpoint has been failing for long, or (lost) a delivery was given up for it."""


class Line:
    """The endpoint's deliveries and the task that makes them. Everything but the writing is on the loop's thread."""

    def __init__(
        self,
        name: str,
        endpoint: Webhook | None,
        *,
        store: Store,
        clock: Callable[[], float],
        pace: Pace,
        access: Access,
        alarm: Alarm,
        standing: Standing,
    ) -> None:
        """Endpoint None: there is none of this name; what waits for it is given up with that reason.

        alarm: told of each attempt that fails once somebody should know. standing: how it went before this start.
        """
        self.name = name
        self.endpoint = endpoint
        self._store = store
        self._clock = clock
        self._pace = pace
        self._access = access
        self._receiver: Receiver | None = None
        self._queue: deque[OutboxItem] = deque()
        #: Waiting, being sent, or with a result that is not yet on disk.
        self._known: set[str] = set()
        #: More waits on disk than in memory.
        self._spilled = False
        self._wake = asyncio.Event()
        #: The endpoint was changed since the last attempt.
        self._changed = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._alarm = alarm
        self._standing = standing
        self._next_attempt: float | None = None
        self._task = asyncio.create_task(self._run(), name=f"webhook {name}")

    def set_endpoint(self, endpoint: Webhook | None) -> None:
        """From now on the endpoint is this. What waits is tried at once: the change may be the cure."""
        self.endpoint = endpoint
        self._standing = msgspec.structs.replace(self._standing, failures=0, failing_since=None)
        self.hurry()

    def hurry(self) -> None:
        """Try what waits at once: there is reason to think that it will be taken."""
        self._changed = True
        self._wake.set()

    def offer(self, items: Sequence[OutboxItem]) -> None:
        """Deliveries that are on disk, in their order there."""
        for item in items:
            if item.id in self._known:
                continue
            if self._spilled or len(self._queue) >= self._pace.in_memory:
                self._spilled = True
                break
            self._known.add(item.id)
            self._queue.append(item)
        self._wake.set()

    @property
    def is_over(self) -> bool:
        """There is no such endpoint, and nothing waits for it."""
        return self.endpoint is None and not self._known and not self._spilled

    def take_up(self) -> None:
        """Deliver what the disk has for this endpoint."""
        self._spilled = True
        self._wake.set()

    def cancel(self) -> None:
        self._task.cancel()

    async def stop(self) -> None:
        """Send nothing more; what waits stays in the outbox. An attempt under way may be repeated by the next start."""
        self.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._disconnect()

    @property
    def state(self) -> State:
        if self.endpoint is None:
            return State.DELETED
        if not self.endpoint.enable:
            return State.DISABLED
        if self._standing.failures:
            return State.FAILING
        return State.DELIVERING if self._known else State.IDLE

    @property
    def failing_since(self) -> float | None:
        """Epoch seconds; None: it is not failing."""
        return self._standing.failing_since if self.state is State.FAILING else None

    def status(self, waiting: int, buried: int) -> EndpointStatus:
        """waiting, buried: its deliveries in the outbox and its dead letters, which only the store knows."""
        endpoint, standing = self.endpoint, self._standing
        return EndpointStatus(
            name=self.name,
            type=None if endpoint is None else endpoint.type,
            default=endpoint is not None and endpoint.default,
            flags=endpoint is not None and endpoint.filter.flags,
            address="" if endpoint is None else shown(endpoint.url),
            state=self.state,
            waiting=waiting,
            dead_letters=buried,
            failures=standing.failures,
            failing_since=self.failing_since,
            last_error=standing.last_error,
            last_delivered=standing.last_delivered,
            next_attempt=self._next_attempt,
        )

    # --- the task ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if not self._queue and self._spilled:
                try:
                    self._refill()
                except StoreError as error:
                    _log.error("waiting webhooks cannot be read yet", endpoint=self.name, error=str(error))
                    await asyncio.sleep(_STORE_PAUSE)
                    continue
            if self._queue:
                await self._deliver(self._queue[0])
                continue
            if self.endpoint is None:
                await self._disconnect()
            await self._wake.wait()

    def _refill(self) -> None:
        """Take the next deliveries from the disk, in order, without those whose result is just being written."""
        limit = self._pace.in_memory + len(self._known)
        found = self._store.read(lambda connection: outbox.waiting(connection, CHANNEL + self.name, limit))
        fresh = [item for item in found if item.id not in self._known]
        self._spilled = len(found) == limit
        self._queue.extend(fresh)
        self._known.update(item.id for item in fresh)

    async def _deliver(self, item: OutboxItem) -> None:
        """One attempt, or a wait for it, or the end of it. The item leaves the queue when it is settled."""
        endpoint, now = self.endpoint, self._clock()
        if endpoint is None:
            self._give_up(item, f"there is no endpoint {self.name}")
            return
        if not endpoint.enable:
            self._give_up(item, f"endpoint {self.name} is disabled")
            return
        if item.expires is not None and now >= item.expires:
            self._give_up(item, "expired before it could be delivered")
            return
        if item.due > now and not self._changed:
            self._next_attempt = item.due
            with suppress(TimeoutError):
                async with asyncio.timeout(item.due - now):
                    await self._wake.wait()
            self._next_attempt = None
            return
        self._changed = False
        answer = await self._attempt(endpoint, item, now)
        metrics.webhook_attempted(self.name, answer.verdict.value, answer.duration)
        attempts = item.attempts + 1
        tried = msgspec.structs.replace(item, attempts=attempts)
        if answer.verdict is Verdict.DELIVERED:
            if self._standing.failures:
                _log.info("webhooks are delivered again", endpoint=self.name, failures=self._standing.failures)
            self._standing = Standing(last_delivered=self._clock())
            self._settle(tried, OutcomeStatus.DONE, "", answer)
            return
        before = self._standing
        self._standing = Standing(
            last_delivered=before.last_delivered,
            failures=before.failures + 1,
            failing_since=now if before.failing_since is None else before.failing_since,
            last_error=answer.explanation,
        )
        _log.warning(
            "a webhook failed", endpoint=self.name, delivery=item.id, attempt=attempts, error=answer.explanation
        )
        over = attempts >= self._pace.attempts or now - item.created >= self._pace.give_up_after
        lost = over or answer.verdict is Verdict.NEVER
        if lost or (self.failing_since is not None and now - self.failing_since >= self._pace.flag_after):
            self._alarm(self, self._standing, lost=lost)
        if answer.verdict is Verdict.NEVER:
            self._give_up(tried, answer.explanation, answer)
        elif over:
            why = f"given up after {attempts} attempts in {now - item.created:.0f} s: {answer.explanation}"
            self._give_up(tried, why, answer)
        else:
            self._postpone(
                msgspec.structs.replace(tried, due=self._clock() + pause(self._pace, attempts, answer.retry_after)),
                answer,
            )

    async def _attempt(self, endpoint: Webhook, item: OutboxItem, now: float) -> Answer:
        if self._receiver is None or self._receiver.endpoint is not endpoint:
            await self._disconnect()
            self._receiver = Receiver(
                endpoint, timeout=self._pace.timeout, allowed=self._access.networks, proxy=self._access.proxy
            )
        faults.point("webhook.before-send")
        try:
            answer = await self._receiver.post(item.id, item.body, now)
        except Exception as error:  # noqa: BLE001 - whatever one receiver provokes must not stop its line for good
            _log.exception("a webhook failed in an unknown way", endpoint=self.name, delivery=item.id)
            answer = Answer(verdict=Verdict.AGAIN, explanation=type(error).__name__)
        faults.point("webhook.after-send")
        return answer

    async def _disconnect(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            await receiver.close()

    # --- what is written ---------------------------------------------------------------------------------------------

    def _postpone(self, item: OutboxItem, answer: Answer) -> None:
        self._queue[0] = item
        history = self._history(item, answer)

        def change(connection: sqlite3.Connection) -> None:
            deliveries.insert(connection, history)
            outbox.postpone(connection, item.id, item.attempts, item.due)

        # If this is not written, a restart counts one attempt less: no reason to wait for it.
        self._store.write(change, lambda _error: None)

    def _give_up(self, item: OutboxItem, why: str, answer: Answer | None = None) -> None:
        """answer: of the last attempt; None: it was not even tried now."""
        _log.error("a webhook was given up", endpoint=self.name, delivery=item.id, reason=why)
        self._settle(item, OutcomeStatus.FAILED, why, answer)

    def _settle(self, item: OutboxItem, status: OutcomeStatus, explanation: str, answer: Answer | None) -> None:
        """The delivery has come to its end: outcome, history and, if it failed, dead letter in one transaction."""
        self._queue.popleft()
        metrics.webhook_ended(self.name, status)
        delivered = status is OutcomeStatus.DONE
        now = self._clock()
        facts: dict[str, str | int | float | list[int]] = {"endpoint": self.name, "attempts": item.attempts}
        if answer is not None and answer.status is not None:
            facts["status"] = answer.status
        unreachable = self.endpoint is None or not self.endpoint.enable
        outcome = Outcome(
            id=item.id,
            status=status,
            reason=None if delivered else Reason.NO_ENDPOINT if unreachable else Reason.FAILED,
            explanation=explanation,
            time=now,
            duration=None if answer is None else answer.duration,
            facts=facts,
        )
        history = None if answer is None else self._history(item, answer)

        def change(connection: sqlite3.Connection) -> None:
            outcomes.insert(connection, [outcome])
            if history is not None:
                deliveries.insert(connection, history)
            if delivered:
                outbox.delete(connection, [item.id])
            else:
                dead_letters.bury(connection, DeadLetter(item=item, time=now, explanation=explanation))

        self._write(change, item.id)

    def _write(self, change: Callable[[sqlite3.Connection], None], identifier: str) -> None:
        def done(error: StoreError | None) -> None:
            # A store calls back on its writing thread or, if told how, on the loop's.
            if threading.get_ident() == self._thread:
                self._written(change, identifier, error)
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._written, change, identifier, error)

        self._store.write(change, done)

    def _written(self, change: Callable[[sqlite3.Connection], None], identifier: str, error: StoreError | None) -> None:
        if error is None:
            self._known.discard(identifier)
        elif not self._task.done():
            _log.error("what became of a webhook cannot be written yet", endpoint=self.name, error=str(error))
            self._loop.call_later(_STORE_PAUSE, self._write, change, identifier)

    def _history(self, item: OutboxItem, answer: Answer) -> Delivery:
        return Delivery(
            id=item.id,
            endpoint=self.name,
            time=self._clock(),
            attempt=item.attempts,
            status=answer.status,
            delivered=answer.verdict is Verdict.DELIVERED,
            explanation=answer.explanation,
            duration=answer.duration,
            event_id=item.event_id,
        )
